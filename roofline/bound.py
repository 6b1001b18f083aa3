"""The roofline bound of any operator: the least time its work and compulsory traffic allow on a chip.

    compute_s = flops / peak(unit, dtype)        memory_s = bytes / DRAM bandwidth        total_s >= max(compute_s, memory_s)

Source: Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009; several levels: Ilic et al., IEEE CAL 13(1), 2014.
"""

from typing import NamedTuple

from hardware.accelerator import Accelerator
from roofline.kernel_time import KernelTime, Reason, kernel_time
from roofline.relax import Rounding, exact
from workloads.dtypes import RATE_FORMAT, canonical_dtype
from workloads.numeric import Array, namespace
from workloads.operators import Operator

#: Formats whose arithmetic a vector unit may carry out in another, wider format it has a rate for.
_VECTOR_FALLBACK = ("fp32",)


def peak_flops_per_s(chip: Accelerator, unit: str, dtype: str) -> Array | None:
    """Dense peak of `unit` ("matrix" or "vector") of `chip` in `dtype`, FLOP/s; None where the chip has no such rate.

    Matrix: the format's own rate, else the rate of the element format of a block-scaled one. fp32 products without a tf32 or fp32
    matrix rate run on the vector unit. Vector: the format's own rate, else fp32 (narrow inputs are widened).
    """
    name = canonical_dtype(dtype)
    if unit == "matrix":
        rate = RATE_FORMAT.get(name, name)
        for candidate in (name, rate):
            if candidate in chip.matrix_flops_per_s:
                return chip.matrix_flops_per_s[candidate]
        if name not in ("fp32", "fp64", "fp16", "bf16"):
            return None
        return chip.vector_flops_per_s.get(name)
    for candidate in (name, *_VECTOR_FALLBACK):
        if candidate in chip.vector_flops_per_s:
            return chip.vector_flops_per_s[candidate]
    # A chip described by its matrix unit alone: its vector work is bounded by nothing but memory.
    return None if not chip.matrix_flops_per_s else float("inf")


def ridge_point(chip: Accelerator, dtype: str, *, unit: str = "matrix", level: str | None = None) -> Array:
    """Arithmetic intensity, FLOP per byte, above which work in `dtype` is compute-bound at memory `level` (default: DRAM)."""
    peak = peak_flops_per_s(chip, unit, dtype)
    if peak is None:
        raise ValueError(f"{chip.name or 'chip'}: no {unit} rate for {dtype!r}")
    memory = chip.dram if level is None else chip.level(level)
    return peak / memory.bandwidth_bytes_per_s


def attainable_flops_per_s(
    intensity: Array, peak: Array, bandwidth_bytes_per_s: Array, *, rounding: Rounding = exact
) -> Array:
    """Roofline: min(peak, intensity x bandwidth), FLOP/s. Arguments broadcast."""
    return rounding.minimum(peak, intensity * bandwidth_bytes_per_s)


def roofline_time(op: Operator, chip: Accelerator, *, launch: bool = True, rounding: Rounding = exact) -> KernelTime:
    """Least time of a compute or memory operator on `chip`, [...] seconds.

    Includes: peak rates, DRAM bandwidth and, with `launch`, the chip's launch latency (0 where unknown).
    Excludes: efficiency, caches, wave quantisation; network operators (see `roofline.network_time`).
    A format the chip has no rate for gives NaN with `Reason.UNSUPPORTED_DTYPE`.
    """
    flops, bytes = op.flops, op.bytes
    xp = namespace(flops, bytes, chip.dram.bandwidth_bytes_per_s)
    peak = peak_flops_per_s(chip, op.unit, op.dtype)
    reason = Reason.OK if peak is not None else Reason.UNSUPPORTED_DTYPE
    compute_s = flops / (1.0 if peak is None else peak)
    memory_s = bytes / chip.dram.bandwidth_bytes_per_s
    launch_s = xp.nan_to_num(xp.asarray(chip.launch_latency_s, dtype=float)) if launch else 0.0
    return kernel_time(
        compute_s=compute_s,
        memory_s=memory_s,
        launch_s=launch_s,
        flops=flops,
        bytes=bytes,
        busy_s=rounding.maximum(compute_s, memory_s) if rounding.mode == "smooth" else None,
        reason=reason,
    )


class HierarchicalRoofline(NamedTuple):
    """Time of one kernel against every roof. `level_s`: seconds per memory level, [levels, ...]; `binding`: index of the slowest
    level, or -1 where compute binds."""

    total_s: Array
    compute_s: Array
    level_s: Array
    binding: Array


def hierarchical_roofline(
    flops: Array, level_bytes: Array, peak: Array, level_bytes_per_s: Array, *, rounding: Rounding = exact
) -> HierarchicalRoofline:
    """Roofline over any number of memory levels: max(flops / peak, bytes_l / bandwidth_l).

    `level_bytes`, `level_bytes_per_s`: [levels, ...], traffic and bandwidth of each level; the rest broadcasts over [...].
    """
    xp = namespace(flops, level_bytes, peak, level_bytes_per_s)
    compute_s = flops / peak
    level_s = xp.asarray(level_bytes) / xp.asarray(level_bytes_per_s)
    slowest = rounding.max_over(level_s, axis=0)
    binding = xp.where(compute_s >= xp.max(level_s, axis=0), -1, xp.argmax(level_s, axis=0))
    return HierarchicalRoofline(rounding.maximum(compute_s, slowest), compute_s, level_s, binding)
