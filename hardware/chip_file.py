"""The chip file: a TOML table (or an equal dict) to an `Accelerator`, and back.

Every value may be a number in SI units, text with a unit ("3.35 TB/s"), or `{ value = ..., kind = ..., source = ...
}`; the file's own `kind` and `source` hold for the values that state none. Derived values are marked in the provenance.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from hardware.accelerator import (
    RATE_DTYPES,
    SYSTOLIC_DATAFLOWS,
    Accelerator,
    Link,
    MemoryLevel,
    NearMemory,
    SystolicUnit,
)
from hardware.cluster import TOPOLOGIES
from hardware.paths import get_path, nearest, numeric_paths
from hardware.quantities import format_quantity, parse_quantity

KINDS = ("datasheet", "measured", "fitted", "assumed")

#: Numbers between these keep every product and quotient of a model finite.
LEAST, MOST = 1e-100, 1e100

#: Key of the file -> (field, dimension).
Keys = Mapping[str, tuple[str, str]]
CHIP_KEYS: Keys = {
    "cores": ("cores", "count"),
    "clock": ("clock_hz", "hz"),
    "on_chip_per_core": ("on_chip_bytes_per_core", "bytes"),
    "launch_latency": ("launch_latency_s", "s"),
    "idle_power": ("idle_watts", "watts"),
    "peak_power": ("peak_watts", "watts"),
    "price": ("price_usd", "usd"),
    "devices_per_node": ("devices_per_node", "count"),
}
LEVEL_KEYS: Keys = {
    "capacity": ("capacity_bytes", "bytes"),
    "bandwidth": ("bandwidth_bytes_per_s", "bytes_per_s"),
    "latency": ("latency_s", "s"),
    "energy": ("energy_joules_per_byte", "joules_per_byte"),
}
LINK_KEYS: Keys = {k: LEVEL_KEYS[k] for k in ("bandwidth", "latency", "energy")}
SYSTOLIC_KEYS: Keys = {"rows": ("rows", "count"), "cols": ("cols", "count")}
NEAR_MEMORY_KEYS: Keys = {
    "channels": ("channels", "count"),
    "banks": ("banks", "count"),
    "row": ("row_bytes", "bytes"),
    "bank_bandwidth": ("bank_bandwidth_bytes_per_s", "bytes_per_s"),
    "activate": ("activate_s", "s"),
    "command": ("command_s", "s"),
    "kernel": ("kernel_s", "s"),
    "handover": ("handover_s", "s"),
    "handover_bandwidth": ("handover_bytes_per_s", "bytes_per_s"),
}
#: What a bank cannot be modelled without.
NEAR_MEMORY_NEEDED = ("channels", "banks", "row", "bank_bandwidth", "activate")
RATE_TABLES = {"matrix": "matrix_flops_per_s", "vector": "vector_flops_per_s"}
LINKS = ("scale_up", "scale_out")
TEXT_KEYS = ("name", "vendor", "architecture", "aliases", "kind", "source")
TOP_KEYS = (*TEXT_KEYS, *CHIP_KEYS, *RATE_TABLES, "memory", *LINKS, "systolic", "near_memory")

FP32_DERIVATION = "derived: no fp32 matrix rate given, so fp32 products run at the vector rate"


class _Reader:
    """Reads values under one file name, collecting provenance."""

    def __init__(self, where: str, kind: str, source: str) -> None:
        self.where, self.kind, self.source = where, kind, source
        self.provenance: list[tuple[str, str, str]] = []

    def fail(self, path: str, message: str) -> ValueError:
        return ValueError(f"{self.where}: {path}: {message}")

    def table(self, value: Any, path: str, known: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise self.fail(path, f"{_brief(value)}; expected a table with keys among {', '.join(known)}")
        for key in value:
            if key not in known:
                full = f"{path}.{key}" if path else str(key)
                raise self.fail(full, f"unknown key{nearest(str(key), known)} (known: {', '.join(known)})")
        return value

    def text(self, value: Any, path: str, choices: tuple[str, ...] = ()) -> str:
        if not isinstance(value, str) or (choices and value not in choices):
            expected = f"one of {', '.join(choices)}" if choices else "text"
            hint = nearest(value, choices) if isinstance(value, str) else ""
            raise self.fail(path, f"{_brief(value)}; expected {expected}{hint}")
        return " ".join(value.split())

    def number(self, value: Any, dimension: str, key: str, field: str) -> Any:
        kind, source = self.kind, self.source
        if isinstance(value, Mapping):
            value = self.table(value, key, ("value", "kind", "source"))
            kind = self.text(value.get("kind", kind), f"{key}.kind", KINDS)
            source = self.text(value.get("source", source), f"{key}.source")
            if "value" not in value:
                raise self.fail(key, "no 'value'; expected { value = ..., kind = ..., source = ... }")
            key, value = f"{key}.value", value["value"]
        number = parse_quantity(value, dimension, f"{self.where}: {key}")
        if isinstance(number, float) and not LEAST <= number <= MOST:
            raise self.fail(
                key, f"{_brief(value)}; expected a {dimension} quantity from {LEAST:g} to {MOST:g} in SI units"
            )
        self.provenance.append((field, kind, source))
        return number

    def numbers(self, table: Mapping[str, Any], keys: Keys, key: str, field: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for short, (name, dimension) in keys.items():
            if short in table:
                found[name] = self.number(table[short], dimension, f"{key}{short}", f"{field}{name}")
        return found


def from_dict(data: Mapping[str, Any], where: str = "chip", name: str = "custom") -> Accelerator:
    """The chip a table describes. `where`: how errors name it; `name`: the chip's name if the table has none.

    Needed: one rate under `matrix` or `vector`, and `memory.dram` with capacity and bandwidth. Whatever else is
    missing is NaN; a missing fp32 matrix rate is the fp32 vector rate, marked as derived. Values may be arrays.
    Errors: `ValueError`, one line with file, field path, value and expectation.
    """
    top = _Reader(where, "assumed", "unstated").table(data, "", TOP_KEYS)
    read = _Reader(where, "", "")
    read.kind = read.text(top.get("kind", "assumed"), "kind", KINDS)
    read.source = read.text(top.get("source", "unstated"), "source")
    name = read.text(top.get("name", name), "name")
    if not name.strip():
        raise read.fail("name", "empty; expected a name")
    aliases = top.get("aliases", ())
    if isinstance(aliases, str) or not isinstance(aliases, list | tuple):
        raise read.fail("aliases", f"{_brief(aliases)}; expected a list of names")
    aliases = tuple(read.text(alias, f"aliases[{i}]") for i, alias in enumerate(aliases))

    rates = {}
    for key, field in RATE_TABLES.items():
        table = read.table(top.get(key, {}), key, RATE_DTYPES)
        rates[field] = {d: read.number(v, "flops_per_s", f"{key}.{d}", f"{field}.{d}") for d, v in table.items()}
    if not any(rates.values()):
        raise read.fail("matrix", "no peak rate; expected at least one such as [matrix] bf16 = '989 TFLOP/s'")
    matrix, vector = rates["matrix_flops_per_s"], rates["vector_flops_per_s"]
    if "fp32" in vector and "fp32" not in matrix:
        matrix["fp32"] = vector["fp32"]
        read.provenance.append(("matrix_flops_per_s.fp32", "assumed", FP32_DERIVATION))

    memory = _memory(read, top.get("memory", {}))
    links = {key: _link(read, key, top.get(key, {})) for key in LINKS}
    plain = read.numbers(top, CHIP_KEYS, "", "")
    chip = Accelerator(
        name=name,
        vendor=read.text(top.get("vendor", ""), "vendor"),
        architecture=read.text(top.get("architecture", ""), "architecture"),
        aliases=aliases,
        memory=memory,
        **rates,
        **links,
        **plain,
        systolic=_systolic(read, top),
        near_memory=_near_memory(read, top),
        provenance=(),
    )
    order = {path: i for i, path in enumerate(numeric_paths(chip))}
    provenance = tuple(sorted(read.provenance, key=lambda entry: order[entry[0]]))
    return Accelerator(**{**vars(chip), "provenance": provenance})


def _memory(read: _Reader, table: Any) -> tuple[MemoryLevel, ...]:
    if not isinstance(table, Mapping):
        raise read.fail("memory", f"{_brief(table)}; expected tables such as [memory.dram]")
    if "dram" not in table:
        hint = nearest("dram", table) if table else ""
        raise read.fail("memory.dram", f"missing{hint}; expected capacity and bandwidth of the farthest memory")
    levels = []
    for name in ("dram", *(key for key in table if key != "dram")):
        if not isinstance(name, str) or not (name.isascii() and name.replace("_", "").isalnum()):
            raise read.fail(f"memory.{name}", "expected a level name of letters, digits and underscores")
        level = read.table(table[name], f"memory.{name}", tuple(LEVEL_KEYS))
        values = read.numbers(level, LEVEL_KEYS, f"memory.{name}.", f"memory.{name}.")
        levels.append(MemoryLevel(name=name, **values))
    for key in ("capacity", "bandwidth"):
        if key not in table["dram"]:
            raise read.fail(f"memory.dram.{key}", "missing; expected the size and rate of the farthest memory")
    return tuple(levels)


def _link(read: _Reader, key: str, table: Any) -> Link:
    table = read.table(table, key, ("name", "topology", "in_switch_reduction", *LINK_KEYS))
    reduction = table.get("in_switch_reduction", False)
    if not isinstance(reduction, bool):
        raise read.fail(f"{key}.in_switch_reduction", f"{_brief(reduction)}; expected true or false")
    return Link(
        name=read.text(table.get("name", ""), f"{key}.name"),
        topology=read.text(table.get("topology", "switch"), f"{key}.topology", TOPOLOGIES),
        in_switch_reduction=reduction,
        **read.numbers(table, LINK_KEYS, f"{key}.", f"{key}."),
    )


def _systolic(read: _Reader, top: Mapping[str, Any]) -> SystolicUnit | None:
    if "systolic" not in top:
        return None
    table = read.table(top["systolic"], "systolic", (*SYSTOLIC_KEYS, "dataflow"))
    for key in SYSTOLIC_KEYS:
        if key not in table:
            raise read.fail(f"systolic.{key}", "missing; expected the cells of the array")
    for key in ("cores", "clock"):
        if key not in top:
            raise read.fail(key, f"missing; a systolic array needs {'their number' if key == 'cores' else 'its clock'}")
    flow = read.text(table.get("dataflow", "any"), "systolic.dataflow", SYSTOLIC_DATAFLOWS)
    numbers = read.numbers(table, SYSTOLIC_KEYS, "systolic.", "systolic.")
    _check_whole(read, table, ("rows", "cols"), "systolic")
    return SystolicUnit(dataflow=flow, **numbers)


def _near_memory(read: _Reader, top: Mapping[str, Any]) -> NearMemory | None:
    if "near_memory" not in top:
        return None
    table = read.table(top["near_memory"], "near_memory", tuple(NEAR_MEMORY_KEYS))
    for key in NEAR_MEMORY_NEEDED:
        if key not in table:
            raise read.fail(f"near_memory.{key}", "missing; expected it of memory that computes in its banks")
    numbers = read.numbers(table, NEAR_MEMORY_KEYS, "near_memory.", "near_memory.")
    _check_whole(read, table, ("channels", "banks"), "near_memory")
    return NearMemory(**numbers)


def _check_whole(read: _Reader, table: Mapping[str, Any], keys: tuple[str, ...], part: str) -> None:
    for key in keys:
        if isinstance(table[key], float) and (table[key] < 1.0 or table[key] % 1.0):
            raise read.fail(f"{part}.{key}", f"{table[key]!r}; expected a whole number, at least 1")


def dimension_of(path: str) -> str:
    """The dimension (a key of `quantities.UNITS`) of the number at dotted `path` of a chip."""
    table, _, last = path.rpartition(".")
    if table in RATE_TABLES.values():
        return "flops_per_s"
    keys = (CHIP_KEYS, LEVEL_KEYS, SYSTOLIC_KEYS, NEAR_MEMORY_KEYS)
    return {field: dimension for table in keys for field, dimension in table.values()}[last]


def dump(chip: Accelerator) -> str:
    """The chip as TOML text that `load` reads back to the same chip (unknown numbers are left out).

    Errors: `ValueError` for array-valued fields, since a file describes one chip.
    """
    for path, value in numeric_paths(chip).items():
        if np.ndim(value) > 0:
            raise ValueError(f"dump: {path} is an array of shape {np.shape(value)}; expected one chip")
    origins = [(kind, source) for _, kind, source in chip.provenance]
    default = max(dict.fromkeys(origins), key=origins.count) if origins else ("assumed", "unstated")
    lines = [f"name = {_quoted(chip.name)}"] if chip.name else []
    lines += [f"{key} = {_quoted(getattr(chip, key))}" for key in ("vendor", "architecture") if getattr(chip, key)]
    if chip.aliases:
        lines.append(f"aliases = [{', '.join(map(_quoted, chip.aliases))}]")
    lines += [f"kind = {_quoted(default[0])}", f"source = {_quoted(default[1])}"]
    lines += _numbers(chip, CHIP_KEYS, "", default)
    for key, field in RATE_TABLES.items():
        keys = {dtype: (dtype, "flops_per_s") for dtype in getattr(chip, field)}
        lines += _section(key, [], _numbers(chip, keys, f"{field}.", default))
    for level in chip.memory:
        lines += _section(
            f"memory.{level.name}", [], _numbers(chip, LEVEL_KEYS, f"memory.{level.name}.", default), keep=True
        )
    for key in LINKS:
        link: Link = getattr(chip, key)
        words = [f"name = {_quoted(link.name)}"] if link.name else []
        words += [f"topology = {_quoted(link.topology)}"] if link.topology != "switch" else []
        words += ["in_switch_reduction = true"] if link.in_switch_reduction else []
        lines += _section(key, words, _numbers(chip, LINK_KEYS, f"{key}.", default))
    if chip.systolic is not None:
        words = [f"dataflow = {_quoted(chip.systolic.dataflow)}"]
        lines += _section("systolic", words, _numbers(chip, SYSTOLIC_KEYS, "systolic.", default))
    if chip.near_memory is not None:
        lines += _section("near_memory", [], _numbers(chip, NEAR_MEMORY_KEYS, "near_memory.", default))
    return "\n".join(lines) + "\n"


def _section(title: str, words: list[str], numbers: list[str], *, keep: bool = False) -> list[str]:
    return ["", f"[{title}]", *words, *numbers] if words or numbers or keep else []


def _numbers(chip: Accelerator, keys: Keys, prefix: str, default: tuple[str, str]) -> list[str]:
    lines = []
    for key, (field, dimension) in keys.items():
        value = float(get_path(chip, prefix + field))
        if math.isnan(value):
            continue
        text = format_quantity(value, dimension, binary=dimension == "bytes" and prefix != "memory.dram.")
        text = text if dimension == "count" else _quoted(text)
        kind, source = chip.origin(prefix + field)
        extra = [f"kind = {_quoted(kind)}"] if kind != default[0] else []
        extra += [f"source = {_quoted(source)}"] if source != default[1] else []
        lines.append(f"{key} = {{ value = {text}, {', '.join(extra)} }}" if extra else f"{key} = {text}")
    return lines


def _quoted(text: str) -> str:
    escaped = "".join(c if c.isprintable() and c not in '"\\' else _escape(c) for c in text)
    return f'"{escaped}"'


def _escape(character: str) -> str:
    return f"\\{character}" if character in '"\\' else f"\\U{ord(character):08x}"


def _brief(value: Any) -> str:
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 60 else text[:57] + "..."
