"""What a classifier is once it is fitted: a module from features to class probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import normalize

from rsssl.errors import UserError
from rsssl.evaluation.blocks import nearest
from rsssl.evaluation.spaces import PoolSpace

SMOOTHING = 0.1  # of a vote, dealt out evenly: a class without a neighbour is improbable, and not impossible


class Head(nn.Module):
    """Features (B, D) -> class probabilities (B, K): the softmax of its logits."""

    layer: tuple[Tensor, Tensor] | None = None  # weight (K, D) and bias (K,) of one that is a linear layer
    compared = 1  # how many images each new one is compared with

    @property
    def width(self) -> int:
        """D, the number of features."""
        raise NotImplementedError(f"{type(self).__name__} must define width")

    def settings(self) -> dict[str, Any]:
        """What `head_from` needs beside the tensors, as JSON; "kind" says which head it is."""
        raise NotImplementedError(f"{type(self).__name__} must define settings()")

    def logits(self, features: Tensor) -> Tensor:
        """Features (B, D) -> logits (B, K)."""
        raise NotImplementedError(f"{type(self).__name__} must define logits(features)")

    def ignores(self, start: int, stop: int) -> bool:
        """Whether it is known to say the same whatever the features from `start` to `stop` are."""
        return False

    def sharpened(self, weight: float) -> Head:
        """The same classifier with its logits times a positive weight."""
        raise NotImplementedError(f"{type(self).__name__} must define sharpened(weight)")

    def forward(self, features: Tensor) -> Tensor:
        return self.logits(features).softmax(1)


class LinearHead(Head):
    """A linear layer.

    Args:
        weight: (K, D).
        bias: (K,); -inf for a class that is never predicted.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.float()), nn.Parameter(bias.float())

    @property
    def layer(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.weight.detach(), self.bias.detach()

    @property
    def width(self) -> int:
        return self.weight.shape[1]

    def settings(self) -> dict[str, Any]:
        return {"kind": "linear"}

    def logits(self, features: Tensor) -> Tensor:
        return F.linear(features.float(), self.weight, self.bias)

    def ignores(self, start: int, stop: int) -> bool:
        return not self.weight[:, start:stop].any()

    def sharpened(self, weight: float) -> LinearHead:
        return LinearHead(*(weight * t for t in self.layer))


class NeighbourHead(Head):
    """The votes of the k most similar images that it remembers: each votes for the classes by its shares of them.

    Args:
        settings: k; temperature of a vote's weight exp(cosine / temperature), None for votes that weigh the same;
            sharpness, of the votes' logarithms.
        bank: (n, D) the features it remembers, less the mean, of unit length.
        shares: (n, K) how much of each class each of them is, rows of sum 1.
        mean: (D,) what is subtracted from features first.
        space: where features are brought first; None to leave them as they are.
    """

    bank: Tensor
    shares: Tensor
    mean: Tensor

    def __init__(
        self, settings: Mapping[str, Any], bank: Tensor, shares: Tensor, mean: Tensor, space: PoolSpace | None = None
    ) -> None:
        super().__init__()
        self.arguments = dict(settings)
        for name, value in (("bank", bank), ("shares", shares), ("mean", mean)):
            self.register_buffer(name, value)
        self.space = space

    @property
    def compared(self) -> int:  # type: ignore[override]
        return len(self.bank)

    @property
    def width(self) -> int:
        return len(self.mean if self.space is None else self.space.mean)

    def settings(self) -> dict[str, Any]:
        return {"kind": "neighbours" if self.space is None else "propagated"} | self.arguments

    def logits(self, features: Tensor) -> Tensor:
        return log_votes(self.votes(features), self.arguments["sharpness"])

    def sharpened(self, weight: float) -> NeighbourHead:
        settings = self.arguments | {"sharpness": weight * self.arguments["sharpness"]}
        return NeighbourHead(settings, self.bank, self.shares, self.mean, self.space)

    def votes(self, features: Tensor) -> Tensor:
        """Features (B, D) -> the classes' shares of the votes (B, K), rows of sum 1."""
        if self.space is not None:
            features = self.space(features)
        unit, k = normalize(features.float() - self.mean, dim=1), min(self.arguments["k"], len(self.bank))
        if torch.compiler.is_exporting():  # of equal ones a program takes any
            cosine, index = (unit @ self.bank.T).topk(k, dim=1)
        else:
            cosine, index = nearest(unit, self.bank, k)
        return vote(cosine, index, self.shares, self.arguments["temperature"])


def vote(cosine: Tensor, index: Tensor, shares: Tensor, temperature: float | None) -> Tensor:
    """The votes (B, K) of the images index (B, k), the nearest first, which are shares (n, K) of the classes; their
    sum is 1, or 0 where none of them has a share."""
    weight = torch.ones_like(cosine)
    if temperature is not None:  # relative to the nearest: the shares stay the same and nothing overflows
        weight = ((cosine - cosine[:, :1]) / temperature).exp()
    votes = torch.einsum("bk,bkc->bc", weight, shares[index])
    return votes / votes.sum(1, keepdim=True).clamp_min(torch.finfo(votes.dtype).tiny)


def log_votes(votes: Tensor, sharpness: float) -> Tensor:
    """Votes (..., K) as logits."""
    return sharpness * (votes + SMOOTHING / votes.shape[-1]).log()


class SummedHead(Head):
    """The sum of the logits of several heads: a logarithmic opinion pool (Genest and Zidek 1986, section 4.2).

    Args:
        parts: the heads.
    """

    def __init__(self, parts: Sequence[Head]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    @property
    def heads(self) -> list[Head]:
        return list(self.parts)  # type: ignore[arg-type]

    @property
    def compared(self) -> int:  # type: ignore[override]
        return max(head.compared for head in self.heads)

    @property
    def width(self) -> int:
        return self.heads[0].width

    def settings(self) -> dict[str, Any]:
        return {"kind": "sum", "parts": [head.settings() for head in self.heads]}

    def logits(self, features: Tensor) -> Tensor:
        first, *others = (head.logits(features) for head in self.heads)
        return sum(others, first)

    def sharpened(self, weight: float) -> SummedHead:
        return SummedHead([head.sharpened(weight) for head in self.heads])


class ColumnsHead(Head):
    """A head that takes some of the features, those from `start` to `stop` of `width`.

    Args:
        head: of these.
        start: the first.
        stop: the one after the last.
        width: how many there are.
    """

    def __init__(self, head: Head, start: int, stop: int, width: int) -> None:
        super().__init__()
        self.head, self.start, self.stop, self._width = head, start, stop, width

    @property
    def width(self) -> int:
        return self._width

    @property
    def compared(self) -> int:  # type: ignore[override]
        return self.head.compared

    def settings(self) -> dict[str, Any]:
        place = {"start": self.start, "stop": self.stop, "width": self._width}
        return {"kind": "columns", "head": self.head.settings()} | place

    def logits(self, features: Tensor) -> Tensor:
        return self.head.logits(features[:, self.start : self.stop])

    def sharpened(self, weight: float) -> Head:
        return of_columns(self.head.sharpened(weight), self.start, self.stop, self._width)


def of_columns(head: Head, start: int, stop: int, width: int) -> Head:
    """The head that takes some of the features: a linear layer has zeros for the others."""
    if (start, stop) == (0, width):
        return head
    if head.layer is None:
        return ColumnsHead(head, start, stop, width)
    weight, bias = head.layer
    return LinearHead(F.pad(weight, (start, width - stop)), bias)


def summed(parts: Sequence[Head]) -> Head:
    """The head whose logits are the sum of theirs: linear layers become one."""
    layers = [part.layer for part in parts if part.layer is not None]
    others = [part for part in parts if part.layer is None]
    if layers:
        weights, biases = zip(*layers, strict=True)
        others.insert(0, LinearHead(torch.stack(weights).sum(0), torch.stack(biases).sum(0)))
    return others[0] if len(others) == 1 else SummedHead(others)


def head_from(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Head:
    """The head that `settings()` and a state dict describe."""
    arguments = dict(settings)
    kind = arguments.pop("kind")
    if kind == "sum":
        return SummedHead([head_from(part, below(f"parts.{i}.", tensors)) for i, part in enumerate(arguments["parts"])])
    if kind == "columns":
        return ColumnsHead(head_from(arguments.pop("head"), below("head.", tensors)), **arguments)
    if kind == "linear":
        return LinearHead(tensors["weight"], tensors["bias"])
    own = {name: tensors[name] for name in ("bank", "shares", "mean") if name in tensors}
    if len(own) < 3:
        raise UserError(
            f"this classifier ({kind}) was kept by an earlier rsssl, in a form that is read no more: evaluate again, "
            "rsssl-run task=evaluate checkpoint=DIR"
        )
    space = PoolSpace(**below("space.", tensors)) if kind == "propagated" else None
    return NeighbourHead(arguments, **own, space=space)


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
