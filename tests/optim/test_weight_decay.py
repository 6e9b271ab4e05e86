"""Which parameters are decayed, for every method: by what a step does to them, not by the list they stand in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from rsssl.compose import Composer
from rsssl.groups import group_options
from rsssl.methods.base import Method
from rsssl.optim import LARS, AdamW, parameter_groups

METHODS = [m for m in group_options("ssl") if m not in ("none", "distil")]
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
EMBEDDINGS = ("pos_embed", "cls_token", "mask_token", "reg_token")
LR, DECAY = 0.5, 0.2


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with Composer() as composer:
        yield composer


def build(composer: Composer, name: str) -> Method:
    """The method as its YAML has it, on a small backbone, its largest heads made small."""
    cfg = composer.compose([f"ssl={name}"])
    if "prototypes" in cfg.ssl:
        cfg.ssl.prototypes = 32
    if cfg.backbone.name.startswith("vit"):
        cfg.backbone.kwargs = dict(cfg.backbone.kwargs) | {"depth": 2}
    else:
        cfg.backbone.name, cfg.backbone.kwargs = "resnet10t", {"channels": [16, 16, 32, 32], "stem_width": 8}
    torch.manual_seed(0)
    return instantiate(cfg.ssl, backbone=instantiate(cfg.backbone, in_chans=4, seed=0))


def exempt_by_kind(modules: list[nn.Module]) -> set[int]:
    """The parameters of normalisation layers, all biases, and embeddings of position and class."""
    exempt = set()
    for top in modules:
        for module in top.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if isinstance(module, NORMS) or name.endswith("bias") or name in EMBEDDINGS or parameter.ndim < 2:
                    exempt.add(id(parameter))
    return exempt


@pytest.mark.parametrize("name", METHODS)
def test_a_step_without_gradient_shrinks_weights_alone(name: str, composer: Composer) -> None:
    """AdamW with gradients of zero multiplies what it decays by 1 - lr * decay, once, and leaves all else as it is."""
    method = build(composer, name)
    modules = method.trained_modules()
    trained = {id(p): (n, p) for module in modules for n, p in module.named_parameters() if p.requires_grad}
    groups = parameter_groups(*modules)
    listed = [id(p) for group in groups for p in group["params"]]
    assert len(listed) == len(set(listed)) and set(listed) == trained.keys()
    before = {key: p.detach().clone() for key, (_, p) in trained.items()}
    optimizer = AdamW(groups, lr=LR, weight_decay=DECAY, betas=(0.9, 0.999), eps=1e-8)
    for _, parameter in trained.values():
        parameter.grad = torch.zeros_like(parameter)
    frozen = {n: p.detach().clone() for n, p in method.named_parameters() if not p.requires_grad}
    optimizer.step()
    exempt = exempt_by_kind(modules)
    for key, (n, parameter) in trained.items():
        factor = 1.0 if key in exempt else 1 - LR * DECAY
        torch.testing.assert_close(parameter.detach(), before[key] * factor, msg=f"{name}: {n}")
    assert all(torch.equal(p, frozen[n]) for n, p in method.named_parameters() if n in frozen)
    assert len(exempt & trained.keys()) > 5 and len(trained.keys() - exempt) > 5


def test_lars_adapts_what_is_decayed_and_nothing_else() -> None:
    """With gradients of one: v = trust * |w| / |g + d w| * (g + d w) for weights, the gradient itself for the rest."""
    module = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    before = {n: p.detach().clone() for n, p in module.named_parameters()}
    optimizer = LARS(parameter_groups(module), lr=LR, weight_decay=DECAY, momentum=0.9, trust=0.01, plain=1.0)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for n, parameter in module.named_parameters():
        g = torch.ones_like(parameter)
        if n == "0.weight":
            g = g + DECAY * before[n]
            g = 0.01 * before[n].norm() / g.norm() * g
        torch.testing.assert_close(parameter.detach(), before[n] - LR * g)
