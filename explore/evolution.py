"""Evolutionary baselines from pymoo (extra `search`): NSGA-II and CMA-ES on the unit cube, through the same evaluator."""

from typing import Any

import numpy as np

from explore.problem import Problem
from explore.search_result import Archive, is_feasible

POPULATION = 100


def evolve(problem: Problem, archive: Archive, method: str, budget: int, seed: int) -> None:
    """Run "nsga2" (constraints by domination) or "cmaes" (constraints by merit) for `budget` evaluations.

    Raises `ValueError` where pymoo is not installed.
    """
    try:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.algorithms.soo.nonconvex.cmaes import CMAES
        from pymoo.core.problem import Problem as PymooProblem
        from pymoo.optimize import minimize
    except ImportError:
        raise ValueError(f"method {method!r} needs pymoo; install the extra ridgeline[search]") from None

    width = len(problem.space.names)

    class Wrapped(PymooProblem):
        def __init__(self) -> None:
            super().__init__(n_var=width, n_obj=1, n_ieq_constr=1 if method == "nsga2" else 0, xl=0.0, xu=1.0)

        def _evaluate(self, x: Any, out: Any, *args: Any, **kwargs: Any) -> None:
            merits = archive.evaluate(np.atleast_2d(x))
            finite = np.where(np.isfinite(merits), merits, 1e40)
            out["F"] = finite[:, None] if method == "cmaes" else np.where(is_feasible(finite), finite, 0.0)[:, None]
            if method == "nsga2":
                out["G"] = np.where(is_feasible(finite), -1.0, np.log10(np.maximum(finite, 1.0)))[:, None]

    algorithm = NSGA2(pop_size=POPULATION) if method == "nsga2" else CMAES(restarts=8, popsize=4 * width)
    minimize(Wrapped(), algorithm, ("n_eval", budget), seed=seed, verbose=False)
