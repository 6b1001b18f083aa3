"""Timeloop's `mapping` section (v0.4), read and written, and its mapping constraints.

A permutation lists the loops of a level innermost first. Spatial loops whose place in the permutation is before `split` run along
X, the others along Y. A spatial target is a container (what it fans out to) or the storage level above it.
"""

from typing import Any

from dataflow.architecture import Architecture
from dataflow.mappers.constraints import Constraints
from dataflow.mapping import Loop, Mapping, mapping
from dataflow.nest import Nest
from dataflow.problem import Problem, unknown
from dataflow.readers.timeloop_architecture import ReadArchitecture, keeps_of
from dataflow.readers.yaml_fields import fields, integer, items, names_of, whole

_TENSOR_TYPES = ("dataspace", "datatype", "bypass")


def read_mapping(section: Any, work: Problem, chip: ReadArchitecture, path: str = "mapping") -> Mapping:
    """A checked mapping; ragged if any factor gives a remainder (`M=4,3`). Raises ValueError with the field's path."""
    made = chip.architecture
    temporal: dict[str, list[Loop]] = {name: [] for name in made.level_names}
    spatial: dict[str, list[Loop]] = {name: [] for name in made.level_names}
    keeps: dict[str, list[str]] = {}
    ragged = False
    for i, raw in enumerate(items(section, path)):
        where = f"{path}[{i}]"
        known = ("factors", "permutation", "split", "keep", "bypass")
        entry = fields(raw, where, ("target", "type"), known)
        kind, target = str(entry["type"]), str(entry["target"])
        if kind in _TENSOR_TYPES:
            level = _level(target, chip, f"{where}.target")
            tensors = [t.name for t in work.tensors]
            given = {key: entry[key] for key in ("keep", "bypass") if key in entry}
            keeps[level] = list(keeps_of({"dataspace": given}, tensors, where) or ())
            continue
        if kind not in ("temporal", "spatial"):
            raise ValueError(unknown("type", kind, ("temporal", "spatial", *_TENSOR_TYPES), f"{where}.type"))
        factors, short = _factors(entry.get("factors", []), work, f"{where}.factors")
        ragged |= short
        order = _permutation(entry.get("permutation"), work, f"{where}.permutation")
        if kind == "temporal":
            level = _level(target, chip, f"{where}.target")
            loops = [Loop(dim, factors[dim]) for dim in reversed(order) if factors.get(dim, 1) > 1]
            temporal[level] = loops
            continue
        level = _fanned(target, chip, factors, f"{where}.target")
        split = integer(entry.get("split", len(order) if _along_x(made, level) else 0), f"{where}.split")
        for place, dim in enumerate(order):
            if factors.get(dim, 1) > 1 and level is not None:
                spatial[level].append(Loop(dim, factors[dim], "X" if place < split else "Y"))
    loops = {name: temporal[name] + spatial[name] for name in made.level_names}
    return mapping(work, made, loops, keeps, ragged)


def write_mapping(made: Mapping, work: Problem, chip: Architecture) -> str:
    """The text of a single mapping as a `mapping` section, which `read_mapping` reads back."""
    nest, lines = Nest(work, made), ["mapping:"]
    for i, level in enumerate(made.levels):
        if chip.levels[i].stores:
            keep = [t.name for t in work.tensors if t.name in made.keeps[i]]
            bypass = [t.name for t in work.tensors if t.name not in made.keeps[i]]
            sides = f"keep: [{', '.join(keep)}], bypass: [{', '.join(bypass)}]"
            lines.append(f"- {{target: {level}, type: dataspace, {sides}}}")
        loops = made.loops(i)
        timed, spread = [x for x in loops if not x.axis], [x for x in loops if x.axis]
        if len({x.dimension for x in spread}) < len(spread):
            raise ValueError(f"mapping.levels.{level}: a dimension spread along X and along Y, expected one of them")
        for kind, chosen in (("temporal", timed[::-1]), ("spatial", spread)):
            if not chosen:
                continue
            inner_first = [x.dimension for x in chosen]
            order = inner_first + [dim for dim in work.dimensions if dim not in inner_first]
            factors = ", ".join(f'"{_factor(nest, i, loop)}"' for loop in chosen)
            split = f", split: {sum(x.axis == 'X' for x in chosen)}" if kind == "spatial" else ""
            entry = f"factors: [{factors}], permutation: [{', '.join(order)}]{split}"
            lines.append(f"- {{target: {level}, type: {kind}, {entry}}}")
    return "\n".join(lines) + "\n"


def _factor(nest: Nest, level: int, loop: Loop) -> str:
    """`M=4`, or `M=4,3` where the last pass of the loop has 3 iterations."""
    last = int(nest.residual[level][loop.dimension][("", "X", "Y").index(loop.axis)]) if nest.ragged else loop.bound
    return f"{loop.dimension}={loop.bound}" + (f",{last}" if nest.ragged else "")


