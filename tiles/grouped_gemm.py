"""One grouped matrix product of a mixture-of-experts layer as an operator of its own: the tile model of `moe` without its
permute, activation and unpermute kernels."""

from collections.abc import Sequence

import numpy as np
from jax.core import Tracer
from jax.scipy.special import gammainc as jax_gammainc
from scipy.special import gammainc as scipy_gammainc

from hardware.accelerator import Accelerator
from roofline.kernel_time import Bound, KernelTime, Reason, kernel_time
from roofline.relax import Rounding, exact
from tiles.gemm_constants import constants_architecture
from tiles.kernel_families import Chosen, FamilySet, shipped_sets
from tiles.launch import launch_costs
from tiles.moe import TILE_M, MoeConstants, grouped_gemm_terms, moe_constants
from tiles.moe_load import ExpertLoad, expert_load, power_law_loads
from workloads.dtypes import canonical_dtype, element_bytes
from workloads.numeric import Array, namespace
from workloads.operators import GroupedGemm

#: Bytes of an element between the kernels of a layer.
SIDE_BYTES = 2.0
#: Row tiles per expert that are counted one by one; beyond, a tile more or less of many is an average.
_COUNTED_TILES = 8
#: Kernels of an expert layer with gate and up projections, as measured tables name them, preferred first.
VARIANTS = ("cutlass", "deepgemm", "triton", "marlin")
#: Variants put together from eager calls (20-80 us before the first product): what engines do not run. Last resort.
EAGER_VARIANTS = ("torch",)
#: (activations, weights) -> format as measured tables name it, where it is not the activations' own.
WEIGHT_ONLY = {
    ("bf16", "int4"): "int4_wo",
    ("bf16", "int8"): "int8_wo",
    ("bf16", "mxfp4"): "w4a16_mxfp4",
    ("fp8", "mxfp4"): "w4a8_mxfp4_mxfp8",
    ("fp8", "int4"): "w4afp8",
}
#: Formats whose kernels stand in for one that was measured in eager variants only: as many bits of weights first.
NEAREST_LABEL = {"w4a16_mxfp4": ("nvfp4", "bf16"), "w4a8_mxfp4_mxfp8": ("nvfp4", "fp8")}


def expert_constants(
    op: GroupedGemm, chip: Accelerator, stack: str | None = None, sets: Sequence[FamilySet] | None = None
) -> tuple[MoeConstants, Chosen]:
    """Constants for the number formats of `op`: of the kernel measured on the chip's architecture in that format, where
    there is one, else of the nearest (see `moe_constants`)."""
    available = shipped_sets("moe") if sets is None else sets
    dtype, weight = canonical_dtype(op.dtype), canonical_dtype(op.weight_dtype or op.dtype)
    label = WEIGHT_ONLY.get((dtype, weight), dtype)
    labels = (label, *NEAREST_LABEL.get(label, ()))
    kernels = [f"{name}/{variant}" for name in labels for variant in VARIANTS]
    own = constants_architecture(chip)
    for architecture in (own, None):
        for kernel in kernels:
            if any(s.kernel == kernel and architecture in (None, s.architecture) for s in available):
                return moe_constants(kernel, chip, stack, available)
    for kernel in (f"{label}/{variant}" for variant in EAGER_VARIANTS):
        if any(s.kernel == kernel for s in available):
            return moe_constants(kernel, chip, stack, available)
    return moe_constants(kernels[0], chip, stack, available)


