"""Paired comparisons: by scipy's distributions and its signed-rank test, and by simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from rsssl.report import tables
from rsssl.report.compare import compared, comparisons, detectable_shift, signed_rank, t_quantile, upper_tail
from rsssl.report.results import find, read
from tests.report.made_up import scores, write_run


@pytest.mark.parametrize("df", [1, 2, 4, 9, 99])
def test_t_distributions_are_scipys(df: int) -> None:
    assert t_quantile(df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-6)
    for t, shift in ((0.3, 0.0), (2.5, 1.2), (4.0, 6.0), (2.0, -1.0)):
        assert upper_tail(t, df, shift) == pytest.approx(stats.nct.sf(t, df, shift), abs=1e-7)
    bound, shift = stats.t.ppf(0.975, df), detectable_shift(df)
    assert stats.nct.sf(bound, df, shift) + stats.nct.cdf(-bound, df, shift) == pytest.approx(0.8, abs=1e-6)


def test_what_is_detectable_is_found_eight_times_in_ten() -> None:
    draw, n, std = np.random.default_rng(0), 5, 2.0
    mean = detectable_shift(n - 1) * std / np.sqrt(n)
    samples = draw.normal(mean, std, (20_000, n))
    found = stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.012)


def test_signed_rank_is_scipys_and_counts_all_signs() -> None:
    draw = np.random.default_rng(1)
    for n in (1, 3, 5, 10, 20):
        differences = draw.normal(0.4, 1, n)
        expected = stats.wilcoxon(differences, method="exact").pvalue
        assert signed_rank(differences.tolist()) == (pytest.approx(expected), 2.0 ** (1 - n))
    tied = [1.0, 1.0, -1.0, 2.0, 0.0, 3.0]  # without the zero, over all 2^5 signs
    ranks = np.array([2, 2, 2, 4, 5])
    signs = np.array(np.meshgrid(*[[0, 1]] * 5)).reshape(5, -1)
    sums, seen = ranks @ signs, 13
    expected = 2 * min((sums >= seen).mean(), (sums <= seen).mean())
    assert signed_rank(tied)[0] == pytest.approx(expected)
    assert signed_rank([0.1 + 0.2, 0.3, -0.3])[0] == 1.0, "equal but for the last digit: they share a rank"
    assert signed_rank([0.0, 0.0]) == (1.0, 1.0)


def test_intervals_are_those_of_the_paired_t_test() -> None:
    a, b = np.array([70.0, 72.0, 75.5, 71.0]), np.array([74.0, 73.0, 77.0, 76.0])
    mean, low, high, p, least, detectable = compared((a - b).tolist())
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (mean, low, high) == pytest.approx(((a - b).mean(), interval.low, interval.high))
    assert (p, least) == (0.125, 0.125)
    assert detectable == pytest.approx(detectable_shift(3) * (a - b).std(ddof=1) / 2)
    assert compared([1.5]) == (1.5, None, None, 1.0, 1.0, None)


def test_rows_are_compared_at_the_seeds_and_splits_that_both_have(tmp_path: Path) -> None:
    for seed, (good, weak) in enumerate([(0.9, 0.7), (0.8, 0.75), (0.85, 0.8)]):
        write_run(tmp_path / f"good{seed}", ssl="good", seed=seed, **(scores(0.5, 1) | {"oa": good}))
        write_run(tmp_path / f"weak{seed}", ssl="weak", seed=seed, **(scores(0.5, 1) | {"oa": weak}))
    write_run(tmp_path / "more", ssl="weak", seed=7, **(scores(0.5, 1) | {"oa": 0.1}))
    write_run(tmp_path / "elsewhere", ssl="other", seed=0, split_hash="t" * 16, **scores(0.5, 1))
    results = [r for path in find([tmp_path])[0] for r in read(path)[0]]
    (only,) = comparisons(tables.build(results, "oa"), "eurosat_rgb")
    assert (only.best.method, only.row.method, only.ts, only.seeds) == ("good", "weak", "5", 3)
    assert only.mean == pytest.approx(np.mean([-20, -5, -5]))
