"""Dense and batched GEMM on a GPU: the best of a library's candidate kernels, each a tile scheduled in waves.

For a candidate (tile t_m x t_n, split-K factor s), with b bytes per element and everything below in seconds:

    tiles   = batch ceil(m / t_m) ceil(n / t_n) s,     k_s = k / s rounded up to a step of 64 or 128 bytes
    waves   = from tiles / cores: whole (fixed tile) or balanced (see `wave`)
    matrix  = waves 2 t_m t_n k_s / (peak / cores * efficiency)             full tiles, even where ragged
              + waves (t_m + t_n) k_s b / (clock * operand bytes per clock) vector units: loads take issue slots
    step    = waves steps(k_s) step_clocks / (clock * resident tiles)       latency of one step of the pipeline
    l2      = tiles (t_m + t_n) k_s b / (cores * l2 bytes per clock * clock)
    store   = output / (cores * store bytes per clock * clock)
    dram    = (weights not in L2 + activations beyond L2 + reloads + output) / (bandwidth * efficiency)
    power   = flops * joules per flop / (watts - board watts)               chips that cannot hold their clock
    time    = launch + quantise(m k) + min over candidates [ max + exposed (sum - max) + epilogue + split-K reduction ]

`exposed` is the share of the resources' time that does not hide behind the slowest one. Few resources explain the
rest: small problems are a chain of pipeline steps (`step`), large ones matrix-bound, wide ones DRAM-bound.
Check: m = n = k = 4096 bf16 on H100 (989 TFLOP/s): 2 k^3 / 989e12 = 139 us at peak; at 88 % of it 158 us; measured
166-178 us.
"""

from functools import reduce
from typing import Any, NamedTuple

from hardware.accelerator import Accelerator
from roofline.kernel_time import Bound, KernelTime, Reason, kernel_time
from roofline.relax import Rounding, exact
from tiles.candidates import Candidates, family
from tiles.gemm_constants import GemmConstants, gemm_constants, matrix_rate
from tiles.wave import wave
from workloads.dtypes import element_bytes
from workloads.numeric import Array, namespace, stop_gradient
from workloads.operators import Gemm

#: A candidate that may not be used costs this much more, in seconds (finite, so that relaxed minima stay finite).
_FORBIDDEN_S = 1e3
#: Power of memory, leakage and board under load, which the cores of a capped chip do not get (T4 and P4, 70 and 75 W:
#: long products are 1.25 times slower than the whole cap allows).
BOARD_WATTS = 15.0


class GemmTerms(NamedTuple):
    """Times of one candidate's resources in seconds, with the schedule they follow from; arrays of one shape [...].

    `total_s` excludes launch and quantisation. `dram_bytes`, `l2_bytes`: traffic; `resident_bytes`: operand bytes
    served from L2 that a cold run would read from DRAM (why a time may lie below the roofline). `occupancy`: tiles
    resident per core.
    """

    total_s: Array
    matrix_s: Array
    step_s: Array
    l2_s: Array
    dram_s: Array
    store_s: Array
    power_s: Array
    epilogue_s: Array
    split_s: Array
    tiles: Array
    waves: Array
    tail_fill: Array
    occupancy: Array
    l2_bytes: Array
    dram_bytes: Array
    resident_bytes: Array


class GemmBreakdown(NamedTuple):
    """Why a GEMM takes the time it takes: the chosen candidate, its terms, and what is added to them.

    `provenance`: (kind, where the constants come from); kind is fitted | few-shot | transferred | datasheet.
    """

    time: KernelTime
    tile_m: Array
    tile_n: Array
    split: Array
    terms: GemmTerms
    launch_s: Array
    quantise_s: Array
    provenance: tuple[str, str]


