"""What would help most: elasticities of any metric with respect to any parameters.

    elasticity = d ln metric / d ln parameter

An elasticity of -0.6 for bandwidth means: 1 % more bandwidth, 0.6 % less time. Local derivatives are exact but blind to
steps (one more core changes nothing until a wave is saved), so beside them stand the secants over a step of the parameter up
and down, and `low` and `high` span all three: a wide span says that the answer depends on how far one goes.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from explore.problem import Problem
from hardware.paths import unknown
from roofline.relax import Rounding, exact, straight_through

#: Relative step of the secants, and of the differences that stand for derivatives.
STEP, _TINY = 0.1, 1e-6
#: Designs whose straight-through derivatives are not worth a compilation.
FEW = 8
#: Options of the compiler for what runs once: hardly any optimisation, a third of the time to compile.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def elasticities(
    problem: Problem,
    at: Mapping[str, float] | pd.Series | pd.DataFrame,
    *,
    metrics: Sequence[str] | None = None,
    step: float = STEP,
    rounding: Rounding = straight_through,
    compiled: bool | None = None,
) -> pd.DataFrame:
    """Elasticities of `metrics` (default: the objectives) by every number of the space at the design `at` (values by
    parameter; static options by label), or at every row of a frame of designs (column design then holds its index).

    Columns metric, parameter, value, elasticity, up, down, low, high; rows of a metric in order of the largest effect.
    Derivatives with `rounding` (straight-through: the trend across steps; exact: away from them). Secants with exact
    arithmetic, whole numbers by at least one. `compiled` False: straight-through derivatives as central differences with
    what was rounded held at the design, in NumPy, which takes no compiler (default: up to `FEW` designs).
    """
    if not 0.0 < step < 1.0:
        raise ValueError(f"step: {step!r}; expected a relative step in (0, 1)")
    if not problem.traced:
        raise ValueError("elasticities: need derivatives, and this problem is not traced")
    names = tuple(metrics) if metrics is not None else problem.objectives
    known = problem.metric_names
    for name in names:
        if name not in known:
            raise unknown("metric: no", name, known)
    if not isinstance(at, pd.DataFrame):
        base, fixed = _design(problem, at)
        columns = {name: np.array([value]) for name, value in base.items()}
        return _table(problem, columns, fixed, names, step, rounding, compiled)[0]
    tables = []
    groups: dict[tuple[tuple[str, int], ...], list[tuple[object, dict[str, float]]]] = {}
    for label, row in at.iterrows():
        base, fixed = _design(problem, row)
        groups.setdefault(tuple(fixed.items()), []).append((label, base))
    for fixed, members in groups.items():
        columns = {name: np.array([base[name] for _, base in members]) for name in members[0][1]}
        found = _table(problem, columns, dict(fixed), names, step, rounding, compiled)
        tables += [frame.assign(design=label) for (label, _), frame in zip(members, found)]
    return pd.concat(tables, ignore_index=True)


def _table(
    problem: Problem, base: dict[str, np.ndarray], fixed: dict[str, int], names: Sequence[str], step: float,
    rounding: Rounding, compiled: bool | None,
) -> list[pd.DataFrame]:  # fmt: skip
    """One table per design [designs] of `base`."""
    numbers, designs = list(base), len(next(iter(base.values())))

    def logarithms(change: jax.Array, values: jax.Array) -> jax.Array:
        """ln of the metrics [metrics] where ln of the numbers `values` [numbers] is changed: by 0, they are what they were to
        the last bit (4 devices are not 4.0000001)."""
        columns = {name: (values[i] * jnp.exp(change[i]))[None] for i, name in enumerate(numbers)}
        found = problem.at({**fixed, **columns}, rounding)
        return jnp.stack([jnp.log(jnp.abs(jnp.ravel(jnp.asarray(found[name], float))[0])) for name in names])

    if compiled is None:
        compiled = rounding.mode != "straight_through" or designs > FEW
    if compiled:
        here = np.stack([base[name] for name in numbers], axis=-1)
        slopes = jax.jit(jax.vmap(jax.jacfwd(logarithms)), compiler_options=QUICK)(np.zeros_like(here), here)
    else:
        slopes = np.stack(
            [_differences(problem, {n: v[i] for n, v in base.items()}, fixed, names) for i in range(designs)]
        )
    moved = {name: np.repeat(base[name][:, None], 1 + 2 * len(numbers), axis=1) for name in numbers}
    for i, name in enumerate(numbers):
        up, down = base[name] * (1.0 + step), base[name] * (1.0 - step)
        if problem.space.parameters[name].kind == "integer":
            up, down = np.maximum(np.floor(up), base[name] + 1.0), np.minimum(np.ceil(down), base[name] - 1.0)
        moved[name][:, 1 + 2 * i], moved[name][:, 2 + 2 * i] = up, np.where(down > 0.0, down, np.nan)
    exact_values = problem.at({**fixed, **{name: values.ravel() for name, values in moved.items()}}, exact)
    tables = []
    for design in range(designs):
        rows = []
        for row, metric in enumerate(names):
            values = np.broadcast_to(np.asarray(exact_values[metric], float), (designs * (1 + 2 * len(numbers)),))
            with np.errstate(invalid="ignore", divide="ignore"):
                seen = np.log(np.abs(values)).reshape(designs, -1)[design]
            for i, name in enumerate(numbers):
                there = [moved[name][design, 1 + 2 * i + k] for k in (0, 1)]
                with np.errstate(invalid="ignore", divide="ignore"):
                    secants = [(seen[1 + 2 * i + k] - seen[0]) / np.log(there[k] / base[name][design]) for k in (0, 1)]
                local = float(slopes[design, row, i])
                span = [x for x in (local, *secants) if np.isfinite(x)]
                low, high = (min(span), max(span)) if span else (np.nan, np.nan)
                rows.append((metric, name, base[name][design], local, *secants, low, high))
        columns = ["metric", "parameter", "value", "elasticity", "up", "down", "low", "high"]
        frame = pd.DataFrame(rows, columns=columns)
        size = frame["elasticity"].abs().fillna(-1.0).to_numpy()
        order = np.lexsort((-size, np.repeat(np.arange(len(names)), len(numbers))))
        tables.append(frame.iloc[order].reset_index(drop=True))
    return tables


def _differences(problem: Problem, base: dict[str, float], fixed: dict[str, int], metrics: Sequence[str]) -> np.ndarray:
    """Straight-through derivatives [metrics, numbers] of the logarithms at one design."""
    numbers = list(base)
    held = _Held("straight_through")
    problem.at({**fixed, **{name: np.array([value]) for name, value in base.items()}}, held)
    factor = np.ones((len(numbers), 2, len(numbers)))
    which = np.arange(len(numbers))
    factor[which, 0, which], factor[which, 1, which] = np.exp(_TINY), np.exp(-_TINY)
    moved = {name: value * factor[i].ravel() for i, (name, value) in enumerate(base.items())}
    held.replay()
    found = problem.at({**fixed, **moved}, held)
    size = 2 * len(numbers)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = [np.log(np.abs(np.broadcast_to(np.asarray(found[m], float), (size,)))) for m in metrics]
        ends = np.stack(values).reshape(len(metrics), 2, len(numbers))
        return (ends[:, 0] - ends[:, 1]) / (2.0 * _TINY)


class _Held(Rounding):
    """Straight-through rounding of a point and then of others near it: what each call rounded off at the first is what it rounds
    off at the others. Models call it in the same order whatever their numbers."""

    _off: list[Any]
    _next: Iterator[Any] | None

    def __init__(self, mode: str) -> None:
        super().__init__(mode)
        object.__setattr__(self, "_off", [])
        object.__setattr__(self, "_next", None)

    def ceil(self, x: Any) -> Any:
        if self._next is not None:
            return x + next(self._next)
        off = np.ceil(x) - x
        self._off.append(off)
        return x + off

    def replay(self) -> None:
        """From here on, points near the first."""
        object.__setattr__(self, "_next", iter(self._off))


def _design(problem: Problem, at: Mapping[str, float] | pd.Series) -> tuple[dict[str, float], dict[str, int]]:
    base, fixed = {}, {}
    for name, p in problem.space.parameters.items():
        if name not in at:
            raise ValueError(
                f"design: no value for {name!r}; expected one for each of {', '.join(problem.space.names)}"
            )
        value: Any = at[name]
        if p.static:
            if str(value) not in p.labels:
                raise ValueError(f"design: {name} {value!r}; expected one of {', '.join(p.labels)}")
            fixed[name] = p.labels.index(str(value))
        else:
            base[name] = float(value)
            if not base[name] > 0.0:
                raise ValueError(f"design: {name} {value!r}; an elasticity needs a positive value")
    return base, fixed
