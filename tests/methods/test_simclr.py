"""SimCLR: the loss against the formula written out, and against the cross entropy it is for two views."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rsssl.engine.loop import Batch
from rsssl.methods import SimCLR
from rsssl.methods.losses import nt_xent
from rsssl.models import build_backbone


def by_hand(z: np.ndarray, temperature: float) -> float:
    """Equation 1 of the SimCLR paper, a loop over all ordered pairs of views of an image."""
    views, images, _ = z.shape
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    losses = []
    for i in range(images):
        for a in range(views):
            negatives = sum(
                math.exp(z[a, i] @ z[v, j] / temperature) for v in range(views) for j in range(images) if j != i
            )
            for b in range(views):
                if a != b:
                    positive = math.exp(z[a, i] @ z[b, i] / temperature)
                    losses.append(-math.log(positive / (positive + negatives)))
    return float(np.mean(losses))


@pytest.mark.parametrize(("views", "images", "temperature"), [(2, 5, 0.5), (2, 1, 0.2), (3, 4, 0.2), (6, 3, 0.1)])
def test_nt_xent_is_the_formula_written_out(views: int, images: int, temperature: float) -> None:
    z = np.random.default_rng(views).normal(size=(views, images, 7))
    assert nt_xent(torch.tensor(z), temperature).item() == pytest.approx(by_hand(z, temperature), abs=1e-5)


def test_two_views_are_the_usual_cross_entropy_with_its_gradient() -> None:
    torch.manual_seed(0)
    z = torch.randn(2, 16, 8, requires_grad=True)
    flat = F.normalize(z.flatten(0, 1), dim=1)
    logits = (flat @ flat.T / 0.3).masked_fill(torch.eye(32, dtype=torch.bool), -torch.inf)
    usual = F.cross_entropy(logits, torch.arange(32).roll(16))
    ours = nt_xent(z, 0.3)
    assert ours.item() == pytest.approx(usual.item(), abs=1e-5)
    (expected,) = torch.autograd.grad(usual, z)
    (found,) = torch.autograd.grad(ours, z)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_the_method_learns_to_tell_images_apart() -> None:
    torch.manual_seed(0)
    method = SimCLR(build_backbone("resnet10t", 3), views=3, temperature=0.2, hidden=64, out=16)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    images = torch.rand(16, 3, 32, 32)
    losses = []
    for _ in range(15):
        batch = Batch(torch.arange(16), 0, [images + 0.05 * torch.randn_like(images) for _ in range(3)])
        out = method(batch)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        losses.append(out["loss"].item())
    assert out["embedding"].shape == (48, method.num_features)
    assert losses[-1] < 0.5 * losses[0]
