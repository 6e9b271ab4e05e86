"""What a classifier does not know: sets that hold the truth as often as was asked, and distances, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rsssl.evaluation.trust import COMMON, NEAREST, Trust


def drawn(n: int, k: int, seed: int, hard: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (n, k) of a classifier that is too sure, and the true classes; of class `hard` it knows little."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k, generator=generator) * 1.5
    y = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    sharp = torch.where(y == hard, 0.5, 3.0)
    return (logits * sharp[:, None]).softmax(1), y


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_sets_hold_the_truth_as_often_as_was_asked_in_every_class(coverage: float) -> None:
    found = []
    for seed in range(20):
        p, y = drawn(900, 4, seed)
        new, truth = drawn(4000, 4, 1000 + seed)
        trust = Trust(1 - p.gather(1, y[:, None])[:, 0], y, 4)
        hit = (new >= trust.least(coverage)).gather(1, truth[:, None])[:, 0]
        found.append([float(hit[truth == c].double().mean()) for c in range(4)])
    assert np.abs(np.mean(found, 0) - coverage).max() < 0.01


def test_thresholds_are_the_order_statistics_and_small_classes_share_one() -> None:
    p, y = drawn(60, 3, 0)
    y[y == 2] = 1
    y[:4] = 2  # too few for a threshold of their own at 0.9
    scores = 1 - p.gather(1, y[:, None])[:, 0]
    least = Trust(scores, y, 3).least(0.9)
    for c in range(3):
        own = sorted(scores[y == c].tolist())
        rank = math.ceil((len(own) + 1) * 0.9)
        everything = sorted(scores.tolist())
        expected = own[rank - 1] if rank <= len(own) else everything[math.ceil(61 * 0.9) - 1]
        assert float(least[c]) == pytest.approx(1 - expected)
    assert Trust(scores[:3], y[:3], 3).least(0.9).tolist() == [0, 0, 0], "with three labels every class is plausible"


def test_what_is_far_from_the_pool_or_the_labels_is_told() -> None:
    torch.manual_seed(0)
    pool, basis = torch.randn(600, 6) @ torch.randn(6, 40), torch.randn(40)
    labelled = pool[:12]
    trust = Trust.of(torch.full((12, 2), 0.5), torch.tensor([0, 1] * 6), 2, labelled, pool)
    near, far = trust.unlike(pool), trust.unlike(pool[:50] + 30 * basis)
    assert (near[:, 0] > 1).double().mean() < 1 - COMMON + 0.02 and far[:, 0].min() > near[:, 0].quantile(0.99)
    z, bank = trust.space(pool[:5]), trust.pool
    for i in range(5):
        cosines = sorted((float(z[i] @ other) for other in bank), reverse=True)[:NEAREST]
        unit = torch.nn.functional.normalize(pool[i] - trust.space.mean, dim=0)
        axes = torch.linalg.qr(trust.space.axes).Q
        beyond = 1 - float((axes.T @ unit).square().sum())
        assert float(near[i, 0]) == pytest.approx((1 - np.mean(cosines) + beyond) / float(trust.far[0]), abs=1e-3)
    assert float(near[:12, 1].mean()) < float(near[12:, 1].mean()), "labelled images are near to themselves"
    again = Trust.from_tensors(trust.state_dict(), 2)
    torch.testing.assert_close(again.unlike(pool), near)
    assert not Trust.of(torch.full((2, 2), 0.5), torch.tensor([0, 1]), 2, labelled, pool[:5]).knows_the_pool
