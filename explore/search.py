"""One call for every search: gradient search and its baselines, with the same accounting of what was spent."""

from contextlib import suppress
from typing import Protocol

import numpy as np

from explore.evolution import evolve
from explore.gradient_search import Settings, gradient_search, settings_for
from explore.local_search import local_search
from explore.problem import Problem
from explore.samples import samples
from explore.search_result import Archive, BudgetSpent, SearchResult
from hardware.paths import unknown


class OwnSearch(Protocol):
    """A problem that brings its own searches, because its designs are no points of a space (mappings of layers, say)."""

    def searched(self, method: str, budget: int, seed: int) -> SearchResult:
        """The result of one of its methods at a cost of at most `budget`; `ValueError` for a method that it does not have."""
        ...


METHODS = ("gradient", "sobol", "random", "nsga2", "cmaes")
#: Points evaluated at once.
_BATCH = 2**15
#: Share of a "sobol" search's budget that refines the best points, and how many of them.
_LOCAL_SHARE, _REFINED = 0.5, 8


def search(
    problem: Problem | OwnSearch,
    *,
    method: str = "gradient",
    budget: int = 20_000,
    seed: int = 0,
    settings: Settings | None = None,
) -> SearchResult:
    """The best design of `problem` by its first objective under its constraints, for at most `budget` exact evaluations.

    `method`: "gradient", "sobol" (a Sobol sequence, then local search from its best points), "random", "nsga2" and "cmaes"
    (extra `search`). An evaluation with a derivative counts as `GRADIENT_COST`. `settings` of a gradient search take the place
    of its budget. A problem with searches of its own runs those. The result holds the nearest miss where nothing is feasible
    (`require_feasible` says so).
    """
    if budget < 100:
        raise ValueError(f"budget: {budget!r}; expected at least 100 evaluations")
    if not isinstance(problem, Problem):
        return problem.searched(method, budget, seed)
    if method not in METHODS:
        raise unknown("method: unknown search", method, METHODS)
    if method == "gradient" and not problem.traced:
        others = ", ".join(name for name in METHODS if name != method)
        raise ValueError(
            f"method: 'gradient' needs derivatives, and this problem is not traced; expected one of {others}"
        )
    archive = Archive(problem, np.inf if settings is not None else budget)
    # The end of the budget is where methods that cannot count stop.
    with suppress(BudgetSpent):
        if method == "gradient":
            gradient_search(problem, archive, settings or settings_for(budget), seed)
        elif method in ("nsga2", "cmaes"):
            evolve(problem, archive, method, budget, seed)
        else:
            _sampled(archive, method, budget, seed)
    return archive.result(method)


def _sampled(archive: Archive, method: str, budget: int, seed: int) -> None:
    share = _LOCAL_SHARE if method == "sobol" else 0.0
    visited = int(budget * (1.0 - share))
    sequence = samples(archive.problem.space, method, visited, seed)
    for start in range(0, visited, _BATCH):
        archive.evaluate(sequence.unit(start, min(start + _BATCH, visited)))
    if share:
        best = archive.unit[:_REFINED]
        local_search(archive, best, budget=budget - visited, generator=np.random.default_rng(seed))
