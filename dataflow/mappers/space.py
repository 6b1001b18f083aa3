"""The mappings of one problem on one architecture, as choices: a split of every dimension over the slots of the
architecture, and an order of the loops of every level.

A slot is the temporal loops of a level, or its spatial X or Y loops. Slots, factors and orders can be constrained.
Capacities and fanouts are kept beside as monotone limits, so that a mapper can reject a partial choice and say which
limit it broke.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from math import factorial, isqrt
from typing import NamedTuple

import numpy as np

from dataflow.architecture import Architecture
from dataflow.mappers.constraints import Constraints, check_constraints
from dataflow.mapping import Mapping, default_keeps
from dataflow.problem import Problem

_AXES = ("", "X", "Y")


class Limits(NamedTuple):
    """Monotone limits: number i asks that the sum over its tensors of the product over ranks of (1 + sum_d coefficient
    (tile_d - 1)), or for a fanout the product of its slots' factors, stay at or below `bounds[i]`.

    `inside` [limits, slots]: slots that make up the tile (or the fanout); `coefficients` [limits, tensors, ranks,
    dimensions]; `present` [limits, tensors]; `labels`: what a broken limit is called.
    """

    inside: np.ndarray
    coefficients: np.ndarray
    present: np.ndarray
    scale: np.ndarray
    bounds: np.ndarray
    labels: tuple[str, ...]


@dataclass(frozen=True)
class MapSpace:
    """`tables[d]` [choices, slots]: the splits of dimension d; `slots`: (level, axis) of each; `orders[l]`: the number
    of orders of level l's loops, `fixed_orders[l]` [dimensions] where it is one. Built by `map_space`."""

    problem: Problem
    architecture: Architecture
    slots: tuple[tuple[int, str], ...]
    tables: tuple[np.ndarray, ...]
    fixed_orders: tuple[np.ndarray | None, ...]
    keeps: tuple[tuple[str, ...], ...]
    limits: Limits

    @property
    def splits(self) -> int:
        """Number of combinations of splits, valid or not (orders not counted)."""
        total = 1
        for table in self.tables:
            total *= len(table)
        return total

    @property
    def orders(self) -> tuple[int, ...]:
        """Number of loop orders of each level."""
        every = factorial(len(self.tables))
        return tuple(every if fixed is None else 1 for fixed in self.fixed_orders)

    def factors(self, choice: np.ndarray) -> np.ndarray:
        """Factors [..., slots, dimensions] of choices [..., dimensions] of splits."""
        return np.stack([table[choice[..., d]] for d, table in enumerate(self.tables)], axis=-1)

    def mapping(self, choice: np.ndarray, positions: np.ndarray) -> Mapping:
        """The mappings of split choices [..., dimensions] and loop positions [..., levels, dimensions] (0
        outermost).
        """
        factors = self.factors(choice)
        levels, dims = len(self.architecture.levels), len(self.tables)
        parts = {axis: np.ones((*choice.shape[:-1], levels, dims)) for axis in _AXES}
        for slot, (level, axis) in enumerate(self.slots):
            parts[axis][..., level, :] = factors[..., slot, :]
        return Mapping(
            temporal=parts[""],
            position=np.broadcast_to(positions, parts[""].shape).astype(float),
            spatial_x=parts["X"],
            spatial_y=parts["Y"],
            dimensions=self.problem.dimensions,
            levels=self.architecture.level_names,
            keeps=self.keeps,
        )

    def random_positions(self, rng: np.random.Generator, number: int) -> np.ndarray:
        """Random allowed loop orders [number, levels, dimensions]."""
        dims = len(self.tables)
        places = rng.random((number, len(self.fixed_orders), dims)).argsort(axis=-1)
        for level, fixed in enumerate(self.fixed_orders):
            if fixed is not None:
                places[:, level] = fixed
        return places

    def all_positions(self) -> Iterable[np.ndarray]:
        """Every combination of allowed loop orders, [levels, dimensions] each."""
        dims = len(self.tables)
        options = [
            [fixed] if fixed is not None else [np.argsort(p) for p in itertools.permutations(range(dims))]
            for fixed in self.fixed_orders
        ]
        for combination in itertools.product(*options):
            yield np.stack(combination)

    def broken(self, factors: np.ndarray) -> np.ndarray:
        """For factors [n, slots, dimensions] the first limit each breaks, -1 where it breaks none."""
        found = np.full(len(factors), -1)
        for i in reversed(range(len(self.limits.labels))):
            tile = np.prod(np.where(self.limits.inside[i][:, None], factors, 1), axis=-2, dtype=float)
            needed = np.zeros(len(factors))
            for t in np.flatnonzero(self.limits.present[i]):
                needed += np.prod(1.0 + (tile - 1.0) @ self.limits.coefficients[i, t].T, axis=-1)
            found = np.where(needed * self.limits.scale[i] > self.limits.bounds[i], i, found)
        return found


