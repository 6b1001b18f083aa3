"""Tile utilisation law: a kernel's time from its tiles' roofline and a utilisation that rises with the number of waves.

Source: Lee, Phanishayee, Mahajan, "Forecasting GPU Performance for Deep Learning Training and Inference" (NeuSight),
ASPLOS 2025, equations 3 to 6; the two coefficients a neural network predicts there are arguments here.
"""

from typing import NamedTuple

from hardware.accelerator import Accelerator
from roofline.relax import Rounding, exact
from tiles.gemm_constants import matrix_rate
from tiles.wave import wave
from workloads.numeric import Array, namespace


class TileTime(NamedTuple):
    """Time of a tiled kernel: `total_s` = waves * tile_s / utilisation; `tile_s` is one tile's roofline on one core."""

    total_s: Array
    tile_s: Array
    waves: Array
    utilisation: Array


def utilisation(waves: Array, ceiling: Array, ramp: Array) -> Array:
    """Share of the roofline reached: ceiling - ramp / waves, [...]; `ceiling` in (0, 1], 0 <= `ramp` < `ceiling`.

    A kernel of one wave pays its start and end once per tile; many waves amortise them.
    """
    return ceiling - ramp / waves


def tiled_time(
    tile_flops: Array,
    tile_bytes: Array,
    tiles: Array,
    chip: Accelerator,
    *,
    ceiling: Array = 0.9,
    ramp: Array = 0.3,
    dtype: str = "fp32",
    rounding: Rounding = exact,
) -> TileTime:
    """Seconds of `tiles` equal tiles of `tile_flops` and `tile_bytes` each on `chip`, [...].

    A core's roofline has a `1 / cores` share of the peak and of the DRAM bandwidth. Excludes launch. Raises
    `ValueError` where the chip has no rate for `dtype`.
    """
    rate = matrix_rate(chip, dtype)
    if rate is None:
        raise ValueError(f"{chip.name}: no rate for dtype {dtype!r}; known: {', '.join(chip.matrix_flops_per_s)}")
    xp = namespace(tile_flops, tile_bytes, tiles, chip, ceiling, ramp)
    tile_s = xp.maximum(tile_flops * chip.cores / rate, tile_bytes * chip.cores / chip.dram.bandwidth_bytes_per_s)
    waves = wave(1.0 * tiles, chip.cores, rounding=rounding).waves
    share = utilisation(waves, ceiling, ramp)
    return TileTime(waves * tile_s / share, tile_s, waves, share)
