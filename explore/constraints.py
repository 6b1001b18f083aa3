"""Constraints on metrics: `area_mm2 <= 814`. Which of them no design meets, and which two exclude each other.

A violation is relative, so that constraints in different units compare:  metric / limit - 1 for "<=", 1 - metric / limit for
">=" (differences where the limit is 0). Positive means violated.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from workloads.numeric import Array, namespace

_FORM = re.compile(r"^\s*(<=|>=|<|>)\s*([-+0-9.eE_]+)\s*$")


@dataclass(frozen=True)
class Constraint:
    """`metric` at most (`upper`) or at least `limit`."""

    metric: str
    limit: float
    upper: bool = True

    def __str__(self) -> str:
        return f"{self.metric} {'<=' if self.upper else '>='} {self.limit:g}"

    def violation(self, metrics: Mapping[str, Array]) -> Array:
        """How far beyond the limit, relative; at most 0 where met, NaN where the metric is."""
        scale = abs(self.limit) or 1.0
        excess = (metrics[self.metric] - self.limit) / scale
        return excess if self.upper else -excess

    def log_violation(self, metrics: Mapping[str, Array]) -> Array:
        """`violation` on a logarithmic scale where limit and metric are positive: what a search descends."""
        value = metrics[self.metric]
        if not self.limit > 0.0:
            return self.violation(metrics)
        xp = namespace(value)
        ratio = xp.log(xp.maximum(value, 1e-12 * self.limit) / self.limit)
        return ratio if self.upper else -ratio

    def met(self, metrics: Mapping[str, Array]) -> Array:
        """Whether it holds (not where the metric is NaN)."""
        value = metrics[self.metric]
        xp = namespace(value)
        return xp.asarray(value <= self.limit if self.upper else value >= self.limit)


def constraint(metric: str, text: str) -> Constraint:
    """A constraint from text such as "<= 814"."""
    match = _FORM.match(text) if isinstance(text, str) else None
    try:
        limit = float(match.group(2)) if match else float("nan")
    except ValueError:
        limit = float("nan")
    if match is None or not np.isfinite(limit):
        raise ValueError(f'constraint {metric}: {text!r}; expected "<= number" or ">= number"')
    return Constraint(metric, limit, match.group(1).startswith("<"))


def check_consistent(constraints: Sequence[Constraint]) -> None:
    """`ValueError` naming two constraints on one metric that leave nothing between them."""
    for first, second in combinations(constraints, 2):
        if first.metric != second.metric or first.upper == second.upper:
            continue
        high, low = (first, second) if first.upper else (second, first)
        if low.limit > high.limit:
            raise ValueError(f"constraints contradict each other: {low} and {high}")


def conflict(constraints: Sequence[Constraint], met: np.ndarray) -> str:
    """Why no point is left, from counts `met` [constraints, constraints] of points that meet both of a pair (the diagonal: that
    meet one): the constraint nothing meets, or the two that exclude each other."""
    for i, one in enumerate(constraints):
        if not met[i, i]:
            return f"no point meets {one}"
    for i, j in combinations(range(len(constraints)), 2):
        if not met[i, j]:
            return (
                f"{constraints[i]} and {constraints[j]} exclude each other: {met[i, i]} points meet the first, "
                f"{met[j, j]} the second, none both"
            )
    return "any two constraints can be met together, but not all of them"


def pair_counts(constraints: Sequence[Constraint], metrics: Mapping[str, np.ndarray]) -> np.ndarray:
    """Points that meet each pair of constraints, [constraints, constraints]."""
    met = np.stack([np.asarray(c.met(metrics)) for c in constraints]).astype(np.int64)
    return met @ met.T
