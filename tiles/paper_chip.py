"""Numbers a tile model needs and a short chip description may lack, filled in and marked `assumed`."""

from dataclasses import replace

import numpy as np

from hardware.accelerator import Accelerator, MemoryLevel

#: What a data-centre GPU core of the last three generations looks like (NVIDIA A100, H100, B200 white papers): dense bf16
#: FLOP per clock and core, clock, software-managed memory per core, and L2 per core.
FLOPS_PER_CLOCK_AND_CORE = 4096.0
CLOCK_HZ = 1.7e9
ON_CHIP_BYTES_PER_CORE = 228 * 1024.0
L2_BYTES_PER_CORE = 0.4 * 2**20
#: Vendors whose chips schedule kernels as tiles on many small cores; "" is a chip that exists on paper.
GPU_VENDORS = ("nvidia", "amd", "")


def completed(chip: Accelerator) -> Accelerator:
    """`chip` with clock, cores, on-chip memory and an L2 where its description has none.

    Cores follow from the matrix peak at 16 bits (else the widest known) and the clock. A complete chip is returned as it is.
    New numbers have kind `assumed` in `chip.provenance`.
    """
    missing = {}
    if _unknown(chip.clock_hz):
        missing["clock_hz"] = CLOCK_HZ
    clock = missing.get("clock_hz", chip.clock_hz)
    if _unknown(chip.cores):
        rates = {**chip.vector_flops_per_s, **chip.matrix_flops_per_s}
        peak = next((rates[d] for d in ("bf16", "fp16", "tf32", "int8", "fp32") if d in rates), 1e14)
        missing["cores"] = np.maximum(np.round(peak / (FLOPS_PER_CLOCK_AND_CORE * clock)), 1.0)
    if _unknown(chip.on_chip_bytes_per_core):
        missing["on_chip_bytes_per_core"] = ON_CHIP_BYTES_PER_CORE
    if missing:
        chip = chip.replace(**missing)
    if not any(level.name == "l2" for level in chip.memory):
        capacity = chip.cores * L2_BYTES_PER_CORE
        note = ("memory.l2.capacity_bytes", "assumed", "0.4 MiB per core, as on current data-centre GPUs")
        l2 = MemoryLevel(name="l2", capacity_bytes=capacity)
        chip = replace(chip, memory=(chip.memory[0], l2, *chip.memory[1:]), provenance=(*chip.provenance, note))
    elif _unknown(chip.level("l2").capacity_bytes):
        chip = chip.replace({"memory.l2.capacity_bytes": chip.cores * L2_BYTES_PER_CORE})
    return chip


def is_gpu(chip: Accelerator) -> bool:
    """Whether tiles, waves and the fitted constants mean anything on `chip`: NVIDIA and AMD chips, and paper chips of no vendor
    whose matrix unit is no systolic array."""
    return (
        chip.systolic is None
        and chip.vendor.lower() in GPU_VENDORS
        and chip.architecture.lower() not in ("cpu", "host", "x86_64", "aarch64")
    )


def _unknown(value) -> bool:
    """Whether a number is absent: NaN throughout. Traced values are present."""
    return isinstance(value, (float, int, np.ndarray, np.number)) and bool(
        np.all(np.isnan(np.asarray(value, dtype=float)))
    )
