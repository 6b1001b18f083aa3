"""Collective algorithms in the alpha-beta model: one flat group of `ranks` equal members, one link each.

Notation: p = `ranks`, n = `payload_bytes` (nccl-tests convention: all_gather the gathered output, reduce_scatter the
input, all_to_all
one rank's send buffer, otherwise the buffer), alpha = `latency_s` of one step, B = `bandwidth_bytes_per_s` of one
member per direction.
Every algorithm is steps x alpha + traffic / B, where traffic is what the busiest member sends. Arguments broadcast; p
<= 1 takes no time.

Sources: Thakur, Rabenseifner, Gropp, "Optimization of collective communication operations in MPICH", IJHPCA 19(1),
2005; Sanders, Speck,
Traeff, "Two-tree algorithms for full bandwidth broadcast, reduction and scan", Parallel Computing 35(12), 2009
(tree); Klenk et al., "An
in-network architecture for accelerating shared-memory multiprocessor collectives", ISCA 2020 (in-switch reduction).
"""

from collections.abc import Callable
from typing import NamedTuple

from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace
from workloads.operators.communication import COLLECTIVES

ALGORITHMS = ("ring", "tree", "halving_doubling", "direct", "in_switch")


class Schedule(NamedTuple):
    """What an algorithm costs: serial `steps` (latencies) and bytes the busiest member sends per payload byte, [...]
    each.
    """

    steps: Array
    traffic: Array


def wire_fraction(op: str, ranks: Array) -> Array:
    """f_op(p): bytes any algorithm without in-switch reduction must move through one member's link, per payload byte,
    [...].

    all_reduce 2(p-1)/p; all_gather, reduce_scatter, all_to_all (p-1)/p; broadcast, send_recv 1; 0 for p <= 1.
    `ValueError` for another op.
    """
    check_op(op)
    xp = namespace(ranks)
    p = xp.maximum(1.0 * xp.asarray(ranks), 1.0)
    share = (p - 1.0) / p
    if op == "all_reduce":
        return 2.0 * share
    if op in ("broadcast", "send_recv"):
        return xp.where(p > 1.0, 1.0, 0.0)
    return share


def ring(op: str, ranks: Array, *, rounding: Rounding = exact) -> Schedule:
    """Neighbour to neighbour, p - 1 steps of n / p (twice for all_reduce). all_to_all: messages travel p / 2 hops on
    average.

    Broadcast is pipelined in many chunks, so each member forwards the whole payload once and the fill costs p - 1
    latencies.
    """
    p = _at_least_one(ranks)
    hops = p - 1.0
    if op == "all_reduce":
        return Schedule(2.0 * hops, wire_fraction(op, p))
    if op == "send_recv":
        return Schedule(_one_if_group(p), wire_fraction(op, p))
    if op == "all_to_all":
        # p - 1 blocks of n / p, block k over k hops: p (p - 1) / 2 blocks pass each link.
        return Schedule(hops, hops / 2.0)
    return Schedule(hops, wire_fraction(op, p))


def tree(op: str, ranks: Array, *, rounding: Rounding = exact) -> Schedule:
    """Pipelined double binary tree: 2 ceil(log2 p) latencies for all_reduce, full bandwidth; half of it for broadcast.

    all_gather, reduce_scatter and all_to_all gain nothing from trees and take the doubling schedule.
    """
    p = _at_least_one(ranks)
    depth = _log2_ceil(p, rounding)
    if op == "all_reduce":
        return Schedule(2.0 * depth, 2.0 * _one_if_group(p))
    if op in ("broadcast", "send_recv"):
        return Schedule(depth if op == "broadcast" else _one_if_group(p), wire_fraction(op, p))
    return halving_doubling(op, p, rounding=rounding)


