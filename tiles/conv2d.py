"""Convolution as the fastest of implicit GEMM and Winograd kernels on the vector or matrix units.

Implicit GEMM: out[filters, pixels] = w[filters, channels r s] x patches, pixels = batch p q, tile t_m x t_n:

    blocks = ceil(filters / t_m) ceil(pixels / t_n)             passes = waves over the cores, at least one, tail kept by `ragged`
    math   = passes 2 t_m t_n (k + k_start) / (peak / cores efficiency)               k = channels r s / groups

Winograd F(o x o, 3 x 3), stride 1 only: pixels fall into ceil(p / o) ceil(q / o) tiles per image and (o + 2)^2 products of
depth `channels` replace 9 o^2, so the work shrinks by 2.25 (o = 2, fused) or 4 (o = 4: the transformed input and output go
through memory, (o + 2)^2 / o^2 times their size, written and read). Both write and read transformed filters, (o + 2)^2 / 9
times their size. Odd sizes pay for whole tiles.

    T = launch + min over kernels of [pnorm4(math, dram) + passes tile_latency]

`math` may exceed the nominal peak only by Winograd's saving. Hand check: V100, batch 32, 256 -> 256 channels at 28 x 28: 29.6 GFLOP
take 2.1 ms at peak; F(2 x 2) at 65 % of peak: 1.43 ms.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hardware.accelerator import Accelerator
from roofline.kernel_time import Bound, KernelTime, Reason, kernel_time
from roofline.relax import Rounding, exact
from tiles.gemm_constants import matrix_rate
from tiles.kernel_families import Chosen, FamilySet, choose, shipped_sets
from tiles.memory_bound import DRAM_EFFICIENCY
from workloads.dtypes import element_bytes
from workloads.numeric import Array, namespace
from workloads.operators import Conv2d

#: Output tiles (filters, pixels or Winograd tiles) of the kernels.
DIRECT_TILES: tuple[tuple[float, float], ...] = ((32.0, 128.0), (64.0, 64.0), (128.0, 64.0), (128.0, 128.0))
FUSED_TILES: tuple[tuple[float, float], ...] = ((32.0, 32.0), (64.0, 32.0))
UNFUSED_TILES: tuple[tuple[float, float], ...] = ((32.0, 128.0), (64.0, 64.0), (128.0, 64.0), (128.0, 128.0))
NORM = 4.0


class Conv2dConstants(NamedTuple):
    """What cores and kernels add to the datasheet.

    `launch_s`; `direct_efficiency`, `fused_efficiency`, `unfused_efficiency`: peak share of the inner product of implicit GEMM,
    F(2 x 2) and F(4 x 4); `k_start`: depth worth of work before a tile is up to speed; `tile_latency_s` per pass;
    `transform_efficiency`: DRAM share of the F(4 x 4) transforms; `dram_efficiency`; `ragged`: lost share of the idle tail.
    """

    launch_s: Array = 5e-5
    direct_efficiency: Array = 0.7
    fused_efficiency: Array = 0.6
    unfused_efficiency: Array = 0.7
    k_start: Array = 32.0
    tile_latency_s: Array = 3e-6
    transform_efficiency: Array = 0.7
    dram_efficiency: Array = 0.85
    ragged: Array = 0.7


class Conv2dTerms(NamedTuple):
    """The best kernel of a convolution, [...]; `algorithm`: 0 implicit GEMM, 2 and 4 the Winograd output size."""

    total_s: Array
    launch_s: Array
    math_s: Array
    dram_s: Array
    waves: Array
    algorithm: Array
    tile_m: Array
    tile_n: Array
    dram_bytes: Array


def conv2d_constants(
    chip: Accelerator, stack: str | None = None, sets: Sequence[FamilySet] | None = None
) -> tuple[Conv2dConstants, Chosen]:
    """Constants nearest to `chip` and `stack`, and where they came from."""
    chosen = choose(shipped_sets("conv2d") if sets is None else sets, chip, "conv2d", stack)
    return conv2d_constants_with(chip, chosen.values), chosen


def conv2d_constants_with(chip: Accelerator, values: Mapping[str, Array]) -> Conv2dConstants:
    """`Conv2dConstants` from fitted `values` and the architecture's DRAM efficiency."""
    return Conv2dConstants(**{"dram_efficiency": DRAM_EFFICIENCY.get(chip.architecture, 0.85), **values})


