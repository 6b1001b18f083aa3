"""What a streamed search keeps: the best k points and the Pareto front, in memory that does not grow with the
search.
"""

from typing import Any, NamedTuple

import numpy as np


class Kept(NamedTuple):
    """`best` and `front`: rows of points kept, as dicts of arrays with a common leading axis (objectives, choice,
    positions).

    `best` is sorted by the first objective; `front` holds the points that no other point beats in all objectives.
    """

    best: dict[str, np.ndarray]
    front: dict[str, np.ndarray]


class Keeper:
    """Fed with blocks of points; keeps `k` best by the first objective, and a front of at most `front_limit` points.

    A front that outgrows its limit is thinned evenly along the first objective, its ends kept; `thinned` says how
    often.
    """

    def __init__(self, k: int = 10, front_limit: int = 10_000):
        self.k, self.front_limit, self.thinned = k, front_limit, 0
        self._best: dict[str, np.ndarray] = {}
        self._front: dict[str, np.ndarray] = {}

    def add(self, objectives: np.ndarray, **point: np.ndarray) -> None:
        """Points with `objectives` [n, m], smaller is better; rows with a NaN are dropped."""
        good = np.flatnonzero(np.all(np.isfinite(objectives), axis=-1))
        good = good[self._may_stay(objectives[good])]
        if not len(good):
            return
        block = {"objectives": objectives[good]} | {name: np.asarray(value)[good] for name, value in point.items()}
        merged = _joined(self._best, block)
        self._best = _rows(merged, np.argsort(merged["objectives"][:, 0], kind="stable")[: self.k])
        merged = _joined(self._front, _rows(block, pareto_front(block["objectives"])))
        front = _rows(merged, pareto_front(merged["objectives"]))
        size = len(front["objectives"])
        if size > self.front_limit:
            self.thinned += 1
            front = _rows(front, np.unique(np.linspace(0, size - 1, self.front_limit).astype(int)))
        self._front = front

    @property
    def empty(self) -> bool:
        """Whether nothing has been kept."""
        return not self._best

    def _may_stay(self, objectives: np.ndarray) -> np.ndarray:
        """A mask of the points worth sorting: not worse than the k-th best, or not beaten by the front's middle."""
        if not self._front or len(objectives) == 0:
            return np.ones(len(objectives), dtype=bool)
        stay = np.zeros(len(objectives), dtype=bool)
        best, front = self._best["objectives"], self._front["objectives"]
        if len(best) < self.k:
            return ~stay
        stay |= objectives[:, 0] < best[-1, 0]
        beaten = np.zeros(len(objectives), dtype=bool)
        for place in np.unique(np.linspace(0, len(front) - 1, 8).astype(int)):
            point = front[place]
            worse = objectives[:, 0] >= point[0]
            for i in range(1, objectives.shape[1]):
                worse &= objectives[:, i] >= point[i]
            beaten |= worse
        return stay | ~beaten

    def kept(self) -> Kept:
        """What has been kept so far."""
        return Kept(self._best, self._front)


def pareto_front(objectives: np.ndarray) -> np.ndarray:
    """Indices of the points of [n, m] that no other point dominates (equal points: the first), by the first
    objective.
    """
    order = np.lexsort(objectives.T[::-1])
    points = objectives[order]
    if objectives.shape[1] == 1:
        return order[:1]
    if objectives.shape[1] == 2:
        lowest = np.minimum.accumulate(points[:, 1])
        keep = np.concatenate([[True], points[1:, 1] < lowest[:-1]])
        return order[keep]
    alive = np.ones(len(points), dtype=bool)
    for i in range(len(points)):
        if alive[i]:
            beaten = np.all(points[i + 1 :] >= points[i], axis=1)
            alive[i + 1 :] &= ~beaten
    return order[alive]


def _joined(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: np.concatenate([old[name], new[name]]) for name in new} if old else dict(new)


def _rows(table: dict[str, np.ndarray], index: np.ndarray) -> dict[str, np.ndarray]:
    return {name: value[index] for name, value in table.items()}
