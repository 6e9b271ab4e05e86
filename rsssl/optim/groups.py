"""Parameter groups: what is decayed and what is not."""

from __future__ import annotations

from typing import Any

from torch import nn

_NO_DECAY = ("pos_embed", "cls_token", "reg_token", "dist_token", "mask_token", "relative_position_bias_table")


def parameter_groups(*modules: nn.Module) -> list[dict[str, Any]]:
    """One or two groups for an optimizer: weights, and what must be neither decayed nor adapted by LARS.

    The second group holds the parameters of one dimension or none (normalisation, biases, scales), embeddings of
    position and class, and what a timm model lists in no_weight_decay(). Every trainable parameter is in exactly one
    group, once, even if modules share it; frozen ones are in none.

    Args:
        modules: what the optimizer trains.

    Returns:
        The groups that are not empty, the weights first; their weight decay is the optimizer's.
    """
    together = nn.ModuleList(modules)
    # timm's names are relative to the model, which may lie deep inside a module.
    listed = {
        f"{prefix}.{name}"
        for prefix, module in together.named_modules()
        for name in getattr(module, "no_weight_decay", set)()
    }
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in together.named_parameters():
        exempt = parameter.ndim <= 1 or name in listed or name.rsplit(".", 1)[-1] in _NO_DECAY
        if parameter.requires_grad:
            (plain if exempt else decayed).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0, "adapt": False}]
    return [group for group in groups if group["params"]]
