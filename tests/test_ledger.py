"""Intervals over seeds."""

import numpy as np
import pytest
from scipy import stats

from llmchain.workbench.ledger import mean_interval, paired_difference


def test_agrees_with_scipy() -> None:
    x = np.random.default_rng(0).normal(size=30)
    ours = mean_interval(x)
    theirs = stats.bootstrap((x,), np.mean, method="percentile", n_resamples=10_000, rng=1).confidence_interval  # fmt: skip
    assert ours.mean == pytest.approx(x.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.02)
    assert ours.high == pytest.approx(theirs.high, abs=0.02)


def test_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(300):
        i = mean_interval(rng.normal(size=20), n_resamples=500)
        inside += i.low <= 0 <= i.high
    assert 0.88 <= inside / 300 <= 0.98


def test_pairing_takes_the_shared_noise_away() -> None:
    noise = np.random.default_rng(2).normal(size=10)
    gain = paired_difference(noise + 0.1, noise)
    assert gain.low == pytest.approx(0.1) and gain.verdict == "helps"
    assert paired_difference(noise, noise).verdict == "does not help"
    assert paired_difference(noise, noise + 1).verdict == "harms"


def test_same_seed_same_interval() -> None:
    assert mean_interval([1, 2, 3.5]) == mean_interval([1, 2, 3.5])


@pytest.mark.parametrize("values", [[], [1.0], [1.0, float("nan")], [[1.0, 2.0]]])
def test_refuses(values: list) -> None:
    with pytest.raises(ValueError, match="mean_interval"):
        mean_interval(values)
    with pytest.raises(ValueError, match="pair them"):
        paired_difference([1.0, 2.0], [1.0])
