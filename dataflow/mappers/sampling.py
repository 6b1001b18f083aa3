"""Random search, hill climbing and simulated annealing over the mappings of one problem."""

import time

import numpy as np
from rich.progress import Progress

from dataflow.mappers.budget import check_counts, check_numbers, nothing_found
from dataflow.mappers.exhaustive import Objective, SearchResult, choice_objective, energy_delay
from dataflow.mappers.kept import Keeper
from dataflow.mappers.space import MapSpace


def random_search(
    space: MapSpace,
    objective: Objective = energy_delay,
    *,
    samples: int = 10_000,
    k: int = 10,
    block: int = 10_000,
    seed: int = 0,
    compiled: bool | None = None,
    show_progress: bool = False,
) -> SearchResult:
    """`samples` mappings drawn uniformly over splits and orders, those that break a limit counted by limit, not
    evaluated. `compiled` as in `exhaustive_search`. ValueError if none is valid, naming the limit that excludes most,
    and for a count below 1.
    """
    check_counts(samples=samples, k=k, block=block)
    check_counts(0, seed=seed)
    measure = choice_objective(space, objective, compiled, samples)
    began, rng = time.perf_counter(), np.random.default_rng(seed)
    keeper, evaluated = Keeper(k), 0
    rejected = np.zeros(len(space.limits.labels), dtype=np.int64)
    sizes = np.array([len(t) for t in space.tables])
    with Progress(disable=not show_progress, transient=True) as progress:
        task = progress.add_task("samples", total=samples)
        for first in range(0, samples, block):
            number = min(block, samples - first)
            choice = rng.integers(0, sizes, (number, len(sizes)))
            positions = space.random_positions(rng, number)
            limit = space.broken(space.factors(choice))
            rejected += np.bincount(limit[limit >= 0], minlength=len(rejected))
            good = limit < 0
            if good.any():
                some = choice[good], positions[good]
                keeper.add(measure(*some), choice=some[0], positions=some[1])
            evaluated += int(good.sum())
            progress.update(task, completed=first + number)
    counts = {label: int(n) for label, n in zip(space.limits.labels, rejected)}
    if keeper.empty:
        raise nothing_found("random search", evaluated, counts)
    return SearchResult(space, keeper.kept(), evaluated, counts, time.perf_counter() - began)


def anneal(
    space: MapSpace,
    objective: Objective = energy_delay,
    *,
    steps: int = 1_000,
    chains: int = 64,
    hot: float = 0.5,
    cold: float = 1e-3,
    k: int = 10,
    seed: int = 0,
    show_progress: bool = False,
) -> SearchResult:
    """Simulated annealing of `chains` mappings for `steps`; `hot=0` climbs hills only.

    A step draws a new split of one dimension, or swaps two loops of one level. Metropolis on the logarithm of the first
    objective, temperature geometric from `hot` to `cold`. Chains start from valid mappings. ValueError if none is
    found, naming the limit that excludes most, and for a count below 1.
    """
    check_counts(steps=steps, chains=chains, k=k)
    check_counts(0, seed=seed)
    check_numbers(hot=hot, cold=cold)
    began, rng = time.perf_counter(), np.random.default_rng(seed)
    keeper = Keeper(k)
    rejected = np.zeros(len(space.limits.labels), dtype=np.int64)
    sizes = np.array([len(t) for t in space.tables])
    choice, positions = _starts(space, rng, chains, sizes, rejected)
    free = np.array([level for level, fixed in enumerate(space.fixed_orders) if fixed is None], dtype=int)
    values = objective(space, space.mapping(choice, positions))
    keeper.add(values, choice=choice, positions=positions)
    if keeper.empty:
        raise nothing_found("annealing", chains, {})
    now, evaluated = np.log(values[:, 0]), chains
    rows = np.arange(chains)
    with Progress(disable=not show_progress, transient=True) as progress:
        task = progress.add_task("steps", total=steps)
        for step in range(steps):
            temperature = hot * (cold / hot) ** (step / max(steps - 1, 1)) if hot > 0 else 0.0
            new_choice, new_positions = choice.copy(), positions.copy()
            swap = (rng.random(chains) < 0.3) & (len(free) > 0)
            d = rng.integers(0, len(sizes), chains)
            new_choice[rows[~swap], d[~swap]] = rng.integers(0, sizes[d])[~swap]
            if swap.any():
                level, a, b = (rng.choice(free, chains), *rng.integers(0, len(sizes), (2, chains)))
                new_positions[rows[swap], level[swap], a[swap]] = positions[rows[swap], level[swap], b[swap]]
                new_positions[rows[swap], level[swap], b[swap]] = positions[rows[swap], level[swap], a[swap]]
            limit = space.broken(space.factors(new_choice))
            rejected += np.bincount(limit[limit >= 0], minlength=len(rejected))
            good = np.flatnonzero(limit < 0)
            if len(good):
                values = objective(space, space.mapping(new_choice[good], new_positions[good]))
                keeper.add(values, choice=new_choice[good], positions=new_positions[good])
                evaluated += len(good)
                then = np.log(values[:, 0])
                take = np.log(rng.random(len(good))) * temperature < now[good] - then
                at = good[take]
                choice[at], positions[at], now[at] = new_choice[at], new_positions[at], then[take]
            progress.update(task, completed=step + 1)
    counts = {label: int(n) for label, n in zip(space.limits.labels, rejected)}
    return SearchResult(space, keeper.kept(), evaluated, counts, time.perf_counter() - began)


def _starts(space: MapSpace, rng: np.random.Generator, chains: int, sizes: np.ndarray, rejected: np.ndarray):
    found: list[np.ndarray] = []
    number = 0
    for _ in range(200):
        choice = rng.integers(0, sizes, (chains * 8, len(sizes)))
        limit = space.broken(space.factors(choice))
        rejected += np.bincount(limit[limit >= 0], minlength=len(rejected))
        found.append(choice[limit < 0])
        number += len(found[-1])
        if number >= chains:
            break
    if not number:
        raise nothing_found("annealing", 0, dict(zip(space.limits.labels, rejected.tolist())))
    choice = np.concatenate(found)
    choice = choice[np.arange(chains) % len(choice)]
    return choice.copy(), space.random_positions(rng, chains)
