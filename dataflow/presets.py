"""Accelerators of the catalogue: levels, rates and energies with their source, and the dataflows they are used with.

A preset is a TOML file in `catalogue/`: `[[level]]` entries outermost first (words, words per cycle, picojoules per block
access) and `[dataflow.NAME]` tables, whose rules name *roles* instead of dimensions, so that one dataflow serves
convolutions, matrix products and attention:

    batch, groups, filters, channels, rows, cols, kernel_rows, kernel_cols;  a product's m rows are `cols`.

Per level a rule says which roles spread over X and Y (`x`, `y`), which grow the level's tile (`fill`, in this order) and
how its loops nest (`order`, outermost first; a level without one nests as the first level of the rule that has one).
`layer_mapping` turns a rule into a mapping.
"""

import tomllib
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from dataflow.architecture import NAN, Architecture, Compute, Storage, architecture
from dataflow.problem import Problem, unknown
from hardware.accelerator import Accelerator, MemoryLevel
from hardware.quantities import parse_quantity

ROLES = ("batch", "groups", "filters", "channels", "rows", "cols", "kernel_rows", "kernel_cols")
PICOJOULE = 1e-12


@dataclass(frozen=True)
class LevelRule:
    """Roles spread over X and Y below a level, roles that grow its tile, and the nesting of its loops."""

    x: tuple[str, ...] = ()
    y: tuple[str, ...] = ()
    fill: tuple[str, ...] = ()
    order: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataflowRule:
    """How a dataflow maps any layer: a `LevelRule` per level of the accelerator, by name."""

    name: str
    summary: str
    levels: dict[str, LevelRule]


class Roles(NamedTuple):
    """`dimensions[role]`: the problem's dimensions in that role; `tensors`: its names for Inputs, Weights, Outputs."""

    dimensions: dict[str, tuple[str, ...]]
    tensors: dict[str, str]


@dataclass(frozen=True)
class Preset:
    """An accelerator of the catalogue. `dataflows`: the first one is the default; `source`: where the numbers are from."""

    name: str
    summary: str
    source: str
    architecture: Architecture
    dataflows: tuple[DataflowRule, ...]

    def dataflow(self, name: str | None = None) -> DataflowRule:
        """The dataflow called `name` (default: the first); ValueError with the nearest known name."""
        if name is None:
            return self.dataflows[0]
        for rule in self.dataflows:
            if rule.name == name:
                return rule
        raise ValueError(unknown("dataflow", name, [rule.name for rule in self.dataflows], self.name))

    def architecture_for(self, problem: Problem) -> Architecture:
        """The architecture with the problem's own tensor names in what each level keeps."""
        names = roles(problem).tensors
        levels = [
            level if level.keeps is None else replace(level, keeps=tuple(names[role] for role in level.keeps))
            for level in self.architecture.levels
        ]
        return replace(self.architecture, levels=tuple(levels))

    def chip(self) -> Accelerator:
        """What the roofline sees of it: peak of the multiply-accumulate units (for every number format, the accelerator
        has one), rate of the outermost level, no launch latency. All else is unknown."""
        outer, clock = self.architecture.levels[0], self.architecture.clock_hz
        rate = outer.shared_words_per_cycle * outer.word_bits / 8.0 * clock
        peak = 2.0 * self.architecture.compute_units * clock
        return Accelerator(
            name=self.name,
            architecture="spatial accelerator",
            matrix_flops_per_s=dict.fromkeys(("bf16", "fp16", "fp8", "int8"), peak),
            vector_flops_per_s={},
            memory=(MemoryLevel(name="dram", bandwidth_bytes_per_s=rate),),
            clock_hz=clock,
            launch_latency_s=0.0,
            provenance=(("matrix_flops_per_s", "datasheet", self.source), ("memory", "datasheet", self.source)),
        )


