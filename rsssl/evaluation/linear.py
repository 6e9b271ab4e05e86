"""Multinomial logistic regression, many problems at once: the solver under the linear probe.

A few-label evaluation asks for the same small convex problem again and again: every fold of a cross-validation
times every regularisation strength. All of them share the features, so they are solved as one batch, in which
each step costs two matrix products for all problems together:

* the samples are rotated into their own principal axes. An L2-penalised solution lies in the span of the
  samples, so min(n, D) coordinates are enough, and the rotation keeps the penalty as it is;
* in these axes the Hessian's upper bound (Boehning 1992) is diagonal, and L-BFGS starts from its inverse: the
  first step cannot overshoot and badly scaled features cost no iterations;
* logits are linear in the weights, so the line search of each problem needs no product with the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

HISTORY = 8  # pairs that L-BFGS remembers


@dataclass(frozen=True)
class LinearFit:
    """Solutions for F masks and S strengths of K classes in D dimensions."""

    weight: Tensor  # (F, S, K, D)
    bias: Tensor  # (F, S, K)
    logits: Tensor  # (F, S, n, K), of all samples given, those outside the mask too
    converged: Tensor  # (F, S) bool
    iterations: int


def fit_linear(
    x: Tensor,
    y: Tensor,
    strengths: Sequence[float],
    n_classes: int | None = None,
    masks: Tensor | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
    dtype: torch.dtype = torch.float64,
) -> LinearFit:
    """L2-regularised multinomial logistic regression for every mask and strength, as one batched problem.

    Minimises, as scikit-learn's LogisticRegression does for three classes or more, with C a strength,
        C * sum_i log-loss_i + 0.5 ||W||^2          (the bias is free).
    For two classes scikit-learn has one weight vector in place of two opposite ones: its C is twice ours.

    Args:
        x: (n, D) features. y: (n,) classes in 0..n_classes-1; every class must have a sample in every mask.
        strengths: the values of C.
        n_classes: K; by default the largest label plus one.
        masks: (F, n) bool, the samples each problem is fitted to; by default one mask of all samples.
        tolerance: stops at a preconditioned gradient norm (about the change of the weights' effect on the logits
            still to come) below this. 1e-6 gives coefficients to about 5 digits, 1e-3 is ample for choosing C.
        dtype: of the arithmetic. float32 cannot get below a tolerance of about 1e-4.

    Raises:
        ValueError: for a class without samples, whose bias would run away to minus infinity.
    """
    x, y = x.to(dtype), y.to(x.device)
    n, k = len(x), int(y.max()) + 1 if n_classes is None else n_classes
    if masks is None:
        masks = torch.ones(1, n, dtype=torch.bool, device=x.device)
    hot = torch.nn.functional.one_hot(y, k).to(dtype)  # (n, K)
    if ((masks.to(dtype) @ hot) == 0).any():
        raise ValueError("every class needs at least one sample in every mask")
    mean = x.mean(0)
    z, axes, energy = principal_axes(x - mean)  # (n, r), (D, r), (r,)
    f, s = len(masks), len(strengths)
    used = masks.to(dtype).repeat_interleave(s, 0).T.contiguous()  # (n, P = F * S)
    c = torch.tensor(list(strengths), dtype=dtype, device=x.device).repeat(f)  # (P,)
    theta, logits, done, iterations = _solve(z, energy, y, used, c, k, tolerance, max_iterations)
    weight = torch.einsum("dr,rpk->pkd", axes, theta[:-1])  # (P, K, D)
    bias = theta[-1] - weight @ mean  # the samples were centred: move the origin back
    return LinearFit(
        weight.reshape(f, s, k, -1),
        bias.reshape(f, s, k),
        logits.permute(1, 0, 2).reshape(f, s, n, k),
        done.reshape(f, s),
        iterations,
    )


def principal_axes(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate (n, D) centred samples: (coordinates (n, r), axes (D, r) with x = coordinates @ axes.T, energy (r,)).

    energy is the sum of squares of each coordinate. Through the smaller of the two Gram matrices, in float64: far
    cheaper than a singular value decomposition; directions under 1e-12 of the largest energy are dropped.
    """
    wide = x.double()
    if len(x) >= x.shape[1]:
        energy, axes = torch.linalg.eigh(wide.T @ wide)
    else:
        energy, left = torch.linalg.eigh(wide @ wide.T)
        axes = wide.T @ left / energy.clamp_min(torch.finfo(torch.float64).tiny).sqrt()
    keep = energy > energy.max().clamp_min(1e-300) * 1e-12
    axes = axes[:, keep]
    return (wide @ axes).to(x.dtype), axes.to(x.dtype), energy[keep].to(x.dtype)


