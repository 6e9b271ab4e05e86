"""Parameter groups: what is decayed and what is not."""

from __future__ import annotations

from typing import Any

from torch import nn

_NO_DECAY = ("pos_embed", "cls_token", "reg_token", "dist_token", "mask_token", "relative_position_bias_table")


def parameter_groups(*modules: nn.Module, weight_decay: float | None = None) -> list[dict[str, Any]]:
    """One or two groups for an optimizer: weights, and what must not be decayed or adapted by LARS.

    The second group holds the parameters of one dimension or none (normalisation, biases, scales), embeddings of
    position and class, and what a timm model lists in no_weight_decay(). Every trainable parameter stands in exactly
    one group, once, even if modules share it; frozen ones in none. weight_decay=None leaves the first group to the
    optimizer's own value.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    seen: set[int] = set()
    for module in modules:
        # timm names are relative to the model, which may sit inside `module`
        listed = {
            f"{prefix}.{name}" if prefix else name
            for prefix, child in module.named_modules()
            for name in getattr(child, "no_weight_decay", set)()
        }
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            exempt = parameter.ndim <= 1 or name in listed or name.rsplit(".", 1)[-1] in _NO_DECAY
            (plain if exempt else decayed).append(parameter)
    first: dict[str, Any] = {"params": decayed} | ({} if weight_decay is None else {"weight_decay": weight_decay})
    second: dict[str, Any] = {"params": plain, "weight_decay": 0.0, "adapt": False}
    return [group for group in (first, second) if group["params"]]
