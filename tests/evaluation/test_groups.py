"""Labelled images of one place stay together, in folds and in what is left out; against refitting without them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from rsssl.evaluation.base import deal_groups
from rsssl.evaluation.job import Job
from rsssl.evaluation.linear import principal_axes
from rsssl.evaluation.ridge import _leave_group_out, _leave_one_out
from rsssl.jobs import configured


def drawn(seed: int, n: int = 80, k: int = 4, per_group: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes and groups: most groups are of one class, some of two."""
    draw = np.random.default_rng(seed)
    groups = draw.integers(0, n // per_group, n)
    y = groups % k
    mixed = draw.random(n) < 0.1
    y[mixed] = draw.integers(0, k, int(mixed.sum()))
    return torch.from_numpy(y), torch.from_numpy(groups)


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_in_two_folds_and_no_fold_lacks_a_class_in_its_training(seed: int) -> None:
    y, groups = drawn(seed)
    fold_of = deal_groups(y, groups, 5, seed)
    for g in groups.unique():
        assert len(fold_of[groups == g].unique()) == 1
    used = int(fold_of.max()) + 1
    assert sorted(fold_of[fold_of >= 0].unique().tolist()) == list(range(used)) and used == 5
    sizes = torch.bincount(fold_of[fold_of >= 0])
    assert sizes.max() <= 2 * sizes.min()
    for f in range(used):
        assert set(y[fold_of != f].tolist()) == set(y.tolist())


def test_the_only_group_of_a_class_is_never_held_out() -> None:
    y = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    groups = torch.tensor([0, 0, 1, 1, 2, 2, 2, 2])
    assert deal_groups(y, groups, 5, 0)[4:].tolist() == [-1] * 4
    assert sorted(deal_groups(y, groups, 5, 0)[:4].unique().tolist()) == [0, 1]
    assert deal_groups(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]), 5, 0).tolist() == [-1, -1, -1]


def test_leaving_a_group_out_is_refitting_without_it() -> None:
    torch.manual_seed(0)
    x, (classes, groups) = torch.randn(80, 12).double(), drawn(1)
    y = torch.nn.functional.one_hot(classes).double()
    penalty = 3.0
    z, _, energy = principal_axes(x - x.mean(0))
    centred = y - y.mean(0)
    found = _leave_group_out(groups, z, energy, z.T @ centred, centred, penalty)
    total = 0.0
    for g in groups.unique():
        out = (groups == g).numpy()
        model = Ridge(alpha=penalty).fit(x[~out].numpy(), y[~out].numpy())
        total += float(((y[out].numpy() - model.predict(x[out].numpy())) ** 2).sum())
    # the intercept is refitted by its leverage 1 / n, which is exact
    assert found == pytest.approx(total / 80, rel=1e-6)
    alone = _leave_group_out(torch.arange(80), z, energy, z.T @ centred, centred, penalty)
    assert alone == pytest.approx(_leave_one_out(z, energy, z.T @ centred, centred, penalty), rel=1e-6)


def test_neighbours_do_not_vouch_for_each_other() -> None:
    """Each place has a look of its own that says nothing of its class: held-out places tell, held-out images do not."""
    torch.manual_seed(0)
    places = torch.randn(20, 30) * 3
    groups = torch.arange(20).repeat_interleave(6)
    x = places[groups] + 0.1 * torch.randn(120, 30)
    y = (torch.arange(20) % 2)[groups]
    held = {}
    for name, of in (("images", None), ("places", groups)):
        probe = configured("evaluate", "linear")
        probe.groups = of
        logits = probe.fit(x, y, 2, 0).held_out(x, y, 2, 0)
        known = ~logits.isnan().any(1)
        held[name] = float((logits[known].argmax(1) == y[known]).double().mean())
    assert held["images"] > 0.95 and held["places"] < 0.75


def test_points_and_polygons_are_counted_once_however_many_windows_they_label() -> None:
    feature = np.array([-1, 3, 3, 7, 7, 7, -1, 9])

    def job(feature: np.ndarray | None, train: list[int]) -> Job:
        data: Any = SimpleNamespace(ground=None if feature is None else SimpleNamespace(feature=feature))
        return Job(data, None, None, np.array(train), np.array([]), 0, "clean", False)  # type: ignore[arg-type]

    assert job(feature, [0, 1, 2, 3, 5]).n_drawn == len({3, 7})
    assert job(feature, [0, 6]).n_drawn is None, "of a class raster"
    assert job(None, [0, 1]).n_drawn is None, "of class folders"
