"""Gradient search: many starts at once down the derivative of a relaxed problem, then exact designs.

    minimise  ln f(x) + sum_j [ max(0, l_j + r g_j)^2 - l_j^2 ] / 2r        g_j relative violation of constraint j

by Adam in the unit cube (projected), with the models' rounding annealed from smooth to straight-through, multipliers l_j
raised every few steps (augmented Lagrangian). Whole numbers are relaxed; options are drawn with the starts and kept. The
best finishers go through SLSQP, in which whole numbers are fixed one after the other at the nearest value, and the outcome
through a short local search in exact arithmetic. Every design reported was evaluated exactly.

Method: Nocedal and Wright, "Numerical Optimization", ch. 17; Kingma and Ba, "Adam", ICLR 2015; Kraft, SLSQP, 1988.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import minimize

from explore.local_search import local_search
from explore.problem import Problem
from explore.samples import samples
from explore.search_result import GRADIENT_COST, Archive
from roofline.relax import Rounding, straight_through

#: Exact points looked at for each start.
_SCREENED = 16
#: Steps between updates of the multipliers.
_ROUND = 20
#: Relative violation below which a design of the relaxed problem counts as feasible.
_TOLERANCE = 1e-4


class Settings(NamedTuple):
    """`starts` and Adam `steps` of length `rate`; `temperatures`: first and last of the smooth rounding; `finishers`:
    designs taken on to SLSQP; `polish`: exact evaluations of the last local search."""

    starts: int = 48
    steps: int = 100
    rate: float = 0.04
    temperatures: tuple[float, float] = (0.2, 0.02)
    finishers: int = 6
    polish: int = 8000


def settings_for(budget: int) -> Settings:
    """Settings that spend about `budget` evaluations."""
    descent = 0.55 * budget / GRADIENT_COST
    steps = int(np.clip(np.sqrt(2.0 * descent), 10, 120))
    return Settings(starts=max(2, int(descent / steps)), steps=steps, polish=int(0.25 * budget))


def gradient_search(problem: Problem, archive: Archive, settings: Settings, seed: int = 0) -> None:
    """Search; `archive` remembers what was found."""
    relaxed = Relaxed(problem)
    generator = np.random.default_rng(seed)
    starts = _starts(problem, archive, settings, seed)
    finished = []
    for group in _by_options(problem, starts):
        finished.append(_descend(relaxed, archive, group, settings))
    finishers = np.concatenate(finished)
    merits = archive.evaluate(finishers)
    chosen = _different(finishers, merits, settings.finishers)
    polished = np.stack([_dive(relaxed, archive, design) for design in chosen])
    archive.evaluate(polished)
    best = archive.unit[: settings.finishers]
    local_search(archive, best, budget=settings.polish, generator=generator, step=0.02)


class Relaxed:
    """The problem with whole numbers as any numbers, as functions of the unit cube with derivatives."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.parameters = list(problem.space.parameters.items())
        self._steps: dict[tuple, Callable[..., Any]] = {}

    def terms(self, unit: Any, options: tuple[int, ...], rounding: Rounding, whole: bool) -> tuple[Any, Any]:
        """(logarithm of the first objective, violations [constraints, points]) at `unit` [points, parameters]."""
        problem = self.problem
        columns, fixed = {}, iter(options)
        for i, (name, p) in enumerate(self.parameters):
            if p.static:
                columns[name] = next(fixed)
            elif p.kind == "categorical":
                columns[name] = p.of_unit(jax.lax.stop_gradient(unit[:, i]))
            else:
                columns[name] = p.relaxed(unit[:, i], straight_through=whole)
        metrics = problem.at(problem.space.conditioned(columns), rounding)
        loss = problem.losses(metrics)[0]
        positive = loss if problem.minimise else -loss
        sign = 1.0 if problem.minimise else -1.0
        value = sign * jnp.log(jnp.maximum(positive, 1e-300))
        beyond = [jnp.broadcast_to(one.violation(metrics), value.shape) for one in problem.constraints]
        return jnp.broadcast_to(value, unit.shape[:1]), jnp.stack(beyond) if beyond else jnp.zeros((0, len(unit)))

    def stepper(self, options: tuple[int, ...], adam: optax.GradientTransformation) -> Callable[..., Any]:
        """(unit, optimiser state, multipliers, weight, temperature) -> the next unit and state, and violations where it was."""
        frozen = np.array([p.kind == "categorical" for _, p in self.parameters])

        def lagrangian(unit: Any, multipliers: Any, weight: Any, temperature: Any) -> tuple[Any, Any]:
            value, beyond = self.terms(unit, options, Rounding("smooth", temperature), whole=False)
            pushed = jnp.maximum(0.0, multipliers + weight * jnp.clip(beyond, -10.0, 10.0))
            penalty = jnp.sum(pushed**2 - multipliers**2, axis=0) / (2.0 * weight)
            return jnp.sum(jnp.where(jnp.isfinite(value), value, 0.0) + penalty), beyond

        @jax.jit
        def step(unit: Any, state: Any, multipliers: Any, weight: Any, temperature: Any) -> tuple[Any, Any, Any]:
            slope, beyond = jax.grad(lagrangian, has_aux=True)(unit, multipliers, weight, temperature)
            slope = jnp.where(jnp.isfinite(slope), slope, 0.0) * ~frozen
            change, state = adam.update(slope, state)
            return jnp.clip(optax.apply_updates(unit, change), 0.0, 1.0), state, beyond

        return step

    def pointwise(self, options: tuple[int, ...]) -> Callable[..., Any]:
        """unit [parameters] -> objective and violations of one design, [1 + constraints], and their Jacobian."""
        key = (*options, "one")
        if key not in self._steps:

            def one(unit: Any) -> Any:
                value, beyond = self.terms(unit[None], options, straight_through, whole=False)
                return jnp.concatenate([value, beyond[:, 0]])

            self._steps[key] = jax.jit(lambda unit: (one(unit), jax.jacrev(one)(unit)))
        return self._steps[key]