def map_space(problem: Problem, architecture: Architecture, constraints: Constraints | None = None) -> MapSpace:
    """All mappings of a single problem (sizes must be numbers) that the constraints allow.

    ValueError, one line, for an unknown level, dimension, axis or tensor in a constraint, a factor that is not a positive
    integer, and for one that leaves a dimension no split.
    """
    rules = constraints or Constraints()
    names, dims = architecture.level_names, problem.dimensions
    check_constraints(rules, problem, architecture)
    slots: list[tuple[int, str]] = []
    for i, level in enumerate(architecture.levels):
        slots.append((i, ""))
        slots += [(i, axis) for axis in ("X", "Y") if float(getattr(level, f"fanout_{axis.lower()}")) > 1]
    tables = tuple(_splits(problem, architecture, rules, slots, d) for d in dims)
    fixed = []
    for name in names:
        wanted = list(rules.order.get(name, ()))
        order = [*wanted, *(d for d in dims if d not in wanted)]
        fixed.append(np.argsort([dims.index(d) for d in order]) if wanted else None)
    keeps = [list(kept) for kept in default_keeps(problem, architecture)]
    for level, tensors in rules.keeps.items():
        keeps[names.index(level)] = list(tensors)
    kept = tuple(tuple(k) for k in keeps)
    limits = _limits(problem, architecture, slots, kept)
    return MapSpace(problem, architecture, tuple(slots), tables, tuple(fixed), kept, limits)


def _splits(
    problem: Problem, architecture: Architecture, rules: Constraints, slots: list[tuple[int, str]], dim: str
) -> np.ndarray:
    names = architecture.level_names
    size_here = np.asarray(problem.sizes[dim])
    if size_here.ndim:
        raise ValueError(f"problem.sizes.{dim}: {size_here.size} values, expected one layer at a time")
    top = next(i for i, level in enumerate(architecture.levels) if level.keeps is None or level.keeps)
    size = int(problem.sizes[dim])
    options: list[set[int] | None] = []
    for level, axis in slots:
        name = names[level]
        fixed = rules.factors.get(name, {}).get(f"{dim}:{axis}" if axis else dim)
        allowed = rules.spatial.get(name) if axis else rules.temporal.get(name)
        if fixed is not None:
            options.append({int(fixed)})
        elif (allowed is not None and dim not in list(allowed)) or (level < top):
            options.append({1})
        else:
            options.append(None)
    rows: list[list[int]] = [[]]
    for slot, option in enumerate(options):
        fanout = float("inf")
        level, axis = slots[slot]
        if axis:
            fanout = float(getattr(architecture.levels[level], f"fanout_{axis.lower()}"))
        grown = []
        for row in rows:
            rest = size // int(np.prod(row, dtype=np.int64)) if row else size
            last = slot == len(options) - 1
            for factor in [rest] if last else _divisors(rest):
                if (option is None or factor in option) and factor <= fanout and rest % factor == 0:
                    grown.append([*row, factor])
        rows = grown
    if not rows:
        raise ValueError(f"constraints: dimension '{dim}' of size {size} has no split that satisfies them")
    return np.array(rows, dtype=np.int64)


def _divisors(number: int) -> list[int]:
    low = [d for d in range(1, isqrt(number) + 1) if number % d == 0]
    return low + [number // d for d in reversed(low) if d * d != number]


def _limits(
    problem: Problem, architecture: Architecture, slots: list[tuple[int, str]], keeps: tuple[tuple[str, ...], ...]
) -> Limits:
    dims = problem.dimensions
    most = max(len(t.ranks) for t in problem.tensors)
    count = len(problem.tensors)
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray, float, float, str]] = []
    projections = np.zeros((count, most, len(dims)))
    for t, tensor in enumerate(problem.tensors):
        for r, rank in enumerate(tensor.ranks):
            for dim, coefficient in rank:
                projections[t, r, dims.index(dim)] = float(problem.coefficient(coefficient))
    for i, level in enumerate(architecture.levels):
        for axis in ("X", "Y"):
            if (i, axis) in slots:
                inside = np.array([slot == (i, axis) for slot in slots])
                limit = float(getattr(level, f"fanout_{axis.lower()}"))
                label = f"fanout_{axis.lower()} of {level.name}"
                rows.append((inside, np.eye(len(dims)), projections, 1.0, limit, label))
        inside = np.array([slot[0] >= i for slot in slots])
        held = [t.name for t in problem.tensors if t.name in keeps[i]]
        for name, words in (level.partitions or {}).items():
            if name in held:
                held.remove(name)
                only = np.array([t.name == name for t in problem.tensors], dtype=bool)
                label = f"capacity of {level.name} for {name}"
                rows.append((inside, only, projections, float(level.buffers), float(words), label))
        if held and np.isfinite(float(level.capacity_words)):
            those = np.array([t.name in held for t in problem.tensors], dtype=bool)
            label = f"capacity of {level.name}"
            rows.append((inside, those, projections, float(level.buffers), float(level.capacity_words), label))
    # A fanout is one pseudo-tensor whose ranks are the dimensions themselves.
    ranks = max(most, len(dims))
    coefficients = np.zeros((len(rows), count, ranks, len(dims)))
    present = np.zeros((len(rows), count), dtype=bool)
    for n, (_, what, projection, _, _, label) in enumerate(rows):
        if label.startswith("fanout"):
            coefficients[n, 0, : len(dims)] = what
            present[n, 0] = True
        else:
            coefficients[n, :, :most] = projection
            present[n] = what
    return Limits(
        inside=np.array([row[0] for row in rows]).reshape(len(rows), len(slots)),
        coefficients=coefficients,
        present=present,
        scale=np.array([row[3] for row in rows]),
        bounds=np.array([row[4] for row in rows]),
        labels=tuple(row[5] for row in rows),
    )
