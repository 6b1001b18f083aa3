"""Stretches of a replay in which nothing but decoding happens, taken in one step instead of token by token.

Between two completions the batch of one replica only grows its contexts by a position per iteration, so that the time of
the stretch is the sum of a piecewise linear law over a range of contexts: exact, in a few evaluations.
"""

import numba
import numpy as np

from serving.phase_law import iteration_time_scalar
from serving.replay_queue import blocks_at_admission


@numba.njit(cache=True)
def decode_steps(r, visible_s, until_look, state, requests, limits):
    """Iterations that replica r will run as planned before anything changes: 1 unless all it runs is decoding and
    nothing that waits can be admitted before a completion. Includes the one that completes a request. `until_look`:
    iterations until the engine looks at what has arrived."""
    least = np.int64(2**62)
    for k in range(state.count[r]):
        i = state.running[r, k]
        if state.chunk[r, k] != 1 or requests.generated[i] == 0 or requests.computed[i] + 1 != requests.target[i]:
            return 1
        least = min(least, requests.output[i] - requests.generated[i])
    if state.count[r] == 0 or least <= 1 or state.held_slots[r] > 0 or state.held_blocks[r] > 0:
        return 1
    if state.heap_size[r] > 0 and state.count[r] < limits.max_sequences:
        head = state.heap[r, 0]
        if requests.arrival_s[head] > visible_s:
            least = min(least, until_look)
        start = min(requests.cached[head], requests.target[head] - 1)
        tokens = requests.target[head] - start
        if limits.batching == 0 and limits.chunked:
            tokens = min(tokens, limits.max_batched_tokens - state.count[r])
        needed = blocks_at_admission(head, start + tokens, requests, limits)
        fits = needed <= limits.kv_blocks - state.used_blocks[r] - limits.watermark_blocks
        if fits and requests.arrival_s[head] <= visible_s:
            return 1
    growth = 0
    for k in range(state.count[r]):
        i = state.running[r, k]
        blocks = (requests.computed[i] + least + limits.block_tokens - 1) // limits.block_tokens
        growth += max(blocks - requests.blocks[i], 0)
    return least if state.used_blocks[r] + growth <= limits.kv_blocks else 1


@numba.njit(cache=True)
def stretch_s(steps, first_context, count, tables, iteration_s, sequence_s):
    """Seconds of `steps` iterations of `count` decoding sequences whose mean context begins at `first_context`."""
    knots, context, left, total = tables.decode_context, first_context, steps, 0.0
    while left > 0:
        above = np.searchsorted(knots, context, side="right")
        m = left
        if above < knots.size:
            m = min(left, max(np.int64(np.ceil(knots[above] - context)), 1))
        middle = context + 0.5 * (m - 1)
        total += m * iteration_time_scalar(tables, iteration_s, sequence_s, 0.0, 0.0, count, middle, count)
        context += m
        left -= m
    return total


@numba.njit(cache=True)
def leap(r, steps, first_context, state, requests, limits, tables, iteration_s, sequence_s):
    """Advance replica r to the last of `steps` iterations, which is left to be committed. Returns (seconds of all of
    them, seconds of the last)."""
    count = float(state.count[r])
    total = stretch_s(steps, first_context, count, tables, iteration_s, sequence_s)
    last_context = first_context + steps - 1.0
    last = iteration_time_scalar(tables, iteration_s, sequence_s, 0.0, 0.0, count, last_context, count)
    for k in range(state.count[r]):
        i = state.running[r, k]
        requests.computed[i] += steps - 1
        requests.target[i] += steps - 1
        requests.generated[i] += steps - 1
        blocks = (requests.computed[i] + limits.block_tokens) // limits.block_tokens
        if blocks > requests.blocks[i]:
            state.used_blocks[r] += blocks - requests.blocks[i]
            requests.blocks[i] = blocks
    return total, last
