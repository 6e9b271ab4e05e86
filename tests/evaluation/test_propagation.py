"""Label propagation against scikit-learn and dense matrices, and beside a linear probe."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.semi_supervised import LabelSpreading

from rsssl.errors import UserError
from rsssl.evaluation.base import deal_folds
from rsssl.evaluation.features import FeatureBank
from rsssl.evaluation.heads import head_from
from rsssl.evaluation.propagation import Propagation, nearest, symmetric
from rsssl.evaluation.spaces import PoolSpace
from rsssl.jobs import configured

propagate = partial(configured, "evaluate", "propagate")  # as conf/evaluate/propagate.yaml has it, but for arguments


def unit(n: int, d: int, seed: int = 0) -> torch.Tensor:
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(z, dim=1)


def joins(z: np.ndarray, k: int, temperature: float) -> np.ndarray:
    """The joins' weights (N, N), one image at a time."""
    weights = np.zeros((len(z), len(z)))
    for i, row in enumerate(z):
        cosines = z @ row
        cosines[i] = -np.inf
        for j in np.argsort(-cosines)[:k]:
            weights[i, j] += np.exp((cosines[j] - 1) / temperature)
            weights[j, i] += np.exp((cosines[j] - 1) / temperature)
    return weights


@pytest.mark.parametrize(("k", "alpha"), [(3, 0.9), (7, 0.5), (100, 0.99)])
def test_the_flow_is_that_of_scikit_learn(k: int, alpha: float) -> None:
    z, y = unit(40, 5), torch.tensor([0, 1, 2, 0, 1])
    probe = propagate(neighbours=k, alpha=alpha, iterations=1200, temperature=0.4)
    probe._joins = symmetric(*nearest(z, k), 0.4)
    flow = probe.flow(y, torch.ones(1, 5, dtype=torch.bool), 3)[:, 0].numpy()
    weights = joins(z.numpy().astype(float), k, 0.4)
    theirs = LabelSpreading(kernel=lambda a, b: weights, alpha=alpha, max_iter=5000, tol=1e-12)
    theirs.fit(z.numpy(), np.concatenate([y.numpy(), -np.ones(35, int)]))
    reached = flow.sum(1) > 0
    np.testing.assert_allclose(
        (flow / flow.sum(1, keepdims=True))[reached], theirs.label_distributions_[reached], atol=1e-4
    )


def test_the_flow_spreads_by_the_symmetric_matrix() -> None:
    z = unit(30, 4)
    index, cosine = nearest(z, 5)
    dense = torch.from_numpy(joins(z.double().numpy(), 5, 0.3))
    root = dense.sum(1).sqrt()
    torch.testing.assert_close(symmetric(index, cosine, 0.3).to_dense(), (dense / root / root[:, None]).float())
    similarity = (z @ z.T).fill_diagonal_(-2)
    torch.testing.assert_close(cosine, similarity.sort(descending=True).values[:, :5])


def test_the_space_has_the_root_of_each_spread() -> None:
    x = torch.randn(500, 6) * torch.tensor([5.0, 3, 2, 1, 0.5, 0.1]) + 4
    space = PoolSpace.of(x, dimensions=4)
    centred = x.double().numpy() - x.double().numpy().mean(0)
    unit_x = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    off = unit_x - unit_x.mean(0)
    variance, axes = np.linalg.eigh(off.T @ off / 500)
    z = off @ axes[:, 2:] / variance[2:] ** 0.25
    expected = z @ z.T / np.linalg.norm(z, axis=1) / np.linalg.norm(z, axis=1)[:, None]
    found = space(x)
    np.testing.assert_allclose((found @ found.T).numpy(), expected, atol=1e-3)
    flat = PoolSpace.of(torch.cat([x, torch.ones(500, 1)], 1), dimensions=7)(torch.cat([x, torch.ones(500, 1)], 1))
    assert torch.isfinite(flat).all(), "a feature that does not vary has no axis"


def test_classes_that_overlap_gain_from_the_pool(make) -> None:
    x, y = make(300, 32, 5, seed=1, spread=1.2)
    new, truth = make(100, 32, 5, seed=1, draw=1, spread=1.2)
    rows = torch.arange(0, 1500, 300)
    rest = torch.ones(1500, dtype=torch.bool)
    rest[rows] = False
    linear = configured("evaluate", "linear").fit(x[rows], y[rows], 5, 0)
    probe = propagate().fit(x[rows], y[rows], 5, 0, pool=x[rest])
    gain = [float((p.scores(new).argmax(1) == truth).double().mean()) for p in (linear, probe)]
    assert gain[1] > gain[0] + 0.03, gain
    assert probe.details["pool"] == 1500 and sum(probe.details["class_shares"]) == pytest.approx(1)


