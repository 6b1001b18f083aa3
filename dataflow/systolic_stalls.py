"""How often a double-buffered scratchpad turns: the count behind the bandwidth stalls of a systolic array.

A scratchpad shows `active` lines of an operand's `lines`, in fetch order, as a window on a ring; a read outside turns it
on by `ahead` lines until it is inside. Which reads turn it depends on addresses only, never on time, so the array's
demand can be cut into *segments* that rise in fetch order: a fold of a streamed operand, or one row of a loaded one. For
a segment from line a to line b with the window at s,

    turns = turns(s, a) + turns(s', b),    turns(s, x) = max(0, ceil(((x - s) mod lines - active + 1) / ahead)),

where s' is the window after the first term. Streamed lanes are skewed: with h_L(G) = sum over L lanes of max(G - lane, 0),

    words before time G = h_used(G) - h_used(G - folds depth) + (the same for the lanes that the last fold lacks),

so a fold ends after the next one has begun, by lanes (lanes - 1) words in fetch order; a window edge in there costs a
whole revolution. The segments are walked one after the other, at most `MOST_SEGMENTS` of them (then scaled up), every
configuration at once. Equal to `systolic_replay` for products of matrices that are not scaled up. A lowered
convolution holds words in several lines; where the window spans two folds the copies are taken to spare its revolutions.

A turn occupies the memory for T = ceil(half / bandwidth) + 1 cycles. With N of them, spread over C cycles of work, the
array ends at max over the turns of (transfers so far + work left); a late half costs twice its lateness once and nothing
the next time (as the replay has it), which an odd number of turns leaves standing.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace, stop_gradient

#: Segments that are walked; a longer demand is scaled up from them.
MOST_SEGMENTS = 256
_CHUNK = 32


class Stream(NamedTuple):
    """An operand as an array reads it: `width` lanes' worth of columns in folds of `lanes`, `depth` deep.

    `capacity`: words of its scratchpad. `passes`: how often the whole operand is read (a fold after the other);
    `repeats`: how often each fold is read in a row. `block`: of a loaded operand, rows of a fold, read last to first.
    `distinct`: share of its words that are no copies of others.
    """

    width: Array
    lanes: Array
    depth: Array
    capacity: Array
    passes: Array = 1.0
    repeats: Array = 1.0
    block: Array = 0.0
    distinct: Array = 1.0


class Ring(NamedTuple):
    """Geometry of a scratchpad in lines of `line_words`: all lines, visible ones, lines of a turn."""

    line_words: Array
    lines: Array
    active: Array
    ahead: Array


def ring(stream: Stream) -> Ring:
    """The scratchpad's geometry: a hundred lines, one half of them visible."""
    xp = namespace(stream)
    capacity, words = xp.asarray(stream.capacity), stream.width * stream.depth
    # An unlimited scratchpad shows everything; any size that holds the operand twice does, too.
    size = xp.where(xp.isfinite(capacity), capacity, 0.0)
    size = xp.where(xp.isfinite(capacity), size, 4.0 * words + 200.0)
    line = xp.ceil(size / 100.0)
    half = xp.ceil(size / 2.0)
    lines = xp.floor(words / line) + 1.0
    active = xp.minimum(xp.ceil(half / line), lines)
    ahead = xp.minimum(xp.ceil((size - half) / line), lines - active)
    return Ring(line, lines, active, ahead)


