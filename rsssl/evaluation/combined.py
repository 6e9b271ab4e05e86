"""One or several classifiers as one, with calibrated probabilities: the weights are found on held-out labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from rsssl.errors import UserError
from rsssl.evaluation.base import Probe
from rsssl.evaluation.blocks import in_blocks
from rsssl.evaluation.heads import Head, of_columns, summed
from rsssl.evaluation.on_disk import Features

HOLD = 2.0  # what the summed log-loss has to fall by for one weight to move by a factor of e
LEAST = -1e4  # a logit as good as minus infinity that can be multiplied by 0


class Combined(Probe):
    """The softmax of the weighted sum of several classifiers' logits: a logarithmic opinion pool (Genest and Zidek
    1986, "Combining probability distributions"). What several of them think likely becomes certain, and what one of
    them rules out becomes unlikely.

    The weights are those of the least log-loss on labelled images that the classifiers have not seen, by
    cross-validation among the labelled images alone, held back to where they start:

        min_w  sum of the held-out log-losses + HOLD * sum_i ln(w_i / start_i)^2

    With one classifier this is temperature scaling (Guo et al. 2017, arXiv 1706.04599, section 4.2); with several it
    also decides whom to believe. The start is `shares` times each classifier's own sharpness, and the end too where no
    class has two labels. What needs the pool stands aside where the pool has no image without a label.

    Args:
        parts: the classifiers by name.
        shares: how much of each to start from.
    """

    def __init__(self, parts: Mapping[str, Probe], shares: Mapping[str, float]) -> None:
        if parts.keys() != shares.keys() or min(shares.values()) <= 0:
            raise UserError(
                f"evaluate.shares gives {dict(shares)} and evaluate.parts has {', '.join(parts)}: give each part a "
                "positive share, evaluate.shares.NAME=0.5"
            )
        self.parts, self.shares = dict(parts), dict(shares)
        self.divided = all(part.divided for part in parts.values())
        self.on_disk = all(part.on_disk for part in parts.values())
        self.pool_images = max(part.pool_images for part in parts.values())
        self.paper_head = len(parts) == 1 and next(iter(parts.values())).paper_head
        self.looks_at_statistics = any(part.statistics for part in parts.values())
        self.no_network = all(part.statistics for part in parts.values())
        self.n_statistics = 0  # of the features, the last ones; set before `fit`
        self.details: dict[str, Any] = {}
        self.held = torch.empty(0), torch.empty(0)  # of held-out images: probabilities, classes
        self.held_plain, self.held_parts = torch.empty(0), dict[str, Tensor]()  # before calibration; of each part

    @classmethod
    def of(cls, probe: Probe) -> Combined:
        """That classifier alone, calibrated."""
        return probe if isinstance(probe, cls) else cls({"alone": probe}, {"alone": 1.0})

    def fit(
        self, features: Features, labels: Tensor, n_classes: int, seed: int, pool: Features | None = None
    ) -> Combined:
        """Fits all parts to features (n, D), labels (n,) and the features (N, D) of the pool's unlabelled images, of
        which the last `n_statistics` are statistics of the bands."""
        several, rest = len(self.parts) > 1, pool is not None and len(pool) > 0
        parts = {
            name: part
            for name, part in self.parts.items()
            if (rest or not (several and part.pool_images)) and (self.n_statistics or not (several and part.statistics))
        }
        for part in parts.values():
            part.groups = self.groups
            more = {"pool": self._own(pool, part)} if part.pool_images and pool is not None else {}
            part.fit(self._own(features, part), labels, n_classes, seed, **more)
        width = features.shape[1]
        heads = {name: of_columns(part.head(), *self._columns(width, part), width) for name, part in parts.items()}
        start = torch.tensor([self.shares[name] * part.sharpness for name, part in parts.items()])
        start /= sum(self.shares[name] for name in parts)
        logits = torch.stack(
            [part.held_out(self._own(features, part), labels, n_classes, seed) for part in parts.values()]
        )
        held = ~logits.isnan().any(2).any(0)
        logits, truth = logits[:, held], labels[held]
        weights = pool_weights(logits, truth, start)
        self.heads = heads if several else {}
        self.plain = weighted(heads, start if several else torch.ones(1))
        self._head = weighted(heads, weights)
        pooled, unchanged = (
            torch.einsum("i,imk->mk", w.double(), logits.double().clamp_min(LEAST)).softmax(1).float()
            for w in (weights, start if several else torch.ones(1))
        )
        self.held, self.held_plain = (pooled, truth), unchanged
        self.held_parts = dict(zip(heads, logits, strict=True)) if several else {}
        self.weights = dict(zip(heads, weights.tolist(), strict=True))
        self.details = {"held_out": len(truth)}
        if several:
            hits = (logits.argmax(2) == truth).double().mean(1) if len(truth) else torch.empty(0)
            self.details |= {
                "weights": self.weights,
                "weights_by": "held-out labels" if len(truth) else "shares",
                "held_out_accuracy": dict(zip(heads, hits.tolist(), strict=False)),
                "parts": {name: part.details for name, part in parts.items()},
            }
        else:
            self.details |= {"weight": float(weights)} | next(iter(parts.values())).details
        return self

    def refitted(self, features: Tensor, labels: Tensor, n_classes: int, seed: int, known: Tensor) -> Tensor:
        """See `Probe.refitted`: with the weights that were found."""
        rounds = [
            weight * part.refitted(self._own(features, part), labels, n_classes, seed, known)
            for part, weight in ((self.parts[name], weight) for name, weight in self.weights.items())
        ]
        return torch.stack(rounds).sum(0)

    def _columns(self, width: int, part: Probe) -> tuple[int, int]:
        """Where the features of a part begin and end."""
        network = width - self.n_statistics
        return (network, width) if part.statistics else (0, network)

    def _own(self, features: Features, part: Probe) -> Any:
        start, stop = self._columns(features.shape[1], part)
        return features[:, start:stop]

    def scores(self, features: Tensor) -> Tensor:
        """Features (m, D) to calibrated probabilities (m, n_classes)."""
        return in_blocks(self._head, features, self._head.compared, self.divided)

    def head(self) -> Head:
        return self._head


def weighted(heads: Mapping[str, Head], weights: Tensor) -> Head:
    """The head whose logits are the weighted sum of theirs."""
    return summed([head.sharpened(float(w)) for head, w in zip(heads.values(), weights, strict=True)])


def pool_weights(logits: Tensor, truth: Tensor, start: Tensor) -> Tensor:
    """The weights (M,) of the least log-loss, held back to start (M,), for logits (M, m, K) of images of the classes
    truth (m,)."""
    if not len(truth):
        return start
    logits, origin = logits.double().clamp_min(LEAST), start.double().log()
    moved = torch.zeros_like(origin, requires_grad=True)
    solver = torch.optim.LBFGS([moved], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        pooled = torch.einsum("i,imk->mk", (origin + moved).exp(), logits)
        value = cross_entropy(pooled, truth, reduction="sum") + HOLD * moved.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        solver.step(loss)  # type: ignore[no-untyped-call]
    return (origin + moved.detach()).exp().float()
