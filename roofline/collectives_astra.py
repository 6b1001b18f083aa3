"""ASTRA-sim's analytical network in closed form: one dimension, integer cycles of 1 ns.

    T = ceil(C/A) [ S (h floor(L + m/B) + e) + e + 3 R floor(m/M) ] + (A-1) floor(m/B)            ring, congestion-aware

C chunks (preferred-dataset-splits), A of them active at once, e endpoint delay, M local memory bandwidth, L link
latency, B link bandwidth
(GB = 2^30 there), h = 2 through a switch else 1, m = bytes of one message, S serial steps of which R carry a
reduction. The
congestion-unaware backend charges floor(h L + m/B) per step and drops the last term. `direct` sends its p - 1
messages at once, which share
one link; `halving_doubling` has messages of c/2, c/4, ...; the double binary tree (`tree`) sends whole chunks along 2
log2 p steps.

Source: README of the measured collectives (ring); the other algorithms and the several dimensions of
`collectives_astra_replay` derived from
runs of ASTRA-sim's analytical backends at commit 518bd51, which all of them reproduce to the cycle except
`halving_doubling` under
congestion once its chunks queue for the link (64 MiB rows: 5 to 9 % fast).
"""

from typing import NamedTuple

from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace

#: Bytes per ns of one of ASTRA-sim's bandwidth units.
GIB_PER_S = 2.0**30 / 1e9
#: Links a message crosses, one after the other.
TOPOLOGY_HOPS = {"switch": 2.0, "ring": 1.0, "fully_connected": 1.0}
OPS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
ALGORITHMS = ("ring", "direct", "halving_doubling", "tree")


class AstraSystem(NamedTuple):
    """One dimension and the settings of the system layer, SI units, [...] each (ASTRA-sim's "GB/s" of a link is 2^30
    bytes).
    """

    ranks: Array
    bandwidth_bytes_per_s: Array
    latency_s: Array
    splits: Array = 4
    active: Array = 2
    endpoint_delay_s: Array = 10e-9
    memory_bandwidth_bytes_per_s: Array = 3350e9


def ring_phase_cycles(
    op: str, chunk_bytes: Array, system: AstraSystem, *, topology: str, congestion: bool, rounding: Rounding = exact
) -> Array:
    """Cycles of one chunk through one dimension, alone, [...]: the bracket of the module's formula."""
    p, floor = system.ranks, rounding.floor
    message = chunk_bytes if op == "all_gather" else chunk_bytes / p
    steps = {"all_reduce": 2 * (p - 1), "all_to_all": p * (p - 1) / 2}.get(op, p - 1)
    reductions = p - 1 if op in ("all_reduce", "reduce_scatter") else 0
    step = _step_cycles(message, system, topology, congestion, rounding)
    reduction = 3 * floor(message / _bytes_per_ns(system.memory_bandwidth_bytes_per_s))
    return steps * step + _ns(system.endpoint_delay_s) + reductions * reduction


def astra_cycles(
    op: str,
    payload_bytes: Array,
    system: AstraSystem,
    *,
    topology: str = "switch",
    algorithm: str = "ring",
    congestion: bool = True,
    rounding: Rounding = exact,
) -> Array:
    """Cycles (ns) of `op` on `payload_bytes` over one dimension, [...]; whole numbers in exact mode. Arguments
    broadcast.

    Algorithms other than ring: all_reduce only, and p a power of two for halving_doubling and tree (static: `ranks` a
    plain number).
    Sizes that C does not divide are cut into pieces of floor(size / C), so there may be one chunk more.
    `ValueError` for an unknown op, topology or algorithm, or a combination that does not exist.
    """
    _check(op, topology, algorithm)
    piece = rounding.floor(payload_bytes / system.splits)
    chunks = rounding.ceil(payload_bytes / piece)
    rounds = rounding.ceil(chunks / system.active)
    wire_bytes_per_ns = _bytes_per_ns(system.bandwidth_bytes_per_s)
    p, floor = system.ranks, rounding.floor
    if algorithm == "ring":
        one = ring_phase_cycles(op, piece, system, topology=topology, congestion=congestion, rounding=rounding)
        queued = floor((piece if op == "all_gather" else piece / p) / wire_bytes_per_ns)
    elif algorithm == "direct":
        return _direct_cycles(piece, chunks, rounds, system, topology, congestion, rounding)
    else:
        phase = _halving_doubling if algorithm == "halving_doubling" else _double_binary_tree
        one, queued = phase(piece, system, topology, congestion, rounding)
    return rounds * one + (system.active - 1) * queued * (1.0 if congestion else 0.0)


