"""The device that a network runs on: which one, in what layout and precision, and with what random numbers."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from rsssl.engine.cores import choose_threads
from rsssl.engine.ranks import local_rank, rank
from rsssl.errors import UserError
from rsssl.rng import fold

Model = TypeVar("Model", bound=nn.Module)


def pick_device(name: str) -> torch.device:
    """The device of that name; for the CPU the number of threads is chosen too.

    Args:
        name: "auto" is this rank's own accelerator, or the CPU where there is none; "cuda" is this rank's own
            accelerator; any other name is torch's.

    Raises:
        UserError: when there is no such device.
    """
    if (name == "auto" and torch.cuda.is_available()) or name == "cuda":
        name = f"cuda:{local_rank()}"
    name = "cpu" if name == "auto" else name
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # where Triton's kernels run
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name} is not available ({str(error).splitlines()[0]}): type device=cpu") from None
    if device.type == "cpu":
        choose_threads()
    return device


def on_device(model: Model, device: torch.device) -> Model:
    """The model on the device, its convolutions channels-last: 1.3 times faster on CPUs too (ResNet-18 at 64 pixels).

    On accelerators the fastest convolutions are found by trying.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    return model.to(device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """bfloat16 on accelerators that have it; nothing on CPUs, where it is slower.

    What is left in float32, such as losses, is computed in float32 there too: not rounded to TF32.
    """
    return torch.autocast("cuda", torch.bfloat16) if precision(device) == "bf16" else nullcontext()


def sent(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, without waiting for it."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


class Arriving:
    """Tensors on their way from a device to the CPU.

    Args:
        tensors: by name; those of the CPU are there already.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors, self._event = tensors, None
        if device := next((t.device for t in tensors.values() if t.is_cuda), None):
            room = {k: torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for k, t in tensors.items()}
            self._tensors = {k: room[k].copy_(t, non_blocking=True) for k, t in tensors.items()}
            self._event = torch.cuda.current_stream(device).record_event()

    def get(self) -> dict[str, Tensor]:
        """The tensors, once they are there."""
        if self._event is not None:
            self._event.synchronize()
        return self._tensors


def seed_dropout(seed: int, number: int) -> None:
    """Seeds what the network itself draws at random for one batch on this rank, so that there is no state to resume.

    Args:
        seed: of the training.
        number: of the batch, counted from the start of the training.
    """
    torch.manual_seed(fold("step", seed, number, rank()) % 2**63)


def precision(device: torch.device) -> str:
    """What networks compute in on a device: weights and features of one precision are not taken for those of another.

    Older accelerators emulate bfloat16, which is slower than float32.
    """
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
