"""Parameter groups: what is decayed and what is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

_NO_DECAY = ("pos_embed", "cls_token", "reg_token", "dist_token", "mask_token", "relative_position_bias_table")


def layer_rates(backbone: nn.Module, lr: float, decay: float) -> dict[nn.Parameter, float]:
    """Learning rates that fall with the distance from the output: lr * decay ** (L + 1 - l) in stage l of L.

    Stages are timm's (Clark et al. 2020, ELECTRA, arXiv 2003.10555; Bao et al. 2021, BEiT, arXiv 2106.08254).

    Args:
        backbone: a timm model; of another network all parameters get `lr`.
        lr: of what comes after the backbone.
        decay: in (0, 1]; 1 gives the same rate to all.
    """
    matcher = getattr(backbone, "group_matcher", None)
    if decay == 1 or matcher is None:
        return {}
    from timm.models import group_parameters

    stages: dict[str, int] = group_parameters(backbone, matcher(coarse=True), reverse=True)
    last = max(stages.values())
    return {p: lr * decay ** (last + 1 - stages[name]) for name, p in backbone.named_parameters()}


def freeze(backbone: nn.Module, decay: float, below: float) -> None:
    """Leaves out of the training the stages whose learning rate `layer_rates` brings below that share of `lr`.

    They hardly move, and their maps are the largest (Brock et al. 2017, FreezeOut, arXiv 1706.04983).

    Args:
        backbone: a timm model; another network is left as it is.
        decay: from each stage to the one before it.
        below: share of the rate of what comes after the backbone; 0 leaves out none.
    """
    for parameter, share in layer_rates(backbone, 1.0, decay).items():
        if share < below:
            parameter.requires_grad_(False)


def parameter_groups(*modules: nn.Module, rates: Mapping[nn.Parameter, float] | None = None) -> list[dict[str, Any]]:
    """Groups for an optimizer: weights, and what must be neither decayed nor adapted by LARS; by learning rate.

    Of the two groups of a rate the second holds the parameters of one dimension or none (normalisation, biases,
    scales), embeddings of position and class, and what a timm model lists in no_weight_decay(). Every trainable
    parameter is in exactly one group, once, even if modules share it; frozen ones are in none.

    Args:
        modules: what the optimizer trains.
        rates: of parameters whose learning rate is not the optimizer's.

    Returns:
        The groups that are not empty, the weights of a rate first; their weight decay is the optimizer's.
    """
    together = nn.ModuleList(modules)
    # timm's names are relative to the model, which may lie deep inside a module.
    listed = {
        f"{prefix}.{name}"
        for prefix, module in together.named_modules()
        for name in getattr(module, "no_weight_decay", set)()
    }
    by_rate: dict[float | None, tuple[list[nn.Parameter], list[nn.Parameter]]] = {}
    for name, parameter in together.named_parameters():
        exempt = parameter.ndim <= 1 or name in listed or name.rsplit(".", 1)[-1] in _NO_DECAY
        if parameter.requires_grad:
            by_rate.setdefault((rates or {}).get(parameter), ([], []))[exempt].append(parameter)
    groups: list[dict[str, Any]] = []
    for rate, (decayed, plain) in by_rate.items():
        own = {} if rate is None else {"lr": rate}
        groups.append({"params": decayed} | own)
        groups.append({"params": plain, "weight_decay": 0.0, "adapt": False} | own)
    return [group for group in groups if group["params"]]
