"""The execution graph of a predicted pass: every run of every operator, layer by layer, stage by stage.

Operator tables count repetitions and forget their order, which is restored here: embedding, then per layer norm, attention
block, norm, feed-forward block, each with its collectives behind it, then the head. Operators of "30 of 0-59" layers are spread
evenly.
"""

import re

import numpy as np

from composition.execution_graph import ExecutionGraph, GraphNode, execution_graph
from composition.phase_estimate import OperatorTimes, PhaseEstimate

#: Order within a layer, by the start of the operator's name; what matches nothing comes with the feed-forward block.
_ORDER = (
    r"norm$", r"(in|qkv|q|kv_a)_(a_)?(quantise|proj)", r"(q_a|kv_a|q|k|qk)_norm", r"q_b_", r"index_", r"rotary", r"kv_write",
    r"absorb_q", r"kv_b_", r"causal_conv|delta", r"attention_(prefill|decode)", r"absorb_v", r"gated_norm|output_gate", r"o_",
    r"attention_(all|reduce)", r"second norm$", r"router", r".*(up_quantise)", r"experts_dispatch", r".*(up|gate_up)(_proj)?$",
    r".*activation", r".*down", r"experts_combine", r"shared", r"ffn_",
)  # fmt: skip
_SECOND_NORM = "second norm"


def phase_graph(estimate: PhaseEstimate, *, layers: int, stages: int = 1) -> ExecutionGraph:
    """The graph of a scalar `estimate` of a model of `layers` layers on `stages` pipeline stages, one micro-batch, nothing
    overlapped: its longest path is the sum of the operators' seconds.

    Node attributes: operator kind, estimator, layer, relative deviation of the shape. `ValueError` for more than one configuration.
    """
    runs: list[tuple[tuple[int, int, int], str, OperatorTimes, int, float]] = []
    for group in estimate.operators:
        seconds, counts = _rows(group.one_s, group), _rows(group.count, group)
        for index, (name, label) in enumerate(zip(group.names, group.layers)):
            if counts[index] > 0:
                runs += _runs(name, label, group, index, float(seconds[index]), float(counts[index]), layers, stages)
    runs.sort(key=lambda run: run[0])
    nodes, before = [], ()
    for (layer, _, _), name, group, index, seconds in runs:
        stage = min(max(layer, 0) * stages // layers, stages - 1)
        where = f"layer {layer}" if 0 <= layer < layers else "embedding" if layer < 0 else "head"
        stream = f"stage {stage}: {'network' if group.part in ('communication', 'sends') else 'kernels'}"
        label = f"{where}: {name}"
        private = _rows(group.private, group)[index]
        known = {"kind": group.kind, "estimator": group.model, "layer": where, "relative deviation": float(private)}
        nodes.append(GraphNode(label, before, stream, seconds, known))
        before = (label,)
    return execution_graph(nodes)


def _runs(
    name: str, label: str, group: OperatorTimes, index: int, seconds: float, count: float, layers: int, stages: int
):
    """((layer, place, number), name, group, row, seconds) of every run."""
    if label == "stages":
        return [
            ((round((k + 1) * layers / stages) - 1, len(_ORDER) + 1, k), f"{name} {k}", group, index, seconds)
            for k in range(round(count))
        ]
    where = _where(label, layers)
    each = count / len(where)
    out = []
    for layer in where:
        if label == "all" and name == "norm" and each > 1.5:
            out += [((layer, _place(n), 0), n, group, index, seconds * each / 2) for n in ("norm", _SECOND_NORM)]
        else:
            out.append(((layer, _place(name), index), name, group, index, seconds * each))
    return out


def _where(label: str, layers: int) -> list[int]:
    """Layers that `label` speaks of; -1 is the embedding, `layers` the head."""
    if label in ("embedding", "head"):
        return [-1 if label == "embedding" else layers]
    found: list[int] = []
    for part in label.split(",") if label not in ("", "all") else [f"0-{layers - 1}"]:
        match = re.fullmatch(r"(?:(\d+) of )?(\d+)(?:-(\d+))?", part.strip())
        if match is None:
            return list(range(layers))
        some, first, last = match[1], int(match[2]), int(match[3] or match[2])
        span = range(first, last + 1)
        found += [span[int(i)] for i in np.linspace(0, len(span) - 1, int(some))] if some else list(span)
    return found


def _place(name: str) -> int:
    for place, pattern in enumerate(_ORDER):
        if re.match(pattern, name):
            return place
    return len(_ORDER)


def _rows(value, group: OperatorTimes) -> np.ndarray:
    """One number per operator; `ValueError` where there are several configurations."""
    array = np.asarray(value, dtype=float)
    size = len(group.names)
    if array.size == 1:
        return np.full(size, array.reshape(()))
    if array.size != size:
        raise ValueError(f"phase_graph: {group.kind} of {array.size // size} configurations; expected one")
    return array.reshape(size)