def _starts(problem: Problem, archive: Archive, settings: Settings, seed: int) -> np.ndarray:
    """The best of a Sobol sequence, not all of one place."""
    count = settings.starts * _SCREENED
    unit = samples(problem.space, "sobol", 1 << (count - 1).bit_length(), seed).unit(0, count)
    merits = archive.evaluate(unit)
    return unit[np.argsort(merits, kind="stable")[: settings.starts]]


def _by_options(problem: Problem, unit: np.ndarray) -> list[np.ndarray]:
    """Starts grouped by their static options, which are compiled apart."""
    columns = [i for i, p in enumerate(problem.space.parameters.values()) if p.static]
    if not columns:
        return [unit]
    chosen = _options(problem, unit)
    return [unit[np.all(chosen == row, axis=1)] for row in np.unique(chosen, axis=0)]


def _options(problem: Problem, unit: np.ndarray) -> np.ndarray:
    return np.stack(
        [p.of_unit(unit[:, i]) for i, p in enumerate(problem.space.parameters.values()) if p.static] or
        [np.zeros(len(unit), int)], axis=-1,
    )  # fmt: skip


def _static(problem: Problem, unit: np.ndarray) -> tuple[int, ...]:
    return tuple(int(o) for o in _options(problem, unit)[0]) if problem.space.static_names else ()


def _descend(relaxed: Relaxed, archive: Archive, unit: np.ndarray, settings: Settings) -> np.ndarray:
    """Finishers [starts, parameters] of Adam on the augmented Lagrangian."""
    schedule = optax.cosine_decay_schedule(settings.rate, settings.steps, alpha=0.05)
    adam = optax.adam(schedule, b1=0.8, b2=0.95)
    step = relaxed.stepper(_static(relaxed.problem, unit), adam)
    now = jnp.asarray(unit)
    state = adam.init(now)
    size = len(relaxed.problem.constraints)
    multipliers, weight = np.zeros((size, len(unit))), 1.0
    first, last = settings.temperatures
    for number in range(settings.steps):
        temperature = first * (last / first) ** (number / max(settings.steps - 1, 1))
        now, state, beyond = step(now, state, multipliers, weight, temperature)
        archive.count_gradients(len(unit))
        if size and number % _ROUND == _ROUND - 1:
            beyond = np.nan_to_num(np.asarray(beyond), nan=0.0)
            multipliers = np.maximum(0.0, multipliers + weight * np.clip(beyond, -1.0, 1.0))
            weight = min(2.0 * weight, 64.0)
    return np.asarray(now)


def _different(unit: np.ndarray, merits: np.ndarray, count: int) -> np.ndarray:
    """The best `count` designs that are not next to a better one."""
    chosen: list[int] = []
    for i in np.argsort(merits, kind="stable"):
        if all(np.max(np.abs(unit[i] - unit[j])) > 0.05 for j in chosen):
            chosen.append(int(i))
        if len(chosen) == count:
            break
    return unit[chosen]


def _dive(relaxed: Relaxed, archive: Archive, unit: np.ndarray) -> np.ndarray:
    """SLSQP on the numbers of one design; then whole numbers are fixed, the one nearest to a whole value first, and the rest is
    optimised again."""
    free = [i for i, (_, p) in enumerate(relaxed.parameters) if p.kind != "categorical"]
    open_integers = [i for i in free if relaxed.parameters[i][1].kind == "integer"]
    best = unit
    while True:
        best = _slsqp(relaxed, archive, best, free)
        if not open_integers:
            return best

        def off(i: int, at: np.ndarray = best) -> float:
            value = float(relaxed.parameters[i][1].relaxed(at[i], straight_through=False))
            return abs(value - round(value))

        settled = [i for i in open_integers if off(i) < 0.05] or [min(open_integers, key=off)]
        best = best.copy()
        for i in settled:
            p = relaxed.parameters[i][1]
            best[i] = p.to_unit(np.clip(np.round(p.relaxed(best[i], straight_through=False)), p.low, p.high))
            open_integers.remove(i)
            free.remove(i)
        if not free:
            return best


def _slsqp(relaxed: Relaxed, archive: Archive, unit: np.ndarray, free: list[int]) -> np.ndarray:
    both = relaxed.pointwise(_static(relaxed.problem, unit[None]))
    cache: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    def at(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        key = x.tobytes()
        if key not in cache:
            whole = unit.copy()
            whole[free] = x
            values, slopes = both(jnp.asarray(whole))
            archive.count_gradients(1)
            cache[key] = np.nan_to_num(np.asarray(values), nan=1e3), np.nan_to_num(np.asarray(slopes))[:, free]
        return cache[key]

    limits = [{"type": "ineq", "fun": lambda x: -at(x)[0][1:], "jac": lambda x: -at(x)[1][1:]}]
    found = minimize(
        lambda x: at(x)[0][0], unit[free], jac=lambda x: at(x)[1][0], method="SLSQP", bounds=[(0.0, 1.0)] * len(free),
        constraints=limits if relaxed.problem.constraints else (), options={"maxiter": 30, "ftol": 1e-7},
    )  # fmt: skip
    before, after = at(unit[free])[0], at(found.x)[0]
    worse = np.maximum(after[1:], 0.0).sum() > max(np.maximum(before[1:], 0.0).sum(), _TOLERANCE)
    result = unit.copy()
    if not worse and np.all(np.isfinite(found.x)):
        result[free] = np.clip(found.x, 0.0, 1.0)
    return result
