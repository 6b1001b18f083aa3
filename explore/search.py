"""One call for every search: gradient search and its baselines, with the same accounting of what was spent."""

import numpy as np

from explore.evolution import evolve
from explore.gradient_search import Settings, gradient_search, settings_for
from explore.local_search import local_search
from explore.problem import Problem
from explore.samples import samples
from explore.search_result import Archive, SearchResult
from hardware.paths import nearest

METHODS = ("gradient", "sobol", "random", "nsga2", "cmaes")
#: Points evaluated at once.
_BATCH = 2**15
#: Share of a "sobol" search's budget that refines the best points, and how many of them.
_LOCAL_SHARE, _REFINED = 0.5, 8


def search(
    problem: Problem,
    *,
    method: str = "gradient",
    budget: int = 20_000,
    seed: int = 0,
    settings: Settings | None = None,
) -> SearchResult:
    """The best design of `problem` by its first objective under its constraints, for about `budget` exact evaluations.

    `method`: "gradient", "sobol" (a Sobol sequence, then local search from its best points), "random", "nsga2" and "cmaes"
    (extra `search`). An evaluation with a derivative counts as `GRADIENT_COST`. The result holds the nearest miss where
    nothing is feasible (`require_feasible` says so).
    """
    if method not in METHODS:
        raise ValueError(f"method: unknown search {method!r}{nearest(method, METHODS)} (known: {', '.join(METHODS)})")
    if budget < 100:
        raise ValueError(f"budget: {budget!r}; expected at least 100 evaluations")
    archive = Archive(problem)
    if method == "gradient":
        gradient_search(problem, archive, settings or settings_for(budget), seed)
    elif method in ("nsga2", "cmaes"):
        evolve(problem, archive, method, budget, seed)
    else:
        share = _LOCAL_SHARE if method == "sobol" else 0.0
        visited = int(budget * (1.0 - share))
        sequence = samples(problem.space, method, visited, seed)
        for start in range(0, visited, _BATCH):
            archive.evaluate(sequence.unit(start, min(start + _BATCH, visited)))
        if share:
            best = archive.unit[:_REFINED]
            local_search(archive, best, budget=budget - visited, generator=np.random.default_rng(seed))
    return archive.result(method)
