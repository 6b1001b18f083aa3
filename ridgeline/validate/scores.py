"""Scores of predictions against measurements: signed, split, and with what could not be answered counted.

With ratio r = predicted / measured: APE = |r - 1|, bias = median of ln r (negative: predicted too fast); fractions. Where a
bias is shown in per cent it is exp(bias) - 1, the error of the median ratio (`relative_bias`); files keep ln r.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Scores(NamedTuple):
    """`n` rows found, `answered` rows with prediction and usable measurement; the rest over those (NaN if none)."""

    n: int
    answered: int
    mape: float
    median_ape: float
    p95_ape: float
    bias: float
    spearman: float


class IntervalScores(NamedTuple):
    """Of 90 % intervals [lower, upper]: share of measurements inside, and median of (upper - lower) / predicted.

    `constant_width90`: the width that one interval for all rows (the same ratio around the median ratio) needs for equal coverage.
    """

    coverage90: float
    width90: float
    constant_width90: float


def usable(predicted: ArrayLike, measured: ArrayLike) -> np.ndarray:
    """Which rows count as answered: finite positive measurement, finite positive prediction. [n] bool."""
    guess, truth = _pair(predicted, measured)
    return np.isfinite(guess) & np.isfinite(truth) & (truth > 0.0) & (guess > 0.0)


def absolute_percentage_error(predicted: ArrayLike, measured: ArrayLike) -> np.ndarray:
    """|predicted - measured| / measured of the answered rows, as fractions. [answered]."""
    guess, truth = _answered(predicted, measured)
    return np.abs(guess - truth) / truth


def score(predicted: ArrayLike, measured: ArrayLike) -> Scores:
    """`Scores` of predictions [n] against measurements [n] in one unit. The 95th percentile interpolates linearly."""
    guess, truth = _answered(predicted, measured)
    rows = np.size(measured)
    if not truth.size:
        return Scores(rows, 0, *([float("nan")] * 5))
    ape = np.abs(guess - truth) / truth
    return Scores(
        n=rows,
        answered=truth.size,
        mape=float(ape.mean()),
        median_ape=float(np.median(ape)),
        p95_ape=float(np.percentile(ape, 95)),
        bias=float(np.median(np.log(guess / truth))),
        spearman=spearman(guess, truth),
    )


def relative_bias(bias: float) -> float:
    """exp(`bias`) - 1: by which share of the measurement the median prediction is too long; NaN and infinities stay."""
    return float(np.expm1(bias))


def max_ape(predicted: ArrayLike, measured: ArrayLike) -> float:
    """Largest absolute percentage error of the answered rows, NaN if none."""
    ape = absolute_percentage_error(predicted, measured)
    return float(ape.max()) if ape.size else float("nan")


def exact_share(predicted: ArrayLike, measured: ArrayLike) -> float:
    """Share of all rows whose prediction equals the measurement (counts and cycles), NaN without rows."""
    guess, truth = _pair(predicted, measured)
    return float((guess == truth).mean()) if truth.size else float("nan")


def score_intervals(predicted: ArrayLike, measured: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> IntervalScores:
    """Coverage and width of 90 % intervals over the answered rows that have an interval; all arguments [n]."""
    guess, truth = _pair(predicted, measured)
    low, high = _pair(lower, upper)
    rows = usable(guess, truth) & np.isfinite(low) & np.isfinite(high)
    if not rows.any():
        return IntervalScores(float("nan"), float("nan"), float("nan"))
    inside = float(((low <= truth) & (truth <= high))[rows].mean())
    log_ratio = np.log(truth[rows] / guess[rows])
    middle = float(np.median(log_ratio))
    half = float(np.quantile(np.abs(log_ratio - middle), inside))
    constant = float(np.exp(middle + half) - np.exp(middle - half))
    return IntervalScores(inside, float(np.median((high - low)[rows] / guess[rows])), constant)


def spearman(left: ArrayLike, right: ArrayLike) -> float:
    """Spearman rank correlation of two series [n], ties at their average rank; NaN below two rows or if constant."""
    first, second = average_rank(left), average_rank(right)
    if first.size < 2:
        return float("nan")
    first, second = first - np.mean(first), second - np.mean(second)
    norm = np.sqrt(np.sum(first * first) * np.sum(second * second))
    return float(np.sum(first * second) / norm) if norm > 0.0 else float("nan")


def average_rank(values: ArrayLike) -> np.ndarray:
    """Ranks 1..n of `values` [n], equal values sharing the mean of their ranks."""
    _, inverse, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[inverse]


def _pair(left: ArrayLike, right: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(left, dtype=float), np.asarray(right, dtype=float)


def _answered(predicted: ArrayLike, measured: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    rows = usable(predicted, measured)
    guess, truth = _pair(predicted, measured)
    return guess[rows], truth[rows]
