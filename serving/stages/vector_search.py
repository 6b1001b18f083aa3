"""Approximate nearest neighbours in closed form: seconds of a batch of queries on a database of vectors.

**IVF-PQ** (Jegou, Douze and Schmid, Product quantization for nearest neighbor search, TPAMI 2011; batched as Johnson, Douze and
Jegou, Billion-scale similarity search with GPUs, 2017). N vectors of D dimensions in L lists; a query scans p of them (nprobe).
With p = nprobe / L and c = 1 + variance of list sizes / mean^2 (queries fall where vectors are: long lists are seen more often), b
queries move and compute

    bytes   4 L D  +  N c codes (1 - (1 - p)^b)  +  b R D e            centroids, lists that any query wants, vectors refined
    flops   b (2 L D + 2 D 2^bits (nprobe or 1))  +  2 b R D            coarse distances, lookup tables (per list: residuals)
    lookups b N c p M                                                  one table entry per sub-quantiser and code

where a list wanted by several queries is read once per batch, and R vectors of D numbers of e bytes are compared exactly in the
end.

**HNSW** (Malkov and Yashunin, Efficient and robust approximate nearest neighbor search using hierarchical navigable small world
graphs, TPAMI 2018). A query walks ln N / ln M upper layers greedily and expands `ef` nodes of the ground layer, each with up to 2 M
links of which a share is new; every hop waits for memory once (its neighbours are fetched together):

    hops    ln N / ln M + ef
    visits  M ln N / ln M + 2 M ef fresh          vectors of D e bytes read and compared, 2 M ids of 4 bytes per hop
    seconds of b queries on T threads    max(hops latency max(1, b / T), b visits bytes / bandwidth, b 2 D visits / flops)

Both: seconds = fixed + max(bytes / bandwidth, flops / peak + lookups / rate). Excludes: recall (choose nprobe, ef for it), filters,
network, updates. A device that does not hold the index answers NaN.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from hardware import Accelerator
from serving.stages.step_law import StepLaw
from workloads.numeric import Array, namespace

#: Batch sizes at which a search becomes a `StepLaw`.
KNOTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
#: Table lookups per fp32 lane and clock of an accelerator: a shared-memory read serves a warp of 32 lanes every clock at best;
#: bank conflicts of random 8-bit keys halve it twice. kind: assumed.
LOOKUPS_PER_LANE_CLOCK = 0.25


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class SearchDevice:
    """What searches: memory (`capacity_bytes`, `bandwidth_bytes_per_s`, `latency_s` of a random read), `flops_per_s`,
    table `lookups_per_s`, queries walked at a time `threads`, `fixed_s` per batch. Numbers may be arrays."""

    capacity_bytes: Array = float("inf")
    bandwidth_bytes_per_s: Array = 1.0
    latency_s: Array = 0.0
    flops_per_s: Array = 1.0
    lookups_per_s: Array = 1.0
    threads: Array = 1.0
    fixed_s: Array = 0.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class IvfPq:
    """An inverted file of product-quantised codes: `code_bytes` per vector at `bits` per sub-quantiser, `id_bytes` beside them.
    `list_dispersion`: variance of list sizes over their mean squared. `refined`: vectors compared exactly, of
    `element_bytes` numbers. `residual`: one lookup table per list."""

    vectors: Array
    dimensions: Array
    lists: Array
    probes: Array
    code_bytes: Array
    bits: Array = 8.0
    id_bytes: Array = 8.0
    list_dispersion: Array = 0.0
    refined: Array = 0.0
    element_bytes: Array = 4.0
    residual: bool = True


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Hnsw:
    """A navigable small-world graph with `links` M per node (2 M on the ground layer) searched with `ef`; `fresh`: share of
    neighbours not seen before."""

    vectors: Array
    dimensions: Array
    links: Array = 16.0
    ef: Array = 64.0
    fresh: Array = 0.5
    element_bytes: Array = 4.0


class SearchTime(NamedTuple):
    """Seconds of a batch, [...]: the larger of `memory_s`, `compute_s` and `latency_s`, and `fixed_s`; NaN where the index does
    not fit."""

    total_s: Array
    memory_s: Array
    compute_s: Array
    latency_s: Array
    fixed_s: Array


def accelerator_device(chip: Accelerator, *, latency_s: Array = 6e-7, queries_per_core: Array = 4.0) -> SearchDevice:
    """A chip of the catalogue: its DRAM and fp32 vector rate; `latency_s` of a dependent DRAM read (kind: assumed)."""
    lanes_clock = chip.vector_flops_per_s["fp32"] / 2.0
    return SearchDevice(
        capacity_bytes=chip.memory[0].capacity_bytes, bandwidth_bytes_per_s=chip.memory[0].bandwidth_bytes_per_s,
        latency_s=latency_s, flops_per_s=chip.vector_flops_per_s["fp32"],
        lookups_per_s=LOOKUPS_PER_LANE_CLOCK * lanes_clock, threads=queries_per_core * chip.cores,
        fixed_s=4.0 * chip.launch_latency_s,
    )  # fmt: skip


def cpu_device(
    cores: Array, *, clock_hz: Array = 2.5e9, memory_bytes_per_s: Array = 3e11, capacity_bytes: Array = 1e12,
    latency_s: Array = 1e-7, flops_per_clock: Array = 32.0, lookups_per_clock: Array = 1.0,
) -> SearchDevice:  # fmt: skip
    """A server processor: `flops_per_clock` of a core (two 8-wide fused multiply-adds), one table lookup per clock (a load per
    code; Andre, Kermarrec and Le Scouarnec, Cache locality is not enough, VLDB 2015, reach 4 to 6 with tables in registers)."""
    return SearchDevice(
        capacity_bytes=capacity_bytes, bandwidth_bytes_per_s=memory_bytes_per_s, latency_s=latency_s,
        flops_per_s=flops_per_clock * clock_hz * cores, lookups_per_s=lookups_per_clock * clock_hz * cores,
        threads=cores, fixed_s=5e-6,
    )  # fmt: skip


def index_bytes(index: IvfPq | Hnsw) -> Array:
    """Memory of the index with what it refines from, [...]."""
    vectors = index.vectors * index.dimensions * index.element_bytes
    if isinstance(index, Hnsw):
        # every upper layer holds 1 / M of the nodes below it
        return vectors + 4.0 * index.vectors * index.links * (2.0 + 1.0 / (index.links - 1.0))
    xp = namespace(index)
    kept = xp.where(index.refined > 0.0, vectors, 0.0)
    return index.vectors * (index.code_bytes + index.id_bytes) + 4.0 * index.lists * index.dimensions + kept


def search_time(index: IvfPq | Hnsw, device: SearchDevice, queries: Array = 1.0) -> SearchTime:
    """Seconds of a batch of `queries` [...] on `device`, see the module. Arguments broadcast."""
    xp = namespace(index, device, queries)
    latency: Any = 0.0
    if isinstance(index, Hnsw):
        layers = xp.log(index.vectors) / xp.log(index.links)
        hops = layers + index.ef
        visits = index.links * layers + 2.0 * index.links * index.ef * index.fresh
        per_query = visits * index.dimensions * index.element_bytes + hops * 8.0 * index.links
        moved = queries * per_query
        compute = queries * 2.0 * index.dimensions * visits / device.flops_per_s
        latency = hops * device.latency_s * xp.maximum(queries / device.threads, 1.0)
    else:
        moved, compute = _scan(xp, index, device, queries)
    memory = moved / device.bandwidth_bytes_per_s
    total = device.fixed_s + xp.maximum(xp.maximum(memory, compute), latency)
    total = xp.where(index_bytes(index) <= device.capacity_bytes, total, xp.nan)
    return SearchTime(total, memory, compute, latency + 0.0 * total, device.fixed_s + 0.0 * total)


def search_law(index: IvfPq | Hnsw, device: SearchDevice, knots: tuple[float, ...] = KNOTS) -> StepLaw:
    """Seconds of a batch as a law of its queries, for a batch pool whose items have work 1. Arrays give arrays [...]."""
    seconds = tuple(search_time(index, device, n).total_s for n in knots)
    if namespace(index, device) is np and np.any(np.isnan(seconds)):
        raise ValueError(
            f"index: {float(np.max(np.asarray(index_bytes(index)))):.3g} bytes; expected at most the device's "
            f"{float(np.min(np.asarray(device.capacity_bytes))):.3g}"
        )
    return StepLaw((0.0, *knots), (seconds[0], *seconds))


def sharded(index: IvfPq | Hnsw, shards: Array) -> IvfPq | Hnsw:
    """The part of an index that one of `shards` equal devices holds; every query visits all of them. IVF-PQ lists are split
    within; a graph is cut into graphs of their own."""
    return replace(index, vectors=index.vectors / shards)


def _scan(xp: Any, index: IvfPq, device: SearchDevice, queries: Array) -> tuple[Array, Array]:
    share = index.probes / index.lists
    longer = 1.0 + index.list_dispersion
    # long lists are wanted more often, but a batch that wants all of them reads each once
    wanted = 1.0 - (1.0 - xp.minimum(share, 1.0)) ** queries
    wanted = xp.minimum(wanted * longer, 1.0)
    refined = index.refined * index.dimensions
    lists = index.vectors * (index.code_bytes + index.id_bytes) * wanted
    moved = 4.0 * index.lists * index.dimensions + lists + queries * refined * index.element_bytes
    tables = index.probes if index.residual else 1.0
    flops = 2.0 * index.dimensions * (index.lists + 2.0**index.bits * tables) + 2.0 * refined
    codes = xp.minimum(index.vectors * longer * share, index.vectors)
    lookups = codes * index.code_bytes * 8.0 / index.bits
    return moved, queries * (flops / device.flops_per_s + lookups / device.lookups_per_s)
