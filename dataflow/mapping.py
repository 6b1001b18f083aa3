"""A mapping: how the loops of a problem are tiled, ordered, spread over instances, and which level keeps which tensor.

Struct of arrays: one `Mapping` may hold millions of mappings of the same problem (leading axes), so it is what
mappers fill and what the closed forms read. Levels are outermost first, the same as in `Architecture.levels`.
"""

import re
from collections.abc import Iterable, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, NamedTuple

import jax
import numpy as np

from dataflow.architecture import Architecture
from dataflow.problem import Problem, unknown
from workloads.numeric import Array

#: Up to here float64 holds every integer.
_LARGEST_BOUND = 2**53


class Loop(NamedTuple):
    """One loop: dimension, bound, and "" (temporal), "X" or "Y" (spatial over the children of the level)."""

    dimension: str
    bound: int
    axis: str = ""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mapping:
    """Loop factors, [..., levels, dimensions] each.

    - `temporal`: bounds of the loops of a level; `position`: where each stands among them (0 outermost; only the
      order counts).
    - `spatial_x`, `spatial_y`: how many children of the level, along X and Y, share the loop. They run inside its
      temporal loops.
    - `keeps[level]`: names of the tensors stored there, static; a tensor that is not kept bypasses the level.
    - `ragged`: False: the factors of a dimension multiply up to its size. True: they may exceed it, each tile is cut
      at the end of its dimension and loops run short in their last pass (imperfect factorisation).
    """

    temporal: Array
    position: Array
    spatial_x: Array
    spatial_y: Array
    dimensions: tuple[str, ...] = field(default=(), metadata={"static": True})
    levels: tuple[str, ...] = field(default=(), metadata={"static": True})
    keeps: tuple[tuple[str, ...], ...] = field(default=(), metadata={"static": True})
    ragged: bool = field(default=False, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the batch of mappings, () for a single one."""
        return tuple(
            np.broadcast_shapes(
                *(np.shape(a)[:-2] for a in (self.temporal, self.position, self.spatial_x, self.spatial_y))
            )
        )

    def __getitem__(self, index: object) -> "Mapping":
        """The mappings selected from the batch axes: `batch[3]`, `batch[mask]`, `batch[10:20]`."""
        arrays = (self.temporal, self.position, self.spatial_x, self.spatial_y)
        picked = [np.broadcast_to(np.asarray(a), self.shape + np.shape(a)[-2:])[index] for a in arrays]  # type: ignore[index]
        return replace(self, temporal=picked[0], position=picked[1], spatial_x=picked[2], spatial_y=picked[3])

    def loops(self, level: int) -> tuple[Loop, ...]:
        """Loops of one level of a single mapping, outermost first, bounds of 1 left out; temporal, then X, then Y."""
        if self.shape:
            raise ValueError(
                f"mapping: a batch of shape {self.shape}, expected a single mapping; select one with mapping[i]"
            )
        order = np.argsort(np.asarray(self.position[level]), kind="stable")
        found = [Loop(self.dimensions[d], int(self.temporal[level][d])) for d in order]
        for axis, factors in (("X", self.spatial_x), ("Y", self.spatial_y)):
            found += [Loop(dim, int(factors[level][d]), axis) for d, dim in enumerate(self.dimensions)]
        return tuple(loop for loop in found if loop.bound > 1)

    def to_text(self) -> str:
        """One line per level, `DRAM [Weights Inputs Outputs] M:2 Q:9 K:4X`; `mapping_from_text` reads it back."""
        lines = []
        for i, level in enumerate(self.levels):
            loops = " ".join(f"{dim}:{bound}{axis}" for dim, bound, axis in self.loops(i))
            lines.append(f"{level} [{' '.join(self.keeps[i])}] {loops}".rstrip())
        return ("ragged\n" if self.ragged else "") + "\n".join(lines)

    def checked(self, problem: Problem, architecture: Architecture) -> "Mapping":
        """This single mapping, if it fits the problem and architecture by name, factors and fanout.

        Raises ValueError naming the field: unknown or missing dimension, level or tensor; factors that do not
        multiply up to the size; more spatial instances than the fanout; a bypass that leaves a tensor nowhere.
        Capacity is judged by `evaluate`.
        """
        check_names(self, problem, architecture)
        for i, level in enumerate(architecture.levels):
            for axis, factors, fanout in (("x", self.spatial_x, level.fanout_x), ("y", self.spatial_y, level.fanout_y)):
                used = float(np.prod(np.asarray(factors, dtype=float)[i]))
                if used > np.max(np.asarray(fanout)):
                    expected = f"expected at most fanout_{axis} = {np.max(np.asarray(fanout)):g}"
                    raise ValueError(f"mapping.levels.{level.name}.spatial_{axis}: {used:g} instances, {expected}")
        for d, dim in enumerate(self.dimensions):
            size = int(np.asarray(problem.sizes[dim]))
            factors = self.factors()[..., d]
            product = prod(int(f) for f in factors)
            parts = "*".join(str(f) for f in factors if f > 1) or "1"
            if product < size or (product > size and not self.ragged):
                hint = "; a ragged mapping may exceed it" if product > size else ""
                raise ValueError(f"mapping.{dim}: factors {parts} = {product}, expected {size}{hint}")
        return self

    def factors(self) -> np.ndarray:
        """All factors of a dimension, outermost first (temporal, X, Y of each level), int64 [..., 3 * levels,
        dimensions]."""
        parts = [
            np.broadcast_to(np.asarray(a), self.shape + np.shape(a)[-2:])
            for a in (self.temporal, self.spatial_x, self.spatial_y)
        ]
        stacked = np.stack(parts, axis=-2).astype(np.int64)
        return stacked.reshape((*self.shape, -1, len(self.dimensions)))


def check_names(mapping: Mapping, problem: Problem, architecture: Architecture) -> None:
    """ValueError unless dimensions, levels and tensors of the mapping are those of the problem and the architecture."""
    if mapping.levels != architecture.level_names:
        for name in mapping.levels:
            if name not in architecture.level_names:
                raise ValueError(unknown("level", name, architecture.level_names, "mapping.levels"))
        raise ValueError(f"mapping.levels: {', '.join(mapping.levels)}, expected {', '.join(architecture.level_names)}")
    for dim in mapping.dimensions:
        if dim not in problem.dimensions:
            raise ValueError(unknown("dimension", dim, problem.dimensions, "mapping.dimensions"))
    for dim in problem.dimensions:
        if dim not in mapping.dimensions:
            raise ValueError(f"mapping.dimensions: no loops for dimension '{dim}'")
    names = [t.name for t in problem.tensors]
    for level, kept in zip(mapping.levels, mapping.keeps, strict=True):
        for name in kept:
            if name not in names:
                raise ValueError(unknown("tensor", name, names, f"mapping.levels.{level}.keeps"))
    for name in names:
        if not any(name in kept for kept in mapping.keeps):
            raise ValueError(
                f"mapping.levels: tensor '{name}' bypasses every level, expected at least one that keeps it"
            )


def default_keeps(problem: Problem, architecture: Architecture) -> tuple[tuple[str, ...], ...]:
    """The tensors each level keeps unless the mapping says otherwise (`Storage.keeps`, all tensors where that is
    None)."""
    names = [t.name for t in problem.tensors]
    return tuple(tuple(n for n in names if level.keeps is None or n in level.keeps) for level in architecture.levels)


def mapping(
    problem: Problem,
    architecture: Architecture,
    loops: MappingOf[str, Iterable[Any]] | Sequence[Iterable[Any]],
    keeps: MappingOf[str, Iterable[str]] | None = None,
    ragged: bool = False,
) -> Mapping:
    """One mapping from its loops, `{"DRAM": [("M", 4), ("K", 2, "X")], ...}` (outermost first within a level), checked.

    A loop is (dimension, bound) or (dimension, bound, axis). `keeps` replaces the default of the levels it names.
    Errors as in `Mapping.checked`, and ValueError naming the place for what is not a loop.
    """
    names = architecture.level_names
    by_level = _by_level(loops, names)
    keeps = _keeps(keeps, names)
    shape = (len(names), len(problem.dimensions))
    temporal, spatial_x, spatial_y = np.ones(shape), np.ones(shape), np.ones(shape)
    position = np.tile(np.arange(shape[1], dtype=float) + shape[1], (shape[0], 1))
    for i, level in enumerate(names):
        for place, entry in enumerate(by_level.get(level, ())):
            dim, bound, axis = _checked_loop(entry, problem, f"mapping.levels.{level}", place)
            path = f"mapping.levels.{level}.{dim}"
            d = problem.dimensions.index(dim)
            target = {"": temporal, "X": spatial_x, "Y": spatial_y}[axis]
            if target[i, d] != 1 and bound != 1:
                raise ValueError(f"{path}: two {axis or 'temporal'} loops over '{dim}' in one level")
            if bound != 1:
                target[i, d] = bound
                if not axis:
                    position[i, d] = place
    position = np.argsort(np.argsort(position, axis=-1, kind="stable"), axis=-1).astype(float)
    kept = [list(names_) for names_ in default_keeps(problem, architecture)]
    for level, tensors in keeps.items():
        kept[names.index(level)] = list(tensors)
    made = Mapping(
        temporal=temporal,
        position=position,
        spatial_x=spatial_x,
        spatial_y=spatial_y,
        dimensions=problem.dimensions,
        levels=names,
        keeps=tuple(tuple(k) for k in kept),
        ragged=ragged,
    )
    return made.checked(problem, architecture)


def mapping_from_text(text: str, problem: Problem, architecture: Architecture) -> Mapping:
    """Reads what `Mapping.to_text` writes. A level that is left out has no loops and keeps its default tensors.

    ValueError names the line, or the level and dimension.
    """
    if not isinstance(text, str):
        raise ValueError(f"mapping: a {type(text).__name__}, expected text, a line for each level")
    ragged, loops, keeps = False, {}, {}
    for number, line in enumerate(text.strip().splitlines(), 1):
        if line.strip() in ("", "ragged"):
            ragged = ragged or line.strip() == "ragged"
            continue
        match = re.fullmatch(r"\s*(\S+)\s*(?:\[([^\]]*)\])?\s*(.*?)\s*", line)
        if not match:
            raise ValueError(f"mapping.line {number}: {line!r}, expected 'LEVEL [TENSOR ...] DIM:BOUND ...'")
        level, tensors, entries = match.groups()
        if level in loops:
            raise ValueError(f"mapping.line {number}: level '{level}' appears twice")
        loops[level] = [_loop(entry, f"mapping.line {number}") for entry in entries.split()]
        if tensors is not None:
            keeps[level] = tensors.split()
    return mapping(problem, architecture, loops, keeps, ragged)


def stack(mappings: Sequence[Mapping]) -> Mapping:
    """Many mappings of one problem, architecture and bypass as one batch (a new leading axis)."""
    first = mappings[0]
    for other in mappings:
        if (other.dimensions, other.levels, other.keeps, other.ragged) != (
            first.dimensions,
            first.levels,
            first.keeps,
            first.ragged,
        ):
            raise ValueError(
                "mappings: dimensions, levels, keeps and ragged differ, expected one structure for a batch"
            )
    keys = ("temporal", "position", "spatial_x", "spatial_y")
    return replace(first, **{key: np.stack([np.asarray(getattr(m, key)) for m in mappings]) for key in keys})


def _by_level(loops: Any, names: tuple[str, ...]) -> dict[str, list[Any]]:
    """Loops by level, from a dictionary or from one list for each level."""
    if not isinstance(loops, MappingOf):
        if isinstance(loops, str) or not isinstance(loops, Iterable):
            raise ValueError(f"mapping.levels: {loops!r}, expected {{level: [(dimension, bound), ...]}}")
        loops = list(loops)
        if len(loops) != len(names):
            raise ValueError(f"mapping.levels: loops of {len(loops)} levels, expected {len(names)}: {', '.join(names)}")
        loops = dict(zip(names, loops, strict=True))
    for level, found in loops.items():
        if level not in names:
            raise ValueError(unknown("level", level, names, "mapping.levels"))
        if isinstance(found, str) or not isinstance(found, Iterable):
            raise ValueError(f"mapping.levels.{level}: {found!r}, expected a list of (dimension, bound) loops")
    return {level: list(found) for level, found in loops.items()}


def _keeps(keeps: Any, names: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Names of tensors by level."""
    if keeps is None:
        return {}
    if not isinstance(keeps, MappingOf):
        raise ValueError(f"mapping.keeps: {keeps!r}, expected {{level: [tensor, ...]}}")
    for level, tensors in keeps.items():
        if level not in names:
            raise ValueError(unknown("level", level, names, "mapping.levels"))
        if isinstance(tensors, str) or not isinstance(tensors, Iterable):
            raise ValueError(f"mapping.keeps.{level}: {tensors!r}, expected a list of tensors")
    return {level: tuple(tensors) for level, tensors in keeps.items()}


def _checked_loop(entry: Any, problem: Problem, path: str, place: int) -> Loop:
    if isinstance(entry, str) or not isinstance(entry, Sequence) or len(entry) not in (2, 3):
        raise ValueError(f"{path}[{place}]: {entry!r}, expected (dimension, bound) or (dimension, bound, axis)")
    dim, bound, axis = Loop(*entry)
    if dim not in problem.dimensions:
        raise ValueError(unknown("dimension", dim, problem.dimensions, path))
    if axis not in ("", "X", "Y"):
        raise ValueError(f"{path}.{dim}: axis {axis!r}, expected '' (temporal), 'X' or 'Y'")
    number = isinstance(bound, int | float | np.integer | np.floating) and not isinstance(bound, bool)
    if not number or not 1 <= bound <= _LARGEST_BOUND or bound != int(bound):
        raise ValueError(f"{path}.{dim}: bound {repr(bound)[:40]}, expected a positive integer")
    return Loop(dim, int(bound), axis)


def _loop(entry: str, path: str) -> Loop:
    match = re.fullmatch(r"(.+):([0-9]{1,16})([XY]?)", entry)
    if not match:
        raise ValueError(f"{path}: loop '{entry}', expected DIM:BOUND, DIM:BOUNDX or DIM:BOUNDY")
    return Loop(match[1], int(match[2]), match[3])
