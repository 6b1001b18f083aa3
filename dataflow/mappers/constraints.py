"""What a mapper may choose, and the check that a problem and an architecture know everything that is named."""

from collections.abc import Iterable
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass, field
from typing import Any

from dataflow.architecture import Architecture
from dataflow.mappers.budget import check_counts
from dataflow.mapping import default_keeps
from dataflow.problem import Problem, unknown


@dataclass(frozen=True)
class Constraints:
    """What a mapper may choose.

    - `factors[level][loop]`: fixed factor of a loop, `{"DRAM": {"K": 4, "C:X": 16}}` (dimension, `:X` or `:Y` for
      spatial).
    - `spatial[level]`: dimensions that may be spatial at a level (default: all, where the level has a fanout).
    - `temporal[level]`: dimensions that may be temporal at a level (default: all).
    - `order[level]`: the order of a level's loops, outermost first; dimensions left out follow (default: free).
    - `keeps`: as in `mapping`.
    """

    factors: MappingOf[str, MappingOf[str, int]] = field(default_factory=dict)
    spatial: MappingOf[str, Iterable[str]] = field(default_factory=dict)
    temporal: MappingOf[str, Iterable[str]] = field(default_factory=dict)
    order: MappingOf[str, Iterable[str]] = field(default_factory=dict)
    keeps: MappingOf[str, Iterable[str]] = field(default_factory=dict)


def check_constraints(rules: Constraints, problem: Problem, architecture: Architecture) -> None:
    """ValueError naming the field for an unknown level, dimension, axis or tensor, a dimension given twice, a factor that
    is not a positive integer or stands where the architecture does not fan out, and a tensor kept nowhere."""
    dims, tensors = problem.dimensions, [t.name for t in problem.tensors]
    for kind in ("factors", "spatial", "temporal", "order", "keeps"):
        by_level = getattr(rules, kind)
        if not isinstance(by_level, MappingOf):
            raise ValueError(f"constraints.{kind}: {by_level!r}, expected a dictionary by level")
        for level, content in by_level.items():
            if level not in architecture.level_names:
                raise ValueError(unknown("level", level, architecture.level_names, f"constraints.{kind}"))
            path = f"constraints.{kind}.{level}"
            if kind == "factors":
                _check_factors(content, dims, architecture, level, path)
                continue
            what, known = ("tensor", tensors) if kind == "keeps" else ("dimension", dims)
            for name in (listed := _names(content, what, path)):
                if name not in known:
                    raise ValueError(unknown(what, name, known, path))
                if listed.count(name) > 1:
                    raise ValueError(f"{path}: {what} '{name}' twice, expected once")
    kept = dict(zip(architecture.level_names, default_keeps(problem, architecture), strict=True)) | dict(rules.keeps)
    for name in tensors:
        if not any(name in held for held in kept.values()):
            raise ValueError(
                f"constraints.keeps: tensor '{name}' bypasses every level, expected at least one that keeps it"
            )


def _names(content: Any, what: str, path: str) -> list[Any]:
    if isinstance(content, str) or not isinstance(content, Iterable):
        raise ValueError(f"{path}: {content!r}, expected a list of {what}s")
    return list(content)


def _check_factors(content: Any, dims: tuple[str, ...], architecture: Architecture, level: str, path: str) -> None:
    if not isinstance(content, MappingOf):
        raise ValueError(f"{path}: {content!r}, expected {{dimension: factor}}")
    for loop, factor in content.items():
        dim, colon, axis = str(loop).partition(":")
        if dim not in dims:
            raise ValueError(unknown("dimension", loop, dims, path))
        if colon and axis not in ("X", "Y"):
            raise ValueError(f"{path}.{loop}: axis '{axis}', expected 'X' or 'Y', or no ':' for a loop in time")
        check_counts(**{f"{path}.{loop}": factor})
        fanout = getattr(architecture.levels[architecture.index(level)], f"fanout_{axis.lower()}") if axis else factor
        if factor > float(fanout):
            raise ValueError(f"{path}.{loop}: {factor} instances, expected at most fanout_{axis.lower()} = {fanout:g}")
