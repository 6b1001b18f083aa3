"""Prefix caching: how many blocks of a trace's prompts a cache of any capacity finds, exactly and by Che's approximation.

A prompt is a chain of blocks; a block's hash covers everything before it, so that only a leading run of hits saves work.
The cache drops the least recently used block; a request touches its blocks from the last to the first, so that ends of
chains are dropped before what they hang on.

**Exact** (Mattson et al. 1970): a block is found by every cache that holds more blocks than its stack distance, the
number of distinct blocks touched since its last use. The run's condition is the largest distance so far in the prompt:
one pass over the trace answers all capacities.

**Che** (Che, Tung and Wang 2002; Denning and Schwartz 1972 for stationary traces): a block stays for a characteristic
time t_C after its last use, the window in which C distinct blocks are touched on the mean,

    independent references:   sum_i (1 - exp(-rate_i t_C)) = C,    hit = sum rate_i (1 - exp(-rate_i t_C)) / sum rate_i
    a trace's own gaps:       integral_0^t_C (1 - F(u)) du = C,    hit = F(t_C),     F: share of references with gap <= u

Both count one cache shared by all requests, without blocks that running requests pin.
"""

from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import pandas as pd

from composition.argument_checks import check_number
from serving.implicit_root import increasing_root
from workloads.numeric import Array, namespace

#: Tokens per block of the hashes in published traces.
BLOCK_TOKENS = 512


@dataclass(frozen=True)
class BlockTrace:
    """Prompts of a trace as blocks: `blocks` [references], request i has `blocks[start[i]:start[i + 1]]`."""

    blocks: np.ndarray
    start: np.ndarray
    input_tokens: np.ndarray
    block_tokens: int = BLOCK_TOKENS

    @classmethod
    def of(cls, hashes: list, input_tokens: Array, block_tokens: int = BLOCK_TOKENS) -> "BlockTrace":
        """From one sequence of block hashes per request, in order of arrival."""
        sizes = np.array([len(h) for h in hashes], dtype=np.int64)
        tokens = np.asarray(input_tokens, dtype=np.int64)
        if len(sizes) == 0 or sizes.sum() == 0:
            raise ValueError("hash_ids: no blocks; expected a list of block hashes per request")
        if len(tokens) != len(sizes):
            raise ValueError(f"input_tokens: {len(tokens)} requests; expected {len(sizes)} as in hash_ids")
        flat = np.concatenate([np.asarray(h) for h in hashes if len(h)])
        _, blocks = np.unique(flat, return_inverse=True)
        return cls(blocks.astype(np.int64), np.concatenate([[0], np.cumsum(sizes)]), tokens, block_tokens)

    def cached_tokens(self, capacity_tokens: float) -> np.ndarray:
        """Prompt tokens found by a cache of `capacity_tokens`, [requests], for `Requests.of(..., cached_tokens=...)`."""
        check_number("capacity_tokens", capacity_tokens, least=0.0)
        found = run_distances(self) < capacity_tokens / self.block_tokens
        hits = np.add.reduceat(np.append(found, False).astype(np.int64), self.start[:-1]) * (np.diff(self.start) > 0)
        return np.minimum(hits * self.block_tokens, self.input_tokens)

    def hit_rate(self, capacity_tokens: Array) -> np.ndarray:
        """Share of block references found by a cache of `capacity_tokens` [...], exactly."""
        check_number("capacity_tokens", capacity_tokens, least=0.0)
        distances = np.sort(run_distances(self))
        blocks = np.asarray(capacity_tokens, dtype=float) / self.block_tokens
        return np.searchsorted(distances, blocks, side="left") / len(distances)

    def che_hit_rate(self, capacity_tokens: Array) -> np.ndarray:
        """The same by Che's approximation from the trace's own gaps between references to a block."""
        check_number("capacity_tokens", capacity_tokens, least=0.0)
        gaps = np.sort(reference_gaps(self))
        gaps = gaps[np.isfinite(gaps)]
        total = len(self.blocks)
        # distinct blocks in a window: the integral of the share of references that miss
        share = np.arange(len(gaps) + 1) / total
        knots = np.concatenate([[0.0], gaps])
        distinct = np.concatenate([[0.0], np.cumsum(np.diff(knots) * (1.0 - share[:-1]))])
        blocks = np.asarray(capacity_tokens, dtype=float) / self.block_tokens
        return share[np.clip(np.searchsorted(distinct, blocks, side="right") - 1, 0, len(gaps))]