def halving_doubling(op: str, ranks: Array, *, rounding: Rounding = exact) -> Schedule:
    """Recursive halving and doubling (Rabenseifner for all_reduce, Bruck for all_to_all): ceil(log2 p) steps, twice
    for all_reduce.

    p that is not a power of two costs one extra exchange each way (all_reduce) by the rounded-up step count.
    Broadcast is a scatter
    followed by an all_gather.
    """
    p = _at_least_one(ranks)
    depth = _log2_ceil(p, rounding)
    share = (p - 1.0) / p
    if op == "all_reduce":
        return Schedule(2.0 * depth, 2.0 * share)
    if op == "all_to_all":
        return Schedule(depth, depth / 2.0)
    if op == "broadcast":
        return Schedule(2.0 * depth, 2.0 * share)
    if op == "send_recv":
        return Schedule(_one_if_group(p), wire_fraction(op, p))
    return Schedule(depth, share)


def direct(op: str, ranks: Array, *, rounding: Rounding = exact) -> Schedule:
    """Every member talks to every other at once: one latency (two for all_reduce and scatter-gather broadcast), least
    traffic.
    """
    p = _at_least_one(ranks)
    group = _one_if_group(p)
    if op in ("all_reduce", "broadcast"):
        return Schedule(2.0 * group, 2.0 * (p - 1.0) / p)
    return Schedule(group, wire_fraction(op, p))


def in_switch(op: str, ranks: Array, *, rounding: Rounding = exact) -> Schedule:
    """The switch reduces and multicasts: each member sends its payload once and receives the result once (both
    directions at once).

    all_reduce: n up, n down, overlapped: traffic n instead of 2 n (p-1)/p, two latencies (up, down). all_gather and
    reduce_scatter keep
    (p-1)/p on the busier direction; all_to_all and send_recv gain nothing and are direct.
    """
    p = _at_least_one(ranks)
    group = _one_if_group(p)
    if op in ("all_reduce", "broadcast"):
        return Schedule(2.0 * group, group)
    return direct(op, p, rounding=rounding)


_SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "ring": ring,
    "tree": tree,
    "halving_doubling": halving_doubling,
    "direct": direct,
    "in_switch": in_switch,
}


def algorithm_time_s(
    op: str,
    algorithm: str,
    payload_bytes: Array,
    ranks: Array,
    bandwidth_bytes_per_s: Array,
    latency_s: Array,
    *,
    rounding: Rounding = exact,
) -> Array:
    """Seconds of `op` by `algorithm` on a flat group: steps x latency + payload x traffic / bandwidth, [...].

    Includes: one latency per serial step, the busiest member's link. Excludes: reduction arithmetic, launch, protocol
    overheads.
    `ValueError` for an unknown op or algorithm.
    """
    check_op(op)
    if algorithm not in _SCHEDULES:
        raise ValueError(f"unknown collective algorithm {algorithm!r} (known: {', '.join(ALGORITHMS)})")
    plan = _SCHEDULES[algorithm](op, ranks, rounding=rounding)
    return plan.steps * latency_s + payload_bytes * plan.traffic / bandwidth_bytes_per_s


def best_algorithm_time_s(
    op: str,
    payload_bytes: Array,
    ranks: Array,
    bandwidth_bytes_per_s: Array,
    latency_s: Array,
    *,
    algorithms: tuple[str, ...] = ("ring", "tree", "halving_doubling", "direct"),
    rounding: Rounding = exact,
) -> Array:
    """The fastest of `algorithms`, [...] seconds. Arguments as `algorithm_time_s`."""
    times = [
        algorithm_time_s(op, name, payload_bytes, ranks, bandwidth_bytes_per_s, latency_s, rounding=rounding)
        for name in algorithms
    ]
    return rounding.minimum(*times)


def check_op(op: str) -> None:
    """`ValueError` naming the known collectives unless `op` is one."""
    if op not in COLLECTIVES:
        raise ValueError(f"unknown collective {op!r} (known: {', '.join(COLLECTIVES)})")


def _at_least_one(ranks: Array) -> Array:
    xp = namespace(ranks)
    return xp.maximum(1.0 * xp.asarray(ranks), 1.0)


def _one_if_group(p: Array) -> Array:
    return namespace(p).where(p > 1.0, 1.0, 0.0)


def _log2_ceil(p: Array, rounding: Rounding) -> Array:
    # log2 of a power of two may come out an ulp high; ceil must not see that.
    return rounding.ceil(namespace(p).log2(p) - 1e-12)
