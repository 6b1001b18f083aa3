"""Exhaustive search: every split that fits, in a fixed order, pruned as soon as a partial choice breaks a limit.

The enumeration is a depth-first walk over dimensions compiled with Numba; it hands over blocks of valid choices, which
the closed form evaluates as arrays. Memory does not depend on the size of the space: only the best k and the front are
kept.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from rich.progress import Progress

from dataflow.evaluation import evaluate
from dataflow.mappers.budget import check_counts, nothing_found
from dataflow.mappers.compiled_objective import compiled_energy_delay
from dataflow.mappers.kept import Keeper, Kept
from dataflow.mappers.space import MapSpace
from dataflow.mapping import Mapping

#: Objectives [n, m] of mappings [n]; NaN where a mapping cannot run.
Objective = Callable[[MapSpace, Mapping], np.ndarray]


#: Mappings from which on compiling the objective (seconds) pays.
_COMPILED_FROM = 2e6


def energy_delay(space: MapSpace, mapping: Mapping) -> np.ndarray:
    """(energy-delay product, energy in joules, latency in seconds) of mappings [n] that a mapper has pruned already.

    ValueError where the architecture has no energies; `latency` is the objective for these.
    """
    _check_energies(space)
    found = evaluate(space.problem, space.architecture, mapping, check=False)
    return np.stack(np.broadcast_arrays(found.edp, found.energy_joules, found.latency_s), axis=-1)


def latency(space: MapSpace, mapping: Mapping) -> np.ndarray:
    """Latency in seconds [n, 1] of mappings [n] that a mapper has pruned already."""
    found = evaluate(space.problem, space.architecture, mapping, check=False)
    return np.broadcast_to(found.latency_s, mapping.shape)[..., None]


def _check_energies(space: MapSpace) -> None:
    note = space.architecture.energy_note
    if note:
        raise ValueError(f"objective energy_delay: {note}; search with the objective latency, or give energies")


class SearchResult(NamedTuple):
    """`best` (sorted) and `front` of (energy, latency): columns of `kept`; `rejected`: mappings each limit excluded.

    `evaluated` + sum of `rejected` = all mappings of the space (exhaustive) or drawn (random, annealing); `seconds`.
    """

    space: MapSpace
    kept: Kept
    evaluated: int
    rejected: dict[str, int]
    seconds: float

    def mapping(self, place: int = 0) -> Mapping:
        """The mapping at `place` of the best list; ValueError beyond its end."""
        best = self.kept.best
        if not 0 <= place < len(best["choice"]):
            raise ValueError(f"place: {place!r}, expected one of the {len(best['choice'])} mappings kept, from 0 on")
        return self.space.mapping(best["choice"][place], best["positions"][place])

    def to_frame(self) -> Any:
        """The best list as a table: objectives (`energy_delay` and `latency` have names), then the mapping as text."""
        import pandas as pd

        best = self.kept.best
        known = {1: ("latency_s",), 3: ("edp", "energy_joules", "latency_s")}
        number = best["objectives"].shape[1]
        names = known.get(number, tuple(f"objective_{i}" for i in range(number)))
        columns = dict(zip(names, best["objectives"].T, strict=True))
        texts = [self.mapping(i).to_text().replace("\n", " | ") for i in range(len(best["objectives"]))]
        return pd.DataFrame(columns | {"mapping": texts})


def exhaustive_search(
    space: MapSpace,
    objective: Objective = energy_delay,
    *,
    k: int = 10,
    block: int = 100_000,
    compiled: bool | None = None,
    show_progress: bool = False,
) -> SearchResult:
    """All mappings of `space`. Loop orders multiply the splits: fix them (`Constraints.order`) where they do not
    matter. `compiled`: the default objective as a compiled call (None: where there are enough mappings to pay for it).
    ValueError if no mapping fits, naming the limit that excludes most, and for a count below 1.
    """
    check_counts(k=k, block=block)
    began = time.perf_counter()
    measure = choice_objective(space, objective, compiled, space.splits * float(np.prod(space.orders, dtype=float)))
    keeper, evaluated = Keeper(k), 0
    rejected = np.zeros(len(space.limits.labels), dtype=np.int64)
    orders = int(np.prod([float(n) for n in space.orders]))
    with Progress(disable=not show_progress, transient=True) as progress:
        task = progress.add_task("splits", total=space.splits)
        for choice, seen in _blocks(space, block, rejected):
            progress.update(task, completed=seen)
            for positions in space.all_positions():
                if not len(choice):
                    break
                places = np.broadcast_to(positions, (len(choice), *positions.shape))
                keeper.add(measure(choice, positions), choice=choice, positions=places)
                evaluated += len(choice)
    counts = {label: int(n) * orders for label, n in zip(space.limits.labels, rejected)}
    if keeper.empty:
        raise nothing_found("exhaustive search", evaluated, counts)
    return SearchResult(space, keeper.kept(), evaluated, counts, time.perf_counter() - began)


def choice_objective(space: MapSpace, objective: Objective, compiled: bool | None, mappings: float) -> Any:
    """`objective` of choices [n, dimensions] and positions; compiled if asked for, or if it pays for that many."""
    if compiled is None:
        compiled = objective is energy_delay and mappings >= _COMPILED_FROM
    if not compiled:
        return lambda choice, positions: objective(space, space.mapping(choice, positions))
    if objective is not energy_delay:
        raise ValueError("compiled: only the default objective, energy_delay, can be compiled")
    _check_energies(space)
    return compiled_energy_delay(space)


def valid_splits(space: MapSpace, block: int = 100_000) -> Iterator[np.ndarray]:
    """Blocks [n, dimensions] of the split choices that break no limit, in the order of the walk."""
    check_counts(block=block)
    rejected = np.zeros(len(space.limits.labels), dtype=np.int64)
    for choice, _ in _blocks(space, block, rejected):
        yield choice


def _blocks(space: MapSpace, block: int, rejected: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    limits, dims = space.limits, len(space.tables)
    sizes = np.array([len(t) for t in space.tables], dtype=np.int64)
    # Extent of each choice of each dimension inside each limit's tile.
    extent = np.ones((max(len(limits.labels), 1), dims, int(sizes.max())))
    for i in range(len(limits.labels)):
        for d, table in enumerate(space.tables):
            extent[i, d, : len(table)] = np.prod(np.where(limits.inside[i], table, 1), axis=-1)
    # Ranks that no dimension addresses are a factor of one: only the others are walked.
    used = limits.coefficients.any(axis=-1) & limits.present[..., None]
    order = np.argsort(~used, axis=-1, kind="stable")
    coefficients = np.take_along_axis(limits.coefficients, order[..., None], axis=2)
    coefficients = np.ascontiguousarray(np.moveaxis(coefficients, -1, 0))
    ranks = used.sum(axis=-1).astype(np.int64)
    partial = np.ones((dims + 1, *coefficients.shape[1:]))
    state = np.zeros(dims + 1, dtype=np.int64)
    out = np.empty((block, dims), dtype=np.int64)
    seen = np.zeros(1, dtype=np.int64)
    tails = np.concatenate([np.cumprod(sizes[::-1])[::-1], [1]]).astype(np.int64)
    while state[dims] >= 0:
        run: Any = _walk
        found = run(
            state,
            out,
            sizes,
            tails,
            partial,
            extent,
            coefficients,
            ranks,
            limits.scale,
            limits.bounds,
            rejected,
            seen,
        )
        yield out[:found].copy(), int(seen[0])


@njit(cache=True)
def _broken(depth, choice, partial, extent, coefficients, ranks, scale, bounds):
    """The first limit that the choices of dimensions 0..depth break, the others at their smallest; -1 if none.

    `partial[d]` [limits, tensors, ranks]: extents of the ranks from the choices of dimensions before d.
    """
    limits, tensors = ranks.shape
    for i in range(limits):
        needed = 0.0
        step = extent[i, depth, choice] - 1.0
        for t in range(tensors):
            if ranks[i, t] == 0:
                continue
            words = 1.0
            for r in range(ranks[i, t]):
                rank = partial[depth, i, t, r] + coefficients[depth, i, t, r] * step
                partial[depth + 1, i, t, r] = rank
                words *= rank
            needed += words
        if needed * scale[i] > bounds[i]:
            return i
    return -1


@njit(cache=True)
def _walk(state, out, sizes, tails, partial, extent, coefficients, ranks, scale, bounds, rejected, seen):
    """Go on with the walk until `out` is full; `state[d]`: choice of dimension d, `state[-1]`: depth, -1 at the end."""
    dims = sizes.size
    found = 0
    depth = state[dims]
    while depth >= 0 and found < out.shape[0]:
        if state[depth] == sizes[depth]:
            state[depth] = 0
            depth -= 1
            if depth >= 0:
                state[depth] += 1
            continue
        limit = _broken(depth, state[depth], partial, extent, coefficients, ranks, scale, bounds)
        if limit >= 0:
            rejected[limit] += tails[depth + 1]
            seen[0] += tails[depth + 1]
            state[depth] += 1
        elif depth == dims - 1:
            for d in range(dims):
                out[found, d] = state[d]
            found += 1
            seen[0] += 1
            state[depth] += 1
        else:
            depth += 1
            state[depth] = 0
    state[dims] = depth
    return found
