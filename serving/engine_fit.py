"""Overheads of an engine from measured benchmarks: at most four constants, robust least squares on log errors.

Each point predicts its mean time to first token and per output token for given overheads (a replay). The fit walks on a
sample of points; predictions of all of them are then linear in the overheads around the answer (one replay per
constant), which makes leaving parts of the data out cheap: a left-out point is predicted with the constants of the rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

from serving.engine import Overheads
from serving.engines import KnownEngine

#: The constants, and the unit each is fitted in, seconds.
UNITS = {"iteration_s": 1e-4, "sequence_s": 1e-6, "layer_s": 1e-4, "request_s": 1e-2}
#: Largest value of a constant in its unit; relative step of derivatives; weight of first tokens against gaps.
MOST, STEP, FIRST_WEIGHT = 200.0, 0.15, 0.5
#: ln error beyond which a point counts linearly (an outlier); points the walk looks at; its replays per point.
OUTLIER, WALK_POINTS, WALK_STEPS = 0.1, 45, 5


class FitPoint(NamedTuple):
    """A measured benchmark: seconds, what predicts it, and what it belongs to (names by which it can be left out)."""

    predict: Callable[[KnownEngine], tuple[float, float]]
    ttft_s: float
    tpot_s: float
    deployment: str
    gpu: str
    model: str

    @property
    def measured(self) -> tuple[float, float]:
        """(time to first token, time per output token)."""
        return self.ttft_s, self.tpot_s


class Linear(NamedTuple):
    """ln(predicted / measured) [points, 2] around the overheads `at` [4] (in units), and its derivatives [points, 2, 4]."""

    at: np.ndarray
    error: np.ndarray
    slope: np.ndarray

    def errors(self, values: np.ndarray) -> np.ndarray:
        """ln(predicted / measured) [points, 2] for overheads `values` [4]."""
        return self.error + self.slope @ (values - self.at)


def overheads_of(values: np.ndarray) -> Overheads:
    """Overheads from numbers in `UNITS`."""
    return Overheads(**{name: float(v) * unit for (name, unit), v in zip(UNITS.items(), values)})


def values_of(overheads: Overheads) -> np.ndarray:
    """Numbers in `UNITS` of overheads."""
    return np.array([getattr(overheads, name) / unit for name, unit in UNITS.items()])


def log_errors(points: Sequence[FitPoint], known: KnownEngine, values: np.ndarray) -> np.ndarray:
    """ln(predicted / measured), [points, 2]; 0 where a point is refused."""
    engine = replace(known, overheads=overheads_of(values))
    errors = np.log(np.array([p.predict(engine) for p in points]) / np.array([p.measured for p in points]))
    return np.where(np.isfinite(errors), errors, 0.0)


def fit_overheads(points: Sequence[FitPoint], known: KnownEngine) -> np.ndarray:
    """Overheads [4] in `UNITS` from a walk over the first `WALK_POINTS` points (order them by what they should tell)."""
    few = points[:WALK_POINTS]
    start = np.maximum(values_of(known.overheads), 0.2)

    def residuals(values: np.ndarray) -> np.ndarray:
        return _weighted(log_errors(few, known, values))

    found = least_squares(
        residuals, start, bounds=(0.0, MOST), diff_step=STEP, loss="soft_l1", f_scale=OUTLIER, x_scale=start,
        max_nfev=WALK_STEPS,
    )  # fmt: skip
    return found.x


def linearise(points: Sequence[FitPoint], known: KnownEngine, values: np.ndarray) -> Linear:
    """Errors of all points around `values` and their derivatives by the constants."""
    error = log_errors(points, known, values)
    slopes = []
    for k in range(len(values)):
        step = max(STEP * values[k], 0.2)
        moved = values + step * (np.arange(len(values)) == k)
        slopes.append((log_errors(points, known, moved) - error) / step)
    return Linear(values, error, np.stack(slopes, axis=-1))


def refit(linear: Linear, keep: np.ndarray) -> np.ndarray:
    """Overheads [4] that fit the points `keep` (mask) best, within the reach of the linearisation (a factor of 3)."""
    part = Linear(linear.at, linear.error[keep], linear.slope[keep])
    low, high = linear.at / 3.0, np.minimum(3.0 * linear.at + 0.5, MOST)
    found = least_squares(
        lambda values: _weighted(part.errors(values)), linear.at, bounds=(low, high), loss="soft_l1", f_scale=OUTLIER
    )
    return found.x


def left_out_errors(linear: Linear, groups: Sequence[str]) -> np.ndarray:
    """ln(predicted / measured) [points, 2] with each group of points predicted by the constants of all others; a group that
    is the whole keeps its own."""
    names = np.asarray(groups)
    errors = np.empty_like(linear.error)
    for name in np.unique(names):
        out = names == name
        values = refit(linear, ~out if not out.all() else out)
        errors[out] = linear.errors(values)[out]
    return errors


def _weighted(errors: np.ndarray) -> np.ndarray:
    return np.concatenate([FIRST_WEIGHT * errors[:, 0], errors[:, 1]])
