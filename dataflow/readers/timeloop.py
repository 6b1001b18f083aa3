"""Timeloop v0.4 inputs: what a set of YAML files says, as our problem, architecture, mapping, sparsity and constraints."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from dataflow.architecture import Architecture
from dataflow.mappers.constraints import Constraints
from dataflow.mapping import Mapping
from dataflow.problem import Problem, unknown
from dataflow.readers.timeloop_architecture import read_architecture, with_reference
from dataflow.readers.timeloop_mapping import read_constraints, read_mapping
from dataflow.readers.timeloop_problem import read_problem
from dataflow.readers.yaml_fields import fields, items, load_yaml, name_of, names_of
from dataflow.recorded import RecordedRun
from dataflow.recorded_sparsity import sparse_targets
from dataflow.sparsity import Sparsity, sparsity

#: Sections that are read, and those that only other programs need.
SECTIONS = ("problem", "architecture", "mapping", "sparse_optimizations", "ERT", "ART")
_OTHER_PROGRAMS = ("mapper", "variables", "globals", "components", "compound_components", "version", "specification")


class TimeloopInputs(NamedTuple):
    """What was read. `mapping` is None without a mapping section; `sparsity` is dense without densities and optimisations."""

    problem: Problem
    architecture: Architecture
    mapping: Mapping | None
    sparsity: Sparsity
    constraints: Constraints


def read_timeloop(*sources: str | Path) -> TimeloopInputs:
    """Reads files (`Path`), folders of `*.yaml`, or texts. Each section may stand in one of them only.

    Raises ValueError in one line with the file and the field's path for unknown keys, sections, names, sizes and factors that do
    not fit. Files of v0.3 are refused as such. Without energies (`ERT`), energy is NaN (`Architecture.energy_note`).
    """
    sections: dict[str, Any] = {}
    places: dict[str, str] = {}
    for source in _files(sources):
        place = f"{source}: " if isinstance(source, Path) else ""
        for key, value in load_yaml(source).items():
            if key in _OTHER_PROGRAMS:
                continue
            check_version(key, value, place)
            if key not in SECTIONS:
                raise ValueError(place + unknown("section", key, SECTIONS, "timeloop"))
            if key in sections:
                raise ValueError(f"{place}timeloop.{key}: given twice, expected once")
            sections[key], places[key] = value, place
    for key in ("problem", "architecture"):
        if key not in sections:
            raise ValueError(f"timeloop.{key}: missing, expected a section")
    with _placed(places["problem"]):
        work, densities = read_problem(sections["problem"])
    tables = {key: sections[key] for key in ("ERT", "ART") if key in sections}
    with _placed(places["architecture"]):
        chip = read_architecture(sections["architecture"])
        constraints = read_constraints(chip, work)
    with _placed(places.get("ERT", places.get("ART", ""))):
        chip = chip._replace(architecture=with_reference(chip.architecture, tables))
    for level, kept in constraints.keeps.items():
        chip = chip._replace(architecture=chip.architecture.with_level(level, keeps=tuple(kept)))
    made = None
    if "mapping" in sections:
        with _placed(places["mapping"]):
            made = read_mapping(sections["mapping"], work, chip)
    with _placed(places.get("sparse_optimizations", places["problem"])):
        formats, acts = {}, []
        if sections.get("sparse_optimizations"):
            if made is None:
                raise ValueError(
                    "timeloop.mapping: missing, expected with sparse_optimizations (formats follow its loops)"
                )
            targets = _targets(sections["sparse_optimizations"])
            formats, acts = sparse_targets(targets, RecordedRun(work, chip.architecture, made, True), None)
        zeros = sparsity(work, chip.architecture, densities, formats, acts)
    return TimeloopInputs(work, chip.architecture, made, zeros, constraints)


@contextmanager
def _placed(place: str) -> Iterator[None]:
    """Puts the file before the field's path of an error; a structure that contains itself is an error, too."""
    try:
        yield
    except ValueError as error:
        raise ValueError(place + str(error)) from None
    except RecursionError:
        raise ValueError(f"{place}timeloop: nested without end, expected sections of a few levels") from None


