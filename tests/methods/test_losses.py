"""Every loss against lightly's, value and gradient; those lightly has not, against the formula in numpy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rsssl.methods.barlow_twins import barlow_twins
from rsssl.methods.dino import self_distillation
from rsssl.methods.inpainting import reconstruction
from rsssl.methods.losses import info_nce, negative_cosine, nt_xent
from rsssl.methods.mae import hidden_patch_error, to_images, to_patches
from rsssl.methods.simmim import masked_l1
from rsssl.methods.swav import swapped_prediction
from rsssl.methods.vicreg import vicreg

SEEDS = range(3)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def same(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Equal values, and equal gradients with respect to every input."""
    a = [x.clone().requires_grad_() for x in inputs]
    b = [x.clone().requires_grad_() for x in inputs]
    result, expected = ours(*a), theirs(*b)
    torch.testing.assert_close(result.squeeze(), expected.squeeze(), atol=1e-5, rtol=1e-5)
    for x, y in zip(torch.autograd.grad(result, a), torch.autograd.grad(expected.sum(), b), strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def lightly() -> Any:
    pytest.importorskip("lightly")
    import lightly.loss

    return lightly.loss


@pytest.mark.parametrize("seed", SEEDS)
def test_losses_of_two_views_equal_lightly(seed: int, lightly: Any) -> None:
    a, b = normal(seed, 16, 12), 2 * normal(seed + 10, 16, 12) + 0.3
    nt = lightly.NTXentLoss(temperature=0.2)
    same(lambda x, y: nt_xent(torch.stack([x, y]), 0.2), nt, a, b)
    same(lambda x, y: barlow_twins(x, y, 5e-3), lightly.BarlowTwinsLoss(), a, b)
    same(lambda x, y: barlow_twins(x, y, 0.1), lightly.BarlowTwinsLoss(lambda_param=0.1), a, b)
    same(lambda x, y: vicreg(x, y, 25.0, 25.0, 1.0), lightly.VICRegLoss(), 0.3 * a, 0.3 * b)
    same(
        lambda x, y: vicreg(x, y, 2.0, 3.0, 4.0),
        lightly.VICRegLoss(lambda_param=2, mu_param=3, nu_param=4),
        0.3 * a,
        0.3 * b,
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_negative_cosine_equals_lightly_symmetrised(seed: int, lightly: Any) -> None:
    cosine = lightly.NegativeCosineSimilarity()
    p0, p1, z0, z1 = (normal(10 * seed + i, 16, 12) for i in range(4))
    same(
        lambda a, b, c, d: negative_cosine(torch.stack([a, b]), torch.stack([c, d])),
        lambda a, b, c, d: (cosine(a, d) + cosine(b, c)) / 2,
        p0,
        p1,
        z0,
        z1,
    )


def test_negative_cosine_of_many_views_is_the_mean_over_their_pairs() -> None:
    p, z = normal(0, 4, 5, 6).double().numpy(), normal(1, 4, 5, 6).double().numpy()
    cosines = [
        -(p[a, i] @ z[b, i]) / np.linalg.norm(p[a, i]) / np.linalg.norm(z[b, i])
        for a, b in permutations(range(4), 2)
        for i in range(5)
    ]
    assert negative_cosine(torch.tensor(p), torch.tensor(z)).item() == pytest.approx(np.mean(cosines), abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_info_nce_with_a_queue_equals_lightly_with_a_memory_bank(seed: int, lightly: Any) -> None:
    bank = torch.nn.functional.normalize(normal(seed + 20, 40, 12), dim=1)
    theirs = lightly.NTXentLoss(temperature=0.2, memory_bank_size=(40, 12))
    key = normal(seed + 1, 8, 12)

    def with_bank(q: Tensor) -> Tensor:
        theirs.memory_bank.bank, theirs.memory_bank.bank_ptr = bank.clone(), torch.zeros(1, dtype=torch.long)
        return theirs(q, key.clone())

    with_bank(normal(0, 8, 12).requires_grad_())  # its first call makes the bank; the second one is given ours
    same(lambda q: info_nce(q, key, 0.2, bank), with_bank, normal(seed, 8, 12))


def log_sum_exp(x: np.ndarray) -> float:
    return float(np.log(np.exp(x - x.max()).sum()) + x.max())


@pytest.mark.parametrize(("first", "temperature"), [(0, 1.0), (3, 0.1)])
def test_info_nce_over_a_batch_is_the_formula(first: int, temperature: float) -> None:
    """MoCo v3's contrast and NNCLR's equation 3; `first` is where a rank's own keys begin among all."""
    q, k = normal(0, 4, 6).double().numpy(), normal(1, 9, 6).double().numpy()
    q, k = q / np.linalg.norm(q, axis=1, keepdims=True), k / np.linalg.norm(k, axis=1, keepdims=True)
    terms = [log_sum_exp(k @ q[i] / temperature) - q[i] @ k[first + i] / temperature for i in range(4)]
    result = info_nce(torch.tensor(3 * q), torch.tensor(k), temperature, first=first)
    assert result.item() == pytest.approx(np.mean(terms), abs=1e-5)


@pytest.mark.parametrize(("local", "queue"), [(0, 0), (3, 0), (2, 20)])
def test_swapped_prediction_equals_lightly(local: int, queue: int, lightly: Any) -> None:
    theirs = lightly.SwaVLoss(temperature=0.1, sinkhorn_epsilon=0.05)
    earlier = 0.5 * normal(5, queue, 7) if queue else None
    scores = 0.5 * normal(4, 2 + local, 8, 7)
    same(
        lambda s: swapped_prediction(s, 2, 0.1, 0.05, earlier),
        lambda s: theirs(list(s[:2]), list(s[2:]), None if earlier is None else [earlier, earlier]),
        scores,
    )


@pytest.mark.parametrize("local", [0, 3])
def test_self_distillation_equals_lightly(local: int, lightly: Any) -> None:
    teacher, student, centre = normal(0, 2, 6, 9), normal(1, 2 + local, 6, 9), normal(2, 9)
    theirs = lightly.DINOLoss(output_dim=9)

    def with_centre(s: Tensor) -> Tensor:
        theirs.center = centre.clone().view(1, 1, 9)
        return theirs(list(teacher), list(s), teacher_temp=0.05)

    same(lambda s: self_distillation(teacher, s, centre, 0.05, 0.1), with_centre, student)


def test_reconstruction_is_a_loop_over_pixels() -> None:
    a, image = normal(0, 2, 3, 4, 4).double().numpy(), normal(1, 2, 3, 4, 4).double().numpy()
    hole = np.random.default_rng(0).random((2, 1, 4, 4)) < 0.4
    squared, absolute = [], []
    for n in range(2):
        inside, outside, lengths = [], [], []
        for y, x in np.ndindex(4, 4):
            difference = a[n, :, y, x] - image[n, :, y, x]
            (inside if hole[n, 0, y, x] else outside).append(np.mean(difference**2))
            lengths += [np.mean(abs(difference))] if hole[n, 0, y, x] else []
        squared.append(0.99 * np.mean(inside) + 0.01 * np.mean(outside))
        absolute.append(np.mean(lengths))
    tensors = torch.tensor(a), torch.tensor(image), torch.tensor(hole)
    assert reconstruction(*tensors, 0.01).item() == pytest.approx(np.mean(squared), abs=1e-6)
    assert masked_l1(*tensors).item() == pytest.approx(np.mean(absolute), abs=1e-6)


def test_hidden_patch_error_is_a_loop_over_patches() -> None:
    images, guess = normal(0, 2, 5, 8, 8), normal(1, 2, 4, 4 * 4 * 5)
    hidden = torch.tensor([[True, False, True, False], [False, False, True, True]])
    patches = to_patches(images, 4)
    errors = []
    for n in range(2):
        for number, (top, left) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
            values = images[n, :, top : top + 4, left : left + 4].permute(1, 2, 0).flatten().double().numpy()
            np.testing.assert_array_equal(patches[n, number].numpy(), values.astype(np.float32))
            if hidden[n, number]:
                target = (values - values.mean()) / np.sqrt(values.var(ddof=1) + 1e-6)
                errors.append(np.mean((guess[n, number].double().numpy() - target) ** 2))
    assert hidden_patch_error(guess, patches, hidden).item() == pytest.approx(np.mean(errors), abs=1e-5)
    assert torch.equal(to_images(patches, 4), images)


def test_losses_are_worked_out_in_float32_under_autocast() -> None:
    z = normal(0, 2, 8, 6)

    def losses() -> list[float]:
        values = (negative_cosine(z, z.flip(0)), barlow_twins(*z, 5e-3), vicreg(*z, 25.0, 25.0, 1.0), info_nce(*z, 0.1))
        return [value.item() for value in values]

    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = losses()
    assert under_autocast == losses()
