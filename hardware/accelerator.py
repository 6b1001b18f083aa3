"""What a chip is to the models: rates, memories, cores and clocks, as a frozen pytree of numbers.

Numeric leaves may be arrays, so one `Accelerator` can stand for a million hypothetical chips; names, dtypes, levels and
provenance are static. All units SI; bandwidths in bytes per second with GB = 1e9.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from hardware.paths import get_path, nearest, set_path

Array = Any
UNKNOWN = float("nan")

#: Number formats a rate may be given for. Block-scaled formats run at the rate of their element.
RATE_DTYPES = ("bf16", "fp16", "fp8", "fp4", "int8", "int4", "tf32", "fp32", "fp64")

#: Numbers that may be zero (all others divide something); last part of their path.
_MAY_BE_ZERO = (
    "latency_s", "launch_latency_s", "energy_joules_per_byte", "idle_watts", "price_usd", "command_s", "kernel_s", "handover_s",
)  # fmt: skip
#: How a systolic array is used: outputs, weights or inputs stay in it, or whatever is fastest for each shape.
SYSTOLIC_DATAFLOWS = ("any", "os", "ws", "is")


def static(default: Any) -> Any:
    """A dataclass field that is part of the structure, not an array."""
    return field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class MemoryLevel:
    """One memory level, seen from the whole chip. `capacity_bytes` and `bandwidth_bytes_per_s` sum over its
    instances.
    """

    name: str = static("")
    capacity_bytes: Array = UNKNOWN
    bandwidth_bytes_per_s: Array = UNKNOWN
    latency_s: Array = UNKNOWN
    energy_joules_per_byte: Array = UNKNOWN


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Link:
    """A link of one device: `bandwidth_bytes_per_s` per direction, `latency_s` of one hop, `energy_joules_per_byte`.

    `topology` says how the link's peers are wired (see `hardware.cluster.TOPOLOGIES`); `in_switch_reduction`, whether
    the switch adds up what passes through it.
    """

    name: str = static("")
    bandwidth_bytes_per_s: Array = UNKNOWN
    latency_s: Array = UNKNOWN
    energy_joules_per_byte: Array = UNKNOWN
    in_switch_reduction: bool = static(False)
    topology: str = static("switch")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class SystolicUnit:
    """The matrix unit of one core as `rows` x `cols` cells, one multiply-accumulate each per cycle.

    `dataflow`: one of `SYSTOLIC_DATAFLOWS`. The core's `on_chip_bytes_per_core` is split evenly into three double-buffered
    scratchpads (inputs, weights, outputs).
    """

    rows: Array = UNKNOWN
    cols: Array = UNKNOWN
    dataflow: str = static("any")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class NearMemory:
    """DRAM that multiplies in its banks: `channels` of `banks` each, one row of `row_bytes` open per bank.

    `bank_bandwidth_bytes_per_s`: what a bank's unit takes from an open row; `activate_s`: closing a row and opening the next;
    `command_s`: commands of a row that are not hidden behind it; `kernel_s`: starting a kernel. `handover_s`: latency of
    a move between chip and memory, `handover_bytes_per_s` its rate. Unknown times are 0, an unknown rate that of the chip's DRAM.
    """

    channels: Array = UNKNOWN
    banks: Array = UNKNOWN
    row_bytes: Array = UNKNOWN
    bank_bandwidth_bytes_per_s: Array = UNKNOWN
    activate_s: Array = UNKNOWN
    command_s: Array = UNKNOWN
    kernel_s: Array = UNKNOWN
    handover_s: Array = UNKNOWN
    handover_bytes_per_s: Array = UNKNOWN


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """A chip. `memory` runs from the farthest level (DRAM) to the nearest; unknown numbers are NaN.

    `matrix_flops_per_s`, `vector_flops_per_s`: dense peak per dtype. `on_chip_bytes_per_core`: software-managed memory
    of one core (shared memory / scratchpad). `launch_latency_s`: start of one kernel from a captured graph.
    `price_usd` of one chip. `systolic`, `near_memory`: parts that only some chips have, else None.
    `provenance`: (path, kind, source) triples, path dotted as in `replace`, kind in datasheet
    | measured | fitted | assumed.
    """

    name: str = static("")
    vendor: str = static("")
    architecture: str = static("")
    aliases: tuple[str, ...] = static(())
    matrix_flops_per_s: dict[str, Array] = field(default_factory=dict)
    vector_flops_per_s: dict[str, Array] = field(default_factory=dict)
    memory: tuple[MemoryLevel, ...] = ()
    cores: Array = UNKNOWN
    clock_hz: Array = UNKNOWN
    on_chip_bytes_per_core: Array = UNKNOWN
    launch_latency_s: Array = UNKNOWN
    idle_watts: Array = UNKNOWN
    peak_watts: Array = UNKNOWN
    price_usd: Array = UNKNOWN
    scale_up: Link = field(default_factory=Link)
    scale_out: Link = field(default_factory=Link)
    devices_per_node: Array = UNKNOWN
    systolic: SystolicUnit | None = None
    near_memory: NearMemory | None = None
    provenance: tuple[tuple[str, str, str], ...] = static(())

    def level(self, name: str) -> MemoryLevel:
        """The memory level called `name` ("dram", "l2", ...); `ValueError` with the known names otherwise."""
        for level in self.memory:
            if level.name == name:
                return level
        raise ValueError(f"{self.name}: no memory level {name!r}; known: {', '.join(x.name for x in self.memory)}")

    @property
    def dram(self) -> MemoryLevel:
        """The farthest memory level."""
        return self.memory[0]

    def origin(self, path: str) -> tuple[str, str]:
        """(kind, source) of the number at `path` or of the part it is in; ("assumed", "unstated") if nobody said."""
        get_path(self, path)
        found = [entry for entry in self.provenance if path == entry[0] or path.startswith(entry[0] + ".")]
        return max(found, key=lambda entry: len(entry[0]))[1:] if found else ("assumed", "unstated")

    def replace(self, changes: Mapping[str, Any] | None = None, /, **fields_: Any) -> "Accelerator":
        """A copy with fields replaced, by name or by dotted path: `chip.replace({"memory.dram.latency_s": 4e-7},
        cores=64)`.

        A rate for a new dtype may be added (`matrix_flops_per_s.fp4`). Replaced numbers become `assumed` in the
        provenance.
        Errors: `ValueError` naming an unknown path and its nearest known name.
        """
        _mapping_of_names(changes, "replace")
        return self._changed({**(changes or {}), **fields_}, "replaced by the user")

    def scaled(self, factors: Mapping[str, Array] | None = None, /, **named: Array) -> "Accelerator":
        """A copy with quantities multiplied: `chip.scaled(mem_bandwidth=2, matrix_flops=1.5)`, factors scalars or
        arrays.

        Names: the keys of `SCALABLE`, or dotted paths in the mapping. Quantities are independent: doubling `cores` or
        `clock` leaves the peak rates alone, so scale `flops` with them where it should follow. Unknown (NaN)
        quantities stay unknown.
        Errors: `ValueError` for a quantity the chip does not have.
        """
        _mapping_of_names(factors, "scaled")
        changes: dict[str, Any] = {}
        for name, factor in {**(factors or {}), **named}.items():
            factor = _number_of(factor, f"factor of {name!r}")
            for path in self._scaled_paths(name):
                changes[path] = changes.get(path, get_path(self, path)) * factor
        return self._changed(changes, f"scaled from {self.name or 'a chip'}")

    def anonymous(self) -> "Accelerator":
        """The same numbers without names and provenance, so that jitted functions compile once for all chips of a
        structure.
        """
        up, out = (replace(link, name="") for link in (self.scale_up, self.scale_out))
        return replace(self, name="", vendor="", aliases=(), provenance=(), scale_up=up, scale_out=out)

    def _scaled_paths(self, name: str) -> list[str]:
        paths = SCALABLE.get(name, (name,))
        if name not in SCALABLE and "." not in name and name not in FIELDS:
            raise ValueError(
                f"unknown quantity {name!r} to scale{nearest(name, SCALABLE)} (known: {', '.join(SCALABLE)})"
            )
        found: list[str] = []
        for path in paths:
            value = get_path(self, path)
            if isinstance(value, Mapping):
                found += [f"{path}.{key}" for key in value]
            elif isinstance(value, str | bool | tuple | MemoryLevel | Link):
                raise ValueError(f"{path!r} is not a number and cannot be scaled (known: {', '.join(SCALABLE)})")
            else:
                found.append(path)
        return found

    def _changed(self, changes: dict[str, Any], source: str) -> "Accelerator":
        chip, numeric = self, []
        for path, value in changes.items():
            chip = set_path(chip, path, _checked(chip, path, value))
            numeric += [] if path in (*NOT_NUMERIC, *PARTS) or isinstance(value, str | bool) else [path]
        if "provenance" in changes:
            return chip
        kept = [p for p in self.provenance if not any(p[0] == path or p[0].startswith(path + ".") for path in numeric)]
        return replace(chip, provenance=(*kept, *((path, "assumed", source) for path in numeric)))


def _mapping_of_names(changes: Any, method: str) -> None:
    if changes is not None and not (isinstance(changes, Mapping) and all(isinstance(name, str) for name in changes)):
        raise ValueError(f"{method}: {_brief(changes)}; expected a mapping of names or dotted paths to values")


def _checked(chip: Accelerator, path: str, value: Any) -> Any:
    """`value` as it may stand at dotted `path` of `chip`; `ValueError` with path, value and expectation otherwise."""
    table, _, last = path.rpartition(".")
    if table in ("matrix_flops_per_s", "vector_flops_per_s"):
        if last not in RATE_DTYPES:
            raise ValueError(f"{path}: unknown format{nearest(last, RATE_DTYPES)} (known: {', '.join(RATE_DTYPES)})")
        return _number_of(value, path)
    old = get_path(chip, path)
    if path in PARTS:
        if value is not None and not isinstance(value, PARTS[path]):
            raise ValueError(f"{path}: {_brief(value)}; expected {PARTS[path].__name__} or None")
        return value
    if isinstance(old, Mapping) and isinstance(value, Mapping):
        return {key: _checked(chip, f"{path}.{key}", number) for key, number in value.items()}
    if isinstance(old, str | bool | tuple | Mapping | Link | MemoryLevel):
        levels = value if path == "memory" and isinstance(value, tuple) else ()
        if not isinstance(value, type(old)) or not all(isinstance(level, MemoryLevel) for level in levels):
            raise ValueError(f"{path}: {_brief(value)}; expected {type(old).__name__}, such as {_brief(old)}")
        return value
    return _number_of(value, path, may_be_zero=last in _MAY_BE_ZERO)


def _number_of(value: Any, path: str, *, may_be_zero: bool = False) -> Any:
    """A positive finite number or array in SI units, or NaN for unknown. Traced values have no number yet and pass."""
    if isinstance(value, Tracer):
        return value
    numbers = np.asarray(value) if not isinstance(value, str | bool) else np.asarray("")
    if numbers.dtype.kind not in "iuf":
        raise ValueError(f"{path}: {_brief(value)}; expected a number (or array of numbers) in SI units")
    if np.any(np.isinf(numbers) | (numbers < 0) | ((numbers == 0) & (not may_be_zero))):
        least = "at least 0" if may_be_zero else "greater than 0"
        raise ValueError(f"{path}: {_brief(value)}; expected a finite number {least}")
    return numbers if isinstance(value, list | tuple) else value


def _brief(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


#: Parts that a chip may lack, by field.
PARTS: dict[str, type] = {"systolic": SystolicUnit, "near_memory": NearMemory}
FIELDS = tuple(f.name for f in fields(Accelerator))
NOT_NUMERIC = tuple(f.name for f in fields(Accelerator) if f.metadata.get("static"))

#: Quantities `Accelerator.scaled` knows by a short name, with the dotted paths they multiply.
SCALABLE: dict[str, tuple[str, ...]] = {
    "mem_bandwidth": ("memory.dram.bandwidth_bytes_per_s",),
    "mem_capacity": ("memory.dram.capacity_bytes",),
    "mem_latency": ("memory.dram.latency_s",),
    "l2": ("memory.l2.capacity_bytes",),
    "l2_bandwidth": ("memory.l2.bandwidth_bytes_per_s",),
    "flops": ("matrix_flops_per_s", "vector_flops_per_s"),
    "matrix_flops": ("matrix_flops_per_s",),
    "vector_flops": ("vector_flops_per_s",),
    "cores": ("cores",),
    "clock": ("clock_hz",),
    "on_chip": ("on_chip_bytes_per_core",),
    "launch_latency": ("launch_latency_s",),
    "power": ("peak_watts",),
    "price": ("price_usd",),
    "scale_up": ("scale_up.bandwidth_bytes_per_s",),
    "scale_out": ("scale_out.bandwidth_bytes_per_s",),
    "link_latency": ("scale_up.latency_s", "scale_out.latency_s"),
}
