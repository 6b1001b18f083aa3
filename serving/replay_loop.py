"""The compiled loop of the replay: scheduler iterations of one or several replicas, request by request.

State is in flat arrays; nothing is allocated inside the loop. `serving.replay` is what a user calls.
"""

from typing import NamedTuple

import numba
import numpy as np

from serving.phase_law import Tables, group_time_scalar, iteration_time_scalar
from serving.replay_leap import decode_steps, leap, stretch_s
from serving.replay_queue import SERVED, arrive, blocks_at_admission, next_arrival, pop, push, route, send

MIXED, PREFILL_FIRST, STATIC = 0, 1, 2


class LoopLimits(NamedTuple):
    """Engine limits and policies as numbers; see `serving.engine.Engine`."""

    batching: int
    max_sequences: int
    max_batched_tokens: int
    chunked: bool
    lookahead: bool
    block_tokens: int
    kv_blocks: int
    watermark_blocks: int
    replicas: int
    lockstep: bool
    router: int
    concurrency: int
    leap: bool
    admission: int
    intake_iterations: int
    reserve_output: bool


class LoopState(NamedTuple):
    """Arrays [replicas, ...] the loop works on: the running requests in order of admission, what each gets in this
    iteration, and a heap of waiting ones."""

    running: np.ndarray
    chunk: np.ndarray
    count: np.ndarray
    used_blocks: np.ndarray
    heap: np.ndarray
    heap_size: np.ndarray
    outstanding: np.ndarray
    held_slots: np.ndarray
    held_blocks: np.ndarray
    busy_until: np.ndarray
    started: np.ndarray
    looked_s: np.ndarray
    since_look: np.ndarray


class LoopRequests(NamedTuple):
    """Per request, [requests]: what it asks for and what has happened to it."""

    arrival_s: np.ndarray
    delay_s: np.ndarray
    prompt: np.ndarray
    output: np.ndarray
    cached: np.ndarray
    key: np.ndarray
    computed: np.ndarray
    target: np.ndarray
    generated: np.ndarray
    blocks: np.ndarray
    scheduled_s: np.ndarray
    first_token_s: np.ndarray
    last_token_s: np.ndarray
    status: np.ndarray
    replica: np.ndarray
    preempted: np.ndarray


@numba.njit(cache=True)
def _preempt_last(r, state, requests):
    """The youngest running request gives its memory back and waits again; its tokens will be computed anew."""
    last = state.count[r] - 1
    i = state.running[r, last]
    state.count[r] = last
    state.used_blocks[r] -= requests.blocks[i]
    requests.blocks[i] = 0
    requests.computed[i] = 0
    requests.target[i] = requests.prompt[i] + requests.generated[i]
    requests.preempted[i] += 1
    state.heap_size[r] = push(state.heap[r], state.heap_size[r], requests, i)


@numba.njit(cache=True)
def _grow(r, i, tokens, state, requests, limits):
    """Blocks for `tokens` more of request i; False if there are none left."""
    need = (requests.computed[i] + tokens + limits.block_tokens - 1) // limits.block_tokens - requests.blocks[i]
    if need > 0:
        if state.used_blocks[r] + state.held_blocks[r] + need > limits.kv_blocks:
            return False
        state.used_blocks[r] += need
        requests.blocks[i] += need
    return True


