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
import numpy as np

from dataflow.systolic_stalls import Stream, transfers
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
    half the ifmap scratchpad excepted); stalls and the traffic beside them are an estimate (see `systolic_stalls`), whose
    error the validation report states. Stalls differentiate with respect to bandwidths and buffer sizes at a given number
    of turns (`rounding` straight-through or smooth).
    """
    xp = namespace(m, n, k, array, ifmap_footprint)
    m, n, k = 1.0 * xp.asarray(m), 1.0 * xp.asarray(n), 1.0 * xp.asarray(k)
    flow = array.dataflow
    rows, cols = 1.0 * xp.asarray(array.rows), 1.0 * xp.asarray(array.cols)
    spatial_r, spatial_c, depth = {"os": (m, n, k), "ws": (k, n, m), "is": (k, m, n)}[flow]
    row_folds, col_folds, fold_cycles = folds(m, n, k, array, rounding=rounding)
    compute = row_folds * col_folds * fold_cycles

    footprint = m * k if ifmap_footprint is None else 1.0 * xp.asarray(ifmap_footprint)
    halo = footprint / (m * k)
    sizes = (array.ifmap_words, array.filter_words)
    if flow == "os":
        ifmap_reads, filter_reads = col_folds * m * k, row_folds * n * k
        free = (_cyclic(m * k, halo, sizes[0], col_folds), _repeated(n * k, sizes[1], col_folds, k * cols, row_folds))
        streams = (
            Stream(m, rows, k, sizes[0], passes=col_folds, distinct=halo),
            Stream(n, cols, k, sizes[1], repeats=row_folds),
        )
    elif flow == "ws":
        ifmap_reads, filter_reads = col_folds * m * k, n * k
        free = (_cyclic(m * k, halo, sizes[0], col_folds), n * k)
        streams = (
            Stream(k, rows, m, sizes[0], passes=col_folds, distinct=halo),
            Stream(n, cols, k, sizes[1], block=rows),
        )
    else:
        ifmap_reads, filter_reads = m * k, col_folds * n * k
        free = (footprint, _cyclic(n * k, 1.0, sizes[1], col_folds))
        streams = (
            Stream(m, cols, k, sizes[0], block=rows, distinct=halo),
            Stream(k, rows, n, sizes[1], passes=col_folds),
        )
    writes = m * n * (1.0 if flow == "os" else row_folds)

    bandwidth = 1.0 * xp.asarray(array.words_per_cycle)
    finite = xp.isfinite(bandwidth)
    rate = xp.where(finite, bandwidth, 1.0)
    busy, dram = [], []
    for i, stream in enumerate(streams):
        if xp is np and not np.any(finite):
            busy.append(0.0 * compute)
            dram.append(free[i] + 0.0 * compute)
            continue
        loaded = flow == ("is", "ws")[i]
        read = transfers(stream, rate, compute, loaded=loaded, rounding=rounding)
        busy.append(xp.where(finite, read.end_cycles, 0.0))
        dram.append(xp.where(finite, read.words, free[i]))
    busy.append(xp.where(finite, _drain(writes, array.ofmap_words, rate, compute, rounding), 0.0))
    out_half = VISIBLE_SHARE * xp.asarray(array.ofmap_words)
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


def folds(
    m: Array, n: Array, k: Array, array: SystolicArray, *, rounding: Rounding = exact
) -> tuple[Array, Array, Array]:
    """Folds of an m x n x k product over the array's rows and over its columns, and the cycles of one, [...] each.

    A product narrower than the array is one fold, whose number does not change with its width (in smooth rounding too).
    """
    xp = namespace(m, n, k, array)
    rows, cols = 1.0 * xp.asarray(array.rows), 1.0 * xp.asarray(array.cols)
    spatial_r, spatial_c, depth = {"os": (m, n, k), "ws": (k, n, m), "is": (k, m, n)}[array.dataflow]
    loads = 1.0 if array.dataflow == "os" else 2.0
    return whole(spatial_r / rows, rounding), whole(spatial_c / cols, rounding), loads * rows + cols + depth - 2.0


def whole(amount: Array, rounding: Rounding = exact) -> Array:
    """`amount` rounded up, [...]; what is less than one is one, whatever the rounding, and nothing is nothing."""
    xp = namespace(amount)
    amount = xp.asarray(amount)
    return rounding.ceil(xp.where((amount > 0.0) & (amount < 1.0), 1.0, amount))


def _drain(writes: Array, capacity: Array, rate: Array, compute: Array, rounding: Rounding) -> Array:
    """Cycles at which the last result finds room: halves leave one after the other once the first is full, and their
    room is free as they begin to leave.
    """
    xp = namespace(writes, capacity, rate, compute)
    capacity = 1.0 * xp.asarray(capacity)
    size = xp.where(xp.isfinite(capacity), capacity, 2.0)
    half = rounding.ceil(size / 2.0)
    leaving = xp.maximum(size - half, 1.0)
    halves = rounding.ceil(xp.maximum(writes - size, 0.0) / leaving)
    end = (halves - 1.0) * rounding.ceil(leaving / rate) + compute * half / writes
    return xp.where(xp.isfinite(capacity) & (halves > 0.0), xp.maximum(end, 0.0), 0.0)


def _flush_words(capacity: Array) -> Array:
    """Distinct words after which a visible half is full, counted in hundredths of the scratchpad as the reference
    does.
    """
    xp = namespace(capacity)
    capacity = xp.asarray(capacity)
    return xp.where(xp.isfinite(capacity), 100.0 * VISIBLE_SHARE * xp.floor(capacity / 100.0), xp.inf)


def _cyclic(words: Array, distinct: Array, capacity: Array, passes: Array) -> Array:
    """DRAM words where nothing stalls and the operand is read `passes` times over: a half that does not hold its
    distinct share is useless to the next pass.
    """
    xp = namespace(words, distinct, capacity, passes)
    fits = (words * distinct < _flush_words(capacity)) | (passes <= 1.0)
    return words * distinct * xp.where(fits, 1.0, passes)


def _repeated(words: Array, capacity: Array, folds: Array, fold_words: Array, repeats: Array) -> Array:
    """DRAM words where nothing stalls and every fold is read `repeats` times before the next one.

    A visible half that fills up in the middle of a fold is emptied, and what it held of that fold is
    fetched again by the next repetition. With n = ceil(half / fold) this happens at fold n, 2 n - 1, 3 n - 2, ...; the
    last fold may be smaller.
    """
    xp = namespace(words, capacity, folds, fold_words, repeats)
    half = _flush_words(capacity)
    size = xp.where(xp.isfinite(half), half, 1.0)
    last = words - (folds - 1.0) * fold_words
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
    extra = xp.where(fold_words >= size, repeats * fold_words * full + last_big - words, extra)
    extra = xp.where(xp.isfinite(half) & (repeats > 1.0), extra, 0.0)
    return words + extra