def gemm_time(
    op: Gemm,
    chip: Accelerator,
    constants: GemmConstants | None = None,
    rounding: Rounding = exact,
    *,
    weight_copies: Array = float("inf"),
) -> KernelTime:
    """Time of `op` on `chip`, [...] (the broadcast shape of every array in `op`, `chip` and `constants`).

    `constants` default to the best match shipped for the chip and number format (see `gemm_constants`).
    `weight_copies`: how many weights of this size are used in turn; those that fit in L2 together stay there (1: one
    GEMM repeated, 5: a benchmark that rotates five, infinity: a model whose layers evict each other). Activations are
    taken as just produced, that is in L2 as far as they fit. Includes launch from a captured graph, dynamic
    quantisation of A where the constants have it, and the split-K reduction. Excludes bias and epilogues. A number
    format without a rate on the chip gives NaN and a reason.
    """
    constants = gemm_constants(chip, op) if constants is None else constants
    peak = matrix_rate(chip, op.dtype)
    if peak is None:
        return _unsupported(op)
    candidates = family(constants.candidates)
    setting = gemm_setting(op, chip, constants, peak, weight_copies)
    over = _over_candidates(setting)
    total_s = candidate_terms(over, candidates, constants, rounding).total_s
    index = _index_of_minimum(total_s)
    chosen = candidate_terms(setting, candidates.at(index, over.xp), constants, rounding)
    # The best candidate evaluated again has the value of the minimum and, at a fraction of the cost, its derivative.
    best_s = rounding.min_over(total_s, axis=-1) if rounding.mode == "smooth" else chosen.total_s
    return assembled(setting, constants, chosen, best_s)


def explain_gemm(
    op: Gemm,
    chip: Accelerator,
    constants: GemmConstants | None = None,
    *,
    weight_copies: Array = float("inf"),
) -> GemmBreakdown:
    """The breakdown behind `gemm_time` in exact mode: tile, split, waves, occupancy, bound, bytes at each level,
    provenance.

    Raises `ValueError` where the chip has no rate for the number format.
    """
    constants = gemm_constants(chip, op) if constants is None else constants
    peak = matrix_rate(chip, op.dtype)
    if peak is None:
        known = ", ".join(chip.matrix_flops_per_s)
        raise ValueError(f"{chip.name}: no matrix rate for dtype {op.dtype!r}; known: {known}")
    candidates = family(constants.candidates)
    setting = gemm_setting(op, chip, constants, peak, weight_copies)
    over = _over_candidates(setting)
    index = _index_of_minimum(candidate_terms(over, candidates, constants, exact).total_s)
    chosen = candidates.at(index, over.xp)
    terms = candidate_terms(setting, chosen, constants, exact)
    return GemmBreakdown(
        assembled(setting, constants, terms, terms.total_s),
        chosen.tile_m,
        chosen.tile_n,
        chosen.split,
        terms,
        constants.launch_s + 0.0 * terms.total_s,
        setting.quantise_s + 0.0 * terms.total_s,
        (constants.kind, constants.source),
    )


#: Fields of a `_Setting` that are structure, not arrays.
STATIC = ("xp", "a_bytes", "b_bytes", "out_bytes")


class _Setting(NamedTuple):
    """What all candidates share: the problem, the chip's rates with the constants applied, and DRAM traffic. [...]"""

    xp: Any
    m: Array
    n: Array
    k: Array
    batch: Array
    a_bytes: float
    b_bytes: float
    out_bytes: float
    cores: Array
    core_flop_s: Array
    operand_byte_s: Array
    step_s: Array
    l2_byte_s: Array
    dram_byte_s: Array
    epilogue_byte_s: Array
    cold_bytes: Array
    resident_bytes: Array
    reload: Array
    reload_rows_bytes: Array
    store_s: Array
    power_s: Array
    quantise_s: Array
    flops: Array


