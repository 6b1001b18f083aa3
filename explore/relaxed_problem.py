"""The relaxed problem: whole numbers are any numbers, so that there are derivatives; and SLSQP on it.

Every function here is of designs in the unit cube. Options (categorical parameters) are those of the design and do not move.
Method: Kraft, "A software package for sequential quadratic programming" (SLSQP), 1988.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import minimize

from explore.elasticity import QUICK
from explore.problem import Problem
from explore.search_result import Archive, BudgetSpent
from roofline.relax import Rounding, straight_through

#: Relative violation below which a design of the relaxed problem counts as feasible.
_TOLERANCE = 1e-4
#: Relative margin that the relaxed problem keeps from every limit, so that what it finds holds exactly.
_MARGIN = 2e-4
#: SLSQP: rounds, half the side of the box each may move in, iterations per round.
_BOXES, _HALF_BOX, _ITERATIONS = 4, 0.3, 12


class Descended(NamedTuple):
    """A design of the relaxed problem, and its merit there: violation (0 within `_TOLERANCE`), then ln of the objective."""

    unit: np.ndarray
    merit: tuple[float, float]


class Relaxed:
    """The problem with whole numbers as any numbers, as functions of the unit cube with derivatives."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.parameters = list(problem.space.parameters.items())
        #: Positions of the parameters that are no options.
        self.numbers = [i for i, (_, p) in enumerate(self.parameters) if p.kind != "categorical"]
        self._pointwise: dict[tuple[int, ...], Callable[..., Any]] = {}

    def terms(self, unit: Any, options: tuple[int, ...], rounding: Rounding) -> tuple[Any, Any]:
        """(logarithm of the first objective, violations [constraints, points]) at `unit` [points, parameters]."""
        problem = self.problem
        columns, fixed = {}, iter(options)
        for i, (name, p) in enumerate(self.parameters):
            if p.static:
                columns[name] = next(fixed)
            elif p.kind == "categorical":
                columns[name] = p.of_unit(jax.lax.stop_gradient(unit[:, i]))
            else:
                columns[name] = p.relaxed(unit[:, i])
        metrics = problem.at(problem.space.conditioned(columns), rounding)
        loss = problem.losses(metrics)[0]
        positive = loss if problem.minimise else -loss
        sign = 1.0 if problem.minimise else -1.0
        value = sign * jnp.log(jnp.maximum(positive, 1e-300))
        beyond = [jnp.broadcast_to(one.log_violation(metrics) + _MARGIN, value.shape) for one in problem.constraints]
        return jnp.broadcast_to(value, unit.shape[:1]), jnp.stack(beyond) if beyond else jnp.zeros((0, len(unit)))

    def stepper(self, options: tuple[int, ...], adam: optax.GradientTransformation) -> Callable[..., Any]:
        """(unit, optimiser state, multipliers, weight, temperature) -> the next unit and state, and violations where it was."""
        frozen = np.array([p.kind == "categorical" for _, p in self.parameters])

        def lagrangian(unit: Any, multipliers: Any, weight: Any, temperature: Any) -> tuple[Any, Any]:
            value, beyond = self.terms(unit, options, Rounding("smooth", temperature))
            pushed = jnp.maximum(0.0, multipliers + weight * jnp.clip(beyond, -10.0, 10.0))
            penalty = jnp.sum(pushed**2 - multipliers**2, axis=0) / (2.0 * weight)
            return jnp.sum(jnp.where(jnp.isfinite(value), value, 0.0) + penalty), beyond

        @jax.jit
        def step(unit: Any, state: Any, multipliers: Any, weight: Any, temperature: Any) -> tuple[Any, Any, Any]:
            slope, beyond = jax.grad(lagrangian, has_aux=True)(unit, multipliers, weight, temperature)
            slope = jnp.where(jnp.isfinite(slope), slope, 0.0) * ~frozen
            change, state = adam.update(slope, state)
            return jnp.clip(unit + change, 0.0, 1.0), state, beyond

        return step

    def pointwise(self, options: tuple[int, ...]) -> Callable[..., Any]:
        """unit [parameters] -> objective and violations of one design, [1 + constraints], and their Jacobian."""
        if options not in self._pointwise:

            def one(unit: Any) -> Any:
                value, beyond = self.terms(unit[None], options, straight_through)
                return jnp.concatenate([value, beyond[:, 0]])

            def both(unit: Any) -> tuple[Any, Any]:
                return jax.vmap(lambda way: jax.jvp(one, (unit,), (way,)), out_axes=(None, -1))(jnp.eye(len(unit)))

            self._pointwise[options] = jax.jit(both, compiler_options=QUICK)
        return self._pointwise[options]


def options_of(problem: Problem, unit: np.ndarray, *, static: bool) -> np.ndarray:
    """Values [designs, options] of the static options at `unit` (as indices), or of all categorical parameters."""
    parameters = enumerate(problem.space.parameters.values())
    chosen = [p.of_unit(unit[:, i]) for i, p in parameters if (p.static if static else p.kind == "categorical")]
    return np.stack(chosen, axis=-1) if chosen else np.zeros((len(unit), 0), dtype=int)


def static_options(problem: Problem, unit: np.ndarray) -> tuple[int, ...]:
    return tuple(int(o) for o in options_of(problem, unit[None], static=True)[0])


def slsqp(relaxed: Relaxed, archive: Archive, unit: np.ndarray, free: list[int], last: float) -> Descended:
    """The best that rounds of SLSQP on the numbers `free` come by, each within a box around the design, as long as they help and
    fewer than `last` derivatives are spent."""
    both = relaxed.pointwise(static_options(relaxed.problem, unit))
    cache: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
    best = Descended(unit, (np.inf, np.inf))

    def at(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal best
        x = np.clip(x, 0.0, 1.0)
        key = x.tobytes()
        if key not in cache:
            if archive.evaluator.gradients >= last:
                raise BudgetSpent
            archive.count_gradients(1)
            whole = unit.copy()
            whole[free] = x
            values, slopes = both(jnp.asarray(whole))
            # SLSQP reads its arrays as contiguous ones, whatever their strides say.
            slopes = np.ascontiguousarray(np.nan_to_num(np.asarray(slopes))[:, free])
            cache[key] = np.nan_to_num(np.asarray(values), nan=1e3), slopes
            best = min(best, Descended(whole, _merit(cache[key][0])), key=lambda found: found.merit)
        return cache[key]

    limits = [{"type": "ineq", "fun": lambda x: -at(x)[0][1:], "jac": lambda x: -at(x)[1][1:]}]
    try:
        before = _merit(at(unit[free])[0])
        for _ in range(_BOXES if free else 0):
            box = [(max(0.0, x - _HALF_BOX), min(1.0, x + _HALF_BOX)) for x in best.unit[free]]
            minimize(
                lambda x: at(x)[0][0], best.unit[free], jac=lambda x: at(x)[1][0], method="SLSQP", bounds=box,
                constraints=limits if relaxed.problem.constraints else (), options={"maxiter": _ITERATIONS, "ftol": 1e-6},
            )  # fmt: skip
            after = best.merit
            if after >= before or (before[0] == after[0] and before[1] - after[1] < 1e-4):
                break
            before = after
    except BudgetSpent:
        pass
    return best


def _merit(values: np.ndarray) -> tuple[float, float]:
    """Merit of a design from its objective and violations [1 + constraints]."""
    beyond = float(np.maximum(values[1:], 0.0).sum())
    return (0.0 if beyond < _TOLERANCE else beyond, float(values[0]))
