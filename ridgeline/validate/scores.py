"""Scores of predictions against measurements: signed, split, and with what could not be answered counted.

With ratio r = predicted / measured: APE = |r - 1|, bias = median of ln r (negative: predicted too fast). Errors are fractions.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Scores(NamedTuple):
    """`n` rows found, `answered` rows with a prediction and a usable measurement; the rest over the answered rows (NaN if none)."""

    n: int
    answered: int
    mape: float
    median_ape: float
    p95_ape: float
    bias: float
    spearman: float


class IntervalScores(NamedTuple):
    """Of 90 % intervals [lower, upper]: share of measurements inside, and median of (upper - lower) / predicted."""

    coverage90: float
    width90: float


def usable(predicted: ArrayLike, measured: ArrayLike) -> np.ndarray:
    """Which rows count as answered: finite positive measurement, finite positive prediction. [n] bool."""
    predicted, measured = np.asarray(predicted, dtype=float), np.asarray(measured, dtype=float)
    return np.isfinite(predicted) & np.isfinite(measured) & (measured > 0.0) & (predicted > 0.0)


def absolute_percentage_error(predicted: ArrayLike, measured: ArrayLike) -> np.ndarray:
    """|predicted - measured| / measured of the answered rows, as fractions. [answered]."""
    rows = usable(predicted, measured)
    predicted, measured = np.asarray(predicted, dtype=float)[rows], np.asarray(measured, dtype=float)[rows]
    return np.abs(predicted - measured) / measured


def score(predicted: ArrayLike, measured: ArrayLike) -> Scores:
    """`Scores` of predictions [n] against measurements [n] in the same unit. The 95th percentile interpolates linearly."""
    predicted, measured = np.asarray(predicted, dtype=float), np.asarray(measured, dtype=float)
    rows = usable(predicted, measured)
    if not rows.any():
        return Scores(rows.size, 0, *([float("nan")] * 5))
    ape = absolute_percentage_error(predicted, measured)
    return Scores(
        n=rows.size,
        answered=int(rows.sum()),
        mape=float(ape.mean()),
        median_ape=float(np.median(ape)),
        p95_ape=float(np.percentile(ape, 95)),
        bias=float(np.median(np.log(predicted[rows] / measured[rows]))),
        spearman=spearman(predicted[rows], measured[rows]),
    )


def max_ape(predicted: ArrayLike, measured: ArrayLike) -> float:
    """Largest absolute percentage error of the answered rows, NaN if none."""
    ape = absolute_percentage_error(predicted, measured)
    return float(ape.max()) if ape.size else float("nan")


def exact_share(predicted: ArrayLike, measured: ArrayLike) -> float:
    """Share of all rows whose prediction equals the measurement (counts and cycles), NaN without rows."""
    predicted, measured = np.asarray(predicted, dtype=float), np.asarray(measured, dtype=float)
    return float((predicted == measured).mean()) if measured.size else float("nan")


def score_intervals(predicted: ArrayLike, measured: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> IntervalScores:
    """Coverage and width of 90 % intervals over the answered rows that have an interval; all arguments [n]."""
    predicted, measured, lower, upper = (np.asarray(a, dtype=float) for a in (predicted, measured, lower, upper))
    rows = usable(predicted, measured) & np.isfinite(lower) & np.isfinite(upper)
    if not rows.any():
        return IntervalScores(float("nan"), float("nan"))
    inside = (lower <= measured) & (measured <= upper)
    return IntervalScores(float(inside[rows].mean()), float(np.median((upper - lower)[rows] / predicted[rows])))


def spearman(left: ArrayLike, right: ArrayLike) -> float:
    """Spearman rank correlation of two series [n], ties at their average rank; NaN below two rows or for a constant series."""
    left, right = average_rank(left), average_rank(right)
    if left.size < 2:
        return float("nan")
    left, right = left - left.mean(), right - right.mean()
    norm = np.sqrt((left * left).sum() * (right * right).sum())
    return float((left * right).sum() / norm) if norm > 0.0 else float("nan")


def average_rank(values: ArrayLike) -> np.ndarray:
    """Ranks 1..n of `values` [n], equal values sharing the mean of their ranks."""
    _, inverse, counts = np.unique(np.asarray(values, dtype=float), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2.0)[inverse]