def routed_load(op: GroupedGemm) -> ExpertLoad:
    """What the experts of one rank get: random even routing where the power law of `op` is 0 (the mean over draws), else
    the busiest rank under power-law routing, whose numbers of experts must be concrete.

    `ValueError` if the local experts do not divide the experts.
    """
    xp = namespace(op)
    if not isinstance(op.power_law, Tracer) and not np.any(np.asarray(op.power_law)):
        return _random_load(op)
    experts, local = np.broadcast_arrays(np.asarray(op.experts, int), np.asarray(op.local_experts, int))
    tokens, top_k, exponent = op.tokens, op.top_k, op.power_law
    result: ExpertLoad | None = None
    for total, own in sorted(set(zip(experts.ravel().tolist(), local.ravel().tolist()))):
        if own < 1 or total % own:
            raise ValueError(f"grouped_gemm.local_experts: {own} does not divide {total} experts")
        loads = power_law_loads(tokens, total, top_k, exponent, expert_parallel=total // own)
        found = expert_load(loads, TILE_M)
        here = (experts == total) & (local == own)
        if result is None:
            result = found
        else:
            chosen = [xp.where(here if n < 3 else here[..., None], b, a) for n, (a, b) in enumerate(zip(result, found))]
            result = ExpertLoad(*chosen)
    assert result is not None
    return result


def _random_load(op: GroupedGemm) -> ExpertLoad:
    """Rows of an expert as a Poisson variable of mean rows / local experts; the share of experts hit is exact.

    E[ceil(r / h)] = sum_j P(r > j h), counted for the first tiles; beyond, mean / h and half a tile.
    """
    xp = namespace(op)
    gammainc = scipy_gammainc if xp is np else jax_gammainc
    rows, active, local = (
        xp.asarray(x, dtype=float) for x in xp.broadcast_arrays(op.rows, op.active_experts, op.local_experts)
    )
    mean = rows / local
    tiles = []
    for height in TILE_M:
        few = xp.minimum(mean, 0.5 * _COUNTED_TILES * height)
        more = sum(gammainc(j * height + 1.0, few) for j in range(1, _COUNTED_TILES))
        many = mean / height + 0.5 * (1.0 - 1.0 / height)
        tiles.append(xp.where(mean < 0.5 * _COUNTED_TILES * height, active + local * more, local * many))
    worst = mean + xp.sqrt(2.0 * mean * xp.log(xp.maximum(local, 1.0))) + xp.log(xp.maximum(local, 1.0)) / 3.0
    worst = xp.maximum(xp.minimum(worst, 1.0 * op.tokens), mean)
    return ExpertLoad(rows, active, worst, xp.stack(tiles, axis=-1))


def grouped_gemm_time(
    op: GroupedGemm,
    chip: Accelerator,
    constants: MoeConstants | None = None,
    *,
    load: ExpertLoad | None = None,
    stack: str | None = None,
    layer_share: Array = 0.0,
    rounding: Rounding = exact,
) -> KernelTime:
    """Time of `op`, [...]. `load`: user-given routing (`expert_load(given_loads(...), TILE_M)`); default: `routed_load`.

    Includes one launch, partial row tiles, waves, distinct experts' weights from DRAM. With `layer_share` (a half for each
    of the two products of a layer) it is a part of a fused layer instead: that share of routing and bookkeeping, and the
    kernels that write the product's input and read its output (permute, activation, unpermute), so that both together
    are `moe_time`. Excludes communication. A chip without a rate for the format yields NaN with its reason.
    """
    if constants is None:
        constants = expert_constants(op, chip, stack)[0]
    seen = routed_load(op) if load is None else load
    t = grouped_gemm_terms(
        seen,
        op.n,
        op.k,
        chip,
        constants,
        tokens=op.tokens,
        local_experts=op.local_experts,
        dtype=op.dtype,
        weight_dtype=op.weight_dtype,
        out_dtype=op.out_dtype or op.dtype,
        rounding=rounding,
    )
    xp = namespace(t)
    missing = xp.isnan(t.tensor_s)
    c = constants
    layer = c.fixed_s + c.expert_s * op.local_experts + c.pair_s * op.tokens * op.top_k
    fused = xp.asarray(layer_share) > 0.0
    launch = xp.where(fused, layer_share * layer, launch_costs(chip).start_s)
    beside = seen.rows * (op.k * element_bytes(op.dtype) + op.n * SIDE_BYTES) + op.tokens * op.k * SIDE_BYTES
    side_s = xp.where(fused, beside / (chip.dram.bandwidth_bytes_per_s * c.side_efficiency), 0.0)
    flops: Array = 2.0 * seen.rows * op.n * op.k
    top = xp.maximum(xp.maximum(t.tensor_s, t.dram_s + side_s), xp.maximum(t.port_s, t.l2_s))
    codes = (Bound.COMPUTE.value, Bound.MEMORY.value, Bound.LOAD_PORT.value)
    bound = xp.select([t.tensor_s >= top, t.dram_s + side_s >= top, t.port_s >= top], codes, Bound.CACHE.value)
    return kernel_time(
        compute_s=xp.where(missing, 0.0, t.tensor_s),
        memory_s=t.dram_s + side_s,
        launch_s=launch,
        flops=flops,
        bytes=t.dram_bytes + xp.where(fused, beside, 0.0),
        busy_s=xp.where(missing, 0.0, t.total_s + side_s),
        bound=xp.where(launch > t.total_s + side_s, Bound.LAUNCH.value, bound),
        reason=xp.where(missing, Reason.UNSUPPORTED_DTYPE.value, Reason.OK.value),
    )