def test_what_is_kept_is_the_same_classifier_and_blocks_do_not_matter(make, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = make(40, 16, 4, seed=2)
    probe = propagate().fit(x[::10], y[::10], 6, 0, pool=x)
    scores = probe.scores(x)
    assert scores.shape == (160, 6) and (scores[:, 4:] == 0).all(), "classes without a label"
    head = probe.head()
    again = head_from(head.settings(), head.state_dict())
    assert torch.equal(again(x), head(x)) and torch.equal(head(x).argmax(1), scores.argmax(1))
    smoothed = (scores.double() + 0.1 / 6) ** 1.6
    torch.testing.assert_close(head(x).double(), smoothed / smoothed.sum(1, keepdim=True), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(again.sharpened(0.5).sharpened(2.0)(x), head(x))
    monkeypatch.setattr("rsssl.evaluation.propagation.BLOCK", 700)
    monkeypatch.setattr("rsssl.evaluation.blocks.BLOCK", 700)
    torch.testing.assert_close(propagate().fit(x[::10], y[::10], 6, 0, pool=x).scores(x), scores)


def test_parts_of_the_graph_without_a_label_do_not_vote() -> None:
    centres = torch.eye(4, 16).repeat_interleave(20, 0)
    x = centres + 0.01 * torch.randn(80, 16, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([0, 20])
    probe = propagate(neighbours=5).fit(x[rows], torch.tensor([0, 1]), 2, 0, pool=x)
    assert probe.details["reached"] < probe.details["pool"]
    assert probe.scores(x[:40]).argmax(1).tolist() == [0] * 20 + [1] * 20


def test_a_pool_is_needed(make) -> None:
    x, y = make(5, 8, 2, seed=0)
    with pytest.raises(UserError, match="type evaluate=linear"):
        propagate().fit(x, y, 2, 0, pool=x[:0])
    with pytest.raises(UserError, match="alpha=1"):
        Propagation(9, 128, 15, 0.15, alpha=1, iterations=50, decided=4)


def test_what_is_held_out_has_the_shares_of_a_graph_in_which_it_has_no_label(make) -> None:
    x, y = make(30, 16, 3, seed=4)
    rows = torch.arange(0, 90, 10)
    rest = torch.ones(90, dtype=torch.bool)
    rest[rows] = False
    probe = propagate(neighbours=8).fit(x[rows], y[rows], 3, 0, pool=x[rest])
    held = probe.held_out(x[rows], y[rows], 3, 0)
    fold_of = deal_folds(y[rows], 5, 0)
    z = probe.head().space(torch.cat([x[rows], x[rest]]))
    for i in range(9):
        same = fold_of == fold_of[i]
        left = torch.cat([z[:9][~same], z[:9][same], z[9:]])  # those of its fold go to the images without a label
        twin = propagate(neighbours=8)
        twin._graph = nearest(left, 8)
        twin._joins = symmetric(*twin._graph, twin.temperature)
        count = int((~same).sum())
        shares = twin.shares(y[rows][~same], torch.ones(1, count, dtype=torch.bool), 3)[:, 0]
        at = count + int((same.nonzero()[:, 0] == i).nonzero())
        cosine = (left @ left[at]).index_fill_(0, torch.tensor(at), -2).topk(8)
        weight = ((cosine.values - 1) / probe.temperature).exp()
        votes = weight @ shares[cosine.indices] / weight.sum()
        torch.testing.assert_close(held[i].softmax(0), ((votes + 0.1 / 3) ** 1.6 / ((votes + 0.1 / 3) ** 1.6).sum()))


def test_a_small_pool_has_no_axes_of_rounding() -> None:
    """Twenty images span nineteen directions about their mean; what is beyond them is no place to compare images in."""
    spread = torch.logspace(0, -2, 512)
    pool = torch.randn(20, 512, generator=torch.Generator().manual_seed(0)) * spread + 3
    space = PoolSpace.of(pool, dimensions=128)
    assert space.axes.shape[1] <= 19
    unit = torch.nn.functional.normalize(pool - pool.mean(0), dim=1).double()
    inside = torch.linalg.svd(unit - unit.mean(0), full_matrices=False).Vh[:19]
    axes = torch.nn.functional.normalize(space.axes.double(), dim=0)
    torch.testing.assert_close((inside @ axes).norm(dim=0), torch.ones(axes.shape[1]).double(), atol=1e-5, rtol=0)


def test_an_image_that_is_like_no_other_spoils_nothing() -> None:
    z = torch.cat([unit(20, 3), torch.zeros(20, 1)], 1)
    alone = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    index, cosine = nearest(torch.cat([z, alone]), 3)
    cosine[-1] = -100.0  # so far that its joins weigh nothing
    assert torch.isfinite(symmetric(index, cosine, 0.15).to_dense()).all()


def test_infinity_in_the_pool_is_told() -> None:
    pool = torch.randn(30, 4)
    pool[7, 1] = torch.inf
    with pytest.raises(UserError, match=r"of the pool's images contain NaN .* pretrain\.lr="):
        propagate().fit(torch.randn(4, 4), torch.tensor([0, 0, 1, 1]), 2, 0, pool=pool)


def test_a_pool_on_the_disk_gives_the_same_classifier(make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = make(40, 16, 4, seed=2)
    monkeypatch.setattr("rsssl.evaluation.on_disk.ROWS", 33)
    kept = FeatureBank(tmp_path, len(x), lambda rows: x[rows]).kept(np.arange(len(x)))
    found = propagate().fit(x[::10], y[::10], 4, 0, pool=kept)
    torch.testing.assert_close(found.scores(x), propagate().fit(x[::10], y[::10], 4, 0, pool=x).scores(x))
