"""A network of ours as timm, and with it the Hugging Face hub, builds and loads it: tensors and config.json."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsssl.models import classic
from rsssl.models.backbone import SMALL, create_timm
from rsssl.networks.network import SceneNetwork


def known_to_timm(spec: dict[str, Any]) -> bool:
    """Whether timm can build what `build_backbone` built from `spec`: no network of the paper, no joined depths."""
    name = spec["name"]
    small_stem = name.endswith(SMALL) and not timm.is_model(name)
    return name not in classic.NAMES and not small_stem and spec.get("depths", 1) == 1


def timm_form(network: SceneNetwork) -> tuple[nn.Module | None, str | None]:
    """timm's model with our weights, and the name of its layer that holds our linear classifier.

    (None, None) where timm cannot build the network. No layer (None) where the model has the backbone alone: there is
    no linear classifier, or timm's is another than one linear layer on the features.
    """
    spec: dict[str, Any] = network.backbone.spec  # type: ignore[assignment]
    if not known_to_timm(spec):
        return None, None
    ours = network.backbone.state_dict()
    width: int = network.backbone.num_features  # type: ignore[assignment]
    if network.head is not None and network.head.layer is not None and network.head.width == width:
        weight, bias = network.head.layer
        model = create_timm(spec["name"], spec["in_chans"], spec["kwargs"], num_classes=len(weight)).eval()
        layer = model.get_classifier()  # type: ignore[operator]
        name = next((name for name, module in model.named_modules() if module is layer), None)
        state = ours | {f"{name}.weight": weight, f"{name}.bias": bias}
        theirs = model.state_dict()
        same = state.keys() == theirs.keys() and all(state[k].shape == theirs[k].shape for k in state)
        if name and isinstance(layer, nn.Linear) and same:
            model.load_state_dict(state, strict=True)
            if _agree(model, network):
                return model, name
    model = create_timm(spec["name"], spec["in_chans"], spec["kwargs"]).eval()
    model.load_state_dict(ours, strict=True)
    return model, None


@torch.no_grad()
def _agree(model: nn.Module, network: SceneNetwork) -> bool:
    """Whether timm's classifier sees the same features: some networks do more between them and the layer."""
    assert network.head is not None and network.head.layer is not None
    bands, size = network.card.n_bands, network.size
    x = torch.randn(2, bands, size, size, generator=torch.Generator().manual_seed(0))
    expected: Tensor = F.linear(network.backbone.eval()(x), *network.head.layer)
    return torch.allclose(model(x), expected, rtol=1e-3, atol=1e-4)


def timm_config(model: nn.Module, network: SceneNetwork, layer: str | None) -> dict[str, Any]:
    """config.json as timm reads it: how to build the model, and what its input has to be.

    Written here rather than by timm's own function, whose arguments and result differ between its versions.
    """
    spec: dict[str, Any] = network.backbone.spec  # type: ignore[assignment]
    published: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    bands, classes = spec["in_chans"], list(network.card.classes) if layer else []
    dynamic = bool(getattr(model, "dynamic_img_size", False))
    arguments = {k: v for k, v in spec["kwargs"].items() if not k.endswith(("drop_rate", "drop_path_rate"))}
    arguments |= {"in_chans": bands} | ({"dynamic_img_size": True} if dynamic else {})
    pool = getattr(model, "global_pool", None)
    config = {"architecture": spec["name"], "num_classes": len(classes), "num_features": model.num_features}
    config |= {"global_pool": pool} if isinstance(pool, str) else {}
    config |= {"label_names": classes} if classes else {}
    pretrained = {
        "tag": "rsssl",
        "custom_load": False,
        "input_size": [bands, network.size, network.size],
        "fixed_input_size": bool(published.get("fixed_input_size", False)) and not dynamic,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": list(network.preprocess.mean),
        "std": list(network.preprocess.std),
        "num_classes": len(classes),
        "pool_size": None,
        # Older timm believes that every first convolution has three bands, and draws another one at random for any
        # other number, unless the config names no first convolution.
        "first_conv": published.get("first_conv") if bands == 3 else None,
        "classifier": layer or published.get("classifier"),
    }
    return config | {"model_args": arguments, "pretrained_cfg": pretrained}