@numba.njit(cache=True)
def _plan(r, now, visible_s, state, requests, limits):
    """Choose what replica r runs next: fills `chunk` of its running requests, admits waiting ones.

    `visible_s`: requests that arrived later are not seen (an engine that plans one iteration ahead sees the queue as
    it was when the last iteration started)."""
    budget = limits.max_batched_tokens
    decoding_only = limits.batching != MIXED
    preempted = False
    k = 0
    while k < state.count[r]:
        i = state.running[r, k]
        rest = requests.target[i] - requests.computed[i]
        tokens = min(rest, budget)
        if tokens <= 0:
            state.chunk[r, k] = 0
            k += 1
            continue
        while not _grow(r, i, tokens, state, requests, limits):
            preempted = True
            if state.count[r] - 1 == k:
                break
            _preempt_last(r, state, requests)
        if state.count[r] - 1 == k and preempted and not _grow(r, i, tokens, state, requests, limits):
            _preempt_last(r, state, requests)
            break
        state.chunk[r, k] = tokens
        budget -= tokens
        k += 1
    if preempted or (limits.batching == STATIC and state.count[r] > 0):
        return
    first_new = state.count[r]
    if decoding_only:
        budget = limits.max_batched_tokens
    while state.heap_size[r] > 0 and budget > 0 and state.count[r] + state.held_slots[r] < limits.max_sequences:
        i = state.heap[r, 0]
        if requests.arrival_s[i] > visible_s:
            break
        start = min(requests.cached[i], requests.target[i] - 1)
        rest = requests.target[i] - start
        if (
            rest > budget
            and (not limits.chunked or decoding_only)
            and not (decoding_only and state.count[r] == first_new)
        ):
            break
        tokens = rest if decoding_only else min(rest, budget)
        requests.computed[i] = start
        needed = blocks_at_admission(i, start + tokens, requests, limits)
        room = limits.kv_blocks - state.used_blocks[r] - state.held_blocks[r] - limits.watermark_blocks
        if needed > room:
            break
        _, state.heap_size[r] = pop(state.heap[r], state.heap_size[r], requests)
        state.used_blocks[r] += needed
        requests.blocks[i] = needed
        if np.isnan(requests.scheduled_s[i]):
            requests.scheduled_s[i] = now
        state.running[r, state.count[r]] = i
        state.chunk[r, state.count[r]] = tokens
        state.count[r] += 1
        budget -= tokens
    if decoding_only and state.count[r] > first_new:
        for k in range(first_new):
            state.chunk[r, k] = 0


@numba.njit(cache=True)
def _weigh(r, state, requests, tables, iteration_s, sequence_s, imbalance, prompt_floor_s, attention_overlap):
    """Of the planned iteration of replica r: its time by itself, prompt tokens, decoding sequences and their context."""
    prefill, pairs, decoding, context, squares, sampled = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for k in range(state.count[r]):
        tokens = state.chunk[r, k]
        if tokens == 0:
            continue
        i = state.running[r, k]
        if tokens == 1 and requests.generated[i] > 0:
            decoding += 1.0
            context += requests.computed[i]
            squares += float(requests.computed[i]) * float(requests.computed[i])
            sampled += 1.0
        else:
            prefill += tokens
            pairs += tokens * (requests.computed[i] + 0.5 * tokens)
            if requests.computed[i] + tokens >= requests.target[i]:
                sampled += 1.0
    if prefill + decoding == 0.0:
        return 0.0, 0.0, 0.0, 0.0
    mean_pairs = pairs / prefill if prefill > 0.0 else 0.0
    mean_context = context / decoding if decoding > 0.0 else 0.0
    if imbalance > 0.0 and decoding > 1.0:
        mean_context += imbalance * np.sqrt(max(squares / decoding - mean_context * mean_context, 0.0))
    tau = iteration_time_scalar(
        tables,
        iteration_s,
        sequence_s,
        prefill,
        mean_pairs,
        decoding,
        mean_context,
        sampled,
        prompt_floor_s,
        attention_overlap,
    )
    return tau, prefill, decoding, mean_context


@numba.njit(cache=True)
def _commit(r, now, state, requests, limits):
    """End of an iteration of replica r: tokens appear, finished requests leave. Returns (finished, tokens)."""
    kept, finished, freed, emitted = 0, 0, 0, 0
    for k in range(state.count[r]):
        i = state.running[r, k]
        tokens = state.chunk[r, k]
        if tokens > 0:
            requests.computed[i] += tokens
            if requests.computed[i] >= requests.target[i]:
                requests.generated[i] += 1
                requests.target[i] += 1
                emitted += 1
                requests.last_token_s[i] = now
                if requests.generated[i] == 1:
                    requests.first_token_s[i] = now
                if requests.generated[i] >= requests.output[i]:
                    requests.status[i] = SERVED
                    freed += requests.blocks[i]
                    finished += 1
                    continue
        state.running[r, kept] = i
        kept += 1
    state.count[r] = kept
    state.used_blocks[r] -= freed
    state.outstanding[r] -= finished
    state.held_slots[r] = finished if limits.lookahead else 0
    state.held_blocks[r] = freed if limits.lookahead else 0
    return finished, emitted


