"""The paper's classifier on frozen features, and its protocol, to compare with its published tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from rsssl.evaluation.base import Probe
from rsssl.evaluation.heads import LinearHead
from rsssl.evaluation.job import Job
from rsssl.evaluation.standardise import check_training_set
from rsssl.rng import fold, permutation, uniform


class PaperHead(Probe):
    """A linear layer on cached, unscaled features (Tao et al. 2020, arXiv 2010.00882, and its published code).

    Adam (betas 0.9, 0.99), learning rate 4e-4 along a cosine that moves once an epoch, 200 epochs, batches of 64, no
    weight decay, cross-entropy; the layer starts as torch.nn.Linear does. The frozen backbone is in evaluation mode,
    so training on its cached features is the same as running it again each epoch.

    `fit` trains to the last epoch. protocol=paper needs the weights after each epoch, to keep the epoch that is best
    on half of the test images:

        best = max(head.fit_epochs(x, y, n, seed), key=lambda state: accuracy(head.load(*state).scores(half)))
        head.load(*best)
    """

    def __init__(
        self,
        lr: float = 4e-4,
        epochs: int = 200,
        batch_size: int = 64,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        self.lr, self.epochs, self.batch_size, self.weight_decay = lr, epochs, batch_size, weight_decay
        self.betas = (float(betas[0]), float(betas[1]))
        self.details: dict[str, Any] = {"lr": lr, "epochs": epochs, "batch_size": batch_size}

    def fit(self, features: Tensor, labels: Tensor, n_classes: int, seed: int) -> PaperHead:
        """Train on features (n, D) and labels (n,) int64; the seed gives the first weights and the order of batches."""
        for state in self.fit_epochs(features, labels, n_classes, seed):
            self.load(*state)
        return self

    def fit_epochs(
        self, features: Tensor, labels: Tensor, n_classes: int, seed: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Train, and yield the weight (K, D) and bias (K,) after each epoch (copies)."""
        check_training_set(features, labels, n_classes)
        x = torch.cat([features.float(), torch.ones_like(features[:, :1]).float()], 1)  # (n, D + 1)
        n, width = x.shape
        hot = torch.nn.functional.one_hot(labels, n_classes).float()  # (n, K)
        bound = 1 / math.sqrt(width - 1)
        ids = torch.arange(n_classes, device=x.device)
        # (K, D + 1), the last column the bias: the same bound for both, as torch.nn.Linear has
        theta = (uniform(fold(seed, "head"), ids, width) * 2 - 1) * bound
        first, second = torch.zeros_like(theta), torch.zeros_like(theta)
        (b1, b2), step = self.betas, 0
        for epoch in range(self.epochs):
            lr = self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
            order = torch.from_numpy(permutation(fold(seed, "head", epoch), n)).to(x.device)
            xs, hs = x[order].split(self.batch_size), hot[order].split(self.batch_size)
            for xb, hb in zip(xs, hs, strict=True):
                # the gradient of the mean cross-entropy, written out: autograd would cost more than the product
                g = ((xb @ theta.T).softmax(1) - hb).T @ xb / len(xb)
                if self.weight_decay:
                    g.add_(theta, alpha=self.weight_decay)
                step += 1
                first.lerp_(g, 1 - b1)
                second.mul_(b2).addcmul_(g, g, value=1 - b2)
                scale = (second / (1 - b2**step)).sqrt_().add_(1e-8)
                theta.addcdiv_(first, scale, value=-lr / (1 - b1**step))
            yield theta[:, :-1].clone(), theta[:, -1].clone()

    def load(self, weight: Tensor, bias: Tensor) -> PaperHead:
        """Use these weights (K, D), (K,), as `fit_epochs` yields them."""
        self.weight, self.bias = weight, bias
        return self

    def scores(self, features: Tensor) -> Tensor:
        """Features (m, D) to log-probabilities (m, n_classes) float32."""
        return (features.float() @ self.weight.T + self.bias).log_softmax(1)

    def layer(self) -> tuple[Tensor, Tensor]:
        """Weight (K, D) and bias (K,) of the linear layer, whose softmax are the probabilities."""
        return self.weight, self.bias

    def head(self) -> LinearHead:
        return LinearHead(*self.layer())


class BestEpoch:
    """protocol=paper: the predictions and the state of the epoch that did best on half of the test images.

    Args:
        job: names the half and its classes.
    """

    def __init__(self, job: Job) -> None:
        self.half, self.truth = job.selection_half(), job.labels(job.test)
        self.oa, self.epoch, self.predicted = -1.0, 0, torch.empty(0)
        self.last_oa = 0.0  # of all test images after the last epoch seen, which nothing chose
        self.state: Any = None

    def see(self, epoch: int, probabilities: Tensor, state: Callable[[], Any]) -> None:
        """Keeps the epoch when it is the best so far; probabilities (m, n_classes) of all test images."""
        predicted = probabilities.argmax(1)
        right = (predicted == self.truth).float()
        oa, self.last_oa = float(right[self.half].mean()), float(right.mean())
        if oa > self.oa:
            self.oa, self.epoch, self.predicted, self.state = oa, epoch, predicted, state()

    @property
    def details(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "epoch_chosen_on_test_images": True, "oa_last_epoch": self.last_oa}


def paper_probe(job: Job, x: Tensor, y: Tensor, tests: list[Tensor]) -> tuple[dict[str, Any], LinearHead]:
    """The linear layer's epoch is the best on half of the test images, which are then reported too."""
    head, best = PaperHead(), BestEpoch(job)
    for epoch, state in enumerate(head.fit_epochs(x, y, job.n_classes, job.seed), 1):
        shares = torch.stack([head.load(*state).scores(t).softmax(1) for t in tests]).mean(0)
        best.see(epoch, shares, lambda state=state: state)  # type: ignore[misc]
    head.load(*best.state)
    return job.figures(best.predicted) | {"details": {"solver": "adam"} | best.details}, head.head()