def preset_names() -> tuple[str, ...]:
    """Names of all presets, sorted."""
    found = (entry.name for entry in files("dataflow").joinpath("catalogue").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml")))


def preset(name: str | Path) -> Preset:
    """A preset by name, or from a TOML file of the same form; ValueError with the field's path for what is wrong."""
    path = Path(name)
    if str(name) in preset_names():
        text, label = files("dataflow").joinpath(f"catalogue/{name}.toml").read_text("utf-8"), str(name)
    elif path.suffix == ".toml":
        text, label = _text_of(path), path.stem
    elif len(path.parts) > 1 or path.exists():
        raise ValueError(f"{name}: expected a file that ends in .toml, or one of {', '.join(preset_names())}")
    else:
        raise ValueError(unknown("accelerator", name, preset_names()))
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path if path.suffix else label}: not TOML ({error})") from None
    return _preset(label, table)


def _text_of(path: Path) -> str:
    if not path.is_file():
        raise ValueError(
            f"{path}: {'not a regular file' if path.exists() else 'no such file'}, expected an accelerator's TOML"
        )
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not text, expected an accelerator's TOML") from None


def roles(problem: Problem) -> Roles:
    """Who is who in a problem made by this package's constructors; ValueError for another contraction."""
    dims, names = set(problem.dimensions), [t.name for t in problem.tensors]
    tensors = {role: role for role in ("Inputs", "Weights", "Outputs")}
    if "Queries" in names:
        found = {"groups": ("B", "H"), "cols": ("Q",), "filters": ("K",), "channels": ("D",)}
        tensors = {"Inputs": "Queries", "Weights": "Keys", "Outputs": "Scores"}
    elif "Values" in names:
        found = {"groups": ("B", "H"), "cols": ("Q",), "filters": ("D",), "channels": ("K",)}
        tensors = {"Inputs": "Scores", "Weights": "Values", "Outputs": "Outputs"}
    elif dims <= {"B", "M", "N", "K"}:
        found = {"groups": ("B",), "cols": ("M",), "filters": ("N",), "channels": ("K",)}
    elif "R" in dims and "M" not in dims:
        found = {"groups": ("C",)}
    else:
        found = {"groups": ("G",), "channels": ("C",), "filters": ("M",)}
    if "R" in dims:
        found |= {"batch": ("N",), "rows": ("P",), "cols": ("Q",), "kernel_rows": ("R",), "kernel_cols": ("S",)}
    found = {role: tuple(d for d in found.get(role, ()) if d in dims) for role in ROLES}
    if {d for group in found.values() for d in group} != dims or set(tensors.values()) != set(names):
        raise ValueError(f"problem '{problem.name}': dimensions {', '.join(problem.dimensions)} have no known roles")
    return Roles(found, tensors)


_LEVEL_FIELDS = {
    *("name", "capacity_words", "word_bits", "block_words", "fanout_x", "fanout_y", "buffers", "picojoules", "keeps"),
    *("read_words_per_cycle", "write_words_per_cycle", "shared_words_per_cycle"),
}
_FIELDS = {"summary", "source", "clock", "mac_picojoules", "level", "dataflow"}


#: Fields that are counts, and the kinds of values that are not numbers.
_WHOLE = ("fanout_x", "fanout_y", "buffers", "block_words")


def _preset(name: str, table: dict[str, Any]) -> Preset:
    for key in table:
        if key not in _FIELDS:
            raise ValueError(unknown("key", key, sorted(_FIELDS), name))
    for key in ("clock", "level", "dataflow"):
        if not table.get(key):
            raise ValueError(f"{name}.{key}: missing, expected {'a frequency' if key == 'clock' else 'at least one'}")
    for key in ("summary", "source"):
        _is(table.get(key, ""), str, f"{name}.{key}", "text")
    _is(table["level"], list, f"{name}.level", "[[level]] tables")
    _is(table["dataflow"], dict, f"{name}.dataflow", "[dataflow.NAME] tables")
    levels = [_level(f"{name}.level[{i}]", entry) for i, entry in enumerate(table["level"])]
    _is(table["clock"], str | int | float, f"{name}.clock", "one frequency")
    clock = parse_quantity(table["clock"], "hz", f"{name}.clock")
    mac = _joules(table, "mac_picojoules", f"{name}.mac_picojoules")
    compute = Compute(mac_joules=mac, word_bits=levels[-1].word_bits)
    made = architecture(levels, compute, name, clock)
    rules = tuple(_rule(f"{name}.dataflow.{key}", key, entry, made) for key, entry in table["dataflow"].items())
    return Preset(name, table.get("summary", ""), table.get("source", ""), made, rules)


