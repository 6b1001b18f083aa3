"""What would help most: elasticities of any metric with respect to any parameters.

    elasticity = d ln metric / d ln parameter

An elasticity of -0.6 for bandwidth means: 1 % more bandwidth, 0.6 % less time. Local derivatives are exact but blind to
steps (one more core changes nothing until a wave is saved), so beside them stand the secants over a step of the parameter up
and down, and `low` and `high` span all three: a wide span says that the answer depends on how far one goes.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from explore.problem import Problem
from explore.space import Columns
from roofline.relax import Rounding, exact, straight_through
from workloads.numeric import Array

#: Relative step of the secants.
STEP = 0.1
#: Options of the compiler for what runs once: hardly any optimisation, a third of the time to compile.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def elasticities(
    problem: Problem,
    at: Mapping[str, float] | pd.Series,
    *,
    metrics: Sequence[str] | None = None,
    step: float = STEP,
    rounding: Rounding = straight_through,
) -> pd.DataFrame:
    """Elasticities of `metrics` (default: the objectives) by every number of the space at the design `at` (values by parameter;
    static options by label). Rows in order of the largest effect; columns metric, parameter, value, elasticity, up, down,
    low, high.

    Derivatives with `rounding` (straight-through: the trend across steps; exact: away from them). Secants with exact
    arithmetic, whole numbers by at least one.
    """
    if not 0.0 < step < 1.0:
        raise ValueError(f"step: {step!r}; expected a relative step in (0, 1)")
    names = tuple(metrics) if metrics is not None else problem.objectives
    base, fixed = _design(problem, at)
    numbers = [name for name in problem.space.names if name not in fixed]

    def values(columns: Columns, mode: Rounding) -> dict[str, Array]:
        found = problem.at({**fixed, **columns}, mode)
        unknown = [name for name in names if name not in found]
        if unknown:
            raise ValueError(f"metric: no {unknown[0]!r} (known: {', '.join(found)})")
        return {name: found[name] for name in names}

    def logarithms(logs: dict[str, jax.Array]) -> dict[str, jax.Array]:
        found = values({name: jnp.exp(x)[None] for name, x in logs.items()}, rounding)
        return {name: jnp.log(jnp.abs(jnp.ravel(value)[0])) for name, value in found.items()}

    slopes = jax.jit(jax.jacfwd(logarithms), compiler_options=QUICK)({name: jnp.log(base[name]) for name in numbers})
    points = {name: np.full(1 + 2 * len(numbers), base[name]) for name in numbers}
    for i, name in enumerate(numbers):
        whole = problem.space.parameters[name].kind == "integer"
        up, down = base[name] * (1.0 + step), base[name] * (1.0 - step)
        if whole:
            up, down = max(np.floor(up), base[name] + 1.0), min(np.ceil(down), base[name] - 1.0)
        points[name][1 + 2 * i], points[name][2 + 2 * i] = up, down if down > 0.0 else np.nan
    exact_values = values(points, exact)
    rows = []
    for metric in names:
        seen = np.log(np.abs(np.broadcast_to(exact_values[metric], (1 + 2 * len(numbers),))))
        for i, name in enumerate(numbers):
            with np.errstate(invalid="ignore", divide="ignore"):
                secants = [
                    (seen[1 + 2 * i + k] - seen[0]) / np.log(points[name][1 + 2 * i + k] / base[name]) for k in (0, 1)
                ]
            local = float(slopes[metric][name])
            span = [x for x in (local, *secants) if np.isfinite(x)]
            low, high = (min(span), max(span)) if span else (np.nan, np.nan)
            rows.append((metric, name, base[name], local, *secants, low, high))
    columns = ["metric", "parameter", "value", "elasticity", "up", "down", "low", "high"]
    frame = pd.DataFrame(rows, columns=columns)
    size = frame["elasticity"].abs().fillna(-1.0)
    order = np.lexsort((-size.to_numpy(), frame["metric"].map({name: i for i, name in enumerate(names)}).to_numpy()))
    return frame.iloc[order].reset_index(drop=True)


def _design(problem: Problem, at: Mapping[str, float] | pd.Series) -> tuple[dict[str, float], dict[str, int]]:
    base, fixed = {}, {}
    for name, p in problem.space.parameters.items():
        if name not in at:
            raise ValueError(
                f"design: no value for {name!r}; expected one for each of {', '.join(problem.space.names)}"
            )
        value = at[name]
        if p.static:
            if str(value) not in p.labels:
                raise ValueError(f"design: {name} {value!r}; expected one of {', '.join(p.labels)}")
            fixed[name] = p.labels.index(str(value))
        else:
            base[name] = float(value)
            if not base[name] > 0.0:
                raise ValueError(f"design: {name} {value!r}; an elasticity needs a positive value")
    return base, fixed
