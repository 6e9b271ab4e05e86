"""What a model's forward gives to the loop, checked once: what it gives at the first step, it gives at every step."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rsssl.errors import UserError


def check_first_output(model: nn.Module) -> None:
    """Checks what the model's next forward gives, and only that one.

    Raises:
        UserError: in that forward, when its output is not what `Fit` takes.
    """

    def look(module: nn.Module, arguments: Any, outputs: Any) -> None:
        handle.remove()
        if wrong := fault(outputs):
            raise UserError(
                f"{type(model).__name__}.forward must give a dict of tensors: loss, a scalar with a gradient, "
                f"embedding (n, D), if it has one, and scalars to log. Here {wrong}. Write for example "
                'return {"loss": loss, "embedding": features}'
            )

    handle = model.register_forward_hook(look)


def fault(outputs: Any) -> str | None:
    """What is wrong with a forward's output; None when nothing is."""
    if not isinstance(outputs, dict):
        return f"it is {described(outputs)}"
    if "loss" not in outputs:
        return f"there is no loss, but {', '.join(map(str, outputs)) or 'nothing'}"
    for name, value in outputs.items():
        if not isinstance(value, Tensor):
            return f"{name} is {described(value)} and not a tensor"
    loss, embedding = outputs["loss"], outputs.get("embedding")
    if loss.ndim:
        return f"loss is {described(loss)} and not a scalar (loss.mean() is one)"
    if not loss.requires_grad:
        return "loss has no gradient: it does not depend on the weights, or was detached"
    if embedding is not None and embedding.ndim != 2:
        return f"embedding is {described(embedding)} and not (n, D)"
    return None


def described(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"of type {type(value).__name__}"
