"""SimCLR: the loss against the formula written out, and against the cross entropy it is for two views."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from rsssl.batch import Batch
from rsssl.methods.losses import nt_xent
from rsssl.models.backbone import build_backbone


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
    (gradient,) = torch.autograd.grad(ours, z)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)


def dense(z: torch.Tensor, temperature: float) -> torch.Tensor:
    """The many-view loss from the whole matrix of similarities, for autograd to differentiate."""
    views, images, _ = z.shape
    flat = F.normalize(z, dim=-1).flatten(0, 1)
    s = flat @ flat.T / temperature
    image = torch.arange(images).repeat(views)
    same = image[:, None] == image[None, :]
    others = s.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
    pair = same & ~torch.eye(len(flat), dtype=torch.bool)
    return (torch.logaddexp(s, others) - s)[pair].mean()


@pytest.mark.parametrize(("views", "images"), [(2, 33), (4, 11), (3, 2)])
@pytest.mark.parametrize("temperature", [0.5, 0.01])
def test_blocks_of_rows_give_the_gradient_of_the_whole_matrix(views: int, images: int, temperature: float) -> None:
    z = torch.randn(views, images, 12, generator=torch.Generator().manual_seed(images), requires_grad=True)
    expected = dense(z.double(), temperature)
    (gradient,) = torch.autograd.grad(expected, z)
    loss = nt_xent(z, temperature, rows=7)  # of up to 66
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (ours,) = torch.autograd.grad(3 * loss, z)
    torch.testing.assert_close(ours / 3, gradient, atol=2e-5 * float(gradient.abs().max()), rtol=1e-3)


def test_images_of_one_place_are_not_told_apart() -> None:
    z = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    places = torch.tensor([0, 1, 0, 2, 1, 3])
    flat = F.normalize(z.double(), dim=-1).flatten(0, 1)
    terms = []
    for a in range(12):
        i, partner = a % 6, (a + 6) % 12
        others = [flat[a] @ flat[j] / 0.2 for j in range(12) if places[j % 6] != places[i]]
        positive = flat[a] @ flat[partner] / 0.2
        terms.append(torch.stack([positive, *others]).logsumexp(0) - positive)
    expected = torch.stack(terms).mean()
    loss = nt_xent(z, 0.2, places, rows=5)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad(loss, z)[0], torch.autograd.grad(expected, z)[0], atol=1e-6, rtol=1e-4
    )


def test_one_image_alone_has_no_loss_and_no_gradient() -> None:
    z = torch.randn(3, 1, 8, requires_grad=True)
    loss = nt_xent(z, 0.2)
    loss.backward()
    assert loss.item() == 0 and z.grad is not None and float(z.grad.abs().max()) == 0


def test_memory_is_linear_in_the_images() -> None:
    """The largest tensor made for 8,192 embeddings is far smaller than their matrix of similarities."""
    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            sizes.extend(
                t.untyped_storage().nbytes()
                for t in (out if isinstance(out, tuple) else (out,))
                if isinstance(t, torch.Tensor)
            )
            return out

    z = torch.randn(2, 4096, 8, requires_grad=True)
    with Watch():
        nt_xent(z, 0.1).backward()
    assert 0 < max(sizes) <= 8192 * 8192 * 4 / 50


def test_the_method_learns_to_tell_images_apart(method_of) -> None:
    torch.manual_seed(0)
    method = method_of("simclr", build_backbone("resnet10t", 3), views=3, temperature=0.2, hidden=64, out=16)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    images = torch.rand(16, 3, 32, 32)
    losses = []
    for _ in range(15):
        batch = Batch(torch.arange(16), 0, images + 0.05 * torch.randn(3, *images.shape))
        out = method(batch)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        losses.append(out["loss"].item())
    assert out["embedding"].shape == (48, method.num_features)
    assert losses[-1] < 0.5 * losses[0]
