"""Wave scaling: move a measured kernel time from the GPU it was measured on to another one.

Source: Yu, Gao, Golikov, Pekhimenko, "Habitat: A Runtime-Based Computational Performance Predictor for Deep Neural
Network Training", USENIX ATC 2021, equations 1 and 2, with the memory-boundedness of its section 3.3.
"""

from hardware.accelerator import Accelerator
from roofline.relax import Rounding, exact
from tiles.gemm_constants import matrix_rate
from workloads.numeric import Array, namespace


def memory_boundedness(flops: Array, bytes: Array, chip: Accelerator, dtype: str = "fp32") -> Array:
    """gamma in [0, 1]: 1 for a kernel that only moves data, 0 for one that only computes, 1/2 at the ridge point. [...]

    With intensity x = flops / bytes and ridge R = peak / bandwidth: 1 - x / (2 R) below the ridge, R / (2 x) above.
    Raises `ValueError` where the chip has no rate for `dtype`.
    """
    rate = matrix_rate(chip, dtype)
    if rate is None:
        raise ValueError(f"{chip.name}: no rate for dtype {dtype!r}; known: {', '.join(chip.matrix_flops_per_s)}")
    xp = namespace(flops, bytes, rate, chip.dram)
    ratio = (1.0 * flops) / bytes / (rate / chip.dram.bandwidth_bytes_per_s)
    return xp.where(ratio < 1.0, 1.0 - 0.5 * ratio, 0.5 / xp.maximum(ratio, 1.0))


def scaled_time(
    measured_s: Array,
    blocks: Array,
    gamma: Array,
    origin: Accelerator,
    destination: Accelerator,
    *,
    resident_origin: Array = 1.0,
    resident_destination: Array = 1.0,
    rounding: Rounding = exact,
) -> Array:
    """Seconds on `destination` of a kernel of `blocks` thread blocks that took `measured_s` on `origin`, [...].

    With wave size W = cores * resident blocks per core, bandwidth D and clock C (o origin, d destination):

        T_d = T_o ceil(B / W_d) / ceil(B / W_o) (D_o / D_d W_d / W_o)^gamma (C_o / C_d)^(1 - gamma)

    `gamma`: memory-boundedness on the origin (see `memory_boundedness`). Includes nothing that changes with the
    software (another kernel chosen, other launch cost); between architectures with different matrix units it is a
    rough guide only.
    """
    wave_o, wave_d = origin.cores * resident_origin, destination.cores * resident_destination
    waves = rounding.ceil(blocks / wave_d) / rounding.ceil(blocks / wave_o)
    bandwidth = origin.dram.bandwidth_bytes_per_s / destination.dram.bandwidth_bytes_per_s * wave_d / wave_o
    clock = origin.clock_hz / destination.clock_hz
    return measured_s * waves * bandwidth**gamma * clock ** (1.0 - gamma)
