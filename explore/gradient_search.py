"""Gradient search: many starts at once down the derivative of a relaxed problem, then exact designs.

    minimise  ln f(x) + sum_j [ max(0, l_j + r g_j)^2 - l_j^2 ] / 2r        g_j = ln(metric / limit) of constraint j

by Adam in the unit cube (projected), with the models' rounding annealed from smooth to exact, multipliers l_j raised every few
steps (augmented Lagrangian). Then the best of the finishers and of the points the search started from, of every combination of
options some, go through rounds of SLSQP in a box around each. The best of those that differ are made whole and improved by steps of
their whole numbers (`explore.whole_numbers`), and a local search in exact arithmetic ends it. Options are not descended: they are
those of the starts. Every design reported was evaluated exactly.

Method: Nocedal and Wright, "Numerical Optimization", ch. 17; Kingma and Ba, "Adam", ICLR 2015; Kraft, SLSQP, 1988.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from explore.local_search import local_search
from explore.problem import Problem
from explore.relaxed_problem import Descended, Relaxed, options_of, slsqp, static_options
from explore.samples import samples
from explore.search_result import GRADIENT_COST, Archive
from explore.whole_numbers import dive, steps

#: Steps between updates of the multipliers, and the first weight of violations, its growth at each update and its limit.
_ROUND, _WEIGHT, _GROWTH, _HEAVIEST = 8, 8.0, 1.5, 500.0
#: Relative difference of the objective below which two descents with the same options ended in the same design.
_SAME = 1e-3


class Settings(NamedTuple):
    """`screened`: exact points looked at first; `starts` of Adam (0: none), its `steps` of length `rate`, first and last
    `temperatures` of the smooth rounding; `descents`: designs that SLSQP takes on, with `gradients` derivatives in all;
    `finishers`: how many are made whole, with `whole` derivatives in all; `polish`: exact evaluations of the last local search."""

    screened: int = 2048
    starts: int = 24
    steps: int = 40
    rate: float = 0.04
    temperatures: tuple[float, float] = (0.2, 0.02)
    descents: int = 24
    gradients: int = 2000
    finishers: int = 4
    whole: int = 1500
    polish: int = 4000


def settings_for(budget: int) -> Settings:
    """Settings that spend `budget` evaluations: a seventh on looking around, a fifth on Adam, a quarter on SLSQP, a third on whole
    numbers, the rest on the last local search."""
    adam = 0.18 * budget / GRADIENT_COST
    steps = int(np.clip(np.sqrt(2.0 * adam), 8, 60))
    gradients = int(0.25 * budget / GRADIENT_COST)
    return Settings(
        screened=max(64, budget // 7),
        starts=max(2, int(adam / steps)),
        steps=steps,
        descents=max(2, gradients // 80),
        gradients=gradients,
        finishers=int(np.clip(gradients // 250, 1, 6)),
        whole=int(0.32 * budget / GRADIENT_COST),
        polish=int(0.1 * budget),
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
        slsqp(relaxed, archive, design, relaxed.numbers, last)
        for design in _spread(problem, unit, merits, settings.descents)
        if archive.evaluator.gradients < last
    ]
    descended.sort(key=lambda found: found.merit)
    spent = archive.evaluator.gradients
    last = spent + min(settings.whole, _affordable(archive, settings.polish))
    best = None
    for found in _different(problem, descended)[: settings.finishers]:
        if best is not None and found.merit >= best.merit:
            break  # whole numbers cost something: what is worse before is worse after
        dived = dive(relaxed, archive, found, spent + 0.5 * (last - spent))
        best = dived if best is None else min(best, dived, key=lambda one: one.merit)
        archive.evaluate(dived.unit[None])
    if best is not None:
        archive.evaluate(steps(relaxed, archive, best, last).unit[None])
    left = settings.polish if np.isinf(archive.budget) else int(archive.left)
    local_search(archive, archive.unit[: settings.finishers], budget=left, generator=generator, step=0.02)


def _affordable(archive: Archive, kept: int) -> float:
    """Derivatives that the budget allows where `kept` evaluations are for what comes after."""
    return max(0.0, archive.left - kept) // GRADIENT_COST


def _different(problem: Problem, descended: list[Descended]) -> list[Descended]:
    """Descents that ended in different designs, of `descended` in order of merit."""
    kept: dict[tuple, list[Descended]] = {}
    chosen = []
    for found in descended:
        group = kept.setdefault(tuple(options_of(problem, found.unit[None], static=False)[0]), [])
        if all(abs(found.merit[1] - other.merit[1]) > _SAME for other in group):
            group.append(found)
            chosen.append(found)
    return chosen


def _by_options(problem: Problem, unit: np.ndarray) -> list[np.ndarray]:
    """Starts grouped by their static options, which are compiled apart."""
    chosen = options_of(problem, unit, static=True)
    return [unit[np.all(chosen == row, axis=1)] for row in np.unique(chosen, axis=0)]


def _descend(relaxed: Relaxed, archive: Archive, unit: np.ndarray, settings: Settings) -> np.ndarray:
    """Finishers [starts, parameters] of Adam on the augmented Lagrangian."""
    schedule = optax.cosine_decay_schedule(settings.rate, settings.steps, alpha=0.05)
    adam = optax.adam(schedule, b1=0.8, b2=0.95)
    step = relaxed.stepper(static_options(relaxed.problem, unit[0]), adam)
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
    options = options_of(problem, unit, static=False)
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
