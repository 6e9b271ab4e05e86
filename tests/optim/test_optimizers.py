"""LARS against numpy, the configs against torch, and groups that hold every parameter once."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from rsssl.models.backbone import build_backbone
from rsssl.optim import LARS, freeze, layer_rates, parameter_groups

CONF = Path(__file__).resolve().parents[2] / "conf" / "optimizer"


def test_lars_equals_numpy() -> None:
    rng = np.random.default_rng(0)
    lr, decay, momentum, trust = 0.3, 0.01, 0.9, 0.002
    w, b, z = rng.normal(size=(4, 5)), rng.normal(size=5), np.zeros((2, 2))
    layer, bias, zero = (nn.Parameter(torch.tensor(a)) for a in (w, b, z))
    groups = [{"params": [layer, zero]}, {"params": [bias], "adapt": False, "weight_decay": 0.0}]
    optimizer = LARS(groups, lr=lr, weight_decay=decay, momentum=momentum, trust=trust, plain=1.0)
    vw, vb, vz = np.zeros_like(w), np.zeros_like(b), np.zeros_like(z)
    for _ in range(5):
        gw, gb, gz = rng.normal(size=w.shape), rng.normal(size=b.shape), rng.normal(size=z.shape)
        layer.grad, bias.grad, zero.grad = torch.tensor(gw), torch.tensor(gb), torch.tensor(gz)
        optimizer.step()
        gw, gz = gw + decay * w, gz + decay * z
        rate = trust * np.linalg.norm(z) / np.linalg.norm(gz) if np.linalg.norm(z) else 1.0
        vw = momentum * vw + trust * np.linalg.norm(w) / np.linalg.norm(gw) * gw
        vz, vb = momentum * vz + rate * gz, momentum * vb + gb
        w, b, z = w - lr * vw, b - lr * vb, z - lr * vz
    for tensor, expected in ((layer, w), (bias, b), (zero, z)):
        np.testing.assert_allclose(tensor.detach().numpy(), expected, rtol=1e-10)


def test_lars_survives_zero_gradients_and_resumes(tmp_path: Path) -> None:
    def fresh() -> tuple[nn.Parameter, LARS]:
        p = nn.Parameter(torch.ones(3, 3))
        return p, instantiate(OmegaConf.load(CONF / "lars.yaml"), params=[p], lr=1.0)

    def steps(p: nn.Parameter, optimizer: LARS, gradients: list[float]) -> None:
        for g in gradients:
            p.grad = torch.full_like(p, g)
            optimizer.step()

    whole, optimizer = fresh()
    steps(whole, optimizer, [0.0, 1.0, 2.0, 3.0])
    assert torch.isfinite(whole).all()
    half, optimizer = fresh()
    steps(half, optimizer, [0.0, 1.0])
    torch.save(optimizer.state_dict(), tmp_path / "o.pt")
    again, resumed = fresh()
    again.data.copy_(half.data)
    resumed.load_state_dict(torch.load(tmp_path / "o.pt", weights_only=True))
    steps(again, resumed, [2.0, 3.0])
    assert torch.equal(again, whole)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("adam", torch.optim.Adam, {"betas": (0.9, 0.99), "weight_decay": 0.0}),
        ("adamw", torch.optim.AdamW, {"betas": (0.9, 0.999), "weight_decay": 0.05}),
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}),
        ("lars", LARS, {"momentum": 0.9, "weight_decay": 1e-6, "trust": 1e-3}),
    ],
)
def test_configs_make_working_optimizers(name: str, kind: type, expected: dict) -> None:
    """Hydra must hand over the very parameters, not copies: a step has to move the model."""
    cfg = OmegaConf.load(CONF / f"{name}.yaml")
    assert isinstance(cfg.lr, float)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    optimizer = instantiate(cfg, params=parameter_groups(model), lr=0.25)
    assert type(optimizer) is kind
    first, second = optimizer.param_groups
    assert {k: first[k] for k in expected} == expected and first["lr"] == second["lr"] == 0.25
    assert second["weight_decay"] == 0 and second["adapt"] is False
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.randn(8, 4)).square().sum().backward()
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert moved[0] and moved[2]


def test_fused_equals_plain() -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(7, 7), torch.randn(5, 7, 7)
    for name in ("adam", "adamw", "sgd"):
        cfg = OmegaConf.load(CONF / f"{name}.yaml")
        ours, plain = nn.Parameter(start.clone()), nn.Parameter(start.clone())
        fused = instantiate(cfg, params=[{"params": [ours]}], lr=0.1)
        assert fused.defaults["fused"]
        options = {k: v for k, v in fused.defaults.items() if k not in ("fused", "foreach", "decoupled_weight_decay")}
        reference = type(fused)([plain], **options, foreach=False)
        for g in gradients:
            ours.grad, plain.grad = g.clone(), g.clone()
            fused.step()
            reference.step()
        torch.testing.assert_close(ours, plain)


def test_groups_hold_every_parameter_once() -> None:
    backbone = build_backbone("vit_tiny_patch16_224", 3)
    head = nn.Linear(192, 10)
    head.weight_again = head.weight  # type: ignore[assignment]  # shared inside one module
    frozen = nn.Linear(2, 2).requires_grad_(False)
    decayed, plain = parameter_groups(backbone, head, nn.ModuleList([head]), frozen)
    names = {id(p): n for m in (backbone, head, frozen) for n, p in m.named_parameters()}
    of = [sorted(names[id(p)] for p in g["params"]) for g in (decayed, plain)]
    assert "weight_decay" not in decayed and plain["weight_decay"] == 0.0
    assert len(of[0] + of[1]) == len(list(backbone.parameters())) + 2
    assert len({id(p) for g in (decayed, plain) for p in g["params"]}) == len(of[0] + of[1])
    assert {"pos_embed", "cls_token", "norm.weight", "blocks.0.attn.qkv.bias", "bias"} <= set(of[1])
    assert {"weight", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"} <= set(of[0])


def test_groups_agree_with_timm() -> None:
    """timm's own rule, on a network with several kinds of normalisation, wrapped as a method wraps it."""
    from timm.optim import param_groups_weight_decay

    model = timm.create_model("convnext_atto", num_classes=0)
    theirs = param_groups_weight_decay(model, 0.1)  # [no decay, decay]
    decayed, plain = parameter_groups(nn.ModuleDict({"backbone": model}))
    assert {id(p) for p in plain["params"]} == {id(p) for p in theirs[0]["params"]}
    assert {id(p) for p in decayed["params"]} == {id(p) for p in theirs[1]["params"]}


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "tf_efficientnet_lite0"])
def test_rates_fall_towards_the_input(name: str) -> None:
    """By the stage that stands in a parameter's name; what comes after the backbone has the whole rate."""
    backbone = timm.create_model(name, num_classes=0)
    head = torch.nn.Linear(backbone.num_features, 3)
    pattern = re.compile(r"(?:layer|blocks\.)(\d+)\.")
    first = 1 if name.startswith("resnet") else 0
    stages = {n: int(m[1]) - first + 1 for n, _ in backbone.named_parameters() if (m := pattern.match(n))}
    last = max(stages.values())
    rates = layer_rates(backbone, 0.1, 0.5)
    groups = parameter_groups(backbone, head, rates=rates)
    rate_of = {id(p): group.get("lr", 0.1) for group in groups for p in group["params"]}
    assert {rate_of[id(p)] for p in head.parameters()} == {0.1}
    for n, p in backbone.named_parameters():
        stem = 0 if n.startswith(("conv", "bn1", "patch", "cls", "pos")) and not n.startswith("conv_head") else last
        assert rate_of[id(p)] == pytest.approx(0.1 * 0.5 ** (last + 1 - stages.get(n, stem))), n
    assert layer_rates(backbone, 0.1, 1.0) == {}
    exempt = {id(p) for group in groups if group.get("weight_decay") == 0.0 for p in group["params"]}
    assert exempt == {id(p) for g in parameter_groups(backbone, head)[1:] for p in g["params"]}


def test_stages_that_hardly_learn_are_left_as_they_are() -> None:
    """With 0.6 a stage, rates under a tenth of the head's are those of the stem and the first three of seven stages."""
    backbone = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    freeze(backbone, 0.6, 0.1)
    trained = {n for n, p in backbone.named_parameters() if p.requires_grad}
    first = ("conv_stem", "bn1", "blocks.0.", "blocks.1.", "blocks.2.")
    assert trained == {n for n, _ in backbone.named_parameters() if not n.startswith(first)}
    assert sum(len(g["params"]) for g in parameter_groups(backbone, rates=layer_rates(backbone, 1.0, 0.6))) == len(
        trained
    )
    for decay, below in ((0.6, 0.0), (1.0, 0.9)):
        whole = timm.create_model("tf_efficientnet_lite0", num_classes=0)
        freeze(whole, decay, below)
        assert all(p.requires_grad for p in whole.parameters())
