"""The ridge probe against a least-squares solver, and probes that do not care how classes and samples are numbered."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from rsssl.evaluation.standardise import Standardise
from rsssl.jobs import configured

new_knn = partial(configured, "evaluate", "knn")  # as conf/evaluate/knn.yaml has it, but for arguments
new_ridge = partial(configured, "evaluate", "ridge")  # as conf/evaluate/ridge.yaml has it, but for arguments
new_linear = partial(configured, "evaluate", "linear")  # as conf/evaluate/linear.yaml has it, but for arguments

CLASSES, D = 5, 30


@pytest.fixture(scope="module")
def samples() -> tuple[Tensor, Tensor, Tensor]:
    """Features (60, 30), labels, and features of new images."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, D, generator=generator)
    y = torch.arange(CLASSES).repeat_interleave(12)
    x = centres[y] + 1.5 * torch.randn(60, D, generator=generator)
    return 3 + x, y, 3 + 2 * torch.randn(40, D, generator=generator)


@pytest.mark.parametrize("n", [60, 13])  # more samples than features, and fewer
@pytest.mark.parametrize("penalty", [1e-4, 0.03, 1.0])
def test_equals_least_squares_with_the_penalty_as_further_samples(
    samples: tuple[Tensor, Tensor, Tensor], n: int, penalty: float
) -> None:
    """||Y - X W - b||^2 + c ||W||^2 is the residual of [X 1; sqrt(c) 0] against [Y; 0]: solved by LAPACK's gelsd."""
    x, y, new = samples
    order = torch.from_numpy(np.random.default_rng(1).permutation(60)[:n])
    x, y = x[order], y[order]
    probe = new_ridge(penalties=[penalty]).fit(x, y, CLASSES, seed=0)
    scaler = Standardise().fit(x)
    z = scaler(x).double().numpy()
    c = penalty * n
    left = np.block([[z, np.ones((n, 1))], [np.sqrt(c) * np.eye(D), np.zeros((D, 1))]])
    right = np.concatenate([np.eye(CLASSES)[y.numpy()], np.zeros((D, CLASSES))])
    solution = np.linalg.lstsq(left, right, rcond=None)[0]
    expected = scaler(new).double().numpy() @ solution[:-1] + solution[-1]
    present = np.unique(y.numpy())
    np.testing.assert_allclose(probe.scores(new)[:, present], expected[:, present], atol=2e-5)


@pytest.mark.parametrize(
    "make",
    [
        new_ridge,
        new_knn,
        lambda: new_linear(strengths=[30.0]),
    ],
    ids=["ridge", "knn", "linear"],
)
def test_the_order_of_classes_and_samples_does_not_matter(make: type, samples: tuple[Tensor, Tensor, Tensor]) -> None:
    x, y, new = samples
    plain = make().fit(x, y, CLASSES, seed=0).scores(new)
    renamed = torch.tensor([3, 0, 4, 1, 2])
    order = torch.from_numpy(np.random.default_rng(2).permutation(len(x)))
    other = make().fit(x[order], renamed[y][order], CLASSES, seed=0).scores(new)
    torch.testing.assert_close(other[:, renamed], plain, atol=5e-3, rtol=5e-3)
    assert torch.equal(other.argmax(1), renamed[plain.argmax(1)])


def test_the_penalty_chosen_does_not_depend_on_the_order_of_classes(samples: tuple[Tensor, Tensor, Tensor]) -> None:
    x, y, _ = samples
    one, two = (
        new_ridge().fit(x, y, CLASSES, 0),
        new_ridge().fit(x, CLASSES - 1 - y, CLASSES, 0),
    )
    assert one.details["penalty"] == two.details["penalty"]
    np.testing.assert_allclose(one.details["loo_errors"], two.details["loo_errors"], rtol=1e-9)
