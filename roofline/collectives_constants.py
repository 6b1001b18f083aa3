"""Fitted constants of the collectives: TOML files in `constants/`, one per library family, and who may borrow whose.

A platform that was fitted answers with its own constants ("fitted"); another chip takes those of its link class,
scaled by its own link
bandwidth and small-message latency ("transferred"); without any constants of the family or the operation there is no
answer.
"""

import tomllib
from functools import cache
from importlib import resources
from typing import NamedTuple

import numpy as np

from roofline.collectives_protocols import ProtocolLines

#: Links slower than this per direction are PCIe-like: traffic passes the host bridge and shares it.
SWITCHED_LINK_BYTES_PER_S = 100e9
LINE_FIELDS = ProtocolLines._fields[:-1]


class PlatformConstants(NamedTuple):
    """Lines with the bandwidth and latency their dimensionless constants multiply (NaN: the chip's own), and where
    they come from.
    """

    lines: ProtocolLines
    bandwidth_bytes_per_s: float
    latency_s: float
    calibration: str


@cache
def families() -> dict[str, dict]:
    """All constants files by family name."""
    tables = {}
    for entry in sorted((resources.files("roofline") / "constants").iterdir(), key=lambda e: e.name):
        if entry.name.startswith("collectives_") and entry.name.endswith(".toml"):
            table = tomllib.loads(entry.read_text())
            tables[table["family"]] = table
    return tables


def platform_constants(
    family: str,
    platform: str,
    op: str,
    *,
    stack: str = "",
    bandwidth_bytes_per_s: float = float("nan"),
    tables: dict | None = None,
) -> PlatformConstants | None:
    """Constants of `op` of `family` on `platform`, or those of its link class; None where nothing fits.

    `bandwidth_bytes_per_s` (per direction) picks the class; without it, the switched one. `stack`
    (library and version) picks the version's small-message latency and lines; a version nobody measured takes those pooled
    over versions. `tables` replaces the shipped constants.
    """
    known = families() if tables is None else tables
    table = known.get(family)
    if table is None:
        return None
    row = table.get("platform", {}).get(platform, {})
    latency_s = row.get("stack_latency_s", {}).get(stack, row.get("latency_s", float("nan")))
    if op in row.get("op", {}):
        pooled = row["op"][op]
        lines = _lines(pooled.get("stack", {}).get(stack, pooled))
        return PlatformConstants(lines, row["bandwidth_bytes_per_s"], latency_s, "fitted")
    classes = table.get("class", {})
    slow = bandwidth_bytes_per_s < SWITCHED_LINK_BYTES_PER_S
    suffix = "/" + platform.split("/", 1)[1] if "/" in platform else ""
    for name in (("pcie" if slow else "switched") + suffix, "switched" + suffix, "pcie" + suffix):
        if op in classes.get(name, {}).get("op", {}):
            return PlatformConstants(_lines(classes[name]["op"][op]), float("nan"), latency_s, "transferred")
    return None


def _lines(table: dict) -> ProtocolLines:
    return ProtocolLines(*(np.array(table[name], dtype=float) for name in LINE_FIELDS), floor_s=table["floor_s"])
