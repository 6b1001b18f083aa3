"""Replaying Chakra traces: recorded graphs of one or many ranks, with their own durations or with ours.

Compute nodes occupy their rank's compute stream, those the host runs its host stream, loads and stores its memory stream,
collectives its network stream. The k-th collective of a process group is one event for all ranks of the group: nobody's ends
before everybody's has begun. A receive ends no sooner than its send.

Our times: collectives by `estimator` from `comm_type`, `comm_size` and the ranks; compute nodes with `num_ops` and `tensor_size`
(the attributes of synthetic traces) as the roofline; anything else keeps its recorded duration.
"""

from collections.abc import Callable, Sequence

from composition.execution_graph import ExecutionGraph, GraphNode, execution_graph
from hardware import Accelerator
from roofline import Estimator, operator_bound
from workloads.chakra_trace import COLLECTIVE_KINDS, ChakraNode, ChakraTrace
from workloads.operators import Collective, Transfer

_OPS = {
    "ALL_REDUCE": "all_reduce",
    "ALL_GATHER": "all_gather",
    "REDUCE_SCATTER": "reduce_scatter",
    "REDUCE_SCATTER_BLOCK": "reduce_scatter",
    "ALL_TO_ALL": "all_to_all",
    "BROADCAST": "broadcast",
}
_STREAMS = {"COMP_NODE": "compute", "MEM_LOAD_NODE": "memory", "MEM_STORE_NODE": "memory", "COMM_COLL_NODE": "network"}


def chakra_graph(ranks: Sequence[ChakraTrace]) -> ExecutionGraph:
    """The joint graph of the traces of `ranks`, durations as recorded. `ValueError` naming the node for cycles, for a collective
    that other ranks lack or record otherwise, for parents that are not in the trace, and for kinds that mean nothing."""
    if not ranks:
        raise ValueError("ranks: none; expected one trace per rank")
    nodes, arrivals, sends, receives = [], {}, {}, []
    for rank, trace in enumerate(ranks):
        names = {node.id: f"rank {rank}: {node.name} [{node.id}]" for node in trace.nodes}
        seen: dict[str, int] = {}
        for node in trace.nodes:
            name, after = names[node.id], tuple(_parent(i, node, names) for i in node.after)
            if node.kind == "INVALID_NODE":
                raise ValueError(f"node {name!r}: of kind INVALID_NODE; expected work")
            if node.kind == "COMM_COLL_NODE":
                group = str(node.attributes.get("pg_name", ""))
                order = seen[group] = seen.get(group, -1) + 1
                arrivals.setdefault((group, order), []).append((rank, name, after, node))
                continue
            if node.kind == "COMM_SEND_NODE":
                sends[rank, node.attributes.get("comm_dst"), node.attributes.get("comm_tag")] = name
            if node.kind == "COMM_RECV_NODE":
                receives.append((rank, name, node))
            nodes.append(GraphNode(name, after, _stream(rank, node), node.duration_s, _known(node, 2)))
    nodes = [_with_send(node, receives, sends) for node in nodes]
    for entries in arrivals.values():
        nodes += _joint(entries, len(ranks))
    return execution_graph(nodes)


def replay_seconds(
    chip: Accelerator, *, estimator: Estimator = operator_bound, scope: str = "scale_up"
) -> Callable[[GraphNode], float]:
    """Seconds of a node on `chip`, for `ExecutionGraph.timed`; NaN (its recorded duration) where the trace says too little."""

    def seconds(node: GraphNode) -> float:
        known = dict(node.attributes or {})
        size, ranks = float(known.get("comm_size", 0)), int(known.get("ranks", 1))
        if known.get("kind") == "COMM_COLL_NODE":
            op = _OPS.get(known["collective"])
            if op is None:
                return float("nan")
            collective = Collective(payload_bytes=size, ranks=ranks, op=op, scope=scope)
            return float(estimator(collective, chip).total_s)
        if known.get("kind") == "COMM_SEND_NODE" and size:
            return float(estimator(Transfer(payload_bytes=size, scope=scope), chip).total_s)
        flops, moved = float(known.get("num_ops", 0)), float(known.get("tensor_size", 0))
        if known.get("kind") == "COMP_NODE" and flops and moved:
            peak = next((v for k, v in chip.matrix_flops_per_s.items() if k in ("bf16", "fp16", "fp32")), float("nan"))
            return max(flops / float(peak), moved / float(chip.dram.bandwidth_bytes_per_s))
        return float("nan")

    return seconds


def _joint(entries: list[tuple[int, str, tuple[str, ...], ChakraNode]], ranks: int) -> list[GraphNode]:
    """One node for the event, that waits for every rank, and one per rank that ends with it."""
    first = entries[0][3]
    facts = _facts(entries[0][1], first)
    for _, name, _, node in entries[1:]:
        if _facts(name, node) != facts:
            raise ValueError(f"node {name!r}: {_facts(name, node)}, but {entries[0][1]!r} has {facts}")
    group = first.attributes.get("pg_name", "")
    if not group and len(entries) != ranks:
        raise ValueError(f"node {entries[0][1]!r}: in {len(entries)} of {ranks} ranks; a collective needs all of them")
    # A trace of one rank says how many take part, or the group is all there is.
    size = _count(entries[0][1], first, "comm_ranks", max(len(entries), ranks if not group else 1))
    event = entries[0][1] if len(entries) == 1 else f"all ranks: {entries[0][1]}"
    known = _known(first, size) | {"collective": facts[0]}
    after = tuple(name for _, _, needed, _ in entries for name in needed)
    longest = max(node.duration_s for *_, node in entries)
    stream = _stream(entries[0][0], first) if len(entries) == 1 else "network of all ranks"
    joint = GraphNode(event, after, stream, longest, known)
    return [joint, *(GraphNode(name, (event,), "", 0.0) for _, name, _, _ in entries if name != event)]


def _facts(name: str, node: ChakraNode) -> tuple[str, int]:
    code = node.attributes.get("comm_type")
    if not isinstance(code, int) or not 0 <= code < len(COLLECTIVE_KINDS):
        raise ValueError(f"node {name!r}: comm_type {code!r}; expected 0 to {len(COLLECTIVE_KINDS) - 1}")
    return COLLECTIVE_KINDS[code], _count(name, node, "comm_size", 0)


def _with_send(node: GraphNode, receives: list, sends: dict) -> GraphNode:
    for rank, name, record in receives:
        if name == node.name:
            key = (record.attributes.get("comm_src"), rank, record.attributes.get("comm_tag"))
            return node._replace(after=(*node.after, sends[key])) if key in sends else node
    return node


def _parent(wanted: int, node: ChakraNode, names: dict[int, str]) -> str:
    if wanted not in names:
        raise ValueError(f"node {names[node.id]!r}: depends on id {wanted}, which is not in the trace")
    return names[wanted]


def _count(name: str, node: ChakraNode, field: str, default: int) -> int:
    """A whole number that a node's attributes state."""
    value = node.attributes.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"node {name!r}: {field} {value!r}; expected a whole number of at least 0")
    return value


def _stream(rank: int, node: ChakraNode) -> str:
    kind = "host" if node.kind == "COMP_NODE" and node.attributes.get("is_cpu_op") else _STREAMS.get(node.kind, "")
    return f"rank {rank}: {kind}" if kind else ""


def _known(node: ChakraNode, ranks: int) -> dict:
    return {**node.attributes, "kind": node.kind, "ranks": ranks}