def _is(value: Any, kind: Any, path: str, expected: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{path}: {value!r}, expected {expected}")


def _joules(table: dict[str, Any], key: str, path: str) -> float:
    """An energy given in picojoules; NaN, unknown, where it is not given."""
    value = table.get(key, NAN)
    if isinstance(value, bool) or not isinstance(value, int | float) or (key in table and not 0.0 <= value <= 1e300):
        raise ValueError(f"{path}: {value!r}, expected a finite number of picojoules not below 0")
    return value * PICOJOULE


def _level(path: str, entry: dict[str, Any]) -> Storage:
    _is(entry, dict, path, "a table with the level's fields")
    for key in entry:
        if key not in _LEVEL_FIELDS:
            raise ValueError(unknown("key", key, sorted(_LEVEL_FIELDS), path))
    if not isinstance(entry.get("name"), str) or not entry["name"].strip():
        raise ValueError(f"{path}.name: {entry.get('name', 'missing')!r}, expected the level's name")
    for tensor in _names(entry.get("keeps", []), f"{path}.keeps"):
        if tensor not in ("Inputs", "Weights", "Outputs"):
            raise ValueError(unknown("tensor", tensor, ("Inputs", "Weights", "Outputs"), f"{path}.keeps"))
    values = {key: value for key, value in entry.items() if key not in ("picojoules", "keeps")}
    for key, value in values.items():
        if key == "name":
            continue
        whole = key in _WHOLE
        number = isinstance(value, int | float) and not isinstance(value, bool)
        shown = repr(value)[:40]
        if not number or not 0 < value <= 1e300 or (whole and value != int(value)):
            kind = "integer" if whole else "finite number; left out, it is unlimited"
            raise ValueError(f"{path}.{key}: {shown}, expected a positive {kind}")
    joules = _joules(entry, "picojoules", f"{path}.picojoules")
    keeps = tuple(entry["keeps"]) if "keeps" in entry else None
    return Storage(**values, read_joules=joules, write_joules=joules, update_joules=joules, keeps=keeps)


def _names(value: Any, path: str) -> list[str]:
    """A list of different names."""
    _is(value, list, path, "a list of names")
    for name in value:
        _is(name, str, path, "a list of names")
        if value.count(name) > 1:
            raise ValueError(f"{path}: '{name}' twice, expected once")
    return value


def _rule(path: str, name: str, entry: dict[str, Any], made: Architecture) -> DataflowRule:
    levels = {}
    _is(entry, dict, path, "a table of levels")
    _is(entry.get("summary", ""), str, f"{path}.summary", "text")
    for level, parts in entry.items():
        if level == "summary":
            continue
        if level not in made.level_names:
            raise ValueError(unknown("level", level, made.level_names, path))
        _is(parts, dict, f"{path}.{level}", "a table with x, y, fill and order")
        for part, names in parts.items():
            if part not in ("x", "y", "fill", "order"):
                raise ValueError(unknown("key", part, ("x", "y", "fill", "order"), f"{path}.{level}"))
            for role in _names(names, f"{path}.{level}.{part}"):
                if role not in ROLES:
                    raise ValueError(unknown("role", role, ROLES, f"{path}.{level}.{part}"))
        levels[level] = LevelRule(**{part: tuple(names) for part, names in parts.items()})
    return DataflowRule(name, entry.get("summary", ""), levels)