def read_constraints(chip: ReadArchitecture, work: Problem) -> Constraints:
    """What a mapper may choose, from the constraints written at the nodes of an architecture: `dataspace`, `temporal` and `spatial`
    with factors, permutations and (`no_iteration_over_dims`) dimensions left out."""
    tensors = [t.name for t in work.tensors]
    factors: dict[str, dict[str, int]] = {}
    allowed: dict[str, dict[str, list[str]]] = {"temporal": {}, "spatial": {}}
    order: dict[str, list[str]] = {}
    keeps: dict[str, list[str]] = {}
    for name, raw in chip.constraints.items():
        path = f"architecture.nodes.{name}.constraints"
        given = fields(raw, path, (), ("dataspace", "temporal", "spatial"))
        kept = keeps_of(given, tensors, path)
        if kept is not None:
            keeps[_level(name, chip, path)] = list(kept)
        for kind in ("temporal", "spatial"):
            if not given.get(kind):
                continue
            where = f"{path}.{kind}"
            known = ("factors", "permutation", "split", "no_iteration_over_dims")
            entry = fields(given[kind], where, (), known)
            level = _level(name, chip, where) if kind == "temporal" else _fanned(name, chip, {}, where)
            if level is None:
                continue
            chosen, _ = _factors(entry.get("factors", []), work, f"{where}.factors")
            out = set(names_of(entry.get("no_iteration_over_dims") or [], f"{where}.no_iteration_over_dims"))
            listed = _permutation(entry.get("permutation"), work, f"{where}.permutation")
            split = integer(
                entry.get("split", len(listed) if _along_x(chip.architecture, level) else 0), f"{where}.split"
            )
            for dim, bound in chosen.items():
                axis = "" if kind == "temporal" else ":X" if listed.index(dim) < split else ":Y"
                factors.setdefault(level, {})[f"{dim}{axis}"] = bound
            if out:
                allowed[kind][level] = [dim for dim in work.dimensions if dim not in out]
            if kind == "temporal" and entry.get("permutation"):
                order[level] = list(reversed(listed))
    return Constraints(
        factors=factors, temporal=allowed["temporal"], spatial=allowed["spatial"], order=order, keeps=keeps
    )


def _level(target: str, chip: ReadArchitecture, path: str) -> str:
    stored = [level.name for level in chip.architecture.levels if level.stores]
    wires = [level.name for level in chip.architecture.levels if not level.stores]
    if target not in (*stored, *wires):
        raise ValueError(unknown("level", target, stored, path))
    return target


def _fanned(target: str, chip: ReadArchitecture, factors: dict[str, int], path: str) -> str | None:
    names = chip.architecture.level_names
    if target not in chip.fanout_of and target not in names:
        raise ValueError(unknown("spatial target", target, [*chip.fanout_of, *names], path))
    level = chip.fanout_of.get(target, target)
    wide = [dim for dim, bound in factors.items() if bound > 1]
    if level is None and wide:
        raise ValueError(
            f"{path}: '{target}' has one instance, expected factors of 1, not {wide[0]}={factors[wide[0]]}"
        )
    return level


def _along_x(made: Architecture, level: str | None) -> bool:
    return level is None or float(made.levels[made.index(level)].fanout_x) > 1.0


def _factors(given: Any, work: Problem, path: str) -> tuple[dict[str, int], bool]:
    """Bounds by dimension, and whether any has a remainder."""
    if isinstance(given, dict):
        given = [f"{dim}={bound}" for dim, bound in given.items()]
    parts = given.split() if isinstance(given, str) else [str(part) for part in items(given, path)]
    found, ragged = {}, False
    for part in parts:
        dim, sign, bound = part.partition("=")
        if not sign or "<" in part or ">" in part:
            raise ValueError(f"{path}: '{part}', expected DIMENSION=FACTOR")
        if dim not in work.dimensions:
            raise ValueError(unknown("dimension", dim, work.dimensions, path))
        bound, comma, rest = bound.partition(",")
        ragged |= bool(comma)
        if bound == "0":
            raise ValueError(f"{path}: '{part}' (all that remains), expected the factor as a positive number")
        found[dim] = whole(bound, f"{path}.{dim}")
        if comma:
            whole(rest, f"{path}.{dim}")
    return found, ragged


def _permutation(given: Any, work: Problem, path: str) -> list[str]:
    """All dimensions, innermost first; those not listed come outermost."""
    if given is None:
        return list(work.dimensions)
    single = isinstance(given, str) and "," not in given and " " not in given and given not in work.dimensions
    listed = list(given) if single else names_of(given, path)
    for dim in listed:
        if dim not in work.dimensions:
            raise ValueError(unknown("dimension", dim, work.dimensions, path))
    if len(set(listed)) < len(listed):
        raise ValueError(f"{path}: {given!r}, expected each dimension once")
    return listed + [dim for dim in work.dimensions if dim not in listed]
