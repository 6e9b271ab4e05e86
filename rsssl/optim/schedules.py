"""Learning-rate schedules: pure functions of the step, so that a resumed run needs no state for them.

All begin with a linear warm-up over the first `warmup` share of the steps (W steps): step s of it has the factor
(s + 1) / (W + 1). Then comes a curve over t = (s - W) / (total - W), from 0 to just below 1 at the last step, so that
no step is wasted at rate 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from rsssl.errors import UserError


class Schedule:
    """schedule(step, total_steps) -> the factor in [0, 1] on the optimizer's learning rate; steps count from 0.

    Args:
        warmup: share of all steps, in [0, 1).

    Raises:
        UserError: when a setting is outside its range; this holds for all schedules.
    """

    def __init__(self, warmup: float) -> None:
        if not 0 <= warmup < 1:
            raise UserError(
                f"schedule.warmup={warmup} should be the share of all steps to warm up for, in [0, 1). "
                "Type schedule.warmup=0.05"
            )
        self.warmup = warmup

    def __call__(self, step: int, total_steps: int) -> float:
        if total_steps < 1 or not 0 <= step <= total_steps:
            raise ValueError(f"step {step} of {total_steps} does not exist")
        warm = min(round(self.warmup * total_steps), total_steps - 1)
        if step < warm:
            return self.curve(0.0) * (step + 1) / (warm + 1)
        return self.curve((step - warm) / (total_steps - warm))

    def curve(self, t: float) -> float:
        """The factor at t in [0, 1] of the steps after the warm-up."""
        raise NotImplementedError


class Constant(Schedule):
    """1 after the warm-up.

    Args:
        warmup: share of all steps, in [0, 1).
    """

    def curve(self, t: float) -> float:
        return 1.0


class Falling(Schedule):
    """Base of the curves from 1 to `final`.

    Args:
        warmup: share of all steps, in [0, 1).
        final: factor at the end, in [0, 1].
    """

    def __init__(self, warmup: float, final: float) -> None:
        super().__init__(warmup)
        self.final = _factor("final", final)


class Linear(Falling):
    """A straight line from 1 to `final`."""

    def curve(self, t: float) -> float:
        return 1 + (self.final - 1) * t


class Cosine(Falling):
    """Half a cosine from 1 to `final` (SGDR, arXiv 1608.03983, equation 5, without restarts)."""

    def curve(self, t: float) -> float:
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * t))


class Step(Schedule):
    """Falls by a constant factor at each milestone.

    Args:
        warmup: share of all steps, in [0, 1).
        milestones: shares of the steps after the warm-up, in [0, 1].
        gamma: the factor, in [0, 1].
    """

    def __init__(self, warmup: float, milestones: Sequence[float], gamma: float) -> None:
        super().__init__(warmup)
        self.milestones = tuple(_factor("milestones", m) for m in milestones)
        self.gamma = _factor("gamma", gamma)

    def curve(self, t: float) -> float:
        return self.gamma ** sum(t >= m for m in self.milestones)


class Polyline(Schedule):
    """Straight lines between points.

    Args:
        warmup: share of all steps, in [0, 1).
        points: pairs (share of the steps after the warm-up, factor); the shares rise from 0 to 1.
    """

    def __init__(self, warmup: float, points: Sequence[Sequence[float]]) -> None:
        super().__init__(warmup)
        self.points = tuple((_factor("points", t), _factor("points", f)) for t, f in points)
        shares = [t for t, _ in self.points]
        rising = len(shares) > 1 and all(a < b for a, b in pairwise(shares))
        if not rising or shares[0] != 0 or shares[-1] != 1:
            raise UserError(
                f"schedule.points={[list(p) for p in points]}: the shares must rise from 0 to 1. "
                "Type schedule.points=[[0,1],[0.5,0.3],[1,0]]"
            )

    def curve(self, t: float) -> float:
        for (t0, f0), (t1, f1) in pairwise(self.points):
            if t <= t1:
                return f0 + (f1 - f0) * (t - t0) / (t1 - t0)
        return self.points[-1][1]


def _factor(key: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise UserError(f"schedule.{key} holds {value}, which is not in [0, 1]. Correct it: schedule.{key}=...")
    return float(value)
