"""Multinomial logistic regression, many problems at once: the solver under the linear probe.

A few-label evaluation asks for the same small convex problem again and again: every labelled subset times every fold
of a cross-validation times every regularisation strength. They are solved as one batch, in which each step costs two
batched matrix products for all problems together:

* the samples are rotated into their own principal axes. An L2-penalised solution lies in the span of the
  samples, so min(n, D) coordinates are enough, and the rotation keeps the penalty as it is;
* in these axes the Hessian is near to diagonal: the energy of a coordinate, times how undecided the predictions are on
  average, plus the penalty. L-BFGS starts from the inverse of that, taken anew in every iteration;
* a problem visits its strengths from the strongest penalty to the weakest, each started where the last two solutions
  point to (a straight line in log C). That takes a third of the iterations of starting every strength from nothing.
  No problem waits for another: done with one strength, it goes on to its next;
* logits are linear in the weights, so the line search of each problem needs no product with the features.

Nothing that a problem does depends on the other problems of its batch, but for the rounding of the products; at a loose
tolerance and a weak penalty, rounding can move where within the tolerance a problem stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rsssl.engine.progress import Progress

HISTORY = 8  # pairs that L-BFGS remembers
FLOOR = 5e-4  # least curvature of a log-loss that is reckoned with; its largest is 0.5 (Boehning 1992)


@dataclass(frozen=True)
class LinearFit:
    """Solutions for F masks and S strengths of K classes in D dimensions; with G subsets, all have G in front."""

    weight: Tensor  # (F, S, K, D)
    bias: Tensor  # (F, S, K)
    logits: Tensor  # (F, S, n, K), of all samples given, those outside the mask too
    converged: Tensor  # (F, S) bool
    iterations: int


def fit_linear(
    x: Tensor,
    y: Tensor,
    strengths: Sequence[float],
    masks: Tensor | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 1000,
    dtype: torch.dtype = torch.float64,
) -> LinearFit:
    """L2-regularised multinomial logistic regression for every subset, mask and strength, as one batched problem.

    Minimises, as scikit-learn's LogisticRegression does for three classes or more, with C a strength,
        C * sum_i log-loss_i + 0.5 ||W||^2          (the bias is free).
    For two classes scikit-learn has one weight vector in place of two opposite ones: its C is twice ours.

    Args:
        x: (n, D) features, or (G, n, D) for G subsets of one size.
        y: (n,) or (G, n) classes in 0..K-1; every class must have a sample in every mask.
        strengths: the values of C, in any order.
        masks: (F, n) or (G, F, n) bool, the samples each problem is fitted to; by default one mask of all samples.
        tolerance: a problem is solved when a step would lower its objective by less than tolerance^2 / 2 of it.
            1e-6 gives coefficients to about 5 digits; 3e-3 test accuracies to about 0.2 points, also where the
            penalty is weak; 3e-2 is ample for choosing C.
        max_iterations: for each strength.
        dtype: of the arithmetic. float32 cannot get below a tolerance of about 1e-3.

    Raises:
        ValueError: for a class without samples, whose bias would run away to minus infinity.
    """
    alone = x.ndim == 2
    if alone:
        x, y, masks = x[None], y[None], None if masks is None else masks[None]
    x, y = x.to(dtype), y.to(x.device)
    (g, _, d), k = x.shape, int(y.max()) + 1
    used = torch.ones_like(x[:, None, :, 0]) if masks is None else masks.to(x)  # (G, F, n)
    if ((used @ torch.nn.functional.one_hot(y, k).to(dtype)) == 0).any():
        raise ValueError("every class needs at least one sample in every mask")
    mean = x.mean(1, keepdim=True)  # (G, 1, D)
    z, axes, energy = principal_axes(x - mean)  # (G, n, r), (G, D, r), (G, r)
    c, order = torch.tensor(list(strengths), dtype=dtype, device=x.device).sort()
    solver = _Solver(z, energy, y, used, c, k)
    with Progress("linear classifier", len(c) * len(solver.at), "fits") as progress:
        *solved, iterations = solver.run(tolerance, max_iterations, progress)
    theta, logits, done = (t[order.argsort()].transpose(0, 1).unflatten(0, (g, -1)) for t in solved)  # (G, F, S, ...)
    weight = (theta[..., :-1].flatten(1, 3) @ axes.mT).view(*theta.shape[:-1], d)
    # The samples were centred: move the origin back.
    bias = theta[..., -1] - (weight.flatten(1, 3) @ mean.mT).view(theta.shape[:-1])
    weight, bias, logits, done = (t[0] if alone else t for t in (weight, bias, logits.mT, done))
    return LinearFit(weight, bias, logits, done, iterations)


def principal_axes(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate centred samples (..., n, D): coordinates (..., n, r), axes (..., D, r), energy (..., r).

    x = coordinates @ axes.mT; energy is the sum of squares of each coordinate. Through the smaller of the two Gram
    matrices, in float64: far cheaper than a singular value decomposition. Directions under 1e-12 of the largest energy
    are dropped; in a batch they are 0 where only some of its members lack them.
    """
    wide = x.double()
    if x.shape[-2] >= x.shape[-1]:
        energy, axes = torch.linalg.eigh(wide.mT @ wide)
    else:
        energy, left = torch.linalg.eigh(wide @ wide.mT)
        axes = wide.mT @ (left / energy.clamp_min(torch.finfo(torch.float64).tiny).sqrt().unsqueeze(-2))
    alive = energy > energy.amax(-1, keepdim=True).clamp_min(1e-300) * 1e-12
    somewhere = alive.reshape(-1, alive.shape[-1]).any(0)
    axes = torch.where(alive.unsqueeze(-2), axes, 0)[..., somewhere]
    energy = torch.where(alive, energy, 0)[..., somewhere]
    return (wide @ axes).to(x.dtype), axes.to(x.dtype), energy.to(x.dtype)