def read_blocks(path: str | Path, block_tokens: int = BLOCK_TOKENS) -> BlockTrace:
    """A trace file (Parquet) with a column `hash_ids`; `ValueError` without one."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    frame = pd.read_parquet(path)
    column = next((c for c in ("input_tokens", "input_toks", "input_length") if c in frame), None)
    if "hash_ids" not in frame or column is None:
        raise ValueError(f"{path}: no column hash_ids and input_tokens; found {', '.join(frame)}")
    return BlockTrace.of(list(frame["hash_ids"]), frame[column].to_numpy(), block_tokens)


def run_distances(trace: BlockTrace) -> np.ndarray:
    """Per reference, the largest stack distance in its prompt up to it, [references]; inf from the first new block on."""
    return _runs(_distances(trace.blocks, trace.start, int(trace.blocks.max()) + 1), trace.start)


def reference_gaps(trace: BlockTrace) -> np.ndarray:
    """References between two uses of a block, [references]; inf for first uses."""
    order = np.argsort(trace.blocks, kind="stable")
    at, same = order.astype(float), np.diff(trace.blocks[order]) == 0
    gaps = np.full(len(order), np.inf)
    gaps[order[1:][same]] = np.diff(at)[same]
    return gaps


def che_hit_rate(rates: Array, capacity: Array) -> Array:
    """Hit rate of an LRU cache of `capacity` items [...] under independent references with `rates` [items]: Che's
    approximation, differentiable in both. 1 where everything fits, 0 where nothing does. `ValueError` for negative numbers."""
    check_number("rates", rates, least=0.0)
    check_number("capacity", capacity, least=0.0)
    if np.ndim(rates) != 1 or not np.size(rates):
        raise ValueError(f"rates: shape {np.shape(rates)}; expected [items], at least one of them")
    xp = namespace(rates, capacity)
    if xp is np and not np.sum(rates) > 0.0:
        raise ValueError("rates: all are 0; expected at least one above 0")
    rates = xp.asarray(rates) * 1.0 / xp.sum(xp.asarray(rates))
    capacity = xp.asarray(capacity) * 1.0
    time = characteristic_references(rates, capacity)
    hit = xp.sum(rates * -xp.expm1(-rates * time[..., None]), axis=-1)
    return xp.where(capacity >= rates.shape[-1], 1.0, xp.where(capacity > 0.0, hit, 0.0))


def characteristic_references(popularity: Array, capacity: Array) -> Array:
    """References, [...], in which `capacity` [...] distinct items are touched on the mean, at shares `popularity` [items] that sum
    to 1: how long an item stays in an LRU cache."""
    xp = namespace(popularity, capacity)
    capacity = xp.asarray(capacity) * 1.0

    def excess(log_time, theta):
        shares, size = theta
        return xp.sum(-xp.expm1(-shares * xp.exp(log_time)[..., None]), axis=-1) - size

    low, high = xp.log(xp.maximum(capacity, 1e-9)) - 1.0, xp.zeros(capacity.shape) + 60.0
    return xp.exp(increasing_root(excess, low, high, (popularity, capacity)))


@numba.njit(cache=True)
def _distances(blocks, start, count):
    """Stack distances by a Fenwick tree over the times of last use."""
    total = blocks.size
    tree = np.zeros(total + 1, dtype=np.int64)
    last = np.full(count, -1, dtype=np.int64)
    distances = np.full(total, np.inf)
    time, live = 0, 0
    for i in range(start.size - 1):
        # all of a prompt's blocks are looked up before any of them is touched
        for k in range(start[i], start[i + 1]):
            at = last[blocks[k]]
            if at >= 0:
                older, j = 0, at + 1
                while j > 0:
                    older += tree[j]
                    j -= j & -j
                distances[k] = live - older
        for k in range(start[i + 1] - 1, start[i] - 1, -1):
            at = last[blocks[k]]
            if at >= 0:
                j = at + 1
                while j <= total:
                    tree[j] -= 1
                    j += j & -j
                live -= 1
            j = time + 1
            while j <= total:
                tree[j] += 1
                j += j & -j
            live += 1
            last[blocks[k]] = time
            time += 1
    return distances


@numba.njit(cache=True)
def _runs(distances, start):
    result = distances.copy()
    for i in range(start.size - 1):
        for k in range(start[i] + 1, start[i + 1]):
            result[k] = max(result[k], result[k - 1])
    return result
