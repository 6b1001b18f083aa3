"""What is kept of a sweep while its points stream by: Pareto front, best points, distributions, counts.

Every reduction has a state that merges with another state, and the result does not depend on the order of merging: ties go to
the point with the lower number, counts add. A sweep can so be cut, resumed and distributed without changing its answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Points as columns [points]: their number in the sweep (`index`), parameters and metrics.
Points = dict[str, np.ndarray]

#: Distributions are counted in bins of one 32nd of a factor of 2 (quantiles within 1.1 %), from 2^-100 to 2^100.
BINS_PER_OCTAVE, _OCTAVES = 32, 100
#: Pairs compared at once when fronts of three or more objectives are built.
_PAIRS = 4_000_000


def pareto_front(losses: np.ndarray, index: np.ndarray, resolution: float = 0.0) -> np.ndarray:
    """Positions of the points that no other dominates, in order of the first loss; of equal points the one numbered lowest.

    `losses` [points, objectives], all to be minimised. `resolution` > 0 compares in boxes of that relative size and keeps the
    best point of a box, which bounds the front of many objectives.
    """
    if not len(index):
        return np.zeros(0, dtype=int)
    keys = _boxes(losses, resolution) if resolution > 0.0 else losses
    columns = [index, *(losses[:, i] for i in range(losses.shape[1] - 1, -1, -1))]
    if resolution > 0.0:
        columns += [keys[:, i] for i in range(keys.shape[1] - 1, -1, -1)]
    order = np.lexsort(columns)
    keys = keys[order]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = np.any(keys[1:] != keys[:-1], axis=1)
    order, keys = order[fresh], keys[fresh]
    if keys.shape[1] == 1:
        return order[:1]
    if keys.shape[1] == 2:
        second = keys[:, 1]
        before = np.concatenate([[np.inf], np.minimum.accumulate(second)[:-1]])
        return order[second < before]
    return order[_undominated(keys)]


def _boxes(losses: np.ndarray, resolution: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        size = np.log(np.abs(losses)) / np.log1p(resolution)
    return np.where(losses == 0.0, 0.0, np.sign(losses) * (1e6 + np.floor(size)))


def _undominated(keys: np.ndarray) -> np.ndarray:
    """Mask over `keys`, sorted lexicographically and all different: only earlier points can dominate later ones."""
    kept = np.zeros(len(keys), dtype=bool)
    front = keys[:0]
    step = max(1, min(len(keys), 256))
    for start in range(0, len(keys), step):
        part = keys[start : start + step]
        alive = np.ones(len(part), dtype=bool)
        for at in range(0, len(front), max(1, _PAIRS // len(part))):
            rivals = front[at : at + max(1, _PAIRS // len(part))]
            alive &= ~np.any(np.all(rivals[None] <= part[:, None], axis=-1), axis=1)
        within = np.all(part[None] <= part[:, None], axis=-1)
        np.fill_diagonal(within, False)
        # A point of the block that is itself dominated is dominated by something that also dominates what it would.
        alive &= ~np.any(within, axis=1)
        kept[start : start + step] = alive
        front = np.concatenate([front, part[alive]])
    return kept


@dataclass
class Reduction:
    """The state of a sweep over the points seen. `front` and `best` are points with all their columns; `histograms` count the
    feasible points of each objective per bin; `counts` say how many points were seen, answered and feasible; `pairs` how many
    met each pair of constraints; `reasons` how often each code was given for no answer."""

    minimise: tuple[str, ...]
    maximise: tuple[str, ...]
    keep: int
    resolution: float
    front: Points
    best: Points
    histograms: dict[str, np.ndarray]
    counts: np.ndarray
    pairs: np.ndarray
    reasons: np.ndarray

    @classmethod
    def of(
        cls, points: Points, feasible: np.ndarray, minimise: Sequence[str], maximise: Sequence[str], *,
        keep: int, resolution: float, pairs: np.ndarray, reasons: np.ndarray, hint: np.ndarray | None = None,
    ) -> "Reduction":  # fmt: skip
        """The state of one chunk. `hint` [points, objectives]: losses of points known to exist, which spare sorting what
        they dominate."""
        names = (*minimise, *maximise)
        answered = np.isfinite(points[names[0]])
        for name in names[1:]:
            answered &= np.isfinite(points[name])
        rows = np.flatnonzero(feasible)
        kept = {name: points[name] if len(rows) == len(feasible) else points[name][rows] for name in names}
        losses = [kept[name] if name in minimise else -kept[name] for name in names]
        candidates = _not_dominated_by(losses, hint)
        sorted_out = np.stack([values[candidates] for values in losses], axis=-1)
        front = candidates[pareto_front(sorted_out, points["index"][rows[candidates]], resolution)]
        best = _smallest(losses[0], points["index"][rows], keep)
        return cls(
            tuple(minimise), tuple(maximise), keep, resolution,
            {name: values[rows[front]] for name, values in points.items()},
            {name: values[rows[best]] for name, values in points.items()},
            {name: histogram(values) for name, values in kept.items()},
            np.array([len(answered), int(answered.sum()), len(rows)], dtype=np.int64), pairs, reasons,
        )  # fmt: skip

    def merged(self, other: "Reduction") -> "Reduction":
        """The state over the points of both."""
        front = {name: np.concatenate([values, other.front[name]]) for name, values in self.front.items()}
        best = {name: np.concatenate([values, other.best[name]]) for name, values in self.best.items()}
        kept = pareto_front(self.losses(front), front["index"], self.resolution)
        least = _smallest(self.losses(best)[:, 0], best["index"], self.keep)
        return Reduction(
            self.minimise, self.maximise, self.keep, self.resolution,
            {name: values[kept] for name, values in front.items()},
            {name: values[least] for name, values in best.items()},
            {name: counts + other.histograms[name] for name, counts in self.histograms.items()},
            self.counts + other.counts, self.pairs + other.pairs, self.reasons + other.reasons,
        )  # fmt: skip

    def losses(self, points: Points) -> np.ndarray:
        """Objectives [points, objectives] as numbers to minimise."""
        return np.stack([points[name] for name in self.minimise] + [-points[name] for name in self.maximise], axis=-1)

    def hint(self, most: int = 64) -> np.ndarray | None:
        """Some points of the front, spread over it: what they dominate need not be looked at."""
        losses = self.losses(self.front)
        return losses[np.unique(np.linspace(0, len(losses) - 1, most).astype(int))] if len(losses) else None

    def quantile(self, metric: str, share: float) -> float:
        """The value below which `share` of the feasible points lie, within 1.1 %; NaN without points."""
        return histogram_quantile(self.histograms[metric], share)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The state as named arrays."""
        found = {"counts": self.counts, "pairs": self.pairs, "reasons": self.reasons}
        found |= {f"front/{name}": values for name, values in self.front.items()}
        found |= {f"best/{name}": values for name, values in self.best.items()}
        return found | {f"histogram/{name}": values for name, values in self.histograms.items()}

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], minimise: Sequence[str], maximise: Sequence[str], keep: int,
        resolution: float,
    ) -> "Reduction":  # fmt: skip
        """The inverse of `to_arrays`."""

        def below(prefix: str) -> dict[str, np.ndarray]:
            return {name[len(prefix) :]: values for name, values in arrays.items() if name.startswith(prefix)}

        return cls(
            tuple(minimise), tuple(maximise), keep, resolution, below("front/"), below("best/"), below("histogram/"),
            arrays["counts"], arrays["pairs"], arrays["reasons"],
        )  # fmt: skip


