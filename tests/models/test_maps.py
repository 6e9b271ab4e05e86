"""Feature maps are those the backbone itself makes; decoders bring them back to pixels."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hydra.errors import InstantiationException

from rsssl.errors import UserError
from rsssl.models.backbone import build_backbone, read_backbone, save_backbone
from rsssl.models.batch_norm import recalibrate
from rsssl.models.decoder import Decoder
from rsssl.models.maps import backbone_maps, feature_maps, in_chans

STRIDES = {
    "resnet10t": [2, 4, 8, 16, 32],
    "vgg11_bn": [1, 2, 4, 8, 16, 32],
    "convnext_atto": [4, 8, 16, 32],
    "alexnet": [4, 8, 16, 32],
    "alexnet_small": [1, 2, 4, 8],
    "googlenet": [2, 4, 8, 16, 32],
    "resnet18_small": [1, 2, 4, 8],
}


@pytest.mark.parametrize("name", STRIDES)
def test_the_last_map_pooled_is_the_feature(name: str) -> None:
    model = build_backbone(name, 5).eval()
    x = torch.randn(2, 5, 64, 64)
    with torch.no_grad():
        maps, features = feature_maps(model, x), model(x)
    listed = backbone_maps(model)
    assert [m.shape[1] for m in maps] == [m.channels for m in listed]
    assert all(a.stride < b.stride for a, b in pairwise(listed)), "fine to coarse"
    assert [m.stride for m in listed] == STRIDES[name]
    assert in_chans(model) == 5
    if name not in ("vgg11_bn", "convnext_atto"):  # these have layers after pooling
        torch.testing.assert_close(maps[-1].mean((2, 3)), features, atol=1e-4, rtol=1e-4)


def test_a_transformer_has_one_map_of_its_tokens() -> None:
    kwargs = {"patch_size": 8, "img_size": 64, "depth": 2, "global_pool": "avg"}
    model = build_backbone("vit_tiny_patch16_224", 4, kwargs=kwargs).eval()
    x = torch.randn(2, 4, 64, 64)
    (tokens,) = feature_maps(model, x)
    assert tokens.shape == (2, 192, 8, 8) and [(m.channels, m.stride) for m in backbone_maps(model)] == [(192, 8)]
    expected = model.fc_norm(model.forward_features(x)[:, 1:])  # norm, then mean, where timm has mean, then norm
    torch.testing.assert_close(tokens.flatten(2).transpose(1, 2), expected, atol=1e-4, rtol=1e-4)


SIZES = [
    ("resnet10t", 64),
    ("resnet10t", 75),
    ("resnet10t", 16),
    ("alexnet", 64),
    ("alexnet", 224),
    ("convnext_atto", 96),
]


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_a_decoder_gives_images_of_the_size_asked_for(name: str, size: int) -> None:
    model = build_backbone(name, 3)
    x = torch.randn(2, 3, size, size)
    for depths in (1, len(backbone_maps(model))):
        decoder = Decoder(backbone_maps(model)[-depths:], bands=7, width=8)
        images = decoder(feature_maps(model, x)[-depths:], size)
        assert images.shape == (2, 7, size, size)
        images.sum().backward()
        assert all(p.grad is not None for p in decoder.parameters())


def test_features_of_several_depths(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = build_backbone("resnet10t", 3, depths=3, seed=1).eval()
    x = torch.randn(2, 3, 64, 64)
    expected = torch.cat([m.mean((2, 3)) for m in feature_maps(model, x)[-3:]], 1)
    assert model.num_features == expected.shape[1] == 128 + 256 + 512
    torch.testing.assert_close(model(x), expected)
    loaded, _ = read_backbone(save_backbone(model, tmp_path / "a.safetensors"))
    torch.testing.assert_close(loaded.eval()(x), expected)
    assert list(model.state_dict()) == list(build_backbone("resnet10t", 3).state_dict()), (
        "the names of the weights stay"
    )
    with pytest.raises(UserError, match=r"backbone\.depths=5"):
        build_backbone("resnet10t", 3, depths=9)


def test_a_network_without_maps_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"Sequential.*backbone=resnet18"):
        backbone_maps(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(7, 2)))


def test_recalibrated_statistics_are_those_of_the_images() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Dropout(0.5))
    model(10 + torch.randn(8, 3, 9, 9))  # what it was trained on
    batches = [3 * torch.randn(8, 3, 9, 9) for _ in range(4)]
    recalibrate(model, batches)
    with torch.no_grad():
        seen = [model[0](x) for x in batches]
    torch.testing.assert_close(model[1].running_mean, torch.stack([y.mean((0, 2, 3)) for y in seen]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([y.var((0, 2, 3)) for y in seen]).mean(0))
    assert model[1].momentum == 0.1 and not model[1].training
    before = model[1].running_mean.clone()
    model(batches[0])
    assert torch.equal(before, model[1].running_mean), "nothing moves them afterwards"


def test_layers_that_a_restoring_method_would_not_train_are_refused(method_of) -> None:
    with pytest.raises(InstantiationException, match=r"backbone\.depths=2") as error:
        method_of("inpainting", build_backbone("efficientnet_b0", 3))
    assert isinstance(error.value.__cause__, UserError)
    method_of("inpainting", build_backbone("efficientnet_b0", 3, depths=2))
