"""A slowly moving copy of a network: the teacher, target or key encoder of many methods."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage(nn.Module):
    """A copy of a network whose parameters follow it: p = m p + (1 - m) p_source (He et al. 2020, MoCo, equation 2).

    Gradients never train it. Its batch normalisation has its own statistics, as in MoCo and BYOL.

    Args:
        source: the network's modules, in the order in which they are applied.
        momentum: m at the start of training.
        final: m at the end of training, reached along half a cosine (BYOL, section 3.3); None keeps it constant.
    """

    def __init__(self, *source: nn.Module, momentum: float, final: float | None = 1.0) -> None:
        super().__init__()
        self._source = [source]  # in a list, so that torch neither trains nor saves them as a part of this module
        self.module = copy.deepcopy(nn.Sequential(*source)).requires_grad_(False)
        self.start, self.final = momentum, momentum if final is None else final

    def momentum(self, step: int, total_steps: int) -> float:
        """The momentum m of an update.

        Args:
            step: number of the step that was just done, from 0.
            total_steps: steps of the whole training.
        """
        return self.final - (self.final - self.start) * (math.cos(math.pi * step / total_steps) + 1) / 2

    @torch.no_grad()
    def follow(self, step: int, total_steps: int) -> None:
        """Moves the parameters towards the source's.

        Args:
            step: number of the step that was just done, from 0.
            total_steps: steps of the whole training.
        """
        copies: list[Tensor] = [*self.module.parameters()]
        source: list[Tensor] = [p for module in self._source[0] for p in module.parameters()]
        torch._foreach_lerp_(copies, source, 1 - self.momentum(step, total_steps))

    @torch.no_grad()
    def forward(self, *arguments: Any) -> Any:
        return self.module(*arguments)


class WeightAverage:
    """A moving average of a network's weights and statistics over the last part of a training.

    With p the average after t steps, p = d p + (1 - d) p_source, d = min(1 - 1 / (share T), (1 + t) / (10 + t)) for T
    steps in all (Polyak and Juditsky 1992; with this warm-up in Tan and Le 2019, arXiv 1905.11946, code).

    Args:
        source: the network in training.
        share: of all steps, over which is averaged.
    """

    def __init__(self, source: nn.Module, share: float) -> None:
        self.source, self.share = source, share
        self.module = copy.deepcopy(source).requires_grad_(False).eval()

    @torch.no_grad()
    def follow(self, step: int, total_steps: int) -> None:
        """Moves towards the source.

        Args:
            step: number of the step that was just done, from 0.
            total_steps: steps of the whole training.
        """
        decay = min(1 - 1 / max(1.0, self.share * total_steps), (1 + step) / (10 + step))
        own, source = self.module.state_dict(), self.source.state_dict()
        moving = [k for k, v in own.items() if v.is_floating_point()]
        torch._foreach_lerp_([own[k] for k in moving], [source[k] for k in moving], 1 - decay)
        for k in own.keys() - set(moving):
            own[k].copy_(source[k])