def gemm_setting(op: Gemm, chip: Accelerator, c: GemmConstants, peak: Array, weight_copies: Array) -> _Setting:
    """What every candidate of `op` shares on `chip`; fields have the shapes of their inputs. See `gemm_time`."""
    xp = namespace(op, chip, c, weight_copies)
    m, n, k, batch = (1.0 * x for x in (op.m, op.n, op.k, op.batch))
    a, b = element_bytes(op.dtype), element_bytes(op.weight_dtype or op.dtype)
    out = element_bytes(op.out_dtype or op.dtype)
    rows, weights, output = batch * m * k * a, batch * n * k * b, batch * m * n * out
    cache = l2_capacity(chip)
    hot = xp.minimum(c.resident_share * cache / (weight_copies * weights), 1.0) ** 4
    room = c.activation_share * cache
    row_spill, out_spill = _beyond(rows, room, xp), _beyond(output, room, xp)
    cold = weights * (1.0 - hot) + rows * row_spill + output * out_spill
    reload = _beyond(rows + weights, room, xp)
    flops = 2.0 * batch * m * n * k
    watts = xp.where(xp.isnan(1.0 * chip.peak_watts), xp.inf, xp.maximum(chip.peak_watts - BOARD_WATTS, BOARD_WATTS))
    core_bytes_per_s = chip.cores * chip.clock_hz
    # Divided by the rate per clock first: an infinite one then leaves no NaN in the derivative.
    row_clocks = xp.maximum(c.quantise_row_clocks, 3.0 * k / c.quantise_bytes_per_clock)
    quantise = c.quantise_s + batch * m * row_clocks / core_bytes_per_s
    return _Setting(
        xp=xp,
        m=m,
        n=n,
        k=k,
        batch=batch,
        a_bytes=a,
        b_bytes=b,
        out_bytes=out,
        cores=1.0 * chip.cores,
        core_flop_s=chip.cores / (peak * c.tensor_efficiency),
        operand_byte_s=1.0 / c.operand_bytes_per_clock / chip.clock_hz,
        step_s=c.step_clocks / chip.clock_hz,
        l2_byte_s=1.0 / (c.l2_bytes_per_clock * core_bytes_per_s),
        dram_byte_s=1.0 / (chip.dram.bandwidth_bytes_per_s * c.dram_efficiency),
        epilogue_byte_s=1.0 / (c.epilogue_bytes_per_clock * chip.clock_hz),
        cold_bytes=cold,
        resident_bytes=weights * hot + rows * (1.0 - row_spill) + output * (1.0 - out_spill),
        reload=reload,
        reload_rows_bytes=rows * row_spill + weights * (1.0 - hot),
        store_s=output / (c.store_bytes_per_clock * core_bytes_per_s),
        power_s=flops * c.flop_joules / watts,
        quantise_s=quantise,
        flops=flops,
    )


def _beyond(size_bytes: Array, room_bytes: Array, xp) -> Array:
    """Share of an operand that does not stay in L2: none up to `room_bytes`, all from a quarter above it."""
    return xp.clip((size_bytes / room_bytes - 1.0) / 0.25, 0.0, 1.0)


