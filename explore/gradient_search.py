"""Gradient search: many starts at once down the derivative of a relaxed problem, then exact designs.

    minimise  ln f(x) + sum_j [ max(0, l_j + r g_j)^2 - l_j^2 ] / 2r        g_j = ln(metric / limit) of constraint j

by Adam in the unit cube (projected), with the models' rounding annealed from smooth to exact, multipliers l_j raised every few
steps (augmented Lagrangian). Then the best of the finishers and of the points the search started from, of every combination of
options some, go through rounds of SLSQP in a box around each. The best of those that differ are made whole: numbers fixed one after
the other at the better of the whole values around them, the rest optimised again each time; and a local search in exact arithmetic
ends it. Options are not descended: they are those of the starts. Every design reported was evaluated exactly.

Method: Nocedal and Wright, "Numerical Optimization", ch. 17; Kingma and Ba, "Adam", ICLR 2015; Kraft, SLSQP, 1988.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import minimize

from explore.elasticity import QUICK
from explore.local_search import local_search
from explore.problem import Problem
from explore.samples import samples
from explore.search_result import GRADIENT_COST, Archive, BudgetSpent
from roofline.relax import Rounding, straight_through

#: Steps between updates of the multipliers, and the first weight of violations, its growth at each update and its limit.
_ROUND, _WEIGHT, _GROWTH, _HEAVIEST = 8, 8.0, 1.5, 500.0
#: Relative violation below which a design of the relaxed problem counts as feasible.
_TOLERANCE = 1e-4
#: Relative margin that the relaxed problem keeps from every limit, so that what it finds holds exactly.
_MARGIN = 2e-4
#: SLSQP: rounds, half the side of the box each may move in, iterations per round.
_BOXES, _HALF_BOX, _ITERATIONS = 4, 0.3, 12
#: Derivatives spent on each whole value that a number is tried at.
_WHOLE = 60
#: A number this close to a whole value is taken to be it.
_NEARLY = 0.05
#: Relative difference of the objective below which two descents with the same options ended in the same design.
_SAME = 1e-3


class Settings(NamedTuple):
    """`screened`: exact points looked at first; `starts` of Adam (0: none), its `steps` of length `rate`, first and last
    `temperatures` of the smooth rounding; `descents`: designs that SLSQP takes on, with `gradients` derivatives in all;
    `finishers`: how many are made whole; `polish`: exact evaluations of the last local search."""

    screened: int = 2048
    starts: int = 24
    steps: int = 40
    rate: float = 0.04
    temperatures: tuple[float, float] = (0.2, 0.02)
    descents: int = 24
    gradients: int = 2000
    finishers: int = 4
    polish: int = 4000


def settings_for(budget: int) -> Settings:
    """Settings that spend `budget` evaluations: a seventh on looking around, a fifth on Adam, two fifths on SLSQP, the rest on whole
    numbers and the last local search."""
    adam = 0.18 * budget / GRADIENT_COST
    steps = int(np.clip(np.sqrt(2.0 * adam), 8, 60))
    gradients = int(0.4 * budget / GRADIENT_COST)
    return Settings(
        screened=max(64, budget // 7),
        starts=max(2, int(adam / steps)),
        steps=steps,
        descents=max(2, gradients // 80),
        gradients=gradients,
        finishers=int(np.clip(gradients // 400, 1, 6)),
        polish=int(0.15 * budget),
    )


def gradient_search(problem: Problem, archive: Archive, settings: Settings, seed: int = 0) -> None:
    """Search; `archive` remembers what was found."""
    relaxed = Relaxed(problem)
    generator = np.random.default_rng(seed)
    unit = samples(problem.space, "sobol", 1 << (settings.screened - 1).bit_length(), seed).unit(0, settings.screened)
    merits = archive.evaluate(unit)
    if settings.starts:
        starts = unit[np.argsort(merits, kind="stable")[: settings.starts]]
        ended = np.concatenate([_descend(relaxed, archive, group, settings) for group in _by_options(problem, starts)])
        unit, merits = np.concatenate([ended, unit]), np.concatenate([archive.evaluate(ended), merits])
    spent = archive.evaluator.gradients
    last = spent + min(settings.gradients, _affordable(archive, settings.polish))
    descended = [
        _slsqp(relaxed, archive, design, relaxed.numbers, last)
        for design in _spread(problem, unit, merits, settings.descents)
        if archive.evaluator.gradients < last
    ]
    descended.sort(key=lambda found: found.merit)
    chosen = _different(problem, descended)[: settings.finishers]
    for number, found in enumerate(chosen):
        share = _affordable(archive, settings.polish) / (len(chosen) - number)
        whole = _dive(relaxed, archive, found, archive.evaluator.gradients + share)
        archive.evaluate(whole[None])
    left = settings.polish if np.isinf(archive.budget) else int(archive.left)
    local_search(archive, archive.unit[: settings.finishers], budget=left, generator=generator, step=0.02)


def _affordable(archive: Archive, kept: int) -> float:
    """Derivatives that the budget allows where `kept` evaluations are for what comes after."""
    return max(0.0, archive.left - kept) // GRADIENT_COST


class Descended(NamedTuple):
    """A design of the relaxed problem, and its merit there: violation (0 within `_TOLERANCE`), then ln of the objective."""

    unit: np.ndarray
    merit: tuple[float, float]


def _different(problem: Problem, descended: list[Descended]) -> list[Descended]:
    """Descents that ended in different designs, of `descended` in order of merit."""
    kept: dict[tuple, list[Descended]] = {}
    chosen = []
    for found in descended:
        group = kept.setdefault(tuple(_options(problem, found.unit[None], static=False)[0]), [])
        if all(abs(found.merit[1] - other.merit[1]) > _SAME for other in group):
            group.append(found)
            chosen.append(found)
    return chosen


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

            self._pointwise[options] = jax.jit(lambda unit: (one(unit), jax.jacfwd(one)(unit)), compiler_options=QUICK)
        return self._pointwise[options]


def _by_options(problem: Problem, unit: np.ndarray) -> list[np.ndarray]:
    """Starts grouped by their static options, which are compiled apart."""
    chosen = _options(problem, unit, static=True)
    return [unit[np.all(chosen == row, axis=1)] for row in np.unique(chosen, axis=0)]


def _options(problem: Problem, unit: np.ndarray, *, static: bool) -> np.ndarray:
    """Values [designs, options] of the static options at `unit` (as indices), or of all categorical parameters."""
    parameters = enumerate(problem.space.parameters.values())
    chosen = [p.of_unit(unit[:, i]) for i, p in parameters if (p.static if static else p.kind == "categorical")]
    return np.stack(chosen, axis=-1) if chosen else np.zeros((len(unit), 0), dtype=int)


def _static(problem: Problem, unit: np.ndarray) -> tuple[int, ...]:
    return tuple(int(o) for o in _options(problem, unit[None], static=True)[0])


def _descend(relaxed: Relaxed, archive: Archive, unit: np.ndarray, settings: Settings) -> np.ndarray:
    """Finishers [starts, parameters] of Adam on the augmented Lagrangian."""
    schedule = optax.cosine_decay_schedule(settings.rate, settings.steps, alpha=0.05)
    adam = optax.adam(schedule, b1=0.8, b2=0.95)
    step = relaxed.stepper(_static(relaxed.problem, unit[0]), adam)
    now = jnp.asarray(unit)
    state = adam.init(now)
    size = len(relaxed.problem.constraints)
    multipliers, weight = np.zeros((size, len(unit))), _WEIGHT
    first, last = settings.temperatures
    for number in range(settings.steps):
        temperature = first * (last / first) ** (number / max(settings.steps - 1, 1))
        archive.count_gradients(len(unit))
        now, state, beyond = step(now, state, multipliers, weight, temperature)
        if size and number % _ROUND == _ROUND - 1:
            beyond = np.nan_to_num(np.asarray(beyond), nan=0.0)
            multipliers = np.maximum(0.0, multipliers + weight * np.clip(beyond, -1.0, 1.0))
            weight = min(_GROWTH * weight, _HEAVIEST)
    return np.asarray(now)


def _spread(problem: Problem, unit: np.ndarray, merits: np.ndarray, count: int) -> np.ndarray:
    """The best `count` designs, combinations of options taking turns, none next to a better one."""
    order = np.argsort(merits, kind="stable")
    options = _options(problem, unit, static=False)
    queues: dict[tuple, list[int]] = {}
    for i in order:
        queues.setdefault(tuple(options[i]), []).append(int(i))
    chosen: list[int] = []
    while len(chosen) < count and any(queues.values()):
        for queue in queues.values():
            while queue:
                i = queue.pop(0)
                if all(np.max(np.abs(unit[i] - unit[j])) > 0.1 for j in chosen):
                    chosen.append(i)
                    break
    return unit[chosen[:count]]


def _dive(relaxed: Relaxed, archive: Archive, found: Descended, last: float) -> np.ndarray:
    """A descended design made whole: numbers that are all but whole are fixed together, of the others the nearest at the better of
    the two whole values around it, and the rest is optimised again, while fewer than `last` derivatives are spent."""
    free = list(relaxed.numbers)
    integers = {i: p for i, (_, p) in enumerate(relaxed.parameters) if p.kind == "integer"}
    best = found
    while integers:
        values = {i: float(p.relaxed(best.unit[i])) for i, p in integers.items()}
        off = {i: abs(value - round(value)) for i, value in values.items()}
        settled = [i for i in integers if off[i] < _NEARLY] or [min(off, key=lambda i: off[i])]
        sides = (np.round,) if off[settled[0]] < _NEARLY else (np.floor, np.ceil)
        free = [i for i in free if i not in settled]
        tried = []
        for side in sides:
            unit = best.unit.copy()
            for i in settled:
                p = integers[i]
                unit[i] = p.to_unit(np.clip(side(values[i]), p.low, p.high))
            tried.append(_slsqp(relaxed, archive, unit, free, min(last, archive.evaluator.gradients + _WHOLE)))
        best = min(tried, key=lambda one: one.merit)
        integers = {i: p for i, p in integers.items() if i not in settled}
    return best.unit


def _slsqp(relaxed: Relaxed, archive: Archive, unit: np.ndarray, free: list[int], last: float) -> Descended:
    """The best that rounds of SLSQP on the numbers `free` come by, each within a box around the design, as long as they help and
    fewer than `last` derivatives are spent."""
    both = relaxed.pointwise(_static(relaxed.problem, unit))
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
