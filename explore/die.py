"""A chip design: what is built on its dies and around them, in the units that area, power and price are paid for.

A `Die` is the other view of an `Accelerator`: not rates but cores, units per core, clocks and interfaces, so that moving mm2 from
MACs to cache changes every rate at once. Each enabled count has a twin `spare_...`: built, paid for in area and leakage, but not
used (harvested against defects, or fused off). All counts are totals of the package; `dies_per_package` equal dies share them.

    matrix FLOP/s  = 2 * MACs per core * cores * clock * ratio of the format to 16 bit
    vector FLOP/s  = 2 * lanes per core * cores * clock * ratio of the format to fp32
    DRAM bytes/s   = interfaces * bytes/s per interface          L2 bytes/s = bytes per clock * clock

Limits: the ratios of formats, latencies and the scale-out network are those of the chip that the design is `like`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import jax

from explore.technology import constants
from explore.voltage import supply_voltage
from hardware import Accelerator, load
from hardware.accelerator import static
from hardware.paths import unknown
from workloads.numeric import Array, namespace

GB, KIB, MIB = 1e9, 1024.0, 1024.0**2

#: Formats that count the matrix units, first match.
_SIXTEEN_BIT = ("bf16", "fp16")


#: What a design may do without.
_MAY_BE_ZERO = (
    "fp64_lanes_per_core",
    "graphics",
    "matrix_macs_per_core",
    "enabled_matrix_share",
    "scale_up_bytes_per_s",
    "die_to_die_bytes_per_s",
    "l2_bytes",
    "l2_bytes_per_clock",
    "capacity_bytes_per_interface",
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Die:
    """A chip design; every number may be an array or a tracer (all broadcast), `node` and `memory_kind` are static names.

    matrix_macs_per_core: 16-bit multiply-accumulates per clock; enabled_matrix_share: share of that rate the product offers.
    vector_lanes_per_core: fp32 multiply-adds per clock; fp64_lanes_per_core likewise. graphics: 1 with raster and display engines.
    voltage: relative to the node's nominal voltage. interfaces: HBM stacks, or 32-bit GDDR channels. scale_up_bytes_per_s: per
    direction. die_to_die_bytes_per_s: between the dies of one package, per direction and die.
    """

    node: str = static("5nm")
    memory_kind: str = static("hbm3")
    cores: Array = 132.0
    spare_cores: Array = 0.0
    matrix_macs_per_core: Array = 2048.0
    enabled_matrix_share: Array = 1.0
    vector_lanes_per_core: Array = 128.0
    fp64_lanes_per_core: Array = 0.0
    graphics: Array = 0.0
    clock_hz: Array = 1.83e9
    voltage: Array = 1.0
    on_chip_bytes_per_core: Array = 228 * KIB
    register_bytes_per_core: Array = 256 * KIB
    l2_bytes: Array = 50 * MIB
    spare_l2_bytes: Array = 0.0
    l2_bytes_per_clock: Array = 5120.0
    interfaces: Array = 5.0
    spare_interfaces: Array = 0.0
    bytes_per_s_per_interface: Array = 670e9
    capacity_bytes_per_interface: Array = 16e9
    scale_up_bytes_per_s: Array = 450e9
    spare_scale_up_bytes_per_s: Array = 0.0
    dies_per_package: Array = 1.0
    die_to_die_bytes_per_s: Array = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.metadata.get("static") or not isinstance(value, str | int | float | type(None)):
                continue  # names, arrays and tracers
            optional = field.name.startswith("spare_") or field.name in _MAY_BE_ZERO
            if not (isinstance(value, int | float) and 0.0 <= value < float("inf") and (optional or value != 0.0)):
                raise ValueError(
                    f"die.{field.name}: {value!r}; expected a finite number{', 0 or more' if optional else ' above 0'}"
                )

    @property
    def matrix_macs_per_s(self) -> Array:
        """16-bit multiply-accumulates per second that are built in, all enabled cores."""
        return self.matrix_macs_per_core * self.cores * self.clock_hz

    @property
    def lane_operations_per_s(self) -> Array:
        """fp32 multiply-adds per second, all enabled cores."""
        return self.vector_lanes_per_core * self.cores * self.clock_hz

    @property
    def dram_bytes_per_s(self) -> Array:
        """Bandwidth of all enabled memory interfaces."""
        return self.interfaces * self.bytes_per_s_per_interface

    @property
    def dram_bytes(self) -> Array:
        """Capacity behind all enabled memory interfaces."""
        return self.interfaces * self.capacity_bytes_per_interface

    @property
    def l2_bytes_per_s(self) -> Array:
        """Bandwidth of the L2."""
        return self.l2_bytes_per_clock * self.clock_hz

    def replace(self, **changes: Any) -> "Die":
        """A copy with fields replaced."""
        return replace(self, **changes)

    def accelerator(
        self,
        like: Accelerator,
        *,
        peak_watts: Array = float("nan"),
        idle_watts: Array = float("nan"),
        price_usd: Array = float("nan"),
    ) -> Accelerator:
        """The chip that this design makes, with `like`'s formats, latencies and links: an input of every kernel model,
        inside `jit` too.

        A matrix format that `like` runs no faster than the same vector format (fp32 products on vector lanes) follows the
        lanes, all other matrix formats follow the MACs; where `like` has no 16-bit matrix rate, all follow the lanes.
        `like` needs the memory levels "dram" and, to receive this L2, "l2". Power and price are unknown unless given
        (`explore.power`, `explore.yields`). Errors: `ValueError` where `like` has vector rates but none in fp32.
        """
        vector_rate = 2.0 * self.lane_operations_per_s
        matrix_rate = 2.0 * self.matrix_macs_per_s * self.enabled_matrix_share
        vector = _scaled(like.vector_flops_per_s, _reference(like), vector_rate)
        levels = []
        for level in like.memory:
            if level.name == "dram":
                level = replace(level, capacity_bytes=self.dram_bytes, bandwidth_bytes_per_s=self.dram_bytes_per_s)
            elif level.name == "l2":
                level = replace(level, capacity_bytes=1.0 * self.l2_bytes, bandwidth_bytes_per_s=self.l2_bytes_per_s)
            levels.append(level)
        return replace(
            like,
            name=f"design like {like.name}" if like.name else "",
            aliases=(),
            matrix_flops_per_s=_matrix_rates(like, vector_rate, matrix_rate),
            vector_flops_per_s=vector,
            memory=tuple(levels),
            cores=self.cores,
            clock_hz=self.clock_hz,
            on_chip_bytes_per_core=self.on_chip_bytes_per_core,
            idle_watts=idle_watts,
            peak_watts=peak_watts,
            price_usd=price_usd,
            scale_up=replace(like.scale_up, bandwidth_bytes_per_s=self.scale_up_bytes_per_s),
            provenance=(),
        )


def _reference(like: Accelerator) -> Array:
    if not like.vector_flops_per_s:
        return 1.0
    if "fp32" not in like.vector_flops_per_s:
        raise ValueError(
            f"{like.name or 'like'}: vector_flops_per_s.fp32: missing; expected the rate that counts vector lanes"
        )
    return like.vector_flops_per_s["fp32"]


def _scaled(rates: Mapping[str, Array], reference: Array, rate: Array) -> dict[str, Array]:
    return {dtype: rate * (value / reference) for dtype, value in rates.items()}


def _matrix_rates(like: Accelerator, vector_rate: Array, matrix_rate: Array) -> dict[str, Array]:
    on_lanes = _scaled(like.matrix_flops_per_s, _reference(like), vector_rate)
    sixteen_bit = [like.matrix_flops_per_s[dtype] for dtype in _SIXTEEN_BIT if dtype in like.matrix_flops_per_s]
    if not sixteen_bit:
        return on_lanes
    on_macs = _scaled(like.matrix_flops_per_s, sixteen_bit[0], matrix_rate)
    rates = {}
    for dtype, value in like.matrix_flops_per_s.items():
        lanes = like.vector_flops_per_s.get(dtype)
        if lanes is None:
            rates[dtype] = on_macs[dtype]
        else:
            rates[dtype] = namespace(value, lanes, vector_rate, matrix_rate).where(
                value <= lanes, on_lanes[dtype], on_macs[dtype]
            )
    return rates


def known_dies() -> tuple[str, ...]:
    """Names of the dies in `constants/dies.toml`."""
    return tuple(entry["name"] for entry in constants("dies")["die"])


def die_facts(name: str) -> dict[str, Any]:
    """The row of `constants/dies.toml` called `name` (area_mm2 is NaN where nobody published it)."""
    return _row(constants("dies")["die"], "die", name)


def board_facts(name: str) -> dict[str, Any]:
    """The row of `constants/boards.toml` called `name`: a chip of the catalogue, or a board outside it."""
    boards = constants("boards")
    return _row([*boards["catalogue"], *boards["other"]], "board", name)


def known_boards() -> tuple[str, ...]:
    """Names of the boards that `die_of` knows."""
    boards = constants("boards")
    return tuple(entry["name"] for entry in (*boards["catalogue"], *boards["other"]))


def whole_die(name: str) -> Die:
    """The known die `name` with everything on it enabled, at the nominal voltage and a clock of 1 GHz: what its area is
    paid for.
    """
    facts = die_facts(name)
    return Die(
        **_built(facts),
        cores=float(facts["cores"]),
        clock_hz=1e9,
        l2_bytes=facts["l2_mib"] * MIB,
        interfaces=float(facts["interfaces"]),
        memory_kind=facts["memory"],
        bytes_per_s_per_interface=facts["dram_gb_per_s"] * GB / facts["interfaces"],
        capacity_bytes_per_interface=1e9,
        scale_up_bytes_per_s=facts["link_gb_per_s"] * GB,
    )


def die_of(chip: Accelerator | str) -> Die:
    """The design behind a known board: a chip of the catalogue (by name or as loaded) or a board of `constants/boards.toml`.

    Enabled counts, clocks, memory and links are the board's; what the die has beyond that becomes spare. The voltage is the
    one that the clock needs (`explore.voltage.supply_voltage`), no lower than the floor. `die_of(chip).accelerator(chip)`
    gives the chip's rates back. Errors: `ValueError` for a chip whose die is not known.
    """
    row = board_facts(chip if isinstance(chip, str) and chip in known_boards() else load(chip).name)
    facts, dies = die_facts(row["die"]), float(row.get("dies", 1))
    outside = "peak_watts" in row
    built = {**_built(facts), **(_enabled_from_row(row) if outside else _enabled_from_chip(load(chip), row, facts))}
    return Die(
        **built,
        voltage=supply_voltage(built["clock_hz"], facts["node"]),
        memory_kind=row["memory"],
        interfaces=float(row["interfaces"]),
        spare_cores=dies * facts["cores"] - built["cores"],
        spare_l2_bytes=dies * facts["l2_mib"] * MIB - built["l2_bytes"],
        spare_interfaces=dies * facts["interfaces"] - row["interfaces"],
        spare_scale_up_bytes_per_s=max(dies * facts["link_gb_per_s"] * GB - built["scale_up_bytes_per_s"], 0.0),
        dies_per_package=dies,
        die_to_die_bytes_per_s=row.get("die_to_die_gb_per_s", 0.0) * GB,
    )


def _built(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "node": facts["node"],
        "matrix_macs_per_core": float(facts["macs"]),
        "vector_lanes_per_core": float(facts["lanes"]),
        "fp64_lanes_per_core": float(facts["fp64_lanes"]),
        "graphics": float(facts["graphics"]),
        "on_chip_bytes_per_core": facts["on_chip_kib"] * KIB,
        "register_bytes_per_core": facts["register_kib"] * KIB,
        "l2_bytes_per_clock": float(facts["l2_bytes_per_clock"]),
    }


def _enabled_from_row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "cores": float(row["cores"]),
        "clock_hz": row["clock_ghz"] * 1e9,
        "l2_bytes": row["l2_mib"] * MIB,
        "bytes_per_s_per_interface": row["dram_gb_per_s"] * GB / row["interfaces"],
        "capacity_bytes_per_interface": row["dram_gb"] * GB / row["interfaces"],
        "scale_up_bytes_per_s": row["link_gb_per_s"] * GB,
    }


def _enabled_from_chip(chip: Accelerator, row: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    per_clock = 2.0 * chip.cores * chip.clock_hz
    sixteen_bit = next((chip.matrix_flops_per_s[d] for d in _SIXTEEN_BIT if d in chip.matrix_flops_per_s), 0.0)
    bandwidth = chip.level("l2").bandwidth_bytes_per_s
    known_l2 = {} if bandwidth != bandwidth else {"l2_bytes_per_clock": bandwidth / chip.clock_hz}
    return {
        "cores": chip.cores,
        "clock_hz": chip.clock_hz,
        "enabled_matrix_share": sixteen_bit / (per_clock * facts["macs"]) if facts["macs"] else 1.0,
        "vector_lanes_per_core": chip.vector_flops_per_s["fp32"] / per_clock,
        "on_chip_bytes_per_core": chip.on_chip_bytes_per_core,
        "l2_bytes": chip.level("l2").capacity_bytes,
        **known_l2,
        "bytes_per_s_per_interface": chip.dram.bandwidth_bytes_per_s / row["interfaces"],
        "capacity_bytes_per_interface": chip.dram.capacity_bytes / row["interfaces"],
        "scale_up_bytes_per_s": chip.scale_up.bandwidth_bytes_per_s,
    }


def _row(rows: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    known = {row["name"]: row for row in rows}
    if name not in known:
        raise unknown(f"{kind}: nothing published here on", name, known)
    return known[name]
