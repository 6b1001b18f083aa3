"""Constants of a GEMM on an architecture that was never measured: the mean of the known ones, scaled to its cores.

What feeds a core grows with what the core computes. With r = peak / (cores clock) x bytes per element, the operand bytes
that a core could consume per clock (2 kB on L40S, 4 kB on A100, 8 kB on H100, 16 kB on B200, and the same for every
format whose rate doubles as its elements halve), the fitted constants follow

    l2_bytes_per_clock ~ r,  epilogue_bytes_per_clock ~ r,  store_bytes_per_clock ~ r^(1/2),  step_clocks ~ r^(-1/2)

(L2: 13, 25, 60, 115 B per clock, 0.6-0.7 % of r on all four). Each constant of the others is carried along this law and
averaged, rates in the logarithm: one architecture alone is off by its libraries' habits, which the mean softens. Taking
each of the four out in turn, bf16 and fp8, the mean error is 15 % against 25-29 % with the constants of one neighbour
as they are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hardware.accelerator import Accelerator
from workloads.dtypes import element_bytes
from workloads.numeric import Array, namespace

#: Exponent of r that a constant follows between architectures; the others stay.
EXPONENTS: dict[str, float] = {
    "l2_bytes_per_clock": 1.0,
    "epilogue_bytes_per_clock": 1.0,
    "store_bytes_per_clock": 0.5,
    "step_clocks": -0.5,
}


def core_bytes_per_clock(chip: Accelerator, dtype: str, flops_per_s: Array) -> Array:
    """r of the module: bytes of `dtype` operands that one core could consume per clock at `flops_per_s` of the chip."""
    return flops_per_s / (chip.cores * chip.clock_hz) * element_bytes(dtype)


def scaled_values(entry: Mapping[str, Any], to: Array) -> dict[str, Array]:
    """The constants of set `entry` carried to a core of r = `to`; unchanged where the set does not say its own r."""
    values: dict[str, Array] = dict(entry["values"])
    own = entry.get("core_bytes_per_clock")
    xp = namespace(to)
    for name, exponent in EXPONENTS.items():
        if own and name in values:
            ratio = to / own
            values[name] = values[name] * xp.where(xp.isfinite(ratio), ratio, 1.0) ** exponent
    return values


def mean_values(sets: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Mean of several sets of constants: geometric where all are positive, arithmetic else; infinite only if all are."""
    mean: dict[str, Array] = {}
    for name in sets[0]:
        values = [entry.get(name, 0.0) for entry in sets]
        traced = namespace(*values) is not np
        finite = values if traced else [value for value in values if np.all(np.isfinite(value))]
        if not finite:
            mean[name] = values[0]
        elif traced or all(np.all(np.asarray(value) > 0.0) for value in finite):
            xp = namespace(*finite)
            mean[name] = xp.exp(sum(xp.log(value) for value in finite) / len(finite))
        else:
            mean[name] = sum(finite) / len(finite)
    return mean
