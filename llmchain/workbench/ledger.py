"""Differences over seeds with intervals: what "this helps" rests on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def verdict(self) -> str:
        """`helps`, `harms` or `does not help`, read off the side of zero the interval lies on."""
        if self.low > 0:
            return "helps"
        return "harms" if self.high < 0 else "does not help"


def mean_interval(
    values: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of the mean (Efron 1979) of `values`, one per seed.

    ValueError for fewer than two values, a value that is not finite, or a confidence outside (0, 1).
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or len(x) < 2:
        raise ValueError(f"mean_interval: needs at least two values, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError("mean_interval: a value is not finite")
    if not 0 < confidence < 1:
        raise ValueError(f"mean_interval: confidence must lie between 0 and 1, got {confidence}")
    rng = np.random.default_rng(seed)
    means = x[rng.integers(0, len(x), (n_resamples, len(x)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(x.mean()), float(low), float(high), len(x))


def paired_difference(
    with_: Sequence[float] | np.ndarray,
    without: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of the mean of `with_ - without`, paired by seed; ValueError if lengths differ."""
    a, b = np.asarray(with_, dtype=float), np.asarray(without, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"paired_difference: {len(a)} values with and {len(b)} without; pair them")
    return mean_interval(a - b, confidence, seed=seed)