#: What only files of v0.3 hold: sections, and keys of sections.
_OLD_SECTIONS = (
    "arch",
    "architecture_constraints",
    "mapspace",
    "mapspace_constraints",
    "constraints",
    "architecture-constraints",
)
_OLD_KEYS = {"architecture": ("subtree", "local", "arithmetic", "storage"), "problem": ("data-spaces",)}


def check_version(key: Any, value: Any, place: str = "") -> None:
    """ValueError for what only files of v0.3 hold."""
    old = f"timeloop.{key}" if key in _OLD_SECTIONS else ""
    if isinstance(key, str) and isinstance(value, dict):
        if str(value.get("version")) in ("0.1", "0.2", "0.3"):
            old = f"{key}.version {value['version']}"
        shape = value.get("shape")
        for name in _OLD_KEYS.get(key, ()):
            if name in value or (isinstance(shape, dict) and name in shape):
                old = f"{key}.{name}"
    if old:
        raise ValueError(
            f"{place}{old}: Timeloop's format before v0.4, expected v0.4 ('nodes' in architecture); convert it first"
        )


def _files(sources: tuple[str | Path, ...]) -> list[str | Path]:
    found: list[str | Path] = []
    for source in sources:
        if isinstance(source, Path) and source.is_dir():
            inside = sorted([*source.glob("*.yaml"), *source.glob("*.yml")])
            if not inside:
                raise ValueError(f"{source}: no *.yaml or *.yml in this folder, expected Timeloop's files")
            found += inside
        else:
            found.append(source)
    if not found:
        raise ValueError("timeloop: no sources, expected YAML files or texts")
    return found


def _targets(section: Any) -> list[dict[str, Any]]:
    """The targets of the sparse optimisations with names and lists of the right types and no other keys."""
    path = "sparse_optimizations"
    found = []
    for i, raw in enumerate(items(fields(section, path, ("targets",), (), ("version",))["targets"], f"{path}.targets")):
        where = f"{path}.targets[{i}]"
        target = fields(raw, where, ("name",), ("representation_format", "action_optimization"))
        at = f"{where}.representation_format"
        spaces = fields(target.get("representation_format") or {}, at, (), ("data_spaces",)).get("data_spaces") or []
        acts = items(target.get("action_optimization") or [], f"{where}.action_optimization")
        found.append(
            {
                "name": name_of(target["name"], f"{where}.name"),
                "representation_format": {
                    "data_spaces": [
                        _space(space, f"{at}.data_spaces[{j}]")
                        for j, space in enumerate(items(spaces, f"{at}.data_spaces"))
                    ]
                },
                "action_optimization": [
                    _action(act, f"{where}.action_optimization[{j}]") for j, act in enumerate(acts)
                ],
            }
        )
    return found


def _space(raw: Any, at: str) -> dict[str, Any]:
    space, ranks = fields(raw, at, ("name", "ranks")), []
    for r, rank in enumerate(items(space["ranks"], f"{at}.ranks")):
        other = ("metadata_word_bits", "payload_word_bits")
        given = fields(rank, f"{at}.ranks[{r}]", ("format",), ("flattened_rankIDs",), other)
        ranks.append(given | {"format": name_of(given["format"], f"{at}.ranks[{r}].format")})
    return {"name": name_of(space["name"], f"{at}.name"), "ranks": ranks}


def _action(raw: Any, at: str) -> dict[str, Any]:
    act, options = fields(raw, at, ("type", "options")), []
    for k, entry in enumerate(items(act["options"], f"{at}.options")):
        option = fields(entry, f"{at}.options[{k}]", ("target", "condition_on"))
        leaders = names_of(option["condition_on"], f"{at}.options[{k}].condition_on")
        options.append({"target": name_of(option["target"], f"{at}.options[{k}].target"), "condition_on": leaders})
    return {"type": name_of(act["type"], f"{at}.type"), "options": options}
