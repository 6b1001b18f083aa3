"""Execution graphs: operators on streams with dependencies, and the longest path through them (max-plus).

Nodes that share a stream (a compute queue, a network) run one at a time, in the order in which they are listed (after what they
depend on); a node starts when its dependencies and its predecessor on the stream are done:

    finish_i = duration_i + max(0, finish_j over dependencies and stream predecessor j)

The order is fixed, so the makespan is max-plus linear in the durations: monotone, and within [T (1 - a), T (1 + b)] when every
duration is within (1 - a, 1 + b) (no Graham anomalies). Slack of a node: how much longer it may take before the end moves.
`longest_path` is one compiled pass over nodes (Numba) vectorised over columns of durations; `series_parallel` is the closed form of
graphs that reduce to sums and maxima, differentiable and free of loops.

Source: Baccelli et al., "Synchronization and Linearity", 1992 (max-plus); Kelley and Walker, critical path method, 1959.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numba
import numpy as np

from workloads.numeric import Array, namespace


class GraphNode(NamedTuple):
    """One operator or collective. `after`: names of the nodes it needs; `stream`: the resource it occupies alone ("" for
    none); `seconds`: its duration, if the graph carries one. `attributes`: what a reader knew about it."""

    name: str
    after: tuple[str, ...] = ()
    stream: str = ""
    seconds: float = float("nan")
    attributes: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ExecutionGraph:
    """A checked graph in an order in which every node follows what it waits for.

    `nodes` in that order; `first`, `waits`: node i waits for nodes `waits[first[i]:first[i + 1]]`, stream predecessors
    included.
    """

    nodes: tuple[GraphNode, ...]
    first: np.ndarray
    waits: np.ndarray

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.nodes)

    @property
    def durations(self) -> np.ndarray:
        """Seconds the nodes carry themselves, [nodes]; `ValueError` naming the first that has none."""
        seconds = np.array([node.seconds for node in self.nodes], dtype=float)
        for node, value in zip(self.nodes, seconds):
            if not value >= 0.0:
                raise ValueError(f"node {node.name!r}: duration {value}; expected seconds of at least 0")
        return seconds

    def timed(self, seconds: Callable[[GraphNode], float]) -> np.ndarray:
        """Seconds of every node by `seconds` (NaN keeps the node's own), [nodes]: a replay with our times."""
        found = [seconds(node) for node in self.nodes]
        kept = [node.seconds if np.isnan(value) else value for node, value in zip(self.nodes, found)]
        return ExecutionGraph(
            nodes=tuple(node._replace(seconds=float(v)) for node, v in zip(self.nodes, kept)),
            first=self.first,
            waits=self.waits,
        ).durations


def execution_graph(nodes: Sequence[GraphNode]) -> ExecutionGraph:
    """Check `nodes` and put them in order: dependencies first, listed order otherwise (which also orders the streams).

    Raises `ValueError` naming the node for duplicate names, unknown dependencies and cycles.
    """
    index: dict[str, int] = {}
    for number, node in enumerate(nodes):
        if node.name in index:
            raise ValueError(f"node {node.name!r}: listed twice (positions {index[node.name]} and {number})")
        index[node.name] = number
    waits: list[list[int]] = []
    for node in nodes:
        for name in node.after:
            if name not in index:
                raise ValueError(f"node {node.name!r}: depends on {name!r}, which is not in the graph")
        waits.append([index[name] for name in node.after])
    order = _ordered(nodes, waits)
    last: dict[str, int] = {}
    for number in order:
        stream = nodes[number].stream
        if stream in last:
            waits[number].append(last[stream])
        if stream:
            last[stream] = number
    position = {number: place for place, number in enumerate(order)}
    sorted_waits = [sorted({position[j] for j in waits[number]}) for number in order]
    return ExecutionGraph(
        nodes=tuple(nodes[number] for number in order),
        first=np.cumsum([0, *(len(w) for w in sorted_waits)]).astype(np.int64),
        waits=np.array([j for w in sorted_waits for j in w], dtype=np.int64),
    )


class Schedule(NamedTuple):
    """When everything runs. `start_s`, `finish_s`, `slack_s`: [nodes, ...]; `total_s`: [...]."""

    total_s: np.ndarray
    start_s: np.ndarray
    finish_s: np.ndarray
    slack_s: np.ndarray

    def critical(self, graph: ExecutionGraph) -> list[str]:
        """Names along one longest path, first to last (scalar durations): waits that ended just when their node began."""
        if self.finish_s.ndim != 1:
            raise ValueError(f"critical: durations of shape {self.finish_s.shape}; expected one per node")
        if not len(self.finish_s):
            return []
        at, path = int(np.argmax(self.finish_s)), []
        while True:
            path.append(graph.nodes[at].name)
            waits = graph.waits[graph.first[at] : graph.first[at + 1]]
            if not len(waits):
                return path[::-1]
            at = int(waits[np.argmax(self.finish_s[waits])])

    def critical_share(self, graph: ExecutionGraph) -> dict[str, float]:
        """Seconds on the longest path by stream."""
        shares: dict[str, float] = {}
        wanted = set(self.critical(graph))
        for node, start, finish in zip(graph.nodes, self.start_s, self.finish_s):
            if node.name in wanted:
                shares[node.stream] = shares.get(node.stream, 0.0) + float(finish - start)
        return shares


def longest_path(graph: ExecutionGraph, durations: Array | None = None) -> Schedule:
    """The schedule of `graph` for `durations` [nodes, ...] seconds in the order of `graph.nodes` (default: the nodes' own).

    NumPy only. `ValueError` for a wrong number of durations.
    """
    seconds = np.asarray(graph.durations if durations is None else durations, dtype=float)
    if seconds.ndim < 1 or seconds.shape[0] != len(graph.nodes):
        raise ValueError(f"durations: shape {seconds.shape}; expected {len(graph.nodes)} rows, one per node")
    wrong = ~(seconds >= 0.0).reshape(len(graph.nodes), -1).all(axis=1)
    if wrong.any():
        name = graph.nodes[int(np.argmax(wrong))].name
        raise ValueError(f"node {name!r}: duration {seconds[wrong].min()}; expected seconds of at least 0")
    columns = np.ascontiguousarray(seconds.reshape(seconds.shape[0], -1))
    finish, latest = _passes(graph.first, graph.waits, columns)
    total = finish.max(axis=0, initial=0.0)
    shape = seconds.shape
    # Rounding may leave a critical node a slack of 1e-17.
    slack = np.maximum(latest - finish, 0.0)
    slack[slack <= 1e-12 * total] = 0.0
    return Schedule(
        total.reshape(shape[1:]), (finish - columns).reshape(shape), finish.reshape(shape), slack.reshape(shape)
    )


@numba.njit(cache=True)
def _passes(first: np.ndarray, waits: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finish times (forward) and latest finish times that do not move the end (backward), [nodes, columns] each."""
    count, columns = seconds.shape
    finish = np.empty_like(seconds)
    total = np.zeros(columns)
    for i in range(count):
        for c in range(columns):
            start = 0.0
            for e in range(first[i], first[i + 1]):
                start = max(start, finish[waits[e], c])
            finish[i, c] = start + seconds[i, c]
            total[c] = max(total[c], finish[i, c])
    latest = np.empty_like(seconds)
    for i in range(count):
        latest[i] = total
    for i in range(count - 1, -1, -1):
        for e in range(first[i], first[i + 1]):
            j = waits[e]
            for c in range(columns):
                latest[j, c] = min(latest[j, c], latest[i, c] - seconds[i, c])
    return finish, latest


def series_parallel(graph: ExecutionGraph) -> Callable[[Array], Array] | None:
    """The makespan as sums and maxima of durations [nodes, ...] -> [...], where the graph is series-parallel; else None.

    NumPy or JAX, differentiable. Found by the classical reductions: two arcs in series become a sum, parallel arcs a maximum.
    """
    source, sink = -1, len(graph.nodes)
    # Activity on arc: node i runs from (i, in) to (i, out); a wait is an arc of no duration.
    arcs: dict[int, tuple[Any, Any, Any]] = {}
    needed = _without_implied(graph)
    waited = {j for waits in needed for j in waits}
    for i, waits in enumerate(needed):
        arcs[len(arcs)] = ((i, 0), (i, 1), i)
        for j in waits:
            arcs[len(arcs)] = ((j, 1), (i, 0), None)
        if not waits:
            arcs[len(arcs)] = (source, (i, 0), None)
        if i not in waited:
            arcs[len(arcs)] = ((i, 1), sink, None)
    plan = _reduced(arcs, source, sink)
    if plan is None:
        return None
    found = plan

    def makespan(durations: Array) -> Array:
        xp = namespace(durations)
        values = xp.asarray(durations)
        return _evaluated(found[0], values, xp)

    return makespan


def _without_implied(graph: ExecutionGraph) -> list[list[int]]:
    """What every node waits for, less what follows from its other waits. Ancestors are kept as bits of whole numbers."""
    ancestors, needed = [], []
    for i in range(len(graph.nodes)):
        waits = graph.waits[graph.first[i] : graph.first[i + 1]].tolist()
        implied = 0
        for j in waits:
            implied |= ancestors[j]
        needed.append([j for j in waits if not implied >> j & 1])
        for j in waits:
            implied |= 1 << j
        ancestors.append(implied)
    return needed


def _reduced(arcs: dict[int, tuple[Any, Any, Any]], source: Any, sink: Any) -> list[Any] | None:
    """One expression if series and parallel reductions end in a single arc. Expressions: None, node, ("+" | "max", a, b)."""
    outgoing: dict[Any, dict[Any, Any]] = {}
    incoming: dict[Any, set[Any]] = {}

    def join(a: Any, b: Any, expression: Any) -> None:
        known = outgoing.setdefault(a, {})
        known[b] = _larger(known[b], expression) if b in known else expression
        incoming.setdefault(b, set()).add(a)

    for a, b, expression in arcs.values():
        join(a, b, expression)
    pending = [v for v in incoming if v != sink]
    while pending:
        v = pending.pop()
        if v not in incoming or len(incoming[v]) != 1 or len(outgoing.get(v, ())) != 1:
            continue
        (a,), ((b, second),) = incoming.pop(v), outgoing.pop(v).items()
        first = outgoing[a].pop(v)
        incoming[b].discard(v)
        join(a, b, _longer(first, second))
        pending += [x for x in (a, b) if x not in (source, sink)]
    if not incoming:
        return [None]
    if set(outgoing.get(source, {})) == {sink} and sum(len(v) for v in outgoing.values()) == 1:
        return [outgoing[source][sink]]
    return None


def _longer(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else ("+", a, b)


def _larger(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else ("max", a, b)


def _evaluated(expression: Any, durations: Array, xp: Any) -> Array:
    """Value of an expression, without recursion (chains are as long as the graph)."""
    stack, values = [expression], []
    while stack:
        item = stack.pop()
        if item is None:
            values.append(0.0 * durations[0] if len(durations) else 0.0)
        elif isinstance(item, tuple) and len(item) == 3:
            stack += [(item[0],), item[1], item[2]]
        elif isinstance(item, tuple):
            a, b = values.pop(), values.pop()
            values.append(a + b if item[0] == "+" else xp.maximum(a, b))
        else:
            values.append(durations[item])
    return values[0]


def _ordered(nodes: Sequence[GraphNode], waits: Sequence[Sequence[int]]) -> list[int]:
    """A topological order that keeps the listed one where it may; `ValueError` naming a cycle."""
    missing = [len(w) for w in waits]
    followers: list[list[int]] = [[] for _ in nodes]
    for number, needed in enumerate(waits):
        for j in needed:
            followers[j].append(number)
    ready = [i for i, count in enumerate(missing) if count == 0]
    order = []
    while ready:
        number = heapq.heappop(ready)
        order.append(number)
        for follower in followers[number]:
            missing[follower] -= 1
            if missing[follower] == 0:
                heapq.heappush(ready, follower)
    if len(order) == len(nodes):
        return order
    left = {i for i, count in enumerate(missing) if count}
    at, seen = min(left), []
    while at not in seen:
        seen.append(at)
        at = next(j for j in waits[at] if j in left)
    cycle = [nodes[i].name for i in seen[seen.index(at) :]][::-1]
    shown = " -> ".join(repr(name) for name in [*cycle[:6], *(["..."] if len(cycle) > 6 else []), cycle[0]])
    raise ValueError(f"node {cycle[0]!r}: part of a cycle ({shown})")
