"""ASTRA-sim's collectives over several dimensions: chunks of equal size walk through per-dimension queues of bounded
width.

Each chunk passes its phases in order; a dimension serves at most `active` chunks at a time, first come first served,
and a phase alone
lasts what `collectives_astra.ring_phase_cycles` says. all_reduce: reduce_scatter inwards-out, all_reduce on the
outermost dimension,
all_gather back; all_gather starts at the outermost dimension. Reproduces all 32 multi-dimensional golden rows to the
cycle (congestion-unaware
backend). The queue is a loop over events, so plain Python: no jit, no grad; see `collectives_hierarchy` for the
differentiable bounds.
"""

import heapq
from collections.abc import Sequence

from roofline.collectives_astra import OPS, AstraSystem, ring_phase_cycles


def replay_cycles(op: str, payload_bytes: int, dimensions: Sequence[tuple[AstraSystem, str]]) -> int:
    """Cycles (ns) of `op` on `payload_bytes` over `dimensions`, (system, topology) each, innermost first; scalars only.

    `splits` and `active` of the innermost system hold for all. Congestion-unaware. `ValueError` for an unknown op or
    no dimension.
    """
    if op not in OPS:
        raise ValueError(f"op: {op!r} is unknown (known: {', '.join(OPS)})")
    if not dimensions:
        raise ValueError("dimensions: expected at least one")
    first = dimensions[0][0]
    piece = payload_bytes // int(first.splits)
    chunks = -(-payload_bytes // piece)
    return _queues(_phases(op, float(piece), dimensions), chunks, len(dimensions), int(first.active))


def _phases(op: str, chunk_bytes: float, dimensions: Sequence[tuple[AstraSystem, str]]) -> list[tuple[int, int]]:
    """(dimension, cycles) of one chunk in the order it passes them."""
    last = len(dimensions) - 1
    inwards_out, outwards_in = list(range(last + 1)), list(range(last, -1, -1))
    walk: list[tuple[str, int]] = {
        "reduce_scatter": [("reduce_scatter", i) for i in inwards_out],
        "all_gather": [("all_gather", i) for i in outwards_in],
        "all_to_all": [("all_to_all", i) for i in inwards_out],
        "all_reduce": [
            *(("reduce_scatter", i) for i in inwards_out[:-1]),
            ("all_reduce", last),
            *(("all_gather", i) for i in outwards_in[1:]),
        ],
    }[op]
    phases, size = [], chunk_bytes
    for kind, index in walk:
        system, topology = dimensions[index]
        cycles = ring_phase_cycles(kind, size, system, topology=topology, congestion=False)
        phases.append((index, int(cycles)))
        if kind == "reduce_scatter":
            size /= float(system.ranks)
        elif kind == "all_gather":
            size *= float(system.ranks)
    return phases


def _queues(phases: list[tuple[int, int]], chunks: int, dimensions: int, width: int) -> int:
    """When the last of `chunks` equal chunks has passed all `phases`; each dimension serves `width` at a time."""
    waiting: list[list[int]] = [[] for _ in range(dimensions)]
    serving = [0] * dimensions
    step = [0] * chunks
    events: list[tuple[int, int, int]] = []
    waiting[phases[0][0]].extend(range(chunks))
    now = order = 0
    while True:
        for index in range(dimensions):
            while waiting[index] and serving[index] < width:
                chunk = waiting[index].pop(0)
                serving[index] += 1
                heapq.heappush(events, (now + phases[step[chunk]][1], order, chunk))
                order += 1
        if not events:
            return now
        now = events[0][0]
        # Everything that ends now leaves before anything new starts.
        while events and events[0][0] == now:
            chunk = heapq.heappop(events)[2]
            serving[phases[step[chunk]][0]] -= 1
            step[chunk] += 1
            if step[chunk] < len(phases):
                waiting[phases[step[chunk]][0]].append(chunk)
