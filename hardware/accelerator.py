"""What a chip is to the models: rates, memories, cores and clocks, as a frozen pytree of numbers.

Numeric leaves may be arrays, so one `Accelerator` can stand for a million hypothetical chips; names, dtypes, levels and
provenance are static. All units SI; bandwidths in bytes per second with GB = 1e9.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import jax

Array = Any


def static(default: Any) -> Any:
    """A dataclass field that is part of the structure, not an array."""
    return field(default=default, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class MemoryLevel:
    """One memory level, seen from the whole chip. `capacity_bytes` and `bandwidth_bytes_per_s` sum over its instances."""

    name: str = static("")
    capacity_bytes: Array = float("nan")
    bandwidth_bytes_per_s: Array = float("nan")
    latency_s: Array = float("nan")
    energy_joules_per_byte: Array = float("nan")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Link:
    """A link of one device: `bandwidth_bytes_per_s` per direction, `latency_s` of one hop, `energy_joules_per_byte`."""

    name: str = static("")
    bandwidth_bytes_per_s: Array = float("nan")
    latency_s: Array = float("nan")
    energy_joules_per_byte: Array = float("nan")
    in_switch_reduction: bool = static(False)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """A chip. `memory` runs from the farthest level (DRAM) to the nearest; unknown numbers are NaN.

    `matrix_flops_per_s`, `vector_flops_per_s`: dense peak per dtype. `on_chip_bytes_per_core`: software-managed memory of one
    core (shared memory / scratchpad). `launch_latency_s`: start of one kernel from a captured graph. `price_usd` of one chip.
    `provenance`: (field, kind, source) triples, kind in datasheet | measured | fitted | assumed.
    """

    name: str = static("")
    vendor: str = static("")
    architecture: str = static("")
    aliases: tuple[str, ...] = static(())
    matrix_flops_per_s: dict[str, Array] = field(default_factory=dict)
    vector_flops_per_s: dict[str, Array] = field(default_factory=dict)
    memory: tuple[MemoryLevel, ...] = ()
    cores: Array = float("nan")
    clock_hz: Array = float("nan")
    on_chip_bytes_per_core: Array = float("nan")
    launch_latency_s: Array = float("nan")
    idle_watts: Array = float("nan")
    peak_watts: Array = float("nan")
    price_usd: Array = float("nan")
    scale_up: Link = field(default_factory=Link)
    scale_out: Link = field(default_factory=Link)
    devices_per_node: Array = float("nan")
    provenance: tuple[tuple[str, str, str], ...] = static(())

    def level(self, name: str) -> MemoryLevel:
        """The memory level called `name` ("dram", "l2", ...); `KeyError` with the known names otherwise."""
        for level in self.memory:
            if level.name == name:
                return level
        raise KeyError(f"{self.name}: no memory level {name!r}; known: {', '.join(x.name for x in self.memory)}")

    @property
    def dram(self) -> MemoryLevel:
        """The farthest memory level."""
        return self.memory[0]

    def replace(self, **changes: Any) -> "Accelerator":
        """A copy with fields replaced."""
        return replace(self, **changes)

    def anonymous(self) -> "Accelerator":
        """The same numbers without name, aliases and provenance, so that jitted functions compile once for all chips."""
        return replace(self, name="", vendor="", aliases=(), provenance=())


FIELDS = tuple(f.name for f in fields(Accelerator))
