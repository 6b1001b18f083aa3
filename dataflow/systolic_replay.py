"""Cycle-by-cycle replay of a systolic array against its double-buffered scratchpads: the oracle of the closed forms.

The array asks for operands fold by fold (columns outer, rows inner), skewed by one cycle per lane. Reads go through a
scratchpad of which one half is visible and the other is being filled from DRAM *in fetch order*; a request outside the
visible half turns the buffer on by one half until it is found, which, for data that lie behind, means a whole
revolution. Writes fill one half while the other drains. With a finite bandwidth the array waits; without one
("calculated") nothing waits and only traffic is counted.

The loop is compiled with Numba: its control flow depends on data, so it has no gradient. Use `systolic.systolic` for
sweeps. Source: the behaviour of SCALE-Sim 3.0.0 (Raj et al., "SCALE-Sim v3", 2025), reproduced cycle for cycle, its
accounting included: a late half costs twice its lateness once and half a period less the next time, so that on average
a half costs its own transfer.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

DATAFLOWS = ("os", "ws", "is")


class Replay(NamedTuple):
    """What the replay counted: cycles (the last cycle's index, as printed by the reference), stalls, DRAM words moved.

    `total_cycles_with_prefetch` spans from the first DRAM read to the last DRAM write.
    """

    total_cycles: int
    stall_cycles: int
    total_cycles_with_prefetch: int
    dram_ifmap_reads: int
    dram_filter_reads: int
    dram_ofmap_writes: int


def replay(
    ifmap_addresses: np.ndarray,
    filters: int,
    *,
    rows: int,
    cols: int,
    dataflow: str,
    buffer_words: tuple[int, int, int],
    words_per_cycle: int | None,
) -> Replay:
    """Run one layer. `ifmap_addresses` [m, k]: which input word each element of the lowered matrix is
    (`lowered_addresses`).

    `buffer_words`: whole size of the ifmap, filter and ofmap scratchpads in words (half of each is visible).
    `words_per_cycle`: DRAM bandwidth of each of the three streams, or None for the stall-free mode.
    """
    if dataflow not in DATAFLOWS:
        raise ValueError(f"dataflow: {dataflow!r}, expected one of {', '.join(DATAFLOWS)}")
    m, k = ifmap_addresses.shape
    filter_addresses = np.arange(k * filters, dtype=np.int64).reshape(k, filters)
    kind = DATAFLOWS.index(dataflow)
    # The transposed operands have lanes last, as the array reads them.
    ifmap = np.ascontiguousarray(ifmap_addresses.T if kind != 1 else ifmap_addresses)
    filter_ = np.ascontiguousarray(filter_addresses.T if kind == 2 else filter_addresses)
    streaming_lanes = {0: (rows, cols), 1: (rows, cols), 2: (cols, rows)}[kind]
    skewed = {0: (True, True), 1: (True, False), 2: (False, True)}[kind]
    stalled = words_per_cycle is not None
    tables = []
    for operand, lanes, skew, size in zip((ifmap, filter_), streaming_lanes, skewed, buffer_words[:2]):
        tables.append(_fetch_table(operand, lanes, skew, size, words_per_cycle or 10))
    run: Any = _replay  # compiled: its signature is Numba's
    counts = run(
        kind,
        rows,
        cols,
        m,
        filters,
        k,
        ifmap,
        filter_,
        *tables[0],
        *tables[1],
        np.asarray(buffer_words, dtype=np.int64),
        (words_per_cycle or 10) if stalled else 0,
        (words_per_cycle if words_per_cycle is not None else cols),
    )
    return Replay(*(int(value) for value in counts))


def lowered_addresses(
    height: int, width: int, kernel_h: int, kernel_w: int, channels: int, stride: int, stride_w: int | None = None
) -> np.ndarray:
    """[output pixels, kernel_h kernel_w channels]: address (row, column, channel order) of each lowered input
    element.
    """
    stride_w = stride if stride_w is None else stride_w
    out_h, out_w = (height - kernel_h) // stride + 1, (width - kernel_w) // stride_w + 1
    top = (np.arange(out_h) * stride)[:, None] * width + (np.arange(out_w) * stride_w)[None, :]
    window = (np.arange(kernel_h)[:, None] * width + np.arange(kernel_w)[None, :]).reshape(-1)
    pixels = top.reshape(-1, 1) + window[None, :]
    return (pixels[:, :, None] * channels + np.arange(channels)).reshape(out_h * out_w, -1).astype(np.int64)


def _fetch_table(operand: np.ndarray, lanes: int, skew: bool, size: int, bandwidth: int):
    """Line of every element in fetch order, the further lines that hold the same word, and the geometry of the
    buffer.
    """
    depth, width = operand.shape
    folds = -(-width // lanes)
    # Position of element (fold, depth, lane) in the stacked, optionally diagonal, fetch order.
    fold, lane = np.arange(width) // lanes, np.arange(width) % lanes
    stack = fold[None, :] * depth + np.arange(depth)[:, None]
    key = (stack + lane) * lanes + lane if skew else stack * lanes + lane
    rank = np.empty(key.size, dtype=np.int64)
    rank[np.argsort(key, axis=None, kind="stable")] = np.arange(key.size)
    per_line = -(-size // 100)
    line = (rank // per_line).reshape(depth, width)
    lines = key.size // per_line + 1
    half = -(-size // 2)
    active = min(-(-half // per_line), lines)
    ahead = min(-(-(size - half) // per_line), lines - active)
    pairs = np.unique(operand.reshape(-1) * lines + line.reshape(-1))
    start = np.concatenate([[0], np.bincount(pairs // lines, minlength=int(operand.max()) + 1)])
    first = min(-(-half // bandwidth), -(-(folds * depth * lanes) // bandwidth))
    geometry = np.array([lines, active, ahead, first, -(-(size - half) // bandwidth)], dtype=np.int64)
    return line, np.cumsum(start), pairs % lines, geometry


@njit(cache=True)
def _visible(line, window_start, window_end, lines):
    if window_start < window_end:
        return window_start <= line < window_end
    return window_start <= line < lines or line < window_end


@njit(cache=True)
def _read(address, line, lines_of, others, geometry, state, cycle, offset):
    """Serve one read; `state`: window start, end, cycle of the last transfer, transfers. Returns the new offset."""
    while True:
        if _visible(line, state[0], state[1], geometry[0]):
            return offset
        for i in range(lines_of[address], lines_of[address + 1]):
            if _visible(others[i], state[0], state[1], geometry[0]):
                return offset
        state[0] = (state[0] + geometry[2]) % geometry[0]
        state[1] = (state[0] + geometry[1]) % geometry[0]
        state[2] += geometry[4] + 1
        state[3] += 1
        late = state[2] - (cycle + offset)
        offset += late
        if late > 0:
            offset += late


@njit(cache=True)
def _count_read(address, epoch_of, state, capacity, cycle):
    """Count one read without stalls; `state`: epoch, words in this epoch, words in all, first cycle."""
    if state[3] < 0:
        state[3] = cycle
    if epoch_of[address] == state[0]:
        return
    epoch_of[address] = state[0]
    state[1] += 1
    state[2] += 1
    if state[1] == capacity:
        state[0] += 1
        state[1] = 0


@njit(cache=True)
def _drain(fills, state, drain_words, bandwidth, cycle):
    """Drain one half; `state`: free words, drained lines, lines, words in the open line, drain end, words written."""
    chunk = min(-(-drain_words // bandwidth), state[2] - state[1])
    words = chunk * bandwidth - (bandwidth - fills[state[1] + chunk - 1])
    state[0] += words
    state[5] += words
    state[1] += chunk
    state[4] = cycle + chunk - 1


@njit(cache=True)
def _close_line(fills, state):
    if state[3] > 0:
        fills[state[2]] = state[3]
        state[2] += 1
        state[3] = 0


@njit(cache=True)
def _replay(
    kind,
    rows,
    cols,
    m,
    n,
    k,
    ifmap,
    filter_,
    i_line,
    i_of,
    i_others,
    i_geo,
    f_line,
    f_of,
    f_others,
    f_geo,
    sizes,
    read_bw,
    write_bw,
):
    stalled = read_bw > 0
    spatial_r, spatial_c, depth = (m, n, k) if kind == 0 else ((k, n, m) if kind == 1 else (k, m, n))
    row_folds, col_folds = -(-spatial_r // rows), -(-spatial_c // cols)
    length = (rows if kind == 0 else 2 * rows) + cols + depth - 2
    i_state = np.array([0, i_geo[1], -1, 0], dtype=np.int64)
    f_state = np.array([0, f_geo[1], -1, 0], dtype=np.int64)
    if i_geo[1] == i_geo[0]:
        i_state[1] = 0
    if f_geo[1] == f_geo[0]:
        f_state[1] = 0
    i_count, f_count = np.array([1, 0, 0, -1], dtype=np.int64), np.array([1, 0, 0, -1], dtype=np.int64)
    i_epoch, f_epoch = np.zeros(i_of.size, dtype=np.int64), np.zeros(f_of.size, dtype=np.int64)
    i_capacity, f_capacity = 50 * (sizes[0] // 100), 50 * (sizes[1] // 100)
    o_half = -(-sizes[2] // 2)
    o_drain = sizes[2] - o_half
    writes = m * n * (1 if kind == 0 else row_folds)
    fills = np.zeros(writes // write_bw + writes // max(o_drain, 1) * 2 + 16, dtype=np.int64)
    o_state = np.array([sizes[2], 0, 0, 0, 0, 0], dtype=np.int64)
    stalls = 0
    last = 0
    base = 0
    for fc in range(col_folds):
        used_c = min(cols, spatial_c - fc * cols)
        for fr in range(row_folds):
            used_r = min(rows, spatial_r - fr * rows)
            for t in range(length):
                cycle = base + t + stalls
                i_offset, f_offset = 1, 1
                # Streaming operand(s) from the left edge, one lane per row, skewed.
                lead = 0 if kind == 0 else rows
                for r in range(max(0, t - lead - depth + 1), min(used_r, t - lead + 1)):
                    d = t - lead - r
                    if kind == 2:
                        lane = fr * rows + r
                        address = filter_[d, lane]
                        if stalled:
                            f_offset = _read(address, f_line[d, lane], f_of, f_others, f_geo, f_state, cycle, f_offset)
                        else:
                            _count_read(address, f_epoch, f_count, f_capacity, cycle)
                    else:
                        lane = fr * rows + r
                        address = ifmap[d, lane]
                        if stalled:
                            i_offset = _read(address, i_line[d, lane], i_of, i_others, i_geo, i_state, cycle, i_offset)
                        else:
                            _count_read(address, i_epoch, i_count, i_capacity, cycle)
                # The other operand: streamed from the top (output-stationary) or loaded row by row, last row first.
                if kind == 0:
                    for c in range(max(0, t - depth + 1), min(used_c, t + 1)):
                        lane = fc * cols + c
                        address = filter_[t - c, lane]
                        if stalled:
                            f_offset = _read(
                                address, f_line[t - c, lane], f_of, f_others, f_geo, f_state, cycle, f_offset
                            )
                        else:
                            _count_read(address, f_epoch, f_count, f_capacity, cycle)
                elif t < rows:
                    d = fr * rows + rows - 1 - t
                    if d < spatial_r:
                        for c in range(used_c):
                            lane = fc * cols + c
                            if kind == 1:
                                address = filter_[d, lane]
                                if stalled:
                                    f_offset = _read(
                                        address, f_line[d, lane], f_of, f_others, f_geo, f_state, cycle, f_offset
                                    )
                                else:
                                    _count_read(address, f_epoch, f_count, f_capacity, cycle)
                            else:
                                address = ifmap[d, lane]
                                if stalled:
                                    i_offset = _read(
                                        address, i_line[d, lane], i_of, i_others, i_geo, i_state, cycle, i_offset
                                    )
                                else:
                                    _count_read(address, i_epoch, i_count, i_capacity, cycle)
                # Results leave one lane per column, skewed.
                lead = depth - 1 if kind == 0 else 2 * rows - 1
                rows_out = rows if kind == 0 else depth
                now = cycle
                for c in range(max(0, t - lead - rows_out + 1), min(used_c, t - lead + 1)):
                    if kind == 0 and rows - 1 - (t - lead - c) >= used_r:
                        continue
                    o_state[3] += 1
                    o_state[0] -= 1
                    if o_state[3] == write_bw:
                        _close_line(fills, o_state)
                    if now < o_state[4]:
                        if o_state[0] <= 0:
                            now = o_state[4]
                    elif o_state[0] < o_half:
                        _close_line(fills, o_state)
                        _drain(fills, o_state, o_drain, write_bw, now)
                last = max(last, now)
                stalls += max(i_offset - 1, f_offset - 1, now - cycle)
            base += length
    # What is still in the output scratchpad leaves at the end.
    _close_line(fills, o_state)
    end = now
    drained = o_state[4]
    while o_state[1] < o_state[2]:
        _drain(fills, o_state, o_drain, write_bw, end)
        drained = max(drained, o_state[4])
        end = o_state[4] + 1
    if stalled:
        first = -max(i_geo[3], f_geo[3])
        i_reads, f_reads = (i_geo[3] + i_state[3] * i_geo[4]) * read_bw, (f_geo[3] + f_state[3] * f_geo[4]) * read_bw
    else:
        first = 0
        for count, size in ((i_count, sizes[0]), (f_count, sizes[1])):
            if count[0] > 1:
                start = count[3] - 2 - -(-(50 * (size // 100)) // 10) + 2
            else:
                sets = -(-count[1] // (size // 100))
                start = -2 - -(-(sets * (size // 100)) // 10) + 2
            first = min(first, start)
        i_reads, f_reads = i_count[2], f_count[2]
    return last, stalls, drained - first, i_reads, f_reads, o_state[5]
