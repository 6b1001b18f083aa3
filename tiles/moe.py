"""Mixture-of-experts feed-forward layer: permute, grouped GEMM, activation, grouped GEMM, unpermute.

Grouped GEMM over the active experts of one rank, tile t_m x t_n, r_e rows on expert e:

    blocks = sum_e ceil(r_e / t_m) ceil(n / t_n)         passes = waves over the cores, at least one, idle tail kept
    by `ragged` tensor = passes 2 t_m t_n k / (peak / cores tensor_efficiency)            a partial tile costs a full
    one port   = passes k (t_m a_bytes + t_n w_bytes) / (port_share feed)                        operands into one core
    l2     = blocks k (t_m a_bytes + t_n w_bytes) / (cores l2_share feed)
    dram   = ((1 - resident) active n k w_bytes + rows (k a_bytes + n o_bytes)) / (bandwidth dram_efficiency)
    T      = min over tiles of pnorm4(tensor, port, l2, dram) + passes tile_latency

`feed` = peak / cores a_bytes: operands one core could consume per second. What feeds a core grows with it (see
`gemm_prior`), so that shares, unlike rates, hold from one architecture to the next.

Layer = fixed launches + per-expert bookkeeping + both GEMMs + permute, activation and unpermute traffic at
`side_efficiency` of DRAM speed (above one where they are fused away). `resident`: weights that a replay finds in L2,
1 / (1 + (bytes / (residency L2))^8). Limits: one token -> fixed + top_k experts' weights at DRAM speed; many tokens
-> 6 rows hidden inter / (peak efficiency).

Hand check: H100 bf16, 16 tokens, top 8 of 128, 4096 x 1536: all 128 experts hit, 4.83 GB / 3.1 TB/s = 1.56 ms
(measured 1.562 ms).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from hardware.accelerator import Accelerator
from roofline.kernel_time import Bound, KernelTime, Reason, kernel_time
from roofline.relax import Rounding, exact
from tiles.kernel_families import Chosen, FamilySet, choose, shipped_sets
from tiles.moe_load import ExpertLoad
from workloads.dtypes import RATE_FORMAT, element_bytes
from workloads.numeric import Array, namespace

#: Row tiles of grouped kernels; `ExpertLoad.tiles` counts them in this order.
TILE_M: tuple[float, ...] = (16.0, 32.0, 64.0, 128.0)
#: Candidate tiles: (index into `TILE_M`, columns). The first and (64, 64) are what an untuned Triton kernel uses.
TILES: tuple[tuple[int, float], ...] = ((0, 32.0), *((i, t_n) for i in range(4) for t_n in (64.0, 128.0, 256.0)))
NORM = 4.0


class MoeConstants(NamedTuple):
    """What a kernel family and an architecture add to the datasheet. Cycles are of the core clock.

    `fixed_s`: launches and routing of one layer; `expert_s`: bookkeeping per local expert; `pair_s`: sort per (token,
    expert) pair; `tensor_efficiency` of the dense peak; `dram_efficiency`; `side_efficiency`: DRAM speed share of
    permute, activation and unpermute; `port_share`, `l2_share` of the operands a core could consume; `tile_latency_s` per pass;
    `residency`: share of L2 that keeps weights between calls; `ragged`: share of the idle tail of the last pass that is
    really lost; `fixed_tiles`: 1 for an untuned Triton kernel, 0 for the best of all tiles.
    """

    fixed_s: Array = 2.5e-5
    expert_s: Array = 1e-8
    tensor_efficiency: Array = 0.7
    dram_efficiency: Array = 0.85
    side_efficiency: Array = 0.8
    port_share: Array = 0.008
    l2_share: Array = 0.006
    tile_latency_s: Array = 1.5e-6
    residency: Array = 0.3
    ragged: Array = 0.5
    pair_s: Array = 1e-10
    fixed_tiles: Array = 0.0


class MoeLayer(NamedTuple):
    """Shapes of a layer: model `hidden`, expert `inter` size *on this rank* (after tensor parallelism), `tokens`
    entering.
    `local_experts` held by the rank; `gated`: 1 for up and gate projections, 0 for one projection. Arrays broadcast.
    """

    tokens: Array
    hidden: Array
    inter: Array
    local_experts: Array
    top_k: Array
    gated: Array = 1.0


class MoeTerms(NamedTuple):
    """Breakdown of `moe_time`, [...]; times in seconds. `tile_m`, `tile_n`: of the first GEMM's best candidate."""

    fixed_s: Array
    first_gemm_s: Array
    second_gemm_s: Array
    side_s: Array
    tensor_s: Array
    dram_s: Array
    port_s: Array
    l2_s: Array
    tile_m: Array
    tile_n: Array
    waves: Array
    active_experts: Array
    resident_share: Array
    dram_bytes: Array
    flops: Array