def _direct_cycles(piece, chunks, rounds, system, topology, congestion, rounding):
    """Two steps (scatter-reduce, gather), each p - 1 messages at once through one link; link-bound once they outlast
    the step.
    """
    p, floor = system.ranks, rounding.floor
    message = piece / p
    wire = floor(message / _bytes_per_ns(system.bandwidth_bytes_per_s))
    step = _step_cycles(message, system, topology, congestion, rounding)
    delay = _ns(system.endpoint_delay_s)
    reduction = 3 * floor(message / _bytes_per_ns(system.memory_bandwidth_bytes_per_s))
    if not congestion:
        return rounds * (2 * step + delay + reduction)
    latency_bound = rounds * (2 * (step + (p - 2) * wire) + delay + reduction) + (system.active - 1) * (p - 1) * wire
    link_bound = (2 * chunks * (p - 1) - 1) * wire + step + delay
    return rounding.maximum(latency_bound, link_bound)


def _halving_doubling(piece, system, topology, congestion, rounding):
    depth = _levels(system.ranks)
    messages = [piece / 2.0**k for k in range(1, depth + 1)]
    steps = sum(_step_cycles(m, system, topology, congestion, rounding) for m in messages)
    memory = _bytes_per_ns(system.memory_bandwidth_bytes_per_s)
    reductions = sum(3 * rounding.floor(m / memory) for m in messages[1:])
    queued = rounding.floor(messages[0] / _bytes_per_ns(system.bandwidth_bytes_per_s))
    return 2 * steps + _ns(system.endpoint_delay_s) + reductions, queued


def _double_binary_tree(piece, system, topology, congestion, rounding):
    depth = _levels(system.ranks)
    reduction = 3 * rounding.floor(piece / _bytes_per_ns(system.memory_bandwidth_bytes_per_s))
    step = _step_cycles(piece, system, topology, congestion, rounding)
    queued = 3 * (depth - 1) * rounding.floor(piece / _bytes_per_ns(system.bandwidth_bytes_per_s))
    return 2 * depth * step + _ns(system.endpoint_delay_s) + (2 * depth - 1) * reduction, queued


def _step_cycles(message, system, topology, congestion, rounding):
    """One message from one member to the next, with the endpoint delay."""
    hops, latency = TOPOLOGY_HOPS[topology], _ns(system.latency_s)
    wire = message / _bytes_per_ns(system.bandwidth_bytes_per_s)
    flight = hops * rounding.floor(latency + wire) if congestion else rounding.floor(hops * latency + wire)
    return flight + _ns(system.endpoint_delay_s)


def _ns(seconds: Array) -> Array:
    # A whole number of picoseconds, so that 936.25 ns is exactly that whatever its unit was on the way in.
    return namespace(seconds).round(1.0 * seconds * 1e12) / 1e3


def _bytes_per_ns(bytes_per_s: Array) -> Array:
    return bytes_per_s / 1e9


def _levels(ranks: Array) -> int:
    levels = int(ranks).bit_length() - 1
    if levels < 1 or 2**levels != int(ranks):
        raise ValueError(f"ranks: {ranks} is not a power of two above 1, which halving_doubling and tree need")
    return levels


def _check(op: str, topology: str, algorithm: str) -> None:
    for name, value, known in (
        ("op", op, OPS),
        ("topology", topology, tuple(TOPOLOGY_HOPS)),
        ("algorithm", algorithm, ALGORITHMS),
    ):
        if value not in known:
            raise ValueError(f"{name}: {value!r} is unknown (known: {', '.join(known)})")
    if algorithm != "ring" and op != "all_reduce":
        raise ValueError(f"algorithm: {algorithm!r} is given for all_reduce only, not for {op!r}")
    if algorithm != "ring" and topology != "switch":
        raise ValueError(f"algorithm: {algorithm!r} is given through a switch only, not for {topology!r}")