def _solve(
    z: Tensor, energy: Tensor, y: Tensor, used: Tensor, c: Tensor, k: int, tolerance: float, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor, int]:
    """L-BFGS on P problems. z (n, r) centred in principal axes, used (n, P) 0/1, c (P,) strengths.

    Returns theta (r + 1, P, K) (the last row is the bias), logits (n, P, K), converged (P,), iterations.
    Each problem is scaled to: mean log-loss + lam / 2 ||W||^2 with lam = 1 / (C * samples).
    """
    n, p = used.shape
    z = torch.cat([z, z.new_ones(n, 1)], 1)  # the bias is the weight of a constant feature
    count = used.sum(0)
    share = used / count  # (n, P)
    lam = (1 / (c * count)).repeat(len(energy) + 1, 1)  # (r + 1, P)
    lam[-1] = 0
    energy = torch.cat([energy, energy.new_full((1,), float(n))])
    inverse = (1 / (energy[:, None] / (2 * count) + lam)).unsqueeze(-1)  # (r + 1, P, 1): the bound's inverse
    lam = lam.unsqueeze(-1)
    rows = torch.arange(n, device=z.device)

    theta = z.new_zeros(z.shape[1], p, k)
    logits = z.new_zeros(n, p, k)
    out = (theta.clone(), logits.clone(), torch.zeros(p, dtype=torch.bool, device=z.device))
    alive = torch.arange(p, device=z.device)  # the problems still in the batch
    pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # (step, change of gradient, 1 / their product)

    def loss_and_residual(at: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
        top = at.amax(-1, keepdim=True)
        e = (at - top).exp_()
        total = e.sum(-1, keepdim=True)
        nll = (total.log() + top).squeeze(-1) - at[rows, :, y]
        return (share * nll).sum(0) + square, e.div_(total)

    def gradient(prob: Tensor, at: Tensor) -> Tensor:
        prob[rows, :, y] -= 1  # prob is ours to overwrite
        prob *= share.unsqueeze(-1)
        return (z.T @ prob.flatten(1)).view_as(at) + lam * at

    value, prob = loss_and_residual(logits, z.new_zeros(p))
    g = gradient(prob, theta)
    noise = 16 * torch.finfo(z.dtype).eps
    iteration = 0
    for iteration in range(1, max_iterations + 1):
        d = -_two_loop(g, pairs, inverse)
        slope = (g * d).sum((0, 2))  # (P,), negative
        move = (z @ d.flatten(1)).view_as(logits)
        wd, dd = (lam * theta * d).sum((0, 2)), (lam * d * d).sum((0, 2))
        ww = (lam * theta * theta).sum((0, 2))
        t = torch.ones_like(value)
        for _ in range(30):  # halve the step of the problems that do not descend enough (Armijo)
            square = (ww + 2 * t * wd + t * t * dd) / 2
            new, prob = loss_and_residual(logits + t[:, None] * move, square)
            bad = ~(new <= value + 1e-4 * t * slope + noise * value.abs())
            if not bad.any():
                break
            t = torch.where(bad, t / 2, t)
        t = torch.where(bad, torch.zeros_like(t), t)
        step = t[:, None] * d
        theta, logits = theta + step, logits + t[:, None] * move
        if bad.any():  # rounding left no descent: such a problem is as good as it gets
            new, prob = loss_and_residual(logits, (lam * theta * theta).sum((0, 2)) / 2)
        g_new = gradient(prob, theta)
        change = g_new - g
        curve = (step * change).sum((0, 2))
        safe = curve > torch.finfo(z.dtype).tiny
        pairs = [*pairs[-HISTORY + 1 :], (step, change, torch.where(safe, 1 / curve, torch.zeros_like(curve)))]
        g, value = g_new, new
        done = (inverse * g * g).sum((0, 2)).sqrt() <= tolerance
        stop = done | bad
        if stop.sum() * 4 >= len(stop) or iteration == max_iterations:  # the batch shrinks as problems finish
            if iteration == max_iterations:
                stop = torch.ones_like(stop)
            ended = alive[stop]
            out[0][:, ended], out[1][:, ended], out[2][ended] = theta[:, stop], logits[:, stop], done[stop]
            keep = ~stop
            if not keep.any():
                break
            alive, share, value, lam, inverse = alive[keep], share[:, keep], value[keep], lam[:, keep], inverse[:, keep]
            theta, logits, g = theta[:, keep], logits[:, keep], g[:, keep]
            pairs = [(a[:, keep], b[:, keep], rho[keep]) for a, b, rho in pairs]
    return (*out, iteration)


def _two_loop(g: Tensor, pairs: list[tuple[Tensor, Tensor, Tensor]], inverse: Tensor) -> Tensor:
    """L-BFGS's product of the inverse Hessian with g (r + 1, P, K) (Nocedal and Wright, algorithm 7.4), per problem."""
    q = g.clone()
    alphas = []
    for step, change, rho in reversed(pairs):
        alpha = rho * (step * q).sum((0, 2))
        q -= alpha[:, None] * change
        alphas.append(alpha)
    q *= inverse
    if pairs:  # the bound is loose where the classes are told apart: scale it to the curvature last seen
        _, change, rho = pairs[-1]
        size = rho * (inverse * change * change).sum((0, 2))
        q *= torch.where(size > 0, 1 / size, torch.ones_like(size))[:, None]
    for (step, change, rho), alpha in zip(pairs, reversed(alphas), strict=True):
        beta = rho * (change * q).sum((0, 2))
        q += (alpha - beta)[:, None] * step
    return q
