"""A pass as a chain of operators with their time on each device of a group, and the bytes that flow from one to the next.

Each device holds the weights and the cache of what it runs, so only activations move: into a product its rows of A, into attention
the queries and the new keys and values, into maps and normalisations their input. Writing new keys and values and attending to
them is one link of the chain, because the cache does not move. Left out: capacity of the devices, residual branches (the
residual is taken to be where the normalisation runs), two devices of different degrees of parallelism.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from composition.deployment import Deployment
from composition.iteration import iteration_time
from composition.operator_models import OperatorModel, operator_models
from composition.phase_graph import phase_graph
from hardware import Accelerator
from workloads import Batch, TransformerModel
from workloads.operators import Attention, Collective, Operator, Transfer

#: Class of an operator by the start of its name; the first pattern that matches counts.
CLASSES: dict[str, str] = {
    "attention": r"kv_write|index_k_write|attention_(prefill|decode)|absorb|delta_rule|index_scores|index_top_k",
    "network": r".*(all_reduce|reduce_scatter|all_gather|dispatch|combine|send_recv)",
    "norm": r"(second )?norm|final_norm",
    "head": r"lm_head|output_projection|head_|pooler|logits|embedding|position",
    "qkv": r"qkv|q_|k_|kv_|in_proj|q_proj|qk_norm|rotary|index_|causal_conv",
    "output": r"o_|output_gate|gated_norm",
    "activation": r".*activation|.*silu_mul|.*swiglu",
    "feed_forward": r".*",
}


class Device(NamedTuple):
    """One side of a group. `models`: estimator and error by operator class; a NaN time means that it cannot run there."""

    name: str
    chip: Accelerator
    models: Mapping[str, OperatorModel]


class Chain(NamedTuple):
    """`seconds` [links, devices] of one run, inf where a device cannot; `inflow_bytes` [links]: what moves if the link before ran
    elsewhere; `labels` and `classes` of the links; `devices` by name."""

    seconds: np.ndarray
    inflow_bytes: np.ndarray
    labels: tuple[str, ...]
    classes: tuple[str, ...]
    devices: tuple[str, ...]


def phase_chain(
    model: TransformerModel,
    batch: Batch,
    devices: Sequence[Device],
    deployment: Deployment | None = None,
    *,
    classes: Mapping[str, str] = CLASSES,
) -> Chain:
    """The chain of one pass of `model` over `batch`, embedding to head, one link per operator run (attention with its cache write).

    `classes`: class -> pattern of operator names. Scalar configurations, one micro-batch. `ValueError` for no devices, equal
    names, or an operator that no device can run.
    """
    if not devices:
        raise ValueError("devices: none; expected at least one")
    names = tuple(device.name for device in devices)
    if len(set(names)) < len(names):
        raise ValueError(f"devices: {', '.join(names)}; expected names that differ")
    deployment = deployment or Deployment()
    table = model.phase(batch, deployment.parallelism, kv_dtype=deployment.kv_dtype)
    inflow = {entry.name: _inflow(entry.operator) for entry in table.entries()}
    columns, labels = [], ()
    for device in devices:
        models = dict(device.models) or operator_models()
        found = iteration_time(model, device.chip, batch, deployment, models=models)
        labels, seconds = _links(phase_graph(found, layers=model.layer_count).nodes)
        columns.append(seconds)
    table_s = np.stack(columns, axis=-1)
    table_s = np.where(np.isnan(table_s), np.inf, table_s)
    for label, row in zip(labels, table_s):
        if not np.isfinite(row).any():
            raise ValueError(f"devices: {label.partition(': ')[2]} runs on none of {', '.join(names)}")
    plain = [label.partition(": ")[2].split(" + ") for label in labels]
    flows = [sum(inflow.get(_operator(name), 0.0) for name in parts) for parts in plain]
    kinds = tuple(next(kind for kind, pattern in classes.items() if re.match(pattern, parts[-1])) for parts in plain)
    return Chain(table_s, np.array(flows, dtype=float), labels, kinds, names)


def _links(nodes) -> tuple[tuple[str, ...], np.ndarray]:
    """Labels and seconds, the cache write joined with the attention behind it."""
    labels: list[str] = []
    seconds: list[float] = []
    for node in nodes:
        where, _, name = node.name.partition(": ")
        if labels and labels[-1].startswith(f"{where}: ") and labels[-1].endswith("kv_write"):
            labels[-1] = f"{labels[-1]} + {name}"
            seconds[-1] += node.seconds
        else:
            labels.append(node.name)
            seconds.append(node.seconds)
    return tuple(labels), np.array(seconds, dtype=float)


def _operator(name: str) -> str:
    return "norm" if name == "second norm" else name


def _inflow(op: Operator) -> float:
    """Bytes of activations that must be where `op` runs."""
    if isinstance(op, (Collective, Transfer)):
        flow = op.payload_bytes
    elif op.kind in ("gemm", "grouped_gemm"):
        flow = op.reads["a"]
    elif isinstance(op, Attention):
        flow = op.reads["q"]
    elif op.kind == "normalisation":
        flow = op.reads["x"] / (1.0 + op.residual)  # type: ignore[attr-defined]
    else:
        flow = op.reads.get("x", op.reads.get("qk", 0.0))
    return float(np.ravel(np.asarray(flow, dtype=float))[0])