def turns(stream: Stream, *, loaded: bool = False, most: int = MOST_SEGMENTS) -> Array:
    """Turns of the scratchpad over the whole layer, [...]; 0 where the operand is visible as a whole.

    `loaded`: rows last to first in blocks (`Stream.block`) instead of streamed folds. Carries no gradient.
    """
    xp = namespace(*stream)
    fields = xp.broadcast_arrays(*(stop_gradient(1.0 * xp.asarray(field)) for field in stream))
    stream = Stream(*fields)
    geometry = ring(stream)
    if xp is np and not np.any(geometry.ahead > 0.0):
        return 0.0 * geometry.ahead
    folds = xp.ceil(stream.width / stream.lanes)
    walk = _loaded if loaded else _streamed
    found = walk(stream, geometry, folds, most)
    # Forward turns alone, without the revolutions that copies of a word spare where two folds (one, if loaded) are
    # visible at once.
    forward = (stream.passes * geometry.lines - geometry.active) / xp.maximum(geometry.ahead, 1.0)
    visible_folds = geometry.active * geometry.line_words / (stream.depth * stream.lanes)
    spared = xp.clip((2.0 if loaded else 1.0) * visible_folds - 1.0, 0.0, 1.0)
    spared = xp.where(stream.distinct < 1.0, spared, 0.0)
    found = found - spared * xp.maximum(found - xp.maximum(xp.ceil(forward), 0.0), 0.0)
    return xp.where(geometry.ahead > 0.0, found, 0.0)


class Transfers(NamedTuple):
    """`words` read from DRAM, first half included; `end_cycles`: when the array is done if only this stream may be late
    (0 where it never waits).
    """

    words: Array
    end_cycles: Array


def transfers(
    stream: Stream, words_per_cycle: Array, compute_cycles: Array, *, loaded: bool = False, rounding: Rounding = exact
) -> Transfers:
    """DRAM traffic of a read stream at a finite bandwidth and the cycles it holds the array for."""
    xp = namespace(*stream, words_per_cycle, compute_cycles)
    count = turns(stream, loaded=loaded)
    capacity = xp.asarray(stream.capacity)
    waits = (count > 0.0) & xp.isfinite(capacity)
    size = xp.where(waits, capacity, 2.0)
    half = rounding.ceil(xp.where(xp.isfinite(capacity), capacity, 2.0) / 2.0)
    words = rounding.ceil(stream.width / stream.lanes) * stream.depth * stream.lanes
    first = xp.where(xp.isfinite(capacity), xp.minimum(half, words), words)
    period = rounding.ceil((size - rounding.ceil(size / 2.0)) / words_per_cycle)
    gap = compute_cycles / (count + 1.0)
    late = xp.where(xp.mod(xp.round(count), 2.0) == 1.0, xp.maximum(period + 1.0 - gap, 0.0), 0.0)
    held = count * (period + 1.0) - 1.0 + gap
    # Only a stream that is late at its last turn has lateness left standing.
    end = held + xp.where(held > compute_cycles - gap, late, 0.0)
    moved = (rounding.ceil(first / words_per_cycle) + count * period) * words_per_cycle
    return Transfers(moved, xp.where(waits, end, 0.0 * end))


def _streamed(stream: Stream, geometry: Ring, folds: Array, most: int) -> Array:
    xp = namespace(*stream)
    segments = folds * stream.passes * stream.repeats
    walked = xp.minimum(segments, float(most))

    def lines(j):
        """First line and last line of segments `j`."""
        fold = xp.where(stream.passes > 1.0, xp.mod(j, folds), xp.floor(j / stream.repeats))
        used = xp.minimum(stream.lanes, stream.width - fold * stream.lanes)
        begin = fold * stream.depth
        end = begin + stream.depth + used - 2.0
        first = _before(stream, folds, begin)
        last = _before(stream, folds, end) + _under_way(stream, folds, end, used - 1.0)
        return xp.floor(first / geometry.line_words), xp.floor(last / geometry.line_words)

    def step(j, start, first, last):
        moved = _turns_between(xp, geometry, start, first, last)
        return start + xp.where(j < walked, moved * geometry.ahead, 0.0)

    start = 0.0 * segments
    if xp is np:
        # Lines of many segments at a time: one call instead of many where the configuration is a single one.
        for chunk in range(0, int(np.max(walked)), _CHUNK):
            steps = np.arange(chunk, min(chunk + _CHUNK, int(np.max(walked))), dtype=float)
            for j, first, last in zip(steps, *lines(steps.reshape((-1,) + (1,) * np.ndim(segments)))):
                start = step(j, start, first, last)
    else:
        start = jax.lax.fori_loop(0, most, lambda j, at: step(j, at, *lines(1.0 * j)), start)
    return start / xp.maximum(geometry.ahead, 1.0) * segments / walked


