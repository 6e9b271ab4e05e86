"""The estimator against the paper's example, loops over its equations, and samples drawn from a known truth."""

from __future__ import annotations

import numpy as np
import pytest

from rsssl.geo.good_practice import Z95, Estimate, estimate

# Olofsson et al. (2014), section 5: deforestation, forest gain, stable forest, stable non-forest; pixels of 0.09 ha.
COUNTS = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
MAPPED = np.array([200_000, 150_000, 3_200_000, 6_450_000]) * 0.09


def test_the_papers_example() -> None:
    got = estimate(COUNTS, MAPPED)
    np.testing.assert_allclose(got.areas, [21_158, 11_686, 285_770, 581_386], atol=0.5)
    np.testing.assert_allclose(Z95 * got.areas_se, [6_158, 3_756, 15_510, 16_282], atol=0.5)
    np.testing.assert_allclose(got.users, [0.88, 0.73, 0.93, 0.96], atol=0.005)
    np.testing.assert_allclose(Z95 * got.users_se, [0.07, 0.10, 0.04, 0.02], atol=0.005)
    np.testing.assert_allclose(got.producers, [0.75, 0.85, 0.93, 0.96], atol=0.005)
    assert got.overall == pytest.approx(0.95, abs=0.005) and Z95 * got.overall_se == pytest.approx(0.02, abs=0.005)
    assert got.covered == 1 and got.unsampled == got.single == ()
    assert got.proportions.sum() == pytest.approx(1)


def test_every_standard_error_by_the_delta_method() -> None:
    """Var f = sum over the strata of grad f' C grad f, C the multinomial's covariance of a row's shares over n - 1."""
    got = estimate(COUNTS, MAPPED)
    weight, n = MAPPED / MAPPED.sum(), COUNTS.sum(1)
    shares = COUNTS / n[:, None]

    def figures(q: np.ndarray) -> np.ndarray:
        p = weight[:, None] * q
        return np.r_[p.trace(), q.diagonal(), p.diagonal() / p.sum(0), MAPPED.sum() * p.sum(0)]

    variance = np.zeros(13)
    for i in range(4):
        covariance = (np.diag(shares[i]) - np.outer(shares[i], shares[i])) / (n[i] - 1)
        gradient = np.empty((13, 4))
        for j in range(4):
            step = np.zeros((4, 4))
            step[i, j] = 1e-6
            gradient[:, j] = (figures(shares + step) - figures(shares - step)) / 2e-6
        variance += np.einsum("fa,ab,fb->f", gradient, covariance, gradient)
    expected = np.sqrt(variance)
    np.testing.assert_allclose(np.r_[got.overall_se, got.users_se, got.producers_se, got.areas_se], expected, rtol=1e-5)
    np.testing.assert_allclose(Z95 * got.producers_se, [0.2133, 0.2544, 0.0343, 0.0184], atol=1e-4)


def test_the_unit_of_area_changes_areas_alone() -> None:
    hectares, pixels = estimate(COUNTS, MAPPED), estimate(COUNTS, MAPPED / 0.09)
    np.testing.assert_allclose(hectares.areas_se, 0.09 * pixels.areas_se)
    np.testing.assert_allclose(hectares.producers_se, pixels.producers_se)


def test_right_on_average_and_inside_the_interval() -> None:
    """Two thousand stratified samples of a known map: no bias, and 95 % of the intervals hold the truth."""
    random = np.random.default_rng(0)
    truth = np.array([[0.08, 0.01, 0.01], [0.02, 0.25, 0.03], [0.03, 0.05, 0.52]]) * 1e4  # (map, reference) hectares
    mapped, true_area = truth.sum(1), truth.sum(0)
    draws = np.stack([random.multinomial(150, row / row.sum(), 2000) for row in truth], 1)  # (draws, 3, 3)
    estimates = [estimate(counts, mapped) for counts in draws]

    def check(values: np.ndarray, errors: np.ndarray, expected: np.ndarray, bias: float) -> None:
        np.testing.assert_allclose(values.mean(0), expected, rtol=bias)
        np.testing.assert_allclose(errors.mean(0), values.std(0), rtol=0.1)
        inside = (np.abs(values - expected) <= Z95 * errors).mean(0)
        assert (inside > 0.925).all() and (inside < 0.97).all(), inside

    areas = np.stack([e.areas for e in estimates])
    check(areas, np.stack([e.areas_se for e in estimates]), true_area, 0.005)
    check(
        np.array([[e.overall] for e in estimates]),
        np.array([[e.overall_se] for e in estimates]),
        np.array([truth.trace() / truth.sum()]),
        0.005,
    )
    check(
        np.stack([e.producers for e in estimates]),
        np.stack([e.producers_se for e in estimates]),
        truth.diagonal() / true_area,
        0.01,
    )
    counted = np.abs(mapped - true_area) / true_area
    assert counted.max() > 0.2, "else this test would not tell an estimate from the count of pixels"


def same(a: Estimate, b: Estimate, keep: list[int]) -> None:
    for name in ("users", "users_se", "producers", "producers_se", "areas", "areas_se"):
        np.testing.assert_allclose(getattr(a, name)[keep], getattr(b, name), err_msg=name)
    assert (a.overall, a.overall_se) == pytest.approx((b.overall, b.overall_se))


def test_a_class_without_samples_is_left_out_and_named() -> None:
    counts, mapped = np.zeros((5, 5), int), np.r_[MAPPED[:2], 50_000, MAPPED[2:]]
    keep = [0, 1, 3, 4]
    counts[np.ix_(keep, keep)] = COUNTS
    got = estimate(counts, mapped)
    same(got, estimate(COUNTS, MAPPED), keep)
    assert got.unsampled == (2,) and got.covered == pytest.approx(MAPPED.sum() / (MAPPED.sum() + 50_000))
    assert all(np.isnan(v[2]) for v in (got.users, got.producers, got.areas, got.areas_se))


def test_a_class_without_area_counts_for_nothing() -> None:
    counts, mapped = np.zeros((5, 5), int), np.r_[MAPPED, 0]
    counts[:4, :4] = COUNTS
    same(estimate(counts, mapped), estimate(COUNTS, MAPPED), [0, 1, 2, 3])
    got = estimate(counts, mapped)
    assert got.unsampled == () and got.covered == 1
    assert np.isnan(got.users[4]) and np.isnan(got.producers[4]) and got.areas[4] == 0


def test_one_sample_has_no_variance() -> None:
    counts = COUNTS.copy()
    counts[1] = [0, 1, 0, 0]
    got = estimate(counts, MAPPED)
    assert got.single == (1,) and got.users[1] == 1 and np.isfinite(got.areas).all()
    assert np.isnan(got.users_se[1]) and np.isfinite(got.users_se[[0, 2, 3]]).all()
    assert np.isnan(got.overall_se) and np.isnan(got.areas_se).all() and np.isnan(got.producers_se).all()


def test_refuses_what_it_cannot_use() -> None:
    with pytest.raises(ValueError, match="must be"):
        estimate(np.ones((2, 3)), np.ones(2))
    with pytest.raises(ValueError, match="negative"):
        estimate(np.ones((2, 2)), np.array([1, -1]))
    with pytest.raises(ValueError, match="no sample"):
        estimate(np.zeros((2, 2)), np.ones(2))
    with pytest.raises(ValueError, match="no sample"):
        estimate(np.array([[1, 0], [0, 0]]), np.array([0, 1]))
