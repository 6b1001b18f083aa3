"""Systolic arrays in closed form: folds, cycles, scratchpad and DRAM traffic, bandwidth stalls.

A GEMM out[m, n] = sum_k ifmap[m, k] filter[k, n] is folded onto `rows` x `cols` processing elements. Output-stationary
keeps an output per element and streams both operands for k cycles; weight- and input-stationary first load one operand
(`rows` cycles), then stream the other one and the results. With (S_r, S_c, T) the two spatial and the streamed extent,

    cycles = ceil(S_r / rows) ceil(S_c / cols) (f rows + cols + T - 2),   f = 1 (os) or 2 (ws, is),
    os: (m, n, k)    ws: (k, n, m)    is: (k, m, n).

Everything broadcasts and differentiates; `systolic_replay` is the cycle-by-cycle oracle.
Source: Samajdar et al., "A systematic methodology for characterizing scalability of DNN accelerators using SCALE-Sim",
2020.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax

from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace
from workloads.operators.operator import static

DATAFLOWS = ("os", "ws", "is")
#: Share of a scratchpad that the array can read; the rest is being filled (or drained).
VISIBLE_SHARE = 0.5


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class SystolicArray:
    """`rows` x `cols` multiply-accumulate units with three double-buffered scratchpads. Numbers may be arrays.

    `*_words`: whole size of each scratchpad in words. `words_per_cycle`: DRAM bandwidth of each of the three streams;
    inf (the default) never stalls. `dataflow`: "os", "ws" or "is".
    """

    rows: Array
    cols: Array
    dataflow: str = static("os")
    ifmap_words: Array = float("inf")
    filter_words: Array = float("inf")
    ofmap_words: Array = float("inf")
    words_per_cycle: Array = float("inf")

    def __post_init__(self):
        if self.dataflow not in DATAFLOWS:
            raise ValueError(f"array.dataflow: {self.dataflow!r}, expected one of {', '.join(DATAFLOWS)}")


class Systolic(NamedTuple):
    """What a GEMM costs on a systolic array; every field has the broadcast shape.

    Cycles from the first operand to the last result; `total_cycles` = `compute_cycles` + `stall_cycles` (the reference
    prints the index of the last cycle, one less). `utilisation`: useful multiply-accumulates / (total_cycles rows
    cols); `mapping_efficiency`: share of the array that holds work, averaged over folds; `compute_utilisation`: that
    times the share of a fold in which operands stream. Traffic in words. Excludes: the very first fill of the
    scratchpads and the last drain.
    """

    total_cycles: Array
    compute_cycles: Array
    stall_cycles: Array
    utilisation: Array
    mapping_efficiency: Array
    compute_utilisation: Array
    row_folds: Array
    col_folds: Array
    sram_ifmap_reads: Array
    sram_filter_reads: Array
    sram_ofmap_writes: Array
    dram_ifmap_reads: Array
    dram_filter_reads: Array
    dram_ofmap_writes: Array


def systolic(
    m: Array,
    n: Array,
    k: Array,
    array: SystolicArray,
    *,
    ifmap_footprint: Array | None = None,
    rounding: Rounding = exact,
) -> Systolic:
    """Cost of an m x n x k product on `array`.

    `ifmap_footprint`: distinct input words where the ifmap is a lowered convolution (default m k). Cycles, utilisation
    and scratchpad traffic are exact; DRAM traffic is exact where nothing stalls (a convolution whose footprint exceeds
    half the ifmap scratchpad excepted); stalls are an estimate (see `transfers`), whose error the validation report
    states.
    """
    xp = namespace(m, n, k, array, ifmap_footprint)
    m, n, k = 1.0 * xp.asarray(m), 1.0 * xp.asarray(n), 1.0 * xp.asarray(k)
    flow = array.dataflow
    rows, cols = 1.0 * xp.asarray(array.rows), 1.0 * xp.asarray(array.cols)
    spatial_r, spatial_c, depth = {"os": (m, n, k), "ws": (k, n, m), "is": (k, m, n)}[flow]
    row_folds, col_folds = rounding.ceil(spatial_r / rows), rounding.ceil(spatial_c / cols)
    loads = 1.0 if flow == "os" else 2.0
    fold_cycles = loads * rows + cols + depth - 2.0
    compute = row_folds * col_folds * fold_cycles

    footprint = m * k if ifmap_footprint is None else 1.0 * xp.asarray(ifmap_footprint)
    halo = footprint / (m * k)
    ifmap = _Stream(m * k, halo, array.ifmap_words)
    filters = _Stream(n * k, 1.0, array.filter_words)
    if flow == "os":
        ifmap_reads, filter_reads = col_folds * m * k, row_folds * n * k
        reads = (_cyclic(ifmap, row_folds, rows, col_folds), _repeated(filters, col_folds, k * cols, cols, row_folds))
    elif flow == "ws":
        ifmap_reads, filter_reads = col_folds * m * k, n * k
        reads = (_cyclic(ifmap, row_folds, rows, col_folds), _once(filters, row_folds * col_folds, rows * cols))
    else:
        ifmap_reads, filter_reads = m * k, col_folds * n * k
        reads = (_once(ifmap, row_folds * col_folds, rows * cols), _cyclic(filters, row_folds, rows, col_folds))
    writes = m * n * (1.0 if flow == "os" else row_folds)

    bandwidth = 1.0 * xp.asarray(array.words_per_cycle)
    finite = xp.isfinite(bandwidth)
    rate = xp.where(finite, bandwidth, 1.0)
    busy, dram = [], []
    for stream, read in zip((ifmap, filters), reads):
        half = VISIBLE_SHARE * stream.capacity
        first = xp.minimum(half, stream.words)
        transfers = xp.where(finite, read.transfers, 0.0)
        ahead = xp.where(transfers > 0.0, half, 0.0)
        busy.append(transfers * (rounding.ceil(xp.where(transfers > 0.0, half, 0.0) / rate) + 1.0))
        dram.append(
            xp.where(finite, rounding.round_up(first, rate) + transfers * rounding.round_up(ahead, rate), read.words)
        )
    out_half = VISIBLE_SHARE * xp.asarray(array.ofmap_words)
    busy.append(xp.where(finite, xp.maximum(writes - xp.minimum(out_half, writes), 0.0) / rate, 0.0))
    # The first half to drain leaves with an open line of the bus behind it; the reference counts that line as full.
    ragged = (
        xp.isfinite(out_half)
        & ~finite
        & (writes > out_half)
        & (xp.mod(xp.where(xp.isfinite(out_half), out_half, 0.0), cols) == 0.0)
    )
    stall = rounding.maximum(busy[0] - compute, busy[1] - compute, busy[2] - compute, 0.0 * compute)
    total = compute + stall
    mapping = spatial_r * spatial_c / (row_folds * col_folds * rows * cols)
    streaming = depth / (rows + cols + depth - 2.0 if flow == "os" else 2.0 * rows + 2.0 * cols + depth - 3.0)
    return Systolic(
        total,
        compute,
        stall,
        m * n * k / (total * rows * cols),
        mapping,
        mapping * streaming,
        row_folds,
        col_folds,
        ifmap_reads,
        filter_reads,
        writes,
        dram[0],
        dram[1],
        writes + xp.where(ragged, cols - 1.0, 0.0),
    )


class _Stream(NamedTuple):
    """An operand: `words` in lowered form, distinct share `halo`, `capacity` of its scratchpad in words."""

    words: Array
    halo: Array
    capacity: Array


class _Reads(NamedTuple):
    """DRAM `words` read where nothing stalls, and half-scratchpad `transfers` after the first where bandwidth is
    finite.
    """

    words: Array
    transfers: Array


def _halves(stream: _Stream) -> tuple[Array, Array]:
    """Visible words, and halves per turn round the operand (0 where the operand is visible as a whole)."""
    xp = namespace(stream)
    half = xp.minimum(xp.maximum(VISIBLE_SHARE * xp.asarray(stream.capacity), 1.0), stream.words)
    return half, xp.where(stream.words > half, stream.words / half, 0.0)


def _flush_words(stream: _Stream) -> Array:
    """Distinct words after which a visible half is full, counted in hundredths of the scratchpad as the reference
    does.
    """
    xp = namespace(stream)
    capacity = xp.asarray(stream.capacity)
    return xp.where(xp.isfinite(capacity), 100.0 * VISIBLE_SHARE * xp.floor(capacity / 100.0), xp.inf)


def _cyclic(stream: _Stream, folds: Array, lanes: Array, passes: Array) -> _Reads:
    """The whole operand, `folds` folds of `lanes` skewed lanes, `passes` times over.

    A half that does not hold the operand is useless to the next pass. Under skew the end of a fold overlaps the head of
    the next by lanes^2 words in fetch order; where the edge of a half falls into that overlap the buffer must turn once
    more. Edges fall anywhere with equal chance, unless a fold is nearly a whole number of halves: then they drift by
    `drift` words per fold.
    """
    xp = namespace(stream, passes)
    distinct = stream.words * stream.halo
    fits = (distinct < _flush_words(stream)) | (passes <= 1.0)
    half, turn = _halves(stream)
    joints = xp.maximum(folds - 1.0, 0.0)
    per_fold = stream.words / folds / half
    drift = xp.abs(per_fold - xp.floor(per_fold + 0.5)) * half * joints
    aligned = xp.where(drift < half, lanes * lanes / xp.maximum(2.0 * drift, 1.0), 0.0)
    overlap = xp.minimum(xp.maximum(lanes * lanes / half, aligned), 1.0)
    turns = passes * (1.0 + overlap * joints)
    return _Reads(distinct * xp.where(fits, 1.0, passes), xp.maximum(turn * turns - 1.0, 0.0) * (turn > 0.0))


def _repeated(stream: _Stream, folds: Array, fold_words: Array, lanes: Array, repeats: Array) -> _Reads:
    """Every fold `repeats` times before the next one.

    Stall-free: a visible half that fills up in the middle of a fold is emptied, and what it held of that fold is
    fetched again by the next repetition. With n = ceil(half / fold) this happens at fold n, 2 n - 1, 3 n - 2, ...; the
    last fold may be smaller.
    """
    xp = namespace(stream, folds, fold_words, repeats)
    half = _flush_words(stream)
    size = xp.where(xp.isfinite(half), half, 1.0)
    last = stream.words - (folds - 1.0) * fold_words
    period = xp.ceil(size / fold_words)
    full = folds - 1.0
    step = xp.maximum(period - 1.0, 1.0)
    flushes = xp.where(full >= period, 1.0 + xp.floor((full - period) / step), 0.0)
    latest = period + (flushes - 1.0) * step
    held = xp.where(flushes > 0.0, fold_words * (1.0 + full - latest), full * fold_words)
    extra = flushes * (size - (period - 1.0) * fold_words) + xp.where(held + last >= size, size - held, 0.0)
    # A fold that alone overflows the half is read anew by every repetition.
    held_big = xp.mod(repeats * fold_words * full, size)
    last_big = last + xp.where(
        last >= size, last * (repeats - 1.0), xp.where(held_big + last >= size, size - held_big, 0.0)
    )
    extra = xp.where(fold_words >= size, repeats * fold_words * full + last_big - stream.words, extra)
    extra = xp.where(xp.isfinite(half) & (repeats > 1.0), extra, 0.0)
    visible, turn = _halves(stream)
    again = xp.where(fold_words > visible, 1.0, xp.minimum((fold_words + lanes * lanes) / visible, 1.0))
    turns = 1.0 + folds * (repeats - 1.0) * again
    return _Reads(stream.words + extra, xp.maximum(turn * turns - 1.0, 0.0) * (turn > 0.0))


def _once(stream: _Stream, folds: Array, fold_words: Array) -> _Reads:
    """Every fold once, its rows last to first: an edge of a half inside a fold turns the buffer once more."""
    xp = namespace(stream, folds)
    half, turn = _halves(stream)
    turns = 1.0 + folds * xp.minimum(fold_words / half, 1.0)
    return _Reads(stream.words * stream.halo, xp.maximum(turn * turns - 1.0, 0.0) * (turn > 0.0))
