"""Memory-bound kernels: elementwise maps, normalisation, softmax, gather, quantise, rotary embedding.

    T = launch + pnorm4(dram, l2, issue, waves)

    dram  = (1 - resident) traffic bytes / (bandwidth dram_efficiency)      what must cross the memory pins
    l2    = traffic bytes / (cores clock l2_bytes_per_clock)                what crosses the cache in any case
    issue = passes elements / (cores clock elements_per_clock)              instruction-bound maps (pow, scalar gathers)
    waves = ceil(rows / slots) (latency_cycles + iterations iteration_cycles) / clock        one thread block per row

`resident` = 1 / (1 + (working set / (residency L2))^8): inputs and outputs that stayed in L2 since the last use. Only
this share may push a prediction below the DRAM bound. A kernel that reads its rows `passes` times finds them again in
the caches unless the rows in flight outgrow them: extra traffic (passes - 1) reads / (1 + (cache / rows in flight)^4),
cache = reread_residency L2 + core_cache cores on-chip bytes.
Limits: one row -> launch + one wave latency; infinite rows -> traffic at DRAM speed, or the issue rate.

Hand check: fp32 add of 1e7 elements on 1.555e12 B/s at 0.88 moves 120 MB: 87.7 us + 15 us launch (A100-PCIE: 103 us).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from hardware.accelerator import Accelerator
from roofline.kernel_time import Bound, KernelTime, kernel_time
from roofline.relax import Rounding, exact
from tiles.gemm_constants import constants_architecture
from tiles.kernel_families import Chosen, FamilySet, choose, shipped_sets
from workloads.numeric import Array, namespace
from workloads.operators import Elementwise, Gather, Normalisation, Operator, Quantise, RotaryEmbedding, Softmax

#: Sharpness of "several resources at once": 1 adds them, infinity takes the largest.
NORM = 4.0
#: Rows whose kernel uses fewer threads than this still occupy one block slot.
WARP = 32.0


class MemoryBoundConstants(NamedTuple):
    """What a kernel family and its chip's architecture add to the datasheet. Cycles are of the core clock.

    Kernel: `launch_s` (fixed start, dispatch included when eager), `traffic` (bytes moved / compulsory bytes),
    `passes` over the rows, `elements_per_clock` per core, `latency_cycles` of a block, `iteration_cycles` per trip of
    the block along its row, `threads` of a block at most, `elements_per_thread` of a trip, `register_cols` (rows up to
    this long stay in the registers of one warp: one pass, one trip), `residency` (usable share
    of L2 for data left by the previous kernel; 0 for cold data), `reread_residency` (same for rows in flight).
    Architecture: `dram_efficiency`, `l2_bytes_per_clock` per core, `threads_per_core`, `core_cache` (first-level
    cache of a core against its on-chip memory: 1 where they are one memory), `boost` (clock of a light load over the
    clock that the datasheet's peak is stated at).
    """

    launch_s: Array = 2.0e-6
    traffic: Array = 1.0
    passes: Array = 1.0
    elements_per_clock: Array = 64.0
    latency_cycles: Array = 1500.0
    iteration_cycles: Array = 100.0
    threads: Array = 1024.0
    elements_per_thread: Array = 4.0
    register_cols: Array = 0.0
    residency: Array = 0.0
    reread_residency: Array = 1.0
    dram_efficiency: Array = 0.85
    l2_bytes_per_clock: Array = 48.0
    threads_per_core: Array = 2048.0
    core_cache: Array = 1.0
    boost: Array = 1.0


#: Share of DRAM bandwidth a streaming map reaches, per architecture (fp32 maps above 18 MB; from Hopper on: quantise).
DRAM_EFFICIENCY: dict[str, float] = {
    "Pascal": 0.75,
    "Volta": 0.92,
    "Turing": 0.745,
    "Ampere": 0.885,
    "Ada": 0.79,
    "Hopper": 0.91,
    "Blackwell": 0.9,
    "Blackwell Ultra": 0.9,
    "CDNA1": 0.84,
    "CDNA2": 0.84,
}
#: Resident threads of one core where it is not 2048.
THREADS_PER_CORE: dict[str, float] = {"Turing": 1024.0, "Ada": 1536.0}
#: Bytes one core moves to or from L2 per clock, per architecture, where a set does not say (the GEMM models' rates).
L2_BYTES_PER_CLOCK: dict[str, float] = {
    "Ampere": 24.0,
    "Ada": 12.0,
    "Hopper": 44.0,
    "Blackwell": 80.0,
    "Blackwell Ultra": 80.0,
}
#: Highest clock, which kernels without matrix units run at, over that of the datasheet's peak, where the two differ: 1.98
#: against 1.83 GHz, 1.965 against 1.85 GHz.
BOOST: dict[str, float] = {"Hopper": 1.08, "Blackwell": 1.06}
#: First-level cache of a core against its on-chip memory where the two are apart (24 kB beside 64, 16 beside 64).
CORE_CACHE: dict[str, float] = {"Pascal": 0.375, "CDNA1": 0.25, "CDNA2": 0.25, "CDNA3": 0.5}
#: Kernels that stand in for one without constants.
NEAREST_KERNELS: dict[str, tuple[str, ...]] = {
    "layer_norm": ("rms_norm",),
    "rms_norm": ("layer_norm",),
    "softmax": ("layer_norm", "rms_norm"),
    "silu_mul": ("binary", "unary"),
    "binary": ("unary", "silu_mul"),
    "unary": ("binary", "silu_mul"),
    "pow": ("unary", "silu_mul"),
    "rotary_embedding": ("unary", "silu_mul"),
    "gather": ("unary", "silu_mul"),
    "quantise": ("unary", "silu_mul"),
    "amax": ("quantise",),
}
#: How the kernels of a kind walk their rows; not fitted. Where a trip costs what its elements cost to issue, no more.
KERNEL_SHAPE: dict[str, dict[str, float]] = {
    "layer_norm": {"threads": 128.0, "elements_per_thread": 4.0, "passes": 2.0, "iteration_cycles": 1.0},
    "softmax": {
        "threads": 512.0,
        "elements_per_thread": 2.0,
        "passes": 3.0,
        "register_cols": 1024.0,
        "iteration_cycles": 1.0,
    },
    "rms_norm": {"threads": 1024.0, "elements_per_thread": 1.0},
    "silu_mul": {"threads": 1024.0, "elements_per_thread": 1.0},
}


class MemoryBoundTerms(NamedTuple):
    """Where the time of a memory-bound kernel goes, every field of the broadcast shape; seconds, bytes, shares."""

    launch_s: Array
    dram_s: Array
    l2_s: Array
    issue_s: Array
    wave_s: Array
    waves: Array
    blocks_per_core: Array
    resident_share: Array
    reread_share: Array
    dram_bytes: Array
    l2_bytes: Array


def memory_bound_kernel(operator: Operator) -> str:
    """The kernel family that runs `operator`: "unary", "binary", "pow", "silu_mul", "softmax", "rms_norm", ..."""
    if isinstance(operator, Elementwise):
        name = operator.name.removeprefix("experts_")
        if name in ("pow", "silu_mul"):
            return name
        many = namespace(operator.inputs).all(namespace(operator.inputs).asarray(operator.inputs) >= 2)
        return "binary" if bool(many) else "unary"
    if isinstance(operator, Normalisation):
        return "layer_norm" if operator.flavour == "layer" else "rms_norm"
    return operator.kind


def memory_bound_constants(
    kernel: str, chip: Accelerator, stack: str | None = None, sets: Sequence[FamilySet] | None = None
) -> tuple[MemoryBoundConstants, Chosen]:
    """Constants of `kernel` (see `memory_bound_kernel`) for `chip` under `stack`, and where they came from."""
    available = shipped_sets("memory_bound") if sets is None else sets
    chosen = choose(available, chip, kernel, stack, nearest_kernels=NEAREST_KERNELS)
    return constants_with(kernel, chip, chosen.values), chosen


def constants_with(kernel: str, chip: Accelerator, values: Mapping[str, Array]) -> MemoryBoundConstants:
    """`MemoryBoundConstants` from fitted `values`, the shape of the kernel and what is known of the architecture."""
    own: dict[str, Array] = dict(KERNEL_SHAPE.get(kernel, {}))
    own["dram_efficiency"] = DRAM_EFFICIENCY.get(chip.architecture, 0.85)
    own["l2_bytes_per_clock"] = L2_BYTES_PER_CLOCK.get(constants_architecture(chip), 48.0)
    own["threads_per_core"] = THREADS_PER_CORE.get(chip.architecture, 2048.0)
    own["boost"] = BOOST.get(constants_architecture(chip), 1.0)
    own["core_cache"] = CORE_CACHE.get(chip.architecture, 1.0)
    return MemoryBoundConstants(**own | dict(values))


def rows_and_cols(operator: Operator) -> tuple[Array, Array]:
    """The [rows, cols] grid of `operator`: a row is what one thread block works on (of a plain map, 4096 elements)."""
    if isinstance(operator, Softmax | Normalisation | Gather | Quantise):
        return operator.rows, operator.cols
    if isinstance(operator, RotaryEmbedding):
        return operator.tokens, operator.heads * operator.rotary_dim
    elements = operator.elements  # type: ignore[attr-defined]  # Elementwise, the remaining kind
    xp = namespace(elements)
    cols = xp.minimum(1.0 * xp.asarray(elements), 4096.0)
    return elements / cols, cols


def memory_bound_terms(
    operator: Operator,
    chip: Accelerator,
    constants: MemoryBoundConstants,
    *,
    rows: Array | None = None,
    rounding: Rounding = exact,
) -> MemoryBoundTerms:
    """The terms of `memory_bound_time`. `rows`: blocks of a map whose kernel has one block per row (fused SiLU-mul)."""
    c = constants
    grid_rows, cols = rows_and_cols(operator)
    if rows is not None:
        grid_rows, cols = rows, grid_rows * cols / rows
    xp = namespace(operator, chip, constants, grid_rows, cols)
    grid_rows, cols = 1.0 * xp.asarray(grid_rows), 1.0 * xp.asarray(cols)
    cache = chip.level("l2").capacity_bytes
    reads, working_set = sum(operator.reads.values()), operator.bytes

    in_registers = cols <= c.register_cols
    passes = xp.where(in_registers, 1.0, c.passes)
    trips = xp.where(in_registers, 1.0, rounding.ceil(cols / (c.threads * c.elements_per_thread)))
    threads = rounding.minimum(c.threads, xp.maximum(cols / c.elements_per_thread, WARP))
    threads = xp.where(in_registers, WARP, threads)
    blocks_per_core = xp.maximum(c.threads_per_core / threads, 1.0)
    waves = rounding.ceil(grid_rows / (chip.cores * blocks_per_core))
    clock = chip.clock_hz * c.boost
    wave_s = waves * (c.latency_cycles + c.iteration_cycles * passes * trips) / clock

    resident = 1.0 / (1.0 + (working_set / (xp.maximum(c.residency, 1e-3) * cache)) ** 8.0)
    in_flight = xp.minimum(grid_rows, chip.cores * blocks_per_core) * reads / grid_rows
    on_chip = xp.where(xp.isnan(1.0 * xp.asarray(chip.on_chip_bytes_per_core)), 0.0, chip.on_chip_bytes_per_core)
    near = c.reread_residency * cache + c.core_cache * chip.cores * on_chip
    reread = 1.0 / (1.0 + (near / in_flight) ** 4.0)
    again = (passes - 1.0) * reads
    moved = c.traffic * working_set
    dram_bytes = (1.0 - resident) * moved + reread * again
    l2_bytes = moved + again
    core_clocks = chip.cores * clock
    dram_s = dram_bytes / (chip.dram.bandwidth_bytes_per_s * c.dram_efficiency)
    l2_s = l2_bytes / (core_clocks * c.l2_bytes_per_clock)
    issue_s = passes * grid_rows * cols / (core_clocks * c.elements_per_clock)
    terms = (c.launch_s, dram_s, l2_s, issue_s, wave_s, waves, blocks_per_core, resident, reread, dram_bytes, l2_bytes)
    return MemoryBoundTerms(*xp.broadcast_arrays(*(xp.asarray(term, dtype=float) for term in terms)))


def memory_bound_time(
    operator: Operator,
    chip: Accelerator,
    constants: MemoryBoundConstants | None = None,
    *,
    stack: str | None = None,
    rows: Array | None = None,
    rounding: Rounding = exact,
) -> KernelTime:
    """Time of a memory-bound `operator` on `chip`, [...]; arguments broadcast. `constants`: default `stack`'s nearest.

    Includes: launch, L2 residency, re-reads, per-block latency and its wave quantisation. Excludes: host queueing (see
    `launch`). `memory_s` is the DRAM or L2 time, whichever is longer; `compute_s` the issue or wave time.
    """
    if constants is None:
        constants = memory_bound_constants(memory_bound_kernel(operator), chip, stack)[0]
    t = memory_bound_terms(operator, chip, constants, rows=rows, rounding=rounding)
    xp = namespace(t)
    parts = xp.stack([t.dram_s, t.l2_s, t.issue_s, t.wave_s])
    top = xp.max(parts, axis=0)
    busy = top * xp.sum((parts / top) ** NORM, axis=0) ** (1.0 / NORM)
    codes = (Bound.MEMORY.value, Bound.CACHE.value, Bound.COMPUTE.value)
    bound = xp.select([t.dram_s >= top, t.l2_s >= top, t.issue_s >= top], codes, Bound.LATENCY.value)
    return kernel_time(
        compute_s=xp.maximum(t.issue_s, t.wave_s),
        memory_s=xp.maximum(t.dram_s, t.l2_s),
        launch_s=t.launch_s,
        flops=operator.flops,
        bytes=t.dram_bytes,
        busy_s=busy,
        bound=xp.where(t.launch_s > busy, Bound.LAUNCH.value, bound),
    )
