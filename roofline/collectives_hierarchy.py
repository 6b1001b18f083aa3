"""Collectives over several dimensions (scale-up x scale-out): each dimension runs its own phase on what the ones
inside left over.

With sizes p_1 (innermost), p_2, ... and payload n:

- all_reduce: reduce_scatter along 1, 2, ..., then all_gather back; dimension i sees n / (p_1 ... p_{i-1}) each way;
- reduce_scatter: inside out, dimension i on n / (p_1 ... p_{i-1}); all_gather: the same phases in reverse;
- all_to_all: dimension by dimension, each re-sending the whole buffer; broadcast: outermost first, each the whole
buffer.

Phases follow one another (no chunk pipelining across dimensions): the serial sum is an upper end, the slowest phase
alone a lower one.
With a single dimension all_reduce is that dimension's own algorithm. Source: Rashidi et al., "Themis", ISCA 2022,
sections 2-3; Thakur et al.
2005 for the phases.
"""

from collections.abc import Sequence
from typing import NamedTuple

from hardware.cluster import Dimension
from roofline.collectives_algorithms import algorithm_time_s, best_algorithm_time_s, check_op
from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace

#: The algorithms each wiring can run without sharing a wire between two messages of a step.
_TOPOLOGY_ALGORITHMS = {
    "ring": ("ring",),
    "fully_connected": ("ring", "direct"),
    "switch": ("ring", "tree", "halving_doubling", "direct"),
}

#: Operations whose payload a dimension divides by its size before the next one sees it.
_SHRINKING = ("all_reduce", "reduce_scatter", "all_gather")


class HierarchicalTime(NamedTuple):
    """Seconds per dimension (innermost first), [...] each; `serial_s` their sum, `pipelined_s` the slowest (many
    chunks in flight).
    """

    phases_s: tuple[Array, ...]
    serial_s: Array
    pipelined_s: Array


def hierarchical_time(
    op: str, payload_bytes: Array, dimensions: Sequence[Dimension], *, rounding: Rounding = exact
) -> HierarchicalTime:
    """Time of `op` over all members of `dimensions`, innermost first. `dimension.link` gives bandwidth and step
    latency.

    Each dimension uses the fastest algorithm its wiring allows; a link with in-switch reduction also offers that.
    """
    check_op(op)
    if not dimensions:
        raise ValueError("dimensions: expected at least one")
    phases = []
    inside = 1.0
    for dimension in dimensions:
        part = payload_bytes / inside if op in _SHRINKING else payload_bytes
        phases.append(_phase_s(op, part, dimension, rounding))
        inside = inside * dimension.size
    xp = namespace(*phases)
    slowest = rounding.maximum(*phases) if len(phases) > 1 else phases[0]
    return HierarchicalTime(tuple(phases), sum(phases[1:], start=xp.asarray(phases[0])), slowest)


def _phase_s(op: str, payload_bytes: Array, dimension: Dimension, rounding: Rounding) -> Array:
    link = dimension.link
    names = _TOPOLOGY_ALGORITHMS[dimension.kind]
    if link.in_switch_reduction:
        names = (*names, "in_switch")
    arguments = (payload_bytes, dimension.size, link.bandwidth_bytes_per_s, link.latency_s)
    if len(names) == 1:
        return algorithm_time_s(op, names[0], *arguments, rounding=rounding)
    return best_algorithm_time_s(op, *arguments, algorithms=names, rounding=rounding)
