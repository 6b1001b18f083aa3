"""A cache replayed reference by reference: least recently used, least frequently used, time to live.

The block to go is the one of least

    lru, ttl   time of last use              (ttl: forgotten `ttl_s` after it, too)
    lfu        uses so far, oldest use first among equals; counts are kept for blocks that are not

A heap holds one entry per use; entries that a later use made stale are passed over. Exact; O(log uses) per reference. No condition
on leading runs of a prompt (that is `BlockTrace.hit_rate`, for lru): each reference counts by itself, as in the closed forms.
"""

import heapq
from typing import Any

import numba
import numpy as np

from hardware.paths import nearest
from serving.stages.eviction import POLICIES


def replay_cache(
    blocks: np.ndarray, capacity: int, policy: str = "lru", *, time_s: np.ndarray | None = None, ttl_s: float = np.inf
) -> np.ndarray:
    """Whether each of `blocks` [references] (whole numbers) is found by a cache of `capacity` blocks, [references].
    `time_s` [references]: when, ascending; the index of the reference by default."""
    if policy not in POLICIES:
        raise ValueError(
            f"policy: {policy!r} is unknown{nearest(str(policy), POLICIES)} (known: {', '.join(POLICIES)})"
        )
    if not capacity >= 1:
        raise ValueError(f"capacity: {capacity!r}; expected at least one block")
    _, numbered = np.unique(np.asarray(blocks), return_inverse=True)
    when = np.arange(len(numbered), dtype=float) if time_s is None else np.asarray(time_s, dtype=float)
    if len(when) != len(numbered) or np.any(np.diff(when) < 0.0):
        raise ValueError(f"time_s: {len(when)} times; expected {len(numbered)} that ascend")
    kept = float(ttl_s) if policy == "ttl" else np.inf
    return _run(numbered.astype(np.int64), when, int(capacity), policy == "lfu", kept)


@numba.njit(cache=True)
def _run(blocks, when, capacity, frequency, ttl):
    count = blocks.max() + 1
    uses = np.zeros(count, dtype=np.int64)
    last = np.full(count, -1, dtype=np.int64)
    inside = np.zeros(count, dtype=np.bool_)
    found = np.zeros(blocks.size, dtype=np.bool_)
    heap: Any = [(np.int64(0), np.int64(0), np.int64(0))]
    heap.pop()
    held = 0
    oldest = 0
    for i in range(blocks.size):
        while ttl < np.inf and oldest < i and when[i] - when[oldest] > ttl:
            b = blocks[oldest]
            if inside[b] and last[b] == oldest:
                inside[b] = False
                held -= 1
            oldest += 1
        block = blocks[i]
        found[i] = inside[block]
        uses[block] += 1
        last[block] = i
        if not inside[block]:
            while held >= capacity:
                _, use, other = heapq.heappop(heap)
                if inside[other] and last[other] == use:
                    inside[other] = False
                    held -= 1
            inside[block] = True
            held += 1
        heapq.heappush(heap, (uses[block] if frequency else np.int64(i), np.int64(i), block))
    return found
