"""How a convolution goes over its maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn


class Geometry(NamedTuple):
    """Steps, gaps and groups of a convolution, each (rows, columns), and the rows and columns of zeros around a map."""

    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def of(cls, conv: nn.Conv2d, size: Sequence[int], same: bool) -> Geometry:
        """That of a convolution of maps of `size` (H, W).

        Args:
            conv: the convolution.
            size: rows and columns of its maps.
            same: whether it pads as TensorFlow's "SAME": as many zeros as give ceil(size / stride), the odd one last.
        """
        before = [int(zeros) for zeros in conv.padding]
        after = before.copy()
        if same:
            for i in range(2):
                reach = conv.dilation[i] * (conv.kernel_size[i] - 1) + 1
                total = max(0, (-(-size[i] // conv.stride[i]) - 1) * conv.stride[i] + reach - size[i])
                before[i], after[i] = total // 2, total - total // 2
        stride, dilation = (conv.stride[0], conv.stride[1]), (conv.dilation[0], conv.dilation[1])
        return cls(stride, dilation, conv.groups, before[0], after[0], before[1], after[1])

    @property
    def even(self) -> bool:
        """Whether there are as many zeros before a map as after it."""
        return self.top == self.bottom and self.left == self.right

    def out(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, int]:
        """(height, width) of what it makes of maps of `size` (H, W)."""
        padded = size[0] + self.top + self.bottom, size[1] + self.left + self.right
        height, width = (
            (p - d * (k - 1) - 1) // s + 1
            for p, k, s, d in zip(padded, kernel, self.stride, self.dilation, strict=True)
        )
        return height, width
