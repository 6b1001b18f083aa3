"""Timeloop v0.4 inputs: what a set of YAML files says, as our problem, architecture, mapping, sparsity and constraints."""

from pathlib import Path
from typing import Any, NamedTuple

from dataflow.architecture import Architecture
from dataflow.mappers.constraints import Constraints
from dataflow.mapping import Mapping
from dataflow.problem import Problem, unknown
from dataflow.readers.timeloop_architecture import read_architecture
from dataflow.readers.timeloop_mapping import read_constraints, read_mapping
from dataflow.readers.timeloop_problem import read_problem
from dataflow.readers.yaml_fields import fields, items, load_yaml
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

    Raises ValueError in one line with the field's path for unknown keys, sections, names, sizes and factors that do not fit.
    """
    sections: dict[str, Any] = {}
    for source in _files(sources):
        for key, value in load_yaml(source).items():
            if key in _OTHER_PROGRAMS:
                continue
            if key not in SECTIONS:
                raise ValueError(unknown("section", key, SECTIONS, "timeloop"))
            if key in sections:
                raise ValueError(f"timeloop.{key}: given twice, expected once")
            sections[key] = value
    for key in ("problem", "architecture"):
        if key not in sections:
            raise ValueError(f"timeloop.{key}: missing, expected a section")
    work, densities = read_problem(sections["problem"])
    chip = read_architecture(
        sections["architecture"], {key: sections[key] for key in ("ERT", "ART") if key in sections}
    )
    constraints = read_constraints(chip, work)
    for level, kept in constraints.keeps.items():
        chip = chip._replace(architecture=chip.architecture.with_level(level, keeps=tuple(kept)))
    made = read_mapping(sections["mapping"], work, chip) if "mapping" in sections else None
    formats, acts = {}, []
    if sections.get("sparse_optimizations"):
        if made is None:
            raise ValueError("timeloop.mapping: missing, expected with sparse_optimizations (formats follow its loops)")
        targets = _targets(sections["sparse_optimizations"])
        formats, acts = sparse_targets(targets, RecordedRun(work, chip.architecture, made, True), None)
    zeros = sparsity(work, chip.architecture, densities, formats, acts)
    return TimeloopInputs(work, chip.architecture, made, zeros, constraints)


def _files(sources: tuple[str | Path, ...]) -> list[str | Path]:
    found: list[str | Path] = []
    for source in sources:
        if isinstance(source, Path) and source.is_dir():
            found += sorted([*source.glob("*.yaml"), *source.glob("*.yml")])
        else:
            found.append(source)
    if not found:
        raise ValueError("timeloop: no sources, expected YAML files or texts")
    return found


def _targets(section: Any) -> list[dict[str, Any]]:
    """The targets of the sparse optimisations, keys checked."""
    path = "sparse_optimizations"
    targets = items(fields(section, path, ("targets",), (), ("version",))["targets"], f"{path}.targets")
    for i, target in enumerate(targets):
        where = f"{path}.targets[{i}]"
        known = ("representation_format", "action_optimization")
        target = fields(target, where, ("name",), known)
        spaces = fields(
            target.get("representation_format") or {}, f"{where}.representation_format", (), ("data_spaces",)
        )
        for j, space in enumerate(items(spaces.get("data_spaces") or [], f"{where}.representation_format.data_spaces")):
            at = f"{where}.representation_format.data_spaces[{j}]"
            space = fields(space, at, ("name", "ranks"))
            for r, rank in enumerate(items(space["ranks"], f"{at}.ranks")):
                fields(
                    rank,
                    f"{at}.ranks[{r}]",
                    ("format",),
                    ("flattened_rankIDs",),
                    ("metadata_word_bits", "payload_word_bits"),
                )
        for j, action in enumerate(items(target.get("action_optimization") or [], f"{where}.action_optimization")):
            at = f"{where}.action_optimization[{j}]"
            for k, option in enumerate(items(fields(action, at, ("type", "options"))["options"], f"{at}.options")):
                fields(option, f"{at}.options[{k}]", ("target", "condition_on"))
    return targets
