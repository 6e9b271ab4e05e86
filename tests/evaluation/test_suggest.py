"""The choice of images to label: against slow loops that do the same, and on clusters that random labels miss."""

from __future__ import annotations

import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import normalize

from rsssl.errors import UserError
from rsssl.evaluation.suggest import Choice, coverage, kmeans, margin, typicalities, typicality


@pytest.fixture(scope="module")
def uneven() -> tuple[Tensor, Tensor]:
    """1,000 features of eight clusters far apart, of 640 down to 12 members, shuffled; and their cluster."""
    world = torch.Generator().manual_seed(3)
    sizes = torch.tensor([640, 160, 80, 40, 30, 20, 18, 12])
    of = torch.arange(8).repeat_interleave(sizes)[torch.randperm(1000, generator=world)]
    centres = 4 * torch.randn(8, 16, generator=world)
    return centres[of] + 0.3 * torch.randn(1000, 16, generator=world), of


def features(n: int, seed: int = 0, d: int = 12) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).relu()


def certainty(n: int, classes: int = 5) -> Tensor:
    return (2 * torch.randn(n, classes, generator=torch.Generator().manual_seed(9))).softmax(1)


WAYS = {
    "typicality": lambda x, n, seed, known: typicality(x, n, seed, known),
    "coverage": lambda x, n, seed, known: coverage(x, n, known),
    "margin": lambda x, n, seed, known: margin(certainty(len(x)), x, n, seed, known),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_every_choice_keeps(way: str) -> None:
    x, known = features(300), torch.tensor([0, 7, 8, 250])
    first = WAYS[way](x, 40, 1, known)
    assert first.rows.dtype == torch.int64 and first.rows.shape == first.score.shape == (40,)
    assert len(set(first.rows.tolist())) == 40 and first.rows.min() >= 0 and first.rows.max() < 300
    assert not set(first.rows.tolist()) & set(known.tolist())
    assert torch.isfinite(first.score).all()
    again = WAYS[way](x, 40, 1, known)
    assert torch.equal(first.rows, again.rows) and torch.equal(first.score, again.score)
    assert sorted(WAYS[way](x, 296, 1, known).rows.tolist()) == sorted(set(range(300)) - set(known.tolist()))
    with pytest.raises(UserError, match=r"suggest.n=297 asks for more images than the 296 .* type suggest.n=296"):
        WAYS[way](x, 297, 1, known)
    with pytest.raises(UserError, match="NaN"):
        WAYS[way](torch.cat([x[:299], torch.full((1, 12), torch.nan)]), 5, 1, known)


@pytest.mark.parametrize("way", WAYS)
def test_images_that_are_all_the_same(way: str) -> None:
    assert len(set(WAYS[way](torch.ones(50, 4), 20, 0, torch.tensor([0, 3])).rows.tolist()) - {0, 3}) == 20
    assert WAYS[way](torch.ones(1, 4), 1, 0, None).rows.tolist() == [0]


def test_the_seed_changes_what_is_drawn_and_coverage_draws_nothing() -> None:
    x = features(400)
    assert set(typicality(x, 20, 0).rows.tolist()) != set(typicality(x, 20, 1).rows.tolist())


@pytest.mark.parametrize("known", [None, torch.tensor([5, 90])])
def test_coverage_is_the_farthest_first_walk(known: Tensor | None) -> None:
    x = features(150)
    unit = normalize(x - x.mean(0), dim=1).double()
    apart, middle = torch.cdist(unit, unit).tolist(), (unit - unit.mean(0)).norm(dim=1).tolist()
    chosen: list[int] = [] if known is None else known.tolist()
    scores = []
    for _ in range(30):
        if chosen:
            far = [min(apart[i][j] for j in chosen) for i in range(150)]
            row = max(range(150), key=far.__getitem__)
        else:
            far = middle
            row = min(range(150), key=far.__getitem__)
        chosen.append(row)
        scores.append(far[row])
    found = coverage(x, 30, known)
    assert found.rows.tolist() == chosen[-30:]
    torch.testing.assert_close(found.score, torch.tensor(scores), atol=2e-4, rtol=1e-4)
    # the first m of n are the choice of m, and nothing depends on how the images are listed
    assert coverage(x, 10, known).rows.tolist() == chosen[-30:][:10]
    order = torch.randperm(150, generator=torch.Generator().manual_seed(1))
    place = torch.empty_like(order)
    place[order] = torch.arange(150)
    shuffled = coverage(x[order], 30, None if known is None else place[known])
    assert order[shuffled.rows].tolist() == found.rows.tolist()


def test_typicalities_are_the_mean_distance_to_the_nearest_of_the_cluster() -> None:
    x, of = features(120), torch.arange(120) % 7 // 2  # three clusters of 34 or more, one of 17
    of[119] = 4  # alone
    expected = []
    for i in range(120):
        near = sorted(float((x[i] - x[j]).norm()) for j in range(120) if j != i and of[j] == of[i])[:20]
        expected.append(len(near) / sum(near) if near else 0.0)
    found = typicalities(x, of, 5)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-4, rtol=1e-3)
    # of a large cluster some members stand for all: the ends of the scale stay the same ends
    some = typicalities(x, of, 5, neighbours=5, largest=12)
    assert torch.corrcoef(torch.stack([some, found]))[0, 1] > 0.7


