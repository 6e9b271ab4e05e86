"""Batch normalisation over the images of all ranks, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
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
    all ranks together, gradients included. For torch.compile it is one operation, so that a network stays one graph.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        y, mean, var, counts = torch.ops.rsssl.shared_batch_norm(x, self.weight, self.bias, self.eps)
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            batches, count = self.num_batches_tracked, counts.sum()
            weight = 1 / float(batches) if self.momentum is None else self.momentum  # type: ignore[arg-type]
            self.running_mean.lerp_(mean, weight)  # type: ignore[union-attr]
            self.running_var.lerp_(var * (count / (count - 1).clamp_min(1)), weight)  # type: ignore[union-attr]
        return y  # type: ignore[no-any-return]


class SharedBatchNormAct(SharedBatchNorm):
    """The same for timm's batch normalisation that ends in an activation."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))  # type: ignore[no-any-return, operator]


@torch.library.custom_op(
    "rsssl::shared_batch_norm",
    mutates_args=(),
    schema="(Tensor x, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor, Tensor, Tensor)",
)
def normalise(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y = (x - mean) / sqrt(var + eps) * weight + bias; mean and variance follow from those of each rank and its count.

    Returns:
        y; mean (C,) and variance (C,) over all ranks; (W,) how many values a channel has on each rank.
    """
    channels = x.shape[1]
    local = torch.zeros(2 * channels + 1, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
    if x.numel():
        var, mean = torch.var_mean(x.to(local.dtype), over(x), correction=0)
        local[:channels], local[channels:-1] = mean, var
        local[-1] = x.numel() // channels
    parts = stack(local)  # (W, 2 C + 1): of each rank the means, the variances and the number of values
    counts = parts[:, -1].clone()
    portion = parts[:, -1:] / counts.sum()
    mean = (parts[:, :channels] * portion).sum(0)
    var = ((parts[:, channels:-1] + (parts[:, :channels] - mean).square()) * portion).sum(0)
    y = F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps) if x.numel() else x.clone()
    return y, mean, var, counts


@normalise.register_kernel("cuda")
def _(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same by the kernels of torch's SyncBatchNorm, which pass over x twice."""
    channels = x.shape[1]
    if x.numel():
        local = torch.cat([*torch.batch_norm_stats(x, eps), x.new_full((1,), x.numel() // channels).float()])
    else:
        local = torch.zeros(2 * channels + 1, device=x.device)
    parts = stack(local)  # (W, 2 C + 1): means, 1 / sqrt(var + eps), numbers of values
    counts = parts[:, -1].clone()
    mean, s = torch.batch_norm_gather_stats_with_counts(
        x, parts[:, :channels], parts[:, channels:-1], None, None, 0.0, eps, counts
    )
    y = torch.batch_norm_elemt(x, weight, bias, mean, s, eps) if x.numel() else x.clone()
    return y, mean, s.pow(-2) - eps, counts


@normalise.register_fake
def _(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    each = x.new_empty(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    return torch.empty_like(x), each, torch.empty_like(each), each.new_empty(world_size())


@torch.library.custom_op(
    "rsssl::shared_batch_norm_backward",
    mutates_args=(),
    schema="(Tensor dy, Tensor x, Tensor? weight, Tensor mean, Tensor s, Tensor counts) -> (Tensor, Tensor, Tensor)",
)
def gradients(
    dy: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, s: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """With s = 1 / sqrt(var + eps), h = (x - mean) s, and sums over all ranks' N values of a channel:
    d x = weight * s * (d y - sum(d y) / N - h * sum(d y * h) / N).

    Returns:
        d x, and of this rank's values sum(d y * h) (C,) and sum(d y) (C,): the gradients of weight and bias.
    """
    each = (1, len(mean), *[1] * (x.ndim - 2))
    h = (x.to(mean.dtype) - mean.view(each)) * s.view(each)
    wide = dy.to(mean.dtype)
    of_bias, of_weight = wide.sum(over(x)), (wide * h).sum(over(x))
    sums = add_up(torch.cat([of_bias, of_weight])) / counts.sum()
    scale = s if weight is None else s * weight
    dx = scale.view(each) * (wide - sums[: len(mean)].view(each) - h * sums[len(mean) :].view(each))
    return torch.empty_like(dy).copy_(dx), of_weight, of_bias


@gradients.register_kernel("cuda")
def _(
    dy: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, s: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by torch's kernels."""
    if x.numel():
        of_bias, of_distance, of_weight, _ = torch.batch_norm_backward_reduce(dy, x, mean, s, weight, True, True, True)
    else:
        of_bias = of_distance = of_weight = torch.zeros_like(mean)
    sums = add_up(torch.cat([of_bias, of_distance]))
    if not x.numel():
        return torch.zeros_like(dy), of_weight, of_bias
    parts = sums[: len(mean)], sums[len(mean) :]
    dx = torch.batch_norm_backward_elemt(dy, x, mean, s, weight, *parts, counts.to(torch.int32))
    return dx, of_weight, of_bias


@gradients.register_fake
def _(
    dy: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, s: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(dy), torch.empty_like(mean), torch.empty_like(mean)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, _, eps = inputs
    _, mean, var, counts = output
    ctx.save_for_backward(x, weight, mean, (var + eps).rsqrt(), counts)
    ctx.mark_non_differentiable(mean, var, counts)


def _backward(ctx: Any, dy: Tensor, *_: Any) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
    x, weight, mean, s, counts = ctx.saved_tensors
    dx, of_weight, of_bias = torch.ops.rsssl.shared_batch_norm_backward(dy, x, weight, mean, s, counts)
    if weight is None:
        return dx, None, None, None
    return dx, of_weight.to(weight.dtype), of_bias.to(weight.dtype), None


normalise.register_autograd(_backward, setup_context=_keep)


def over(x: Tensor) -> list[int]:
    """All dimensions but that of the channels."""
    return [0, *range(2, x.ndim)]
