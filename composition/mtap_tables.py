"""Scoring a tool from tables: its predictions beside measurements, its failures, and what it takes to install and extend it.

Thresholds of every dimension are declared here and versioned (`THRESHOLDS_VERSION` of `composition.mtap`): the protocol gives
weights and grades, not limits. A dimension without evidence stays open, and the score is an interval.

    D1  MAPE, rank correlation, largest error (see `score_dimension_1`); capped at Low where more than 5 % of the answers are
        silently off by more than half (F3)
    D2  mean gamma of a level over the sum of its parts
    D3  MAPE on hardware or workloads that no fit had seen
    D4  minutes from a fresh clone to the first valid output; F1 fails it, each F2 lowers it by one
    D5  lines of description for a new device
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np

from composition.argument_checks import check_number
from composition.mtap import (
    DIMENSIONS,
    SILENT_INACCURACY,
    MtapScore,
    score_dimension_1,
    weighted_score,
)

#: Largest value for the grades 3, 2, 1 of the dimensions that one number decides.
LIMITS: dict[str, tuple[float, float, float]] = {
    "D2": (0.05, 0.15, 0.50),
    "D3": (0.10, 0.25, 0.50),
    "D4": (10.0, 60.0, 1440.0),
    "D5": (20.0, 200.0, 2000.0),
}
#: More silent inaccuracies than this share of the answers cap D1.
TOLERATED_SILENT = 0.05
FAILURES = ("F1", "F2", "F3", "F4")


@dataclass(frozen=True, kw_only=True)
class ToolFacts:
    """What is known of a tool beside its predictions. None: not measured. `failures`: "F1" build, "F2" run time or hang, "F3"
    silent inaccuracy, "F4" scope mismatch (recorded, excluded). `gamma`: mean gap of a composed level over its parts;
    `left_out_mape`: on what no fit had seen; `minutes`: clone to first output; `device_lines`: description of a new device.
    """

    gamma: float | None = None
    left_out_mape: float | None = None
    minutes: float | None = None
    device_lines: float | None = None
    failures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for code in self.failures:
            if code not in FAILURES:
                raise ValueError(f"failures: {code!r}; expected some of {', '.join(FAILURES)}")
        for name in ("gamma", "left_out_mape", "minutes", "device_lines"):
            if (value := getattr(self, name)) is not None:
                check_number(name, value, least=0.0)


@dataclass(frozen=True, kw_only=True)
class ToolScore:
    """Grades (None: no evidence), the weighted score and the evidence behind each grade."""

    tool: str
    domain: str
    grades: Mapping[str, int | None]
    score: MtapScore
    evidence: Mapping[str, str] = field(default_factory=dict)


def score_tool(tool: str, domain: str, predictions: Any = None, facts: ToolFacts | None = None) -> ToolScore:
    """Score `tool` in one problem `domain`.

    `predictions`: a frame with columns predicted and measured (same unit), or None. Rows without a prediction are F4 (scope):
    counted in the evidence, excluded from the errors. `ValueError` for missing columns.
    """
    facts = facts or ToolFacts()
    grades: dict[str, int | None] = dict.fromkeys(DIMENSIONS)
    evidence: dict[str, str] = {}
    if predictions is not None:
        grades["D1"], evidence["D1"] = _fidelity(predictions, facts)
    numbers = {"D2": facts.gamma, "D3": facts.left_out_mape, "D4": facts.minutes, "D5": facts.device_lines}
    wording = {
        "D2": "mean gamma {:.1%}",
        "D3": "MAPE {:.1%} left out",
        "D4": "{:.0f} min to a first output",
        "D5": "{:.0f} lines per device",
    }
    for name, value in numbers.items():
        if value is not None:
            grades[name] = _graded(value, LIMITS[name])
            evidence[name] = wording[name].format(value)
    if "F1" in facts.failures:
        grades["D4"] = 0
    elif grades["D4"] is not None:
        grades["D4"] = max(grades["D4"] - facts.failures.count("F2"), 0)
    return ToolScore(tool=tool, domain=domain, grades=grades, score=weighted_score(grades), evidence=evidence)


def _fidelity(predictions: Any, facts: ToolFacts) -> tuple[int | None, str]:
    for name in ("predicted", "measured"):
        if name not in predictions:
            raise ValueError(f"predictions.{name}: missing column")
    guess, truth = (predictions[name].to_numpy(float) for name in ("predicted", "measured"))
    known = np.isfinite(guess) & np.isfinite(truth) & (guess > 0) & (truth > 0)
    if not known.any():
        return None, f"0 of {len(guess)} answered"
    ape = abs(guess[known] - truth[known]) / truth[known]
    rank = _rank_correlation(guess[known], truth[known])
    silent = float(np.mean(ape > SILENT_INACCURACY))
    capped = int(silent > TOLERATED_SILENT) + facts.failures.count("F3")
    text = f"{known.sum()} of {len(guess)} answered: MAPE {ape.mean():.1%}, rank {rank:.2f}, max {ape.max():.0%}"
    if silent:
        text += f", {silent:.1%} off by more than half"
    return score_dimension_1(float(ape.mean()), rank, float(ape.max()), silent_failures=capped), text


def _rank_correlation(left: np.ndarray, right: np.ndarray) -> float:
    """Spearman; 1 for fewer than three points, which have no order worth grading."""
    if left.size < 3:
        return 1.0
    ranks = [np.unique(x, return_inverse=True)[1].astype(float) for x in (left, right)]
    if any(np.ptp(r) == 0.0 for r in ranks):
        return 0.0
    return float(np.clip(np.corrcoef(ranks[0], ranks[1])[0, 1], -1.0, 1.0))


def _graded(value: float, limits: Sequence[float]) -> int:
    return next((grade for grade, limit in zip((3, 2, 1), limits) if value <= limit), 0)


def consistent_grades(score: MtapScore) -> list[dict[str, int]]:
    """All complete grades whose weighted score is `score` (a number): what a published total leaves open."""
    names = list(DIMENSIONS)
    found = (dict(zip(names, grades)) for grades in product(range(4), repeat=len(names)))
    return [grades for grades in found if abs(weighted_score(grades).low - score.low) < 1e-9]


def grade_ranges(candidates: Iterable[Mapping[str, int]]) -> dict[str, tuple[int, int]]:
    """Lowest and highest grade per dimension among `candidates` (not empty)."""
    listed = list(candidates)
    return {name: (min(c[name] for c in listed), max(c[name] for c in listed)) for name in DIMENSIONS}


#: The survey's own scores (its Table 4): numbers, and one tool whose D1 could not be measured.
SURVEY_SCORES: dict[str, MtapScore] = {
    "VIDUR": MtapScore(2.5, 2.5),
    "Timeloop": MtapScore(2.5, 2.5),
    "ASTRA-sim": MtapScore(2.2, 2.2),
    "NeuSight": MtapScore(2.0, 2.0),
    "nn-Meter": MtapScore(0.0, 1.2),
}
