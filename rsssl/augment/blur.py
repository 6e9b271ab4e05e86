"""Blur, separable, with reflected edges."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rsssl.augment.ops import Params, PixelOperation, interval, rows_of
from rsssl.augment.pixels import Pixels
from rsssl.errors import UserError
from rsssl.rng import uniform


class Blur(PixelOperation):
    """A mean or Gaussian blur of kernel x kernel pixels, for some of the samples.

    Args:
        kernel: pixels, odd; None: a tenth of the view's size (SimCLR, Chen et al. 2020, appendix A), the nearest odd
            number from 3 on.
        kind: "mean", or "gaussian" as torchvision's gaussian_blur.
        sigma: range of the Gaussian's standard deviation in pixels, drawn uniformly.
        p: probability that it happens, drawn for each sample.
    """

    mixes = False

    def __init__(
        self, kernel: int | None = 3, kind: str = "mean", sigma: Sequence[float] = (0.1, 2.0), p: float = 1.0
    ) -> None:
        super().__init__(p)
        if kind not in ("mean", "gaussian"):
            raise UserError(f"augment: Blur(kind={kind!r}) is not known; write kind: mean or kind: gaussian")
        if kernel is not None and (not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0):
            raise UserError(f"augment: Blur(kernel={kernel!r}) is not an odd number of pixels; write kernel: 3")
        self.kernel, self.kind = kernel, kind
        self.sigma = interval(self, "sigma", sigma, 0.0, 1000.0, "[0.1, 2.0]")

    def draw(self, key: int, ids: Tensor, bands: int, height: int, width: int) -> Params:
        u = uniform(key, ids, 2)
        return {"on": u[:, 0] < self.p, "sigma": self.sigma[0] + (self.sigma[1] - self.sigma[0]) * u[:, 1]}

    def apply(self, x: Tensor, params: Params, size: int) -> Tensor:
        weights = self._weights(params["sigma"], size)  # (B, k)
        b, c, h, w = x.shape
        pad = weights.shape[1] // 2
        y = F.pad(x, (pad, pad, pad, pad), mode="reflect").reshape(1, b * c, h + 2 * pad, w + 2 * pad)
        kernel = weights[:, :, None] * weights[:, None, :]  # (B, k, k)
        y = F.conv2d(y, kernel.repeat_interleave(c, 0)[:, None], groups=b * c).view(x.shape)
        return torch.where(params["on"][:, None, None, None], y, x)

    def fuse(self, pixels: Pixels, params: Params) -> None:
        if bool(params["on"].any()):
            rows = rows_of(params["on"])
            pixels.blur(rows, self._weights(params["sigma"] if rows is None else params["sigma"][rows], pixels.size))

    def _weights(self, sigma: Tensor, size: int) -> Tensor:
        k = self.kernel or max(3, round((size / 10 - 1) / 2) * 2 + 1)
        if k // 2 >= size:
            raise UserError(f"augment: Blur(kernel={k}) is too wide for views of {size} px; write kernel: 3")
        if self.kind == "mean":
            return sigma.new_full((len(sigma), k), 1 / k)
        at = torch.arange(k, device=sigma.device, dtype=torch.float32) - k // 2
        density = torch.exp(-0.5 * (at / sigma[:, None]) ** 2)
        return density / density.sum(1, keepdim=True)