def _loaded(stream: Stream, geometry: Ring, folds: Array, most: int) -> Array:
    """Rows that the window shows are skipped: a step is a row that turns it, or the first row of a block."""
    xp = namespace(*stream)
    depth, block, line = stream.depth, xp.maximum(stream.block, 1.0), geometry.line_words

    def step(_, state):
        start, fold, row = state
        lanes = xp.maximum(xp.minimum(stream.lanes, stream.width - fold * stream.lanes), 1.0)
        base = fold * depth * stream.lanes
        first, last = xp.floor((base + row * lanes) / line), xp.floor((base + row * lanes + lanes - 1.0) / line)
        start = start + xp.where(fold < folds, _turns_between(xp, geometry, start, first, last) * geometry.ahead, 0.0)
        edge = (last - xp.mod(last - start, geometry.lines)) * line
        row_below = xp.minimum(row, xp.ceil((edge - base) / lanes)) - 1.0
        bottom = xp.floor(row / block) * block
        in_fold = bottom + block < depth
        above = xp.minimum(xp.where(in_fold, bottom + 2.0 * block, block), depth) - 1.0
        inside = row_below >= bottom
        return start, fold + xp.where(inside | in_fold, 0.0, 1.0), xp.where(inside, row_below, above)

    zero = 0.0 * depth
    state = (zero, zero, xp.minimum(block, depth) - 1.0)
    if xp is np:
        for j in range(most):
            state = step(j, state)
            if np.all(state[1] >= folds):
                break
    else:
        state = jax.lax.fori_loop(0, most, step, state)
    start, fold, row = state
    bottom = xp.floor(row / block) * block
    done = fold * depth + bottom + xp.minimum(block, depth - bottom) - 1.0 - row
    return start / xp.maximum(geometry.ahead, 1.0) * folds * depth / xp.clip(done, 1.0, folds * depth)


def _turns_between(xp: Any, geometry: Ring, start: Array, first: Array, last: Array) -> Array:
    away = xp.mod(first - start, geometry.lines) + (last - first)
    return xp.maximum(xp.ceil((away - geometry.active + 1.0) / xp.maximum(geometry.ahead, 1.0)), 0.0)


def _triangle(lanes: Array, time: Array) -> Array:
    """Sum over `lanes` lanes of max(time - lane, 0)."""
    xp = namespace(lanes, time)
    time = xp.maximum(time, 0.0)
    full = xp.minimum(time, lanes)
    return full * (full + 1.0) / 2.0 + lanes * xp.maximum(time - lanes, 0.0)


def _before(stream: Stream, folds: Array, time: Array) -> Array:
    """Words whose turn in the skewed fetch order comes before `time`."""
    last = stream.width - (folds - 1.0) * stream.lanes
    rest, short = stream.lanes - last, (folds - 1.0) * stream.depth
    words = _triangle(last, time) - _triangle(last, time - folds * stream.depth)
    return words + _triangle(rest, time - last) - _triangle(rest, time - last - short)


def _under_way(stream: Stream, folds: Array, time: Array, lanes: Array) -> Array:
    """Lanes below `lanes` that have a word at `time`: those with 0 <= time - lane < depth of all their folds."""
    xp = namespace(*stream, time)
    last = stream.width - (folds - 1.0) * stream.lanes
    first_full = xp.maximum(time - folds * stream.depth + 1.0, 0.0)
    full = xp.maximum(xp.minimum(xp.minimum(lanes, last), time + 1.0) - first_full, 0.0)
    first_short = xp.maximum(time - (folds - 1.0) * stream.depth + 1.0, last)
    return full + xp.maximum(xp.minimum(lanes, time + 1.0) - first_short, 0.0)
