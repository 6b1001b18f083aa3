"""What a search found, and what it cost: designs in order of merit, and the best loss over evaluations and time."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from explore.problem import Evaluator, Problem
from explore.space import Columns

#: Exact evaluations that one evaluation with a derivative counts as in a budget.
GRADIENT_COST = 5
#: Batches of a search before its problem is compiled.
_UNCOMPILED = 64
#: Merit of designs that violate a constraint begins here (any feasible loss is below it).
_VIOLATED = 1e30


def merit(problem: Problem, metrics: Mapping[str, np.ndarray]) -> np.ndarray:
    """One number [points] to minimise: the first objective where all constraints hold; beyond any such the sum of relative
    violations; infinite where there is no answer."""
    loss = np.asarray(problem.losses(metrics)[0], dtype=float)
    beyond = np.zeros(np.shape(loss))
    for one in problem.constraints:
        beyond = beyond + np.maximum(np.asarray(one.violation(metrics), dtype=float), 0.0)
    value = np.where(beyond > 0.0, _VIOLATED * (1.0 + np.minimum(beyond, 1e6)), loss)
    answered = np.isfinite(loss) & np.isfinite(beyond)
    return np.where(answered, value, np.inf)


def is_feasible(value: Any) -> Any:
    """Whether a merit is that of a design that meets all constraints."""
    return np.asarray(value) < _VIOLATED


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """`designs`: the best distinct designs, values and metrics, best first; `history`: columns evaluations (a derivative counts
    as `GRADIENT_COST`), seconds and best, the first objective of the best feasible design so far (NaN before there is one)."""

    problem: Problem
    method: str
    designs: pd.DataFrame
    history: pd.DataFrame
    evaluations: int
    gradients: int
    seconds: float

    @property
    def best(self) -> pd.Series:
        """The best design."""
        return self.designs.iloc[0]

    @property
    def cost(self) -> int:
        """Exact evaluations and those with a derivative, in exact ones."""
        return self.evaluations + GRADIENT_COST * self.gradients

    def binding(self, within: float = 0.01) -> tuple[str, ...]:
        """What holds the best design: constraints it misses or meets with less than `within` (relative) to spare, and numbers at
        an end of their range."""
        best = {name: self.designs[name].to_numpy()[0] for name in self.designs.columns}
        found = [
            f"{one} ({best[one.metric]:.5g})"
            for one in self.problem.constraints
            if float(np.asarray(one.violation(best))) > -within
        ]
        for name, p in self.problem.space.parameters.items():
            if p.kind == "categorical" or not p.high > p.low:
                continue
            at = float(p.to_unit(np.asarray(float(best[name]))))
            whole = p.kind == "integer"
            if best[name] in (p.low, p.high) if whole else min(at, 1.0 - at) < 0.5 * within:
                found.append(f"{name} {'>=' if at < 0.5 else '<='} {p.low if at < 0.5 else p.high:g}, its range")
        return tuple(found)

    def require_feasible(self) -> "SearchResult":
        """Self, or `ValueError` naming the constraints that the best design misses, with by how much."""
        best = {name: self.designs[name].to_numpy()[0] for name in self.designs.columns}
        if not np.isfinite(best[self.problem.objectives[0]]):
            raise ValueError("no design has an answer")
        missed = [
            f"{one} (nearest miss: {best[one.metric]:.4g})"
            for one in self.problem.constraints
            if not bool(one.met(best))
        ]
        if missed:
            raise ValueError(f"no design found that meets {' and '.join(missed)}")
        return self


class BudgetSpent(Exception):
    """What was asked next is beyond the budget of a search."""


class Archive:
    """Everything a search has evaluated, of which the best `keep` designs are kept, and its history. With a `budget`, what
    would exceed it raises `BudgetSpent`."""

    def __init__(self, problem: Problem, budget: float = np.inf, keep: int = 64) -> None:
        self.problem = problem
        self.budget = budget
        self.evaluator = Evaluator(problem, _UNCOMPILED)
        self.keep = keep
        self.unit = np.zeros((0, len(problem.space.names)))
        self.merits = np.zeros(0)
        self._table: dict[str, np.ndarray] = {}
        self._begun = time.monotonic()
        self._history: list[tuple[float, float, float]] = []

    @property
    def cost(self) -> int:
        """Evaluations so far, a derivative counting as `GRADIENT_COST`."""
        return self.evaluator.evaluations + GRADIENT_COST * self.evaluator.gradients

    @property
    def left(self) -> float:
        """Evaluations left of the budget."""
        return self.budget - self.cost

    def evaluate(self, unit: np.ndarray) -> np.ndarray:
        """Merits [points] of the designs at `unit` [points, parameters], which are remembered; as many as the budget allows."""
        if len(unit) > self.left:
            if self.left >= 1:
                self._evaluated(unit[: int(self.left)])
            raise BudgetSpent
        return self._evaluated(unit)

    def _evaluated(self, unit: np.ndarray) -> np.ndarray:
        columns: Columns = self.problem.space.of_unit(unit)
        metrics = self.evaluator(columns)
        merits = merit(self.problem, metrics)
        table = {**columns, **metrics}
        order = np.argsort(merits, kind="stable")[: self.keep]
        kept_unit = np.concatenate([self.unit, unit[order]])
        kept_merits = np.concatenate([self.merits, merits[order]])
        joined = {
            n: np.concatenate([self._table[n], v[order]]) if n in self._table else v[order] for n, v in table.items()
        }
        best = self._distinct(joined, kept_merits)
        self.unit, self.merits = kept_unit[best], kept_merits[best]
        self._table = {name: values[best] for name, values in joined.items()}
        self._note()
        return merits

    def count_gradients(self, points: int) -> None:
        """Account for `points` evaluations with a derivative that are about to be made."""
        if GRADIENT_COST * points > self.left:
            raise BudgetSpent
        self.evaluator.gradients += points
        self._note()

    def result(self, method: str) -> SearchResult:
        """The result so far."""
        designs = pd.DataFrame(self.problem.space.labels(self._table))
        history = pd.DataFrame(self._history, columns=["evaluations", "seconds", "best"])
        return SearchResult(
            problem=self.problem, method=method, designs=designs, history=history, evaluations=self.evaluator.evaluations,
            gradients=self.evaluator.gradients, seconds=time.monotonic() - self._begun,
        )  # fmt: skip

    def _distinct(self, table: dict[str, np.ndarray], merits: np.ndarray) -> np.ndarray:
        order = np.argsort(merits, kind="stable")
        names = self.problem.space.names
        values = np.stack([np.asarray(table[name], dtype=float)[order] for name in names], axis=-1)
        _, first = np.unique(values, axis=0, return_index=True)
        return order[np.sort(first)][: self.keep]

    def _note(self) -> None:
        best = self.merits[0] if len(self.merits) and is_feasible(self.merits[0]) else np.nan
        if len(self.problem.minimise) == 0:
            best = -best
        self._history.append((float(self.cost), time.monotonic() - self._begun, float(best)))