def candidate_terms(s: _Setting, t: Candidates, c: GemmConstants, rounding: Rounding) -> GemmTerms:
    """Terms of the candidates `t`; the fields of `s` and `t` broadcast."""
    xp = s.xp
    tile_rows = rounding.ceil(s.m / (t.tile_m * t.cluster_m)) * t.cluster_m
    grid = s.batch * tile_rows * rounding.ceil(s.n / t.tile_n)
    tiles = grid * t.split
    step = c.step_bytes / s.a_bytes
    steps = rounding.ceil(s.k / (t.split * step))
    depth = steps * step
    area = t.tile_m * t.tile_n
    edge_bytes = t.tile_m * s.a_bytes + t.tile_n * s.b_bytes
    landing = wave(tiles, s.cores, c.balance, rounding=rounding)
    passes = tiles / s.cores
    # Two small tiles share a core when there are enough of them; they hide each other's latency, not each other's work.
    resident = xp.where(area <= 128.0 * 128.0, 2.0, 1.0)
    # One over the tiles that share a core, min(resident, max(passes, 1)): one division serves all splits of a tile.
    alone = xp.maximum(1.0 / resident, xp.minimum(s.cores / grid * (1.0 / t.split), 1.0))
    matrix_s = landing.waves * depth * (2.0 * area * s.core_flop_s + edge_bytes * s.operand_byte_s)
    step_s = landing.waves * steps * (s.step_s * alone)
    l2_bytes = tiles * depth * edge_bytes
    # Tiles rastered in a square read 2 sqrt(cores t_m t_n) rows per wave; beyond L2 each wave reads them from DRAM again.
    raster = passes * depth * (xp.sqrt(s.cores) * xp.sqrt(area) * (s.a_bytes + s.b_bytes))
    dram_bytes = s.cold_bytes + s.reload * xp.maximum(xp.minimum(raster, l2_bytes) - s.reload_rows_bytes, 0.0)
    l2_s = l2_bytes * s.l2_byte_s
    dram_s = dram_bytes * s.dram_byte_s
    # What is the same for every candidate comes first: a loop over candidates then works it out once.
    resources = (s.power_s, s.store_s, dram_s, l2_s, step_s, matrix_s)
    longest = rounding.maximum(*resources) if rounding.mode == "smooth" else reduce(xp.maximum, resources)
    busy = longest + c.exposed * (sum(resources) - longest)
    # One over 1 or 2 is exact, so the ceil sees the quotient of a division.
    epilogue = rounding.ceil(passes * (1.0 / resident)) * (area * s.out_bytes * s.epilogue_byte_s)
    partial_s = (t.split * 8.0) * (s.batch * s.m * s.n * s.l2_byte_s)
    reduction = xp.where(t.split > 1.0, c.split_s + partial_s, 0.0)
    allowed = (s.m > t.m_above) & (s.m <= t.m_upto) & ((t.split <= 1.0) | (s.k >= 4.0 * step * t.split))
    total = busy + epilogue + reduction + xp.where(allowed, 0.0, _FORBIDDEN_S)
    return GemmTerms(
        total,
        matrix_s,
        step_s,
        l2_s,
        dram_s,
        s.store_s + 0.0 * matrix_s,
        s.power_s + 0.0 * matrix_s,
        epilogue,
        reduction,
        tiles,
        landing.waves,
        landing.tail_fill,
        1.0 / alone,
        l2_bytes,
        dram_bytes,
        s.resident_bytes + 0.0 * tiles,
    )


def _over_candidates(setting: _Setting) -> _Setting:
    """`setting` with a trailing axis for candidates."""
    xp = setting.xp
    changes = {
        name: xp.asarray(value)[..., None] for name, value in zip(setting._fields, setting) if name not in STATIC
    }
    return setting._replace(**changes)


def _index_of_minimum(total_s: Array) -> Array:
    xp = namespace(total_s)
    return xp.argmin(stop_gradient(total_s), axis=-1)  # the choice itself has no derivative


def assembled(s: _Setting, c: GemmConstants, terms: GemmTerms, best_s: Array) -> KernelTime:
    """The `KernelTime` of candidate terms whose best total, without launch, is `best_s`."""
    xp = s.xp
    launch = c.launch_s + s.quantise_s
    cache = xp.maximum(xp.maximum(terms.l2_s, terms.store_s), terms.step_s)
    compute = xp.maximum(terms.matrix_s, terms.power_s)
    peak = xp.maximum(xp.maximum(compute, terms.dram_s), cache)
    bound = xp.select(
        [launch > best_s, compute >= peak, terms.dram_s >= peak, xp.maximum(terms.l2_s, terms.store_s) >= peak],
        [Bound.LAUNCH.value, Bound.COMPUTE.value, Bound.MEMORY.value, Bound.CACHE.value],
        Bound.LOAD_PORT.value,
    )
    return kernel_time(
        compute_s=compute,
        memory_s=terms.dram_s,
        launch_s=launch,
        flops=s.flops,
        bytes=terms.dram_bytes,
        busy_s=best_s,
        bound=bound,
    )


def _unsupported(op: Gemm) -> KernelTime:
    zero = 0.0 * op.flops
    return kernel_time(compute_s=zero, memory_s=zero, reason=Reason.UNSUPPORTED_DTYPE.value)


def l2_capacity(chip: Accelerator) -> Array:
    """Bytes of the last-level cache, 0 where the chip has none, [...]."""
    for level in chip.memory:
        if level.name in ("l2", "llc"):
            return 1.0 * level.capacity_bytes
    return 0.0