@numba.njit(cache=True)
def run(requests, state, limits, tables: Tables, iteration_s, sequence_s, imbalance, prompt_floor_s, attention_overlap):
    """Replay all requests; returns (iterations, busy seconds, tokens generated, prompt tokens computed)."""
    total = requests.arrival_s.size
    groups = 1 if limits.lockstep else limits.replicas
    width = limits.replicas if limits.lockstep else 1
    upcoming, left, next_replica, admitted_free = 0, total, 0, limits.concurrency
    iterations, busy_s, generated, computed = 0, 0.0, 0, 0.0
    now = 0.0
    while left > 0:
        g = 0
        for j in range(1, groups):
            if state.busy_until[j] < state.busy_until[g]:
                g = j
        closed = limits.concurrency > 0
        arrival = np.inf
        if upcoming < total:
            if not closed:
                arrival = requests.arrival_s[upcoming]
            elif admitted_free > 0:
                arrival = now
        if arrival == np.inf and state.busy_until[g] == np.inf:
            break
        if arrival <= state.busy_until[g]:
            now = arrival
            r = route(limits, state, next_replica)
            next_replica = (r + 1) % limits.replicas
            if closed:
                send(upcoming, now, requests, limits)
                admitted_free -= 1
            if arrive(r, upcoming, state, requests, limits):
                group = r // width
                if state.busy_until[group] == np.inf:
                    state.busy_until[group] = now
                    state.started[group] = now
            else:
                left -= 1
                if closed:
                    admitted_free += 1
            upcoming += 1
            continue
        now = state.busy_until[g]
        for r in range(g * width, (g + 1) * width):
            finished, emitted = _commit(r, now, state, requests, limits)
            left -= finished
            generated += emitted
            if closed:
                admitted_free += finished
        if closed and admitted_free > 0 and upcoming < total and not limits.lookahead:
            # the next requests of a closed loop arrive at this very instant, before the next iteration is planned
            while admitted_free > 0 and upcoming < total:
                r = route(limits, state, next_replica)
                next_replica = (r + 1) % limits.replicas
                send(upcoming, now, requests, limits)
                if arrive(r, upcoming, state, requests, limits):
                    admitted_free -= 1
                    other = r // width
                    if state.busy_until[other] == np.inf:
                        state.busy_until[other] = now
                        state.started[other] = now
                else:
                    left -= 1
                upcoming += 1
        tau, everything, prompts, context = 0.0, 0.0, 0.0, 0.0
        visible_s = np.nextafter(state.started[g], -np.inf) if limits.lookahead else now
        if 0 < state.since_look[g] < limits.intake_iterations:
            visible_s = min(visible_s, state.looked_s[g])
        else:
            state.looked_s[g], state.since_look[g] = visible_s, 0
        for _attempt in range(2):
            for r in range(g * width, (g + 1) * width):
                _plan(r, now, visible_s, state, requests, limits)
                own, prefill, decoding, context = _weigh(
                    r, state, requests, tables, iteration_s, sequence_s, imbalance, prompt_floor_s, attention_overlap
                )
                tau = max(tau, own)
                prompts += prefill
                everything += prefill + decoding
            if everything > 0.0 or visible_s == now:
                break
            # nothing was planned ahead: the engine looks at the queue as it is now
            visible_s = now
            for r in range(g * width, (g + 1) * width):
                state.held_slots[r] = 0
                state.held_blocks[r] = 0
        if everything == 0.0:
            state.busy_until[g] = next_arrival(g * width, (g + 1) * width, now, state, requests)
            continue
        shared_s = group_time_scalar(tables, everything)
        steps, last_s = 1, tau
        if limits.leap and limits.replicas == 1 and (upcoming == total or (closed and admitted_free == 0)):
            until_look = max(limits.intake_iterations - state.since_look[0], 1)
            steps = decode_steps(0, visible_s, until_look, state, requests, limits)
            if steps > 1:
                tau, last_s = leap(0, steps, context, state, requests, limits, tables, iteration_s, sequence_s)
                if steps > until_look:  # it looked on the way, for the last time when `looked` iterations had begun
                    looked = (
                        until_look + (steps - 1 - until_look) // limits.intake_iterations * limits.intake_iterations
                    )
                    looked -= limits.lookahead
                    since_s = stretch_s(looked, context, state.count[0], tables, iteration_s, sequence_s)
                    seen_s = now + since_s + looked * shared_s
                    state.looked_s[0] = np.nextafter(seen_s, -np.inf) if limits.lookahead else seen_s
                generated += (steps - 1) * state.count[0]
                computed += (steps - 1) * everything
        tau += steps * shared_s
        state.started[g] = now if steps == 1 else now + tau - last_s - shared_s
        state.busy_until[g] = now + tau
        state.since_look[g] = 0 if prompts > 0.0 else (state.since_look[g] + steps) % limits.intake_iterations
        iterations += steps
        busy_s += tau
        computed += everything
    return iterations, busy_s, generated, computed
