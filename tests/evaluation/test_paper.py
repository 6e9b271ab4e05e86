"""The paper's head against torch's own layer, optimizer, schedule and loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch

from rsssl.evaluation.job import Job
from rsssl.evaluation.paper import BestEpoch, PaperHead
from rsssl.rng import fold, permutation

Make = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def test_equals_torch_step_by_step(make: Make) -> None:
    x, y = make(21, 12, classes=4, seed=1)  # 84 samples: a whole batch of 64 and a short one
    head = PaperHead(epochs=6, lr=0.01, weight_decay=0.001)
    states = list(head.fit_epochs(x, y, 4, seed=3))
    layer = torch.nn.Linear(12, 4)
    start = PaperHead(epochs=1, lr=0.0).fit(x, y, 4, seed=3)
    with torch.no_grad():
        layer.weight.copy_(start.weight)
        layer.bias.copy_(start.bias)
    adam = torch.optim.Adam(layer.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.001)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, 6)
    for epoch in range(6):
        for batch in torch.from_numpy(permutation(fold(3, "head", epoch), 84)).split(64):
            adam.zero_grad()
            torch.nn.functional.cross_entropy(layer(x[batch]), y[batch]).backward()
            adam.step()
        cosine.step()
        torch.testing.assert_close(states[epoch][0], layer.weight.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(states[epoch][1], layer.bias.detach(), atol=1e-5, rtol=1e-4)
    expected = layer(x).log_softmax(1).detach()
    torch.testing.assert_close(head.load(*states[-1]).scores(x), expected, atol=1e-4, rtol=1e-4)


def test_fit_ends_at_the_last_epoch_and_learns(make: Make) -> None:
    x, y = make(20, 64, classes=5, seed=2)
    new, truth = make(100, 64, classes=5, seed=2, draw=1)
    head = PaperHead().fit(x * 10, y, 5, seed=0)
    *_, last = PaperHead().fit_epochs(x * 10, y, 5, seed=0)
    assert torch.equal(head.weight, last[0]) and torch.equal(head.bias, last[1])
    assert float((head.scores(new * 10).argmax(1) == truth).double().mean()) > 0.4  # chance is 0.2
    other = PaperHead().fit(x * 10, y, 5, seed=1)
    assert not torch.equal(head.weight, other.weight)


def test_first_weights_are_a_linear_layers(make: Make) -> None:
    x, y = make(2, 100, classes=50, seed=3)
    start = PaperHead(epochs=1, lr=0.0).fit(x, y, 50, seed=0)
    assert float(start.weight.abs().max()) <= 0.1 and float(start.bias.abs().max()) <= 0.1  # 1 / sqrt(100)
    assert abs(float(start.weight.std()) - 0.1 / 3**0.5) < 0.002


def test_epochs_yielded_are_copies(make: Make) -> None:
    x, y = make(5, 8, classes=2, seed=4)
    states = list(PaperHead(epochs=3, lr=0.1).fit_epochs(x, y, 2, seed=0))
    assert len(states) == 3 and not torch.equal(states[0][0], states[2][0])


class FourImages:
    """A job with four test images of two classes, the first two of which choose."""

    test = np.arange(4)

    def labels(self, rows: np.ndarray) -> torch.Tensor:
        return torch.tensor([0, 1, 0, 1])[rows]

    def selection_half(self) -> np.ndarray:
        return np.array([0, 1])


def test_the_best_epoch_stands_beside_the_last() -> None:
    best = BestEpoch(cast(Job, FourImages()))
    for epoch, answers in enumerate(([0, 0, 0, 0], [0, 1, 1, 1], [1, 1, 0, 0]), 1):  # the half: 1, 2, 1 right
        best.see(epoch, torch.eye(2)[answers], lambda epoch=epoch: epoch)  # type: ignore[misc]
    assert (best.oa, best.state, best.predicted.tolist()) == (1.0, 2, [0, 1, 1, 1])
    assert best.details == {"epoch": 2, "epoch_chosen_on_test_images": True, "oa_last_epoch": 0.5}
