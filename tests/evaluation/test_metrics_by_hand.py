"""Accuracy figures against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rsssl.evaluation.metrics import confusion, scores


@pytest.mark.parametrize(
    ("matrix", "oa", "aa", "kappa"),
    [
        # 35 of 50 agree; by chance 25/50 * 30/50 + 25/50 * 20/50 = 1/2: (0.7 - 0.5) / (1 - 0.5)
        ([[20, 5], [10, 15]], 0.7, (0.8 + 0.6) / 2, 0.4),
        # 10 of 16; chance (6 * 5 + 6 * 8 + 4 * 3) / 256 = 90 / 256: (160 - 90) / (256 - 90)
        ([[4, 2, 0], [1, 4, 1], [0, 2, 2]], 0.625, (4 / 6 + 4 / 6 + 2 / 4) / 3, 70 / 166),
        # class 1 has no test image but takes one of class 0's: 3 of 4; chance (2 * 1 + 0 * 1 + 2 * 2) / 16 = 6 / 16
        ([[1, 1, 0], [0, 0, 0], [0, 0, 2]], 0.75, (0.5 + 1) / 2, (12 - 6) / (16 - 6)),
        # all wrong, each class for the other: chance 1/2, so -1
        ([[0, 3], [3, 0]], 0.0, 0.0, -1.0),
        # class 1 is never said: its recall is 0, and all that agrees is chance (2 * 3 + 1 * 0) / 9
        ([[2, 0], [1, 0]], 2 / 3, 0.5, 0.0),
        # one class in the truth, two predicted: nothing beyond chance
        ([[3, 1], [0, 0]], 0.75, 0.75, 0.0),
        # one class in all: kappa is 0 / 0
        ([[7, 0], [0, 0]], 1.0, 1.0, math.nan),
        ([[5]], 1.0, 1.0, math.nan),
    ],
)
def test_by_hand(matrix: list[list[int]], oa: float, aa: float, kappa: float) -> None:
    cells = np.array(matrix)
    found = scores(cells)
    assert (found["oa"], found["aa"]) == (pytest.approx(oa), pytest.approx(aa))
    assert found["kappa"] == pytest.approx(kappa, nan_ok=True)
    # the same from labels, one by one, and with two more classes that nobody has heard of
    truth = [t for t, row in enumerate(matrix) for p, n in enumerate(row) for _ in range(n)]
    said = [p for row in matrix for p, n in enumerate(row) for _ in range(n)]
    wide = confusion(np.array(truth), np.array(said), len(matrix) + 2)
    assert np.array_equal(wide[: len(matrix), : len(matrix)], cells) and wide.sum() == cells.sum()
    again = scores(wide)
    assert (again["oa"], again["aa"]) == (found["oa"], found["aa"]) and np.isnan(again["per_class"][-2:]).all()
    assert again["kappa"] == pytest.approx(kappa, nan_ok=True)


def test_figures_do_not_depend_on_the_numbering(random: np.random.Generator) -> None:
    matrix, order = random.integers(0, 30, (6, 6)), random.permutation(6)
    one, two = scores(matrix), scores(matrix[order][:, order])
    assert (one["oa"], one["aa"], one["kappa"]) == pytest.approx((two["oa"], two["aa"], two["kappa"]))
    np.testing.assert_allclose(one["per_class"][order], two["per_class"])
