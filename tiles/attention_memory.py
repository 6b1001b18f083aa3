"""Memory time of an attention kernel: bytes that stay in L2 from the previous use, and bytes that must cross the pins.

    resident = 1 / (1 + (working set / (l2_share L2))^8)
    time     = bytes [ (1 - resident) / (bandwidth dram_efficiency) + resident / (bandwidth l2_speedup) ]

A cyclically used set larger than the cache hits nothing (least recently used), one that fits hits always: hence the
steep exponent. Only the resident share may push a prediction below the DRAM bound.
"""

from typing import NamedTuple

from hardware.accelerator import Accelerator
from workloads.numeric import Array, namespace

SHARPNESS = 8.0


class MemoryTraffic(NamedTuple):
    """`time_s` of the traffic, `dram_bytes` that cross the pins, `resident` share, `floor_s` at datasheet bandwidth.
    [...]"""

    time_s: Array
    dram_bytes: Array
    resident: Array
    floor_s: Array


def memory_traffic(
    traffic_bytes: Array,
    working_set_bytes: Array,
    chip: Accelerator,
    dram_efficiency: Array,
    l2_share: Array,
    l2_speedup: Array,
) -> MemoryTraffic:
    """`MemoryTraffic` of `traffic_bytes`, of which the share that fits in L2 with its working set is resident;
    broadcasts.

    A chip without a known L2 (NaN) keeps nothing resident.
    """
    xp = namespace(traffic_bytes, working_set_bytes, chip, dram_efficiency, l2_share, l2_speedup)
    names = [level.name for level in chip.memory]
    cache = chip.level("l2").capacity_bytes if "l2" in names else 0.0
    room = xp.maximum(xp.nan_to_num(1.0 * xp.asarray(cache)) * l2_share, 1.0)
    # Clipped so that a far too large set overflows neither the power nor its derivative.
    resident = 1.0 / (1.0 + xp.clip(working_set_bytes / room, 1e-3, 1e3) ** SHARPNESS)
    bandwidth = chip.dram.bandwidth_bytes_per_s
    dram_bytes = (1.0 - resident) * traffic_bytes
    time_s = dram_bytes / (bandwidth * dram_efficiency) + resident * traffic_bytes / (bandwidth * l2_speedup)
    return MemoryTraffic(time_s, dram_bytes, resident + 0.0 * time_s, dram_bytes / bandwidth)


def joined(first: Array, second: Array, exponent: Array) -> Array:
    """p-norm of two positive times: their sum for exponent 1, the longer one for a large exponent; broadcasts."""
    xp = namespace(first, second, exponent)
    top = xp.maximum(first, second)
    low = xp.minimum(first, second)
    return top * (1.0 + xp.maximum(low / top, 1e-12) ** exponent) ** (1.0 / exponent)