def _not_dominated_by(losses: list[np.ndarray], hint: np.ndarray | None) -> np.ndarray:
    """Positions of what no row of `hint` dominates; points equal to one stay."""
    if hint is None or not len(hint):
        return np.arange(len(losses[0]))
    alive = np.arange(len(losses[0]))
    values = losses
    if len(losses) == 2:  # a few points drop most; then the step of the staircase below each point
        hint = hint[pareto_front(hint, np.arange(len(hint)))]
        for rival in hint[np.unique(np.linspace(0, len(hint) - 1, 6).astype(int))[1:-1]]:
            left = np.flatnonzero((values[0] <= rival[0]) | (values[1] <= rival[1]))
            alive, values = alive[left], [column[left] for column in values]
        step = np.searchsorted(hint[:, 0], values[0], side="right") - 1
        lowest = np.concatenate([[np.inf], hint[:, 1]])
        at = np.concatenate([[np.inf], hint[:, 0]])[step + 1]
        below = lowest[step + 1]
        return alive[(values[1] < below) | ((values[1] == below) & (values[0] == at))]
    for rival in hint:
        better = values[0] < rival[0]
        same = values[0] == rival[0]
        for column, limit in zip(values[1:], rival[1:]):
            better |= column < limit
            same &= column == limit
        left = better | same
        if not left.all():
            alive = alive[left]
            values = [column[left] for column in values]
    return alive


def _smallest(values: np.ndarray, index: np.ndarray, keep: int) -> np.ndarray:
    """Positions of the `keep` smallest values, in order; of equal ones those numbered lowest."""
    rows = np.arange(len(values))
    if len(values) > 4 * keep:
        limit = np.partition(values, keep - 1)[keep - 1]
        rows = np.flatnonzero(values <= limit)
    return rows[np.lexsort((index[rows], values[rows]))][:keep]


def histogram(values: np.ndarray) -> np.ndarray:
    """Counts of `values` per bin: bin 0 for what is not positive, then logarithmic ones."""
    with np.errstate(divide="ignore", invalid="ignore"):
        position = np.floor(np.log2(np.where(values > 0.0, values, 0.0)) * BINS_PER_OCTAVE)
    most = 2 * _OCTAVES * BINS_PER_OCTAVE
    bins = np.clip(position + _OCTAVES * BINS_PER_OCTAVE + 1, 0, most).astype(np.int64)
    return np.bincount(bins, minlength=most + 1)


def histogram_edges() -> np.ndarray:
    """Lower edges of the bins; the first is minus infinity."""
    bins = np.arange(2 * _OCTAVES * BINS_PER_OCTAVE) / BINS_PER_OCTAVE - _OCTAVES
    return np.concatenate([[-np.inf], 2.0**bins])


def histogram_quantile(counts: np.ndarray, share: float) -> float:
    """The value below which `share` of the counted values lie: the middle of its bin (0 for what is not positive)."""
    total = counts.sum()
    if not total:
        return float("nan")
    at = int(np.searchsorted(np.cumsum(counts), share * total))
    at = min(at, len(counts) - 1)
    return float(histogram_edges()[at] * 2.0 ** (0.5 / BINS_PER_OCTAVE)) if at else 0.0