class _Solver:
    """P = G * F problems, each at its own strength among c (S,), which ascend. r1 = r + 1.

    A problem at strength C is scaled to mean log-loss + lam / 2 ||W||^2 with lam = 1 / (C * samples).

    Args:
        z: (G, n, r) samples, centred, in principal axes.
        energy: (G, r) of each axis.
        y: (G, n) classes.
        used: (G, F, n) 1 for the samples of a mask, else 0.
        c: (S,) strengths.
        k: number of classes.
    """

    def __init__(self, z: Tensor, energy: Tensor, y: Tensor, used: Tensor, c: Tensor, k: int) -> None:
        (g, n, r), f, s = z.shape, used.shape[1], len(c)
        p = g * f
        self.z = torch.cat([z, z.new_ones(g, n, 1)], 2)  # the bias is the weight of a constant feature
        self.columns = (g, f * k)
        count = used.sum(2).flatten()
        self.share = used.flatten(0, 1) / count[:, None]  # (P, n)
        self.energy = torch.cat([energy / n, energy.new_ones(g, 1)], 1).repeat_interleave(f, 0)  # (P, r1), per sample
        self.lams = 1 / (count[:, None] * c)  # (P, S)
        self.log_c = c.log()
        self.penalised = z.new_ones(r + 1)
        self.penalised[-1] = 0
        self.label = y.repeat_interleave(f, 0).unsqueeze(1)  # (P, 1, n)
        # Where each problem stands.
        self.theta, self.logits = z.new_zeros(p, k, r + 1), z.new_zeros(p, k, n)  # the last column of theta is the bias
        self.solved = z.new_zeros(s, p, k, r + 1), z.new_zeros(s, p, k, n), z.new_zeros(s, p, dtype=torch.bool)
        self.at, self.age = z.new_zeros(2, p, dtype=torch.long)  # its strength, and iterations there
        self.active, self.stuck = z.new_ones(p, dtype=torch.bool), z.new_zeros(p, dtype=torch.bool)
        self.memory = _Memory(p, k * (r + 1), z)
        self.lam = self.lams[:, 0]
        self.value, residual = self.loss(self.logits, slice(None))
        self.g, self.inverse = self.gradient(residual)

    def loss(self, logits: Tensor, problems: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Mean log-loss (p,) of logits (p, K, n), and its derivative by each sample's logits (p, K, n).

        By differences from the labelled class's own logit: of a sample that is all but certain, 1 - probability and
        log(sum of exp) - logit would leave nothing but rounding.
        """
        label = self.label[problems]
        e = (logits - logits.gather(1, label)).clamp_(max=80).exp_().scatter_(1, label, 0)
        rest = e.sum(1, keepdim=True)  # the odds against the labelled class
        e /= 1 + rest
        return (self.share[problems] * rest.log1p().squeeze(1)).sum(1), e.scatter_(1, label, -rest / (1 + rest))

    def gradient(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient (P, K, r1), and the inverse (P, r1) of the Hessian as if it were diagonal.

        residual (P, K, n) is overwritten.
        """
        # The mean over classes of p (1 - p), from 1 - p of the labelled class.
        spread = -2 * residual.gather(1, self.label).squeeze(1) - residual.square().sum(1)  # (P, n)
        curve = (self.share * spread).sum(1) / self.theta.shape[1]
        inverse = 1 / (self.energy * (curve[:, None] + FLOOR) + self.lam[:, None] * self.penalised)
        residual *= self.share[:, None]
        g = torch.bmm(residual.view(*self.columns, -1), self.z).view_as(self.theta)
        return g + self.lam[:, None, None] * (self.theta * self.penalised), inverse

    def run(self, tolerance: float, max_iterations: int, progress: Progress) -> tuple[Tensor, Tensor, Tensor, int]:
        """theta (S, P, K, r1), logits (S, P, K, n), converged (S, P), iterations."""
        iterations = 0
        while True:
            met = (self.g.square().sum(1) * self.inverse).sum(1) <= tolerance**2 * self.value
            arrived = self.active & (met | self.stuck | (self.age >= max_iterations))
            d, move = torch.zeros_like(self.theta), torch.zeros_like(self.logits)
            if arrived.any():
                who = arrived.nonzero()[:, 0]
                self.arrive(who, met, d, move)
                progress.update(len(who))
                if not self.active.any():
                    return (*self.solved, iterations)
            going = self.active & ~arrived
            iterations += 1
            self.age += 1
            d = torch.where(going[:, None, None], -self.memory.times(self.g, self.inverse), d)
            turn = torch.bmm(d.view(*self.columns, -1), self.z.mT).view_as(move)
            self.step(d, torch.where(going[:, None, None], turn, move), going)

    def arrive(self, who: Tensor, met: Tensor, d: Tensor, move: Tensor) -> None:
        """Store the solutions of the problems `who`, and send them on to their next strength.

        Writes into d and move their way there, of theta and of the logits: straight on from the last two solutions.
        """
        i = self.at[who]
        for store, state in zip(self.solved, (self.theta, self.logits, met), strict=True):
            store[i, who] = state[who]
        self.at[who] += 1
        last = len(self.log_c) - 1
        self.active &= self.at <= last
        who, i = who[i < last], i[i < last]
        before = (i - 1).clamp_min(0)
        far, near = self.log_c[i + 1] - self.log_c[i], self.log_c[i] - self.log_c[before]
        reach = torch.where(near > 0, far / near, 0)[:, None, None]  # nothing to go by after the first strength
        d[who] = reach * (self.theta[who] - self.solved[0][before, who])
        move[who] = reach * (self.logits[who] - self.solved[1][before, who])
        self.lam = self.lams.gather(1, self.at.clamp_max(last)[:, None])[:, 0]
        self.age[who] = 0
        self.memory.forget(who)

    def step(self, d: Tensor, move: Tensor, going: Tensor) -> None:
        """Go by d, and by move in the logits: as far as the objective falls for the problems `going`, else all of
        it."""
        theta, logits, value, lam = self.theta, self.logits, self.value, self.lam
        noise = 16 * torch.finfo(theta.dtype).eps
        slope = (self.g * d).sum((1, 2))
        ww, wd, dd = (((a * b) @ self.penalised).sum(1) for a, b in ((theta, theta), (theta, d), (d, d)))
        t = torch.ones_like(value)
        new, residual = self.loss(logits + move, slice(None))
        new += lam * (ww / 2 + wd + dd / 2)
        bad = going & ~(new <= value + 1e-4 * slope + noise * value)
        for _ in range(30):  # halve the step of the problems that do not descend enough (Armijo)
            if not bad.any():
                break
            i = bad.nonzero()[:, 0]
            t[i] /= 2
            new[i], residual[i] = self.loss(logits[i] + t[i, None, None] * move[i], i)
            new[i] += lam[i] * (ww[i] / 2 + t[i] * wd[i] + t[i] ** 2 * dd[i] / 2)
            bad[i] = ~(new[i] <= value[i] + 1e-4 * t[i] * slope[i] + noise * value[i])
        self.stuck = bad  # rounding left no descent: such a problem is as good as it gets
        step = t[:, None, None] * d
        self.theta, self.logits, self.value = theta + step, logits + t[:, None, None] * move, new
        g_before = self.g
        self.g, self.inverse = self.gradient(residual)
        self.memory.add(step, self.g - g_before, self.inverse, going)


class _Memory:
    """L-BFGS's product of the inverse Hessian with a vector, for P problems of N unknowns.

    In its compact form (Byrd, Nocedal and Schnabel 1994) the HISTORY pairs of a problem are read in four batched
    products; a pair that is zero, with 1 on the diagonal of `products`, counts for nothing.
    """

    def __init__(self, p: int, n: int, like: Tensor) -> None:
        self.steps, self.changes = (like.new_zeros(p, HISTORY, n) for _ in range(2))  # in a ring
        self.eye = torch.eye(HISTORY, dtype=like.dtype, device=like.device)
        self.products = self.eye.repeat(p, 1, 1)  # [i, j] = steps_i . changes_j, where i is not younger than j
        self.scale = like.new_ones(p)  # of the diagonal, to the curvature last seen
        self.next = 0

    def forget(self, problems: Tensor) -> None:
        self.steps[problems], self.changes[problems] = 0, 0
        self.products[problems], self.scale[problems] = self.eye, 1

    def add(self, step: Tensor, change: Tensor, inverse: Tensor, going: Tensor) -> None:
        """Keep the last step (P, K, r + 1) and what it changed the gradient by, of the problems `going`."""
        curve = (step * change).sum((1, 2))
        good = going & (curve > torch.finfo(step.dtype).tiny)
        size = (change.square().sum(1) * inverse).sum(1)
        self.scale = torch.where(good, curve / size, self.scale)
        i, good = self.next, good[:, None]
        self.steps[:, i] = torch.where(good, step.flatten(1), 0)
        self.changes[:, i] = torch.where(good, change.flatten(1), 0)
        products = (self.steps @ self.changes[:, i, :, None]).squeeze(2)
        self.products[:, :, i] = torch.where(good, products, self.eye[i])
        self.next = (i + 1) % HISTORY

    def times(self, g: Tensor, inverse: Tensor) -> Tensor:
        """The product with g (P, K, r + 1), where inverse (P, r + 1) stands for what no pair has told yet."""
        order = torch.arange(self.next, self.next + HISTORY, device=g.device) % HISTORY  # oldest first
        back = order.argsort()
        r = self.products[:, order][:, :, order]
        a = torch.linalg.solve_triangular(r, (self.steps @ g.flatten(1).unsqueeze(2))[:, order], upper=True)
        q = g.flatten(1) - (a[:, back].mT @ self.changes).squeeze(1)
        q = (q.view_as(g) * (self.scale[:, None] * inverse).unsqueeze(1)).flatten(1)
        b = r.diagonal(dim1=1, dim2=2).unsqueeze(2) * a - (self.changes @ q.unsqueeze(2))[:, order]
        b = torch.linalg.solve_triangular(r.mT, b, upper=False)
        return (q + (b[:, back].mT @ self.steps).squeeze(1)).view_as(g)
