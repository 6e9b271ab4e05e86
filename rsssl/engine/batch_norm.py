"""Batch normalisation over the images of all ranks, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from rsssl.engine.distributed import add_up, stack, world_size


def over_all_ranks(model: nn.Module) -> nn.Module:
    """Makes every batch normalisation of the model, in place, one over all ranks; nothing to do for a single process.

    The parameters, the buffers and their names stay, so checkpoints of any number of processes are the same.

    Args:
        model: on each rank.

    Returns:
        The same model.
    """
    if world_size() > 1:
        for module in model.modules():
            # a class of other modules may have a forward pass that this one would replace
            known = type(module).__module__.startswith(("torch.", "timm."))
            if isinstance(module, _BatchNorm) and known:
                module.__class__ = SharedBatchNormAct if hasattr(module, "act") else SharedBatchNorm
    return model


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation (Ioffe and Szegedy 2015, arXiv 1502.03167) with the mean and variance of all ranks' rows.

    x: (n, C) or (n, C, H, W) of this rank; n may differ between ranks, and be 0. Equal to nn.BatchNorm on the rows of
    all ranks together, gradients included.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        y, mean, var, count = _Normalise.apply(x, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            batches = self.num_batches_tracked
            weight = 1 / float(batches) if self.momentum is None else self.momentum  # type: ignore[arg-type]
            self.running_mean.lerp_(mean, weight)  # type: ignore[union-attr]
            self.running_var.lerp_(var * (count / (count - 1).clamp_min(1)), weight)  # type: ignore[union-attr]
        return y


class SharedBatchNormAct(SharedBatchNorm):
    """The same for timm's batch normalisation that ends in an activation."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))  # type: ignore[no-any-return, operator]


class _Normalise(torch.autograd.Function):
    """y = (x - mean) / sqrt(var + eps) * weight + bias; mean and variance follow from those of each rank and its count.

    With s = 1 / sqrt(var + eps), h = (x - mean) s, and sums over all ranks' N values of a channel:
    d x = weight * s * (d y - sum(d y) / N - h * sum(d y * h) / N).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        channels = x.shape[1]
        local = torch.zeros(2 * channels + 1, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
        if x.numel():
            var, mean = torch.var_mean(x.to(local.dtype), [0, *range(2, x.ndim)], correction=0)
            local[:channels], local[channels:-1] = mean, var
            local[-1] = x.numel() // channels
        parts = stack(local)  # (W, 2 C + 1): of each rank the means, the variances and the number of values
        count = parts[:, -1].sum()
        portion = parts[:, -1:] / count
        mean = (parts[:, :channels] * portion).sum(0)
        var = ((parts[:, channels:-1] + (parts[:, :channels] - mean).square()) * portion).sum(0)
        ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), count)
        ctx.mark_non_differentiable(mean, var, count)
        y = F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps) if x.numel() else x.clone()
        return y, mean, var, count

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, s, count = ctx.saved_tensors
        channels, over = x.shape[1], [0, *range(2, x.ndim)]
        each = (1, channels, *[1] * (x.ndim - 2))
        h = (x.to(mean.dtype) - mean.view(each)) * s.view(each)
        wide = dy.to(mean.dtype)
        local = torch.cat([wide.sum(over), (wide * h).sum(over)])  # (2 C,): also the gradients of bias and weight
        sums = add_up(local.clone()) / count
        scale = s if weight is None else s * weight
        dx = scale.view(each) * (wide - sums[:channels].view(each) - h * sums[channels:].view(each))
        if weight is None:
            return dx.to(dy.dtype), None, None, None
        return dx.to(dy.dtype), local[channels:].to(weight.dtype), local[:channels].to(weight.dtype), None