def moe_constants(
    kernel: str, chip: Accelerator, stack: str | None = None, sets: Sequence[FamilySet] | None = None
) -> tuple[MoeConstants, Chosen]:
    """Constants of `kernel` ("<format>/<variant>", say "fp8/cutlass") for `chip` and `stack`, and their origin."""
    available = shipped_sets("moe") if sets is None else sets
    nearest = {kernel: nearest_kernels(kernel, tuple(dict.fromkeys(entry.kernel for entry in available)))}
    chosen = choose(available, chip, kernel, stack, nearest_kernels=nearest)
    return moe_constants_with(kernel, chosen.values), chosen


def moe_constants_with(kernel: str, values: Mapping[str, Array]) -> MoeConstants:
    """`MoeConstants` from fitted `values`; a Triton kernel keeps its untuned tiles."""
    return MoeConstants(**{"fixed_tiles": float(kernel.endswith("/triton")), **values})


def nearest_kernels(kernel: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """`known` kernels by likeness to `kernel`: the same format first, then the same variant, then as they come."""
    fmt, _, variant = kernel.partition("/")
    rank = {name: (name.split("/")[0] != fmt, not name.endswith("/" + variant)) for name in known}
    return tuple(sorted((name for name in known if name != kernel), key=lambda name: rank[name]))


class GroupedGemmTerms(NamedTuple):
    """Best candidate of one grouped GEMM, [...]."""

    total_s: Array
    tensor_s: Array
    dram_s: Array
    port_s: Array
    l2_s: Array
    tile_m: Array
    tile_n: Array
    waves: Array
    resident_share: Array
    dram_bytes: Array


def grouped_gemm_terms(
    load: ExpertLoad,
    n: Array,
    k: Array,
    chip: Accelerator,
    constants: MoeConstants,
    *,
    tokens: Array = 0.0,
    local_experts: Array = 0.0,
    dtype: str,
    weight_dtype: str = "",
    out_dtype: str = "bf16",
    rounding: Rounding = exact,
) -> GroupedGemmTerms:
    """One [n, k] product per active expert. `load` for tiles `TILE_M`; arguments broadcast over its leading axes."""
    c = constants
    xp = namespace(load, n, k, chip, constants)
    a_bytes, w_bytes, o_bytes = element_bytes(dtype), element_bytes(weight_dtype or dtype), element_bytes(out_dtype)
    peak = _peak(chip, dtype)
    n, k = 1.0 * xp.asarray(n), 1.0 * xp.asarray(k)
    weights = load.active * n * k * w_bytes
    cache = chip.level("l2").capacity_bytes
    resident = 1.0 / (1.0 + (weights / (xp.maximum(c.residency, 1e-3) * cache)) ** 8.0)
    dram_bytes = (1.0 - resident) * weights + load.rows * (k * a_bytes + n * o_bytes)
    dram = dram_bytes / (chip.dram.bandwidth_bytes_per_s * c.dram_efficiency)

    # Candidates are the last axis from here on.
    index, t_m, t_n = (np.array(column) for column in zip(*((i, TILE_M[i], t_n) for i, t_n in TILES)))
    n, k, dram_c = (xp.asarray(x)[..., None] for x in (n, k, dram))
    chip_c, c_c = jax.tree_util.tree_map(lambda x: xp.asarray(x)[..., None], (_Rates(chip.cores, peak), c))
    blocks = load.tiles[..., index] * rounding.ceil(n / t_n)
    x = blocks / chip_c.cores
    passes = rounding.maximum(1.0, x + c_c.ragged * (rounding.ceil(x) - x))
    operand = k * (t_m * a_bytes + t_n * w_bytes)
    tensor = passes * 2.0 * t_m * t_n * k / (chip_c.peak / chip_c.cores * c_c.tensor_efficiency)
    feed = chip_c.peak / chip_c.cores * a_bytes
    port = passes * operand / (c_c.port_share * feed)
    l2 = blocks * operand / (chip_c.cores * c_c.l2_share * feed)
    top = xp.maximum(xp.maximum(tensor, port), xp.maximum(l2, dram_c))
    norm = (tensor / top) ** NORM + (port / top) ** NORM + (l2 / top) ** NORM + (dram_c / top) ** NORM
    total = top * norm ** (1.0 / NORM) + passes * c_c.tile_latency_s
    offered = _offered(t_m, t_n, xp.asarray(tokens)[..., None], xp.asarray(local_experts)[..., None], c_c)
    total = xp.where(offered, total, 1e30)
    columns = xp.broadcast_arrays(total, tensor, port, l2, passes, xp.asarray(t_m), xp.asarray(t_n))
    chosen = rounding.argmin_weights(total)
    total, tensor, port, l2, passes, t_m, t_n = (rounding.pick(column, chosen) for column in columns)
    return GroupedGemmTerms(total, tensor, dram, port, l2, t_m, t_n, passes, resident, dram_bytes)


def moe_terms(
    layer: MoeLayer,
    load: ExpertLoad,
    chip: Accelerator,
    constants: MoeConstants,
    *,
    dtype: str,
    weight_dtype: str = "",
    rounding: Rounding = exact,
) -> MoeTerms:
    """The terms of `moe_time`; same arguments."""
    c = constants
    a_bytes = element_bytes(dtype)
    shape = {"dtype": dtype, "weight_dtype": weight_dtype, "rounding": rounding}
    shape |= {"tokens": layer.tokens, "local_experts": layer.local_experts}
    projections = 1.0 + layer.gated
    first = grouped_gemm_terms(load, projections * layer.inter, layer.hidden, chip, c, **shape)
    second = grouped_gemm_terms(load, layer.hidden, layer.inter, chip, c, **shape)
    own = layer.tokens * layer.hidden * 2.0
    permute = own + load.rows * layer.hidden * a_bytes
    activation = load.rows * layer.inter * (2.0 * projections + a_bytes)
    unpermute = load.rows * layer.hidden * 2.0 + own
    side_bytes = permute + activation + unpermute
    side = side_bytes / (chip.dram.bandwidth_bytes_per_s * c.side_efficiency)
    fixed = c.fixed_s + c.expert_s * layer.local_experts + c.pair_s * layer.tokens * layer.top_k
    flops = 2.0 * load.rows * layer.hidden * layer.inter * (1.0 + projections)
    xp = namespace(first, second, side, fixed)
    terms = (
        fixed,
        first.total_s,
        second.total_s,
        side,
        first.tensor_s + second.tensor_s,
        first.dram_s + second.dram_s,
        first.port_s + second.port_s,
        first.l2_s + second.l2_s,
        first.tile_m,
        first.tile_n,
        first.waves,
        load.active,
        first.resident_share,
        first.dram_bytes + second.dram_bytes + side_bytes,
        flops,
    )
    return MoeTerms(*xp.broadcast_arrays(*(xp.asarray(term, dtype=float) for term in terms)))


def moe_time(
    layer: MoeLayer,
    load: ExpertLoad,
    chip: Accelerator,
    constants: MoeConstants,
    *,
    dtype: str,
    weight_dtype: str = "",
    rounding: Rounding = exact,
) -> KernelTime:
    """Time of a fused expert layer on the rank that `load` describes, [...]; see the module for the equation.

    `load` = `expert_load(loads, TILE_M)`. `dtype`: activations and matrix unit; `weight_dtype` for weight-only formats.
    Includes: routing sort, permute, both grouped GEMMs, activation, unpermute. Excludes: the router GEMM, all-to-all,
    shared experts. A chip without a rate for `dtype` yields NaN with its reason.
    """
    t = moe_terms(layer, load, chip, constants, dtype=dtype, weight_dtype=weight_dtype, rounding=rounding)
    xp = namespace(t)
    top = xp.maximum(xp.maximum(t.tensor_s, t.dram_s + t.side_s), xp.maximum(t.port_s, t.l2_s))
    codes = (Bound.COMPUTE.value, Bound.MEMORY.value, Bound.LOAD_PORT.value)
    bound = xp.select([t.tensor_s >= top, t.dram_s + t.side_s >= top, t.port_s >= top], codes, Bound.CACHE.value)
    busy = t.first_gemm_s + t.second_gemm_s + t.side_s
    reason = xp.where(xp.isnan(t.tensor_s), Reason.UNSUPPORTED_DTYPE.value, Reason.OK.value)
    clean = t._replace(tensor_s=xp.where(xp.isnan(t.tensor_s), 0.0, t.tensor_s))
    return kernel_time(
        compute_s=clean.tensor_s,
        memory_s=t.dram_s + t.side_s,
        launch_s=t.fixed_s,
        flops=t.flops,
        bytes=t.dram_bytes,
        busy_s=xp.where(xp.isnan(busy), 0.0, busy),
        bound=xp.where(t.fixed_s > busy, Bound.LAUNCH.value, bound),
        reason=reason,
    )


class _Rates(NamedTuple):
    cores: Array
    peak: Array


def _offered(t_m: Array, t_n: Array, tokens: Array, local_experts: Array, c: MoeConstants) -> Array:
    """Whether a kernel family has this tile: all but t_n = 32 when it is tuned, else the untuned Triton default,
    16 x 32 while tokens <= local experts and 64 x 64 above."""
    xp = namespace(tokens, local_experts, c)
    few = xp.asarray(tokens) <= local_experts
    default = xp.where(few, (t_m == 16.0) & (t_n == 32.0), (t_m == 64.0) & (t_n == 64.0))
    return xp.where(c.fixed_tiles > 0.5, default, t_n > 32.0)


def _peak(chip: Accelerator, dtype: str) -> Array:
    """Dense matrix peak of `chip` for `dtype`, FLOP/s; NaN if the chip has none."""
    table = chip.matrix_flops_per_s
    return table.get(dtype, table.get(RATE_FORMAT.get(dtype, dtype), float("nan")))