def conv2d_terms(
    op: Conv2d, chip: Accelerator, constants: Conv2dConstants, *, rounding: Rounding = exact
) -> Conv2dTerms:
    """The best candidate of `conv2d_time`; same arguments."""
    c = constants
    xp = namespace(op, chip, constants)
    rate = matrix_rate(chip, op.dtype)
    peak = xp.nan if rate is None else rate
    size = element_bytes(op.dtype)
    height, width = op.out_height, op.out_width
    once = op.bytes
    bandwidth = chip.dram.bandwidth_bytes_per_s
    groups = 1.0 * xp.asarray(op.groups)
    filters, depth = op.filters / groups, op.channels / groups
    square = (xp.asarray(op.kernel_h) == 3) & (xp.asarray(op.kernel_w) == 3)
    winograd = square & (xp.asarray(op.stride) == 1) & (xp.asarray(op.dilation) == 1)

    candidates = []

    def offer(algorithm, t_m, t_n, columns, k, copies, efficiency, dram_s, extra_bytes, allowed):
        blocks = groups * copies * rounding.ceil(filters / t_m) * rounding.ceil(columns / t_n)
        x = blocks / chip.cores
        passes = rounding.maximum(1.0, x + c.ragged * (rounding.ceil(x) - x))
        math = passes * 2.0 * t_m * t_n * (k + c.k_start) / (peak / chip.cores * efficiency)
        top = xp.maximum(math, dram_s)
        total = top * ((math / top) ** NORM + (dram_s / top) ** NORM) ** (1.0 / NORM) + passes * c.tile_latency_s
        total = xp.where(allowed, total, 1e30)
        candidates.append((total, math, dram_s, passes, algorithm, t_m, t_n, once + extra_bytes))

    dram = once / (bandwidth * c.dram_efficiency)
    pixels = op.batch * height * width
    for t_m, t_n in DIRECT_TILES:
        k = depth * op.kernel_h * op.kernel_w
        offer(0.0, t_m, t_n, pixels, k, 1.0, c.direct_efficiency, dram, 0.0, True)
    tiles = op.batch * rounding.ceil(height / 2.0) * rounding.ceil(width / 2.0)
    transformed = 2.0 * 16.0 * filters * op.channels * size
    moved = dram + transformed / (bandwidth * c.transform_efficiency)
    for t_m, t_n in FUSED_TILES:
        # One block holds all 16 products of its tiles: depth 16 k at the price of one pass.
        offer(2.0, t_m, t_n, tiles, 16.0 * depth, 1.0, c.fused_efficiency, moved, transformed, winograd)
    tiles = op.batch * rounding.ceil(height / 4.0) * rounding.ceil(width / 4.0)
    transformed = 2.0 * 36.0 * (tiles * (op.channels + op.filters) + filters * op.channels) * size
    moved = dram + transformed / (bandwidth * c.transform_efficiency)
    for t_m, t_n in UNFUSED_TILES:
        offer(4.0, t_m, t_n, tiles, depth, 36.0, c.unfused_efficiency, moved, transformed, winograd)

    columns = [
        xp.stack(xp.broadcast_arrays(*(xp.asarray(v, dtype=float) for v in col)), axis=-1) for col in zip(*candidates)
    ]
    weights = rounding.argmin_weights(columns[0])
    total, math, dram, passes, algorithm, t_m, t_n, moved = (rounding.pick(column, weights) for column in columns)
    launch = xp.asarray(c.launch_s) + 0.0 * total
    return Conv2dTerms(total + launch, launch, math, dram, passes, algorithm, t_m, t_n, moved)


def conv2d_time(
    op: Conv2d,
    chip: Accelerator,
    constants: Conv2dConstants | None = None,
    *,
    stack: str | None = None,
    rounding: Rounding = exact,
) -> KernelTime:
    """Time of the convolution `op` on `chip`, [...]; arguments broadcast. `constants`: default `stack`'s nearest.

    Includes launch, partial tiles, wave quantisation, Winograd selection. Excludes layout changes, FFT and split-k kernels.
    A chip without a rate for the format yields NaN with its reason.
    """
    if constants is None:
        constants = conv2d_constants(chip, stack)[0]
    t = conv2d_terms(op, chip, constants, rounding=rounding)
    xp = namespace(t)
    missing = xp.isnan(t.total_s)
    busy = xp.where(missing, 0.0, t.total_s - t.launch_s)
    bound = xp.where(t.math_s >= t.dram_s, Bound.COMPUTE.value, Bound.MEMORY.value)
    return kernel_time(
        compute_s=xp.where(missing, 0.0, t.math_s),
        memory_s=xp.where(missing, 0.0, t.dram_s),
        launch_s=t.launch_s,
        flops=op.flops,
        bytes=t.dram_bytes,
        busy_s=busy,
        bound=xp.where(t.launch_s > busy, Bound.LAUNCH.value, bound),
        reason=xp.where(missing, Reason.UNSUPPORTED_DTYPE.value, Reason.OK.value),
    )
