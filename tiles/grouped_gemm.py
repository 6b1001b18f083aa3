"""One grouped matrix product of a mixture-of-experts layer as an operator of its own: the tile model of `moe` without its
permute, activation and unpermute kernels."""

from hardware.accelerator import Accelerator
from roofline.kernel_time import Bound, KernelTime, Reason, kernel_time
from roofline.relax import Rounding, exact
from tiles.launch import launch_costs
from tiles.moe import TILE_M, MoeConstants, grouped_gemm_terms, moe_constants
from tiles.moe_load import ExpertLoad, balanced_loads, expert_load, power_law_loads
from workloads.dtypes import canonical_dtype
from workloads.numeric import Array, namespace
from workloads.operators import GroupedGemm


def routed_load(op: GroupedGemm) -> ExpertLoad:
    """The load of the busiest rank of `op`: even where its power law is 0, else power law. Experts must be plain numbers.

    `ValueError` if the local experts do not divide the experts.
    """
    experts, local = int(op.experts), int(op.local_experts)
    if local < 1 or experts % local:
        raise ValueError(f"grouped_gemm.local_experts: {local} does not divide {experts} experts")
    parallel = experts // local
    if bool(namespace(op.power_law).all(namespace(op.power_law).asarray(op.power_law) == 0.0)):
        return expert_load(balanced_loads(op.tokens, experts, op.top_k, expert_parallel=parallel), TILE_M)
    return expert_load(power_law_loads(op.tokens, experts, op.top_k, op.power_law, expert_parallel=parallel), TILE_M)


def grouped_gemm_time(
    op: GroupedGemm,
    chip: Accelerator,
    constants: MoeConstants | None = None,
    *,
    load: ExpertLoad | None = None,
    stack: str | None = None,
    rounding: Rounding = exact,
) -> KernelTime:
    """Time of `op` on the busiest rank, [...]. `load`: user-given routing (`expert_load(given_loads(...), TILE_M)`).

    Includes one launch, partial row tiles, waves, distinct experts' weights from DRAM. Excludes permutation, activation,
    routing, communication. A chip without a rate for the format yields NaN with its reason.
    """
    if constants is None:
        constants = moe_constants(f"{canonical_dtype(op.dtype)}/cutlass", chip, stack)[0]
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
    launch = launch_costs(chip).start_s
    flops: Array = 2.0 * seen.rows * op.n * op.k
    top = xp.maximum(xp.maximum(t.tensor_s, t.dram_s), xp.maximum(t.port_s, t.l2_s))
    codes = (Bound.COMPUTE.value, Bound.MEMORY.value, Bound.LOAD_PORT.value)
    bound = xp.select([t.tensor_s >= top, t.dram_s >= top, t.port_s >= top], codes, Bound.CACHE.value)
    return kernel_time(
        compute_s=xp.where(missing, 0.0, t.tensor_s),
        memory_s=t.dram_s,
        launch_s=launch,
        flops=flops,
        bytes=t.dram_bytes,
        busy_s=xp.where(missing, 0.0, t.total_s),
        bound=xp.where(launch > t.total_s, Bound.LAUNCH.value, bound),
        reason=xp.where(missing, Reason.UNSUPPORTED_DTYPE.value, Reason.OK.value),
    )
