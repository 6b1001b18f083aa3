"""MTAP: scoring performance-prediction tools from a table of predictions, failures and deployment facts.

S(t) = sum_i w_i d_i over five dimensions, d_i in {0 Fail, 1 Low, 2 Medium, 3 High}: D1 prediction fidelity, D2 compositional
fidelity, D3 generalisation, D4 deployment, D5 extensibility; w = (0.4, 0.2, 0.2, 0.1, 0.1). The protocol leaves the
thresholds of D1 open; those used here are declared and versioned. A dimension that was not measured makes the score an
interval, not a number.

Failures: F1 build and F2 runtime lower D4; F3 silent inaccuracy (more than 50 % off a known baseline) lowers D1; F4 scope
mismatch is excluded and recorded. Scores are comparable within one problem domain only.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

#: Dimension -> weight.
DIMENSIONS: dict[str, float] = {"D1": 0.4, "D2": 0.2, "D3": 0.2, "D4": 0.1, "D5": 0.1}
#: Version of the thresholds below; changes with them.
THRESHOLDS_VERSION = "1"
#: D1, best grade first: (largest MAPE, smallest rank correlation, largest single error), as fractions.
D1_THRESHOLDS: tuple[tuple[int, float, float, float], ...] = (
    (3, 0.05, 0.95, 0.25),
    (2, 0.15, 0.85, 0.60),
    (1, 0.50, 0.50, float("inf")),
)
#: F3: an error beyond this share of a known baseline is silent inaccuracy.
SILENT_INACCURACY = 0.5


class MtapScore(NamedTuple):
    """Weighted score and its bounds: equal where every dimension has a grade, apart by what the missing ones could add."""

    low: float
    high: float

    @property
    def known(self) -> bool:
        """Whether the score is a number, not an interval."""
        return self.low == self.high


def score_dimension_1(mape: float, spearman: float, max_ape: float, *, silent_failures: int = 0) -> int:
    """Grade of prediction fidelity from errors as fractions; each silent inaccuracy (F3) on record caps it at Low.

    Raises `ValueError` for errors below zero or a correlation outside [-1, 1].
    """
    if not (mape >= 0 and max_ape >= 0 and -1 <= spearman <= 1):
        raise ValueError(
            f"mape {mape!r}, spearman {spearman!r}, max_ape {max_ape!r}: expected >= 0, within [-1, 1], >= 0"
        )
    for grade, most_mape, least_rank, most_single in D1_THRESHOLDS:
        if mape <= most_mape and spearman >= least_rank and max_ape <= most_single:
            return min(grade, 1) if silent_failures else grade
    return 0


def weighted_score(grades: Mapping[str, int | None], weights: Mapping[str, float] | None = None) -> MtapScore:
    """S(t) from a grade per dimension; None or an absent dimension was not measured and gives an interval.

    Raises `ValueError` for an unknown dimension or a grade outside 0..3.
    """
    weights = DIMENSIONS if weights is None else weights
    for name, grade in grades.items():
        if name not in DIMENSIONS:
            raise ValueError(f"grades.{name}: unknown dimension; expected one of {', '.join(DIMENSIONS)}")
        if grade is not None and grade not in (0, 1, 2, 3):
            raise ValueError(f"grades.{name}: {grade!r}; expected 0, 1, 2, 3 or None")
    low = sum(weights[name] * (grades.get(name) or 0) for name in DIMENSIONS)
    missing = sum(weights[name] * 3 for name in DIMENSIONS if grades.get(name) is None)
    return MtapScore(round(low, 9), round(low + missing, 9))


def rank_stability(
    table: Mapping[str, Mapping[str, int]], *, spread: float = 0.25, draws: int = 2000, seed: int = 0
) -> dict[str, float]:
    """How often each tool keeps its rank when each weight is perturbed by up to `spread` (relative, uniform) and renormalised.

    `table`: tool -> complete grades. Ties share the better rank. Deterministic by `seed`. Returns tool -> share in [0, 1].
    """
    tools = list(table)
    grades = np.array([[table[tool][name] for name in DIMENSIONS] for tool in tools], dtype=float)
    base = np.array(list(DIMENSIONS.values()))
    rng = np.random.default_rng(seed)
    weights = base * rng.uniform(1.0 - spread, 1.0 + spread, size=(draws, base.size))
    weights /= weights.sum(axis=1, keepdims=True)
    drawn = _ranks(weights @ grades.T)
    kept = (drawn == _ranks((base @ grades.T)[None])).mean(axis=0)
    return dict(zip(tools, kept.tolist()))


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Rank per row, 0 is best; scores equal to 1e-9 share the better rank."""
    rounded = np.round(scores, 9)
    return (rounded[:, None, :] > rounded[:, :, None]).sum(axis=2)


def ranking(scores: Mapping[str, MtapScore]) -> Sequence[str]:
    """Tools by the middle of their score, best first; equal scores keep their order."""
    return sorted(scores, key=lambda tool: -(scores[tool].low + scores[tool].high) / 2.0)
