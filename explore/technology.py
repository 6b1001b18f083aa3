"""Process nodes and memories: the published figures that area, yield, power and cost are computed from.

Read once from `constants/technology.toml`, which names the source of each figure. Names are static; the figures are plain floats.
"""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from hardware.paths import unknown


class ProcessNode(NamedTuple):
    """One process node: SRAM bit cell in um2, transistors of logic per mm2, switching energy relative to 7 nm, the clock that GPU
    logic holds at `nominal_volts`, 300 mm wafer price, defects per cm2 and kg of CO2 per cm2 of wafer.
    """

    sram_cell_um2: float
    logic_density_per_mm2: float
    energy_scale: float
    nominal_volts: float
    nominal_clock_hz: float
    wafer_usd: float
    defects_per_cm2: float
    embodied_kgco2_per_cm2: float


class MemoryKind(NamedTuple):
    """One memory technology: stacked on an interposer or soldered on the board, access energy, price and embodied carbon."""

    stacked: bool
    joules_per_byte: float
    usd_per_gb: float
    embodied_kgco2_per_gb: float


@cache
def constants(name: str) -> dict[str, Any]:
    """The table `constants/<name>.toml` of this package."""
    return tomllib.loads(files("explore").joinpath("constants", f"{name}.toml").read_text("utf-8"))


def process_node(name: str) -> ProcessNode:
    """The node called `name` ("16nm", "12nm", "8nm", "7nm", "5nm", "3nm"); `ValueError` with the nearest known name otherwise."""
    return ProcessNode(**_entry("node", name))


def memory_kind(name: str) -> MemoryKind:
    """The memory called `name` ("hbm3", "gddr6", ...); `ValueError` with the nearest known name otherwise."""
    return MemoryKind(**_entry("memory", name))


def _entry(table: str, name: str) -> dict[str, Any]:
    known = constants("technology")[table]
    if name not in known:
        raise unknown(f"{table}: unknown name", name, known)
    return known[name]
