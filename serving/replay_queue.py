"""Queues of the compiled replay: how requests reach a replica, and the heap they wait in."""

import numba
import numpy as np

FCFS, SHORTEST_FIRST, PRIORITY = 0, 1, 2
ROUND_ROBIN, LEAST_LOADED = 0, 1
WAITING, SERVED, REJECTED = 0, 1, 2


@numba.njit(cache=True, inline="always")
def _before(requests, a, b):
    return requests.key[a] < requests.key[b] or (requests.key[a] == requests.key[b] and a < b)


@numba.njit(cache=True)
def push(heap, size, requests, request):
    i = size
    heap[i] = request
    while i > 0:
        parent = (i - 1) // 2
        if not _before(requests, heap[i], heap[parent]):
            break
        heap[i], heap[parent] = heap[parent], heap[i]
        i = parent
    return size + 1


@numba.njit(cache=True)
def pop(heap, size, requests):
    top = heap[0]
    size -= 1
    heap[0] = heap[size]
    i = 0
    while True:
        least, left = i, 2 * i + 1
        if left < size and _before(requests, heap[left], heap[least]):
            least = left
        if left + 1 < size and _before(requests, heap[left + 1], heap[least]):
            least = left + 1
        if least == i:
            return top, size
        heap[i], heap[least] = heap[least], heap[i]
        i = least


@numba.njit(cache=True, inline="always")
def blocks_at_admission(i, tokens, requests, limits):
    """Blocks that request i is given when its first `tokens` tokens are planned."""
    kept = requests.prompt[i] + requests.output[i] if limits.reserve_output else tokens
    return (kept + limits.block_tokens - 1) // limits.block_tokens


@numba.njit(cache=True)
def arrive(r, i, state, requests, limits):
    """Request i joins the queue of replica r, or is refused if it could never fit."""
    whole = (requests.prompt[i] + requests.output[i] + limits.block_tokens - 1) // limits.block_tokens
    too_long = not limits.chunked and requests.prompt[i] > limits.max_batched_tokens
    if whole > limits.kv_blocks - limits.watermark_blocks or too_long:
        requests.status[i] = REJECTED
        return False
    requests.replica[i] = r
    state.heap_size[r] = push(state.heap[r], state.heap_size[r], requests, i)
    state.outstanding[r] += 1
    return True


@numba.njit(cache=True)
def send(i, now, requests, limits):
    """A client of a closed loop sends request i, which reaches the queue after its own delay."""
    requests.arrival_s[i] = now + requests.delay_s[i]
    if limits.admission == FCFS:
        requests.key[i] = requests.arrival_s[i]


@numba.njit(cache=True)
def next_arrival(first, last, now, state, requests):
    """When the first request on its way reaches one of the idle replicas first .. last - 1; infinite if there is none."""
    soonest = np.inf
    for r in range(first, last):
        if state.heap_size[r] > 0 and requests.arrival_s[state.heap[r, 0]] > now:
            soonest = min(soonest, requests.arrival_s[state.heap[r, 0]])
    return soonest


@numba.njit(cache=True)
def route(limits, state, next_replica):
    if limits.router == LEAST_LOADED:
        best = next_replica % limits.replicas
        for k in range(limits.replicas):
            r = (next_replica + k) % limits.replicas
            if state.outstanding[r] < state.outstanding[best]:
                best = r
        return best
    return next_replica % limits.replicas
