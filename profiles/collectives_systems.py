"""Names of measured systems -> chips of the catalogue and the link their collectives used."""

import re
from functools import cache
from typing import Any

import numpy as np

import hardware
from hardware.accelerator import Accelerator

#: Systems whose name does not begin with a catalogue name.
CHIPS = {
    "a100_dgx": "a100_sxm",
    "h100_dgx": "h100_sxm",
    "a100_pairwise_nvlink": "a100_pcie",
    "a40_pairwise_nvlink": "a40",
}
#: NVLink bridges between pairs of PCIe boards, bytes per second per direction (vendor's board manuals).
BRIDGE_BYTES_PER_S = {"a100_pairwise_nvlink": 300e9, "a40_pairwise_nvlink": 56.25e9}


@cache
def chip_of(system: str) -> Accelerator | None:
    """The catalogue chip of a measured `system`, by name, alias or leading words; None if there is none."""
    name = re.sub(r"[^a-z0-9]+", "_", system.lower()).strip("_")
    words = CHIPS.get(name, name).split("_")
    candidates = ["_".join(words[:n]) for n in range(len(words), 0, -1)]
    for candidate in [*candidates, f"{words[0]}_sxm"]:
        try:
            return hardware.load(candidate)
        except ValueError:
            continue
    return None


def link_bandwidth_bytes_per_s(fabric: str) -> float:
    """Bytes per second per direction of the link of `fabric`: "system" (scale-up) or "system/layout" (scale-out); NaN
    unknown.
    """
    system, _, layout = fabric.partition("/")
    if not layout and system in BRIDGE_BYTES_PER_S:
        return BRIDGE_BYTES_PER_S[system]
    chip = chip_of(system)
    if chip is None:
        return float("nan")
    link = chip.scale_out if layout else chip.scale_up
    return float(link.bandwidth_bytes_per_s)


def latency_guess_s(fabric: str, family: str, tables: dict[str, Any]) -> float:
    """Small-message latency of a `fabric` nobody measured: median of the family's platforms of the same architecture,
    else of all.

    NaN where the family has no platform.
    """
    platforms = tables.get(family, {}).get("platform", {})
    layout = fabric.partition("/")[2]
    alike = {name: row for name, row in platforms.items() if name.partition("/")[2] == layout} or platforms
    chip = chip_of(fabric.partition("/")[0])
    generation = chip.architecture.split()[0] if chip else ""
    same = [row for name, row in alike.items() if _architecture(name.partition("/")[0]) == generation]
    latencies = [row["latency_s"] for row in same or alike.values()]
    return float(np.median(latencies)) if latencies else float("nan")


def _architecture(system: str) -> str:
    chip = chip_of(system)
    return chip.architecture.split()[0] if chip else "unknown"