@pytest.mark.parametrize("k", [3, 8, 40])
def test_kmeans_is_as_good_as_scikit_learn(k: int, uneven: tuple[Tensor, Tensor]) -> None:
    for x in (uneven[0], features(600)):
        found = kmeans(x, k, 5)
        theirs = KMeans(k, n_init=3, random_state=0).fit(x.numpy())
        assert found.inertia < 1.03 * theirs.inertia_
        assert torch.bincount(found.of, minlength=k).min() > 0
        centres = torch.stack([x[found.of == c].mean(0) for c in range(k)])
        torch.testing.assert_close(found.centres, centres, atol=1e-4, rtol=1e-3)
        assert found.inertia == pytest.approx(float((x - centres[found.of]).square().sum()), rel=1e-3)
        assert torch.equal(found.of, torch.cdist(x, centres).argmin(1))


def test_no_cluster_is_empty_even_of_few_different_points() -> None:
    x = torch.eye(3).repeat(5, 1)
    assert torch.bincount(kmeans(x, 6, 0).of, minlength=6).min() > 0
    assert sorted(kmeans(x[:3], 3, 0).of.tolist()) == [0, 1, 2]


def test_small_clusters_are_found_that_random_labels_miss(uneven: tuple[Tensor, Tensor]) -> None:
    x, of = uneven
    for seed in range(5):
        random = torch.randperm(1000, generator=torch.Generator().manual_seed(seed))[:8]
        assert len(of[random].unique()) < 8
        assert len(of[typicality(x, 8, seed).rows].unique()) == 8
    assert len(of[coverage(x, 8).rows].unique()) == 8


def test_larger_clusters_come_first_and_those_with_a_label_last(uneven: tuple[Tensor, Tensor]) -> None:
    x, of = uneven
    assert of[typicality(x, 8, 0).rows].tolist() == list(range(8))
    known = torch.tensor([int(torch.nonzero(of == c)[0, 0]) for c in (1, 3, 4, 5, 6)])
    found = of[typicality(x, 3, 0, known).rows].tolist()
    assert sorted(found) == [0, 2, 7] and found[0] == 0


def test_a_typical_image_is_nearer_its_cluster_than_most(uneven: tuple[Tensor, Tensor]) -> None:
    x, of = uneven
    unit = normalize(x, dim=1)
    for row in typicality(x, 8, 0).rows.tolist():
        members = torch.nonzero(of == of[row])[:, 0]
        far = (unit[members] - unit[members].mean(0)).norm(dim=1)
        assert (unit[row] - unit[members].mean(0)).norm() < far.median()


def test_more_labels_than_clusters(uneven: tuple[Tensor, Tensor]) -> None:
    """Beyond the largest number of clusters those with the fewest labels for their size give more than one."""
    x, of = uneven
    known = torch.cat([torch.nonzero(of == c)[:4, 0] for c in range(8)])
    found = typicality(x, 6, 0, known, most_clusters=8).rows
    assert of[found].tolist() == [0, 1, 2, 3, 4, 5]
    known = torch.nonzero(of > 0)[:, 0]  # whole clusters are labelled: all that is left is of one
    assert set(of[typicality(x, 6, 0, known, most_clusters=8).rows].tolist()) == {0}


def test_margin_takes_the_least_certain_of_different_clusters(uneven: tuple[Tensor, Tensor]) -> None:
    x, of = uneven
    certain = torch.full((1000,), 0.9)
    undecided = torch.cat([torch.nonzero(of == c)[:10, 0] for c in range(8)])
    certain[undecided] = 0.5 + 0.001 * torch.arange(80)
    probabilities = torch.stack([certain, 1 - certain], 1)
    found = margin(probabilities, x, 8, 0)
    assert found.rows.tolist() == undecided[::10].tolist()  # the least certain of each, the least certain of all first
    torch.testing.assert_close(found.score, 2 * (1 - certain[found.rows]), atol=1e-6, rtol=0)
    known = undecided[:1]
    second: Choice = margin(probabilities, x, 8, 0, known)
    assert undecided[1] in second.rows and undecided[0] not in second.rows


def test_margin_of_classes_that_were_never_labelled() -> None:
    probabilities = torch.zeros(30, 4)
    probabilities[:, :2] = certainty(30, 2)
    assert torch.isfinite(margin(probabilities, features(30), 3, 0).score).all()
