"""Cycles of a mapping: compute, or the level whose bandwidth it outruns most."""

from dataflow.architecture import Architecture
from dataflow.counts import Counts
from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace


def level_cycles(architecture: Architecture, counts: Counts, rounding: Rounding = exact) -> dict[str, Array]:
    """Cycles each storage level would need, [...] by level name: compute cycles / min(1, bandwidth / rate of words
    per cycle).

    A level reads, and writes fills and updates; each has its bandwidth per instance, `shared_words_per_cycle` bounds
    their sum. Includes no latency: transfers overlap compute (`Storage.buffers` says what that costs in capacity).
    The order of operations is Timeloop's, so that a ceiling falls on the same side.
    """
    found = {}
    for storage in architecture.levels:
        reads: Array = 0.0
        writes: Array = 0.0
        for tensor in counts.words[storage.name].values():
            reads = reads + tensor.reads / counts.compute_cycles
            writes = writes + (tensor.updates + tensor.fills) / counts.compute_cycles
        limits = (
            (storage.read_words_per_cycle, reads),
            (storage.write_words_per_cycle, writes),
            (storage.shared_words_per_cycle, reads + writes),
        )
        xp = namespace(reads, writes, limits)
        slowdown: Array = 1.0
        for bandwidth, rate in limits:
            if isinstance(bandwidth, float) and bandwidth == float("inf"):
                continue
            slowdown = xp.minimum(slowdown, bandwidth / xp.maximum(rate, 1e-300))
        found[storage.name] = rounding.ceil(counts.compute_cycles / slowdown)
    return found


def cycles(architecture: Architecture, counts: Counts, rounding: Rounding = exact) -> Array:
    """The largest of compute cycles and every level's cycles, [...]."""
    by_level = level_cycles(architecture, counts, rounding)
    xp = namespace(counts.compute_cycles, by_level)
    total = counts.compute_cycles
    for value in by_level.values():
        total = rounding.maximum(total, value) if rounding.mode == "smooth" else xp.maximum(total, value)
    return total
