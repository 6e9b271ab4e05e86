"""An accelerator that is not there: tensors on "cuda" have a shape, a type and a place and no content, those on the CPU
are real. What runs with it would run on a machine with a GPU without mixing devices; and what it counts, that machine
would do too: operations, the bytes that they read and write, copies to the device, and reads from it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::unique", "aten::equal")
FREE = (
    "aten::view",
    "aten::_unsafe_view",
    "aten::t",
    "aten::transpose",
    "aten::permute",
    "aten::expand",
    "aten::detach",
    "aten::slice",
    "aten::select",
    "aten::unsqueeze",
    "aten::squeeze",
    "aten::split",
    "aten::as_strided",
    "aten::alias",
    "aten::unbind",
    "aten::diagonal",
    "aten::empty",
    "aten::reshape",
    "aten::_reshape_alias",
    "aten::lift_fresh",
    "aten::empty_strided",
    "aten::new_empty",
    "aten::empty_like",
)


class Read(AssertionError):
    """Something asked the device for a value, and would have waited for it."""


class FakeAccelerator(FakeTensorMode):
    """While it is open, torch has such a device.

    Attributes:
        operations: names and how often, of the device's.
        copies: bytes of each copy to it.
        bytes: that its operations read and write.
        reads: how often something waited for it, where `may_read`; else that raises Read.
    """

    def __init__(self, may_read: bool = False) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.operations: Counter[str] = Counter()
        self.copies: list[int] = []
        self.bytes, self.reads, self.may_read, self._inside = 0, 0, may_read, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {k: v for k, v in (kwargs or {}).items() if k != "pin_memory"}  # which needs a driver
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        device = kwargs.get("device")
        there = any(isinstance(t, FakeTensor) for t in tensors)
        to_cuda = device is not None and torch.device(device).type == "cuda"
        name = func._schema.name
        if name == "aten::_pin_memory":
            return args[0].clone()
        if not there and not to_cuda:
            return func(*args, **kwargs)
        if name == "aten::_to_copy" and there and device is not None and torch.device(device).type == "cpu":
            return self._read(name, torch.zeros(tensors[0].shape, dtype=kwargs.get("dtype") or tensors[0].dtype))
        if name == "aten::_local_scalar_dense":
            return self._read(name, torch.zeros((), dtype=tensors[0].dtype).item())
        if name in READS:
            self._read(name, None)
        if self._inside or not name.startswith("aten::"):  # a part of an operation
            return super().__torch_dispatch__(func, types, args, kwargs)
        if (name == "aten::_to_copy" and not there) or (name == "aten::copy_" and not isinstance(args[1], FakeTensor)):
            self.copies.append(args[1 if name == "aten::copy_" else 0].nbytes)
        self._inside = True
        try:
            out = super().__torch_dispatch__(func, types, args, kwargs)
        finally:
            self._inside = False
        if name not in FREE:
            self.count(name, *tensors, *(t for t in tree_leaves(out) if isinstance(t, Tensor)))
        return out

    def count(self, name: str, *tensors: Tensor) -> None:
        """An operation that reads and writes these."""
        self.operations[name] += 1
        self.bytes += sum(t.numel() * t.element_size() for t in tensors)

    def _read(self, name: str, value: Any) -> Any:
        self.reads += 1
        if not self.may_read:
            raise Read(f"{name} waits for the device")
        return value

    def moved(self, value: Any) -> Any:
        """The same tensors on the device."""
        return tree_map(lambda t: self.of(t) if isinstance(t, Tensor) else t, value)

    def of(self, t: Tensor) -> Tensor:
        return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=CUDA)


class Kernel:
    """A Triton kernel on such a device: counted, with the tensors that it is given."""

    def __init__(self, name: str, fake: FakeAccelerator) -> None:
        self.name, self.fake = name, fake

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments, **options: self.fake.count(
            f"triton::{self.name}", *{id(a): a for a in arguments if isinstance(a, Tensor)}.values()
        )
