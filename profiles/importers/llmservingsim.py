"""LLMServingSim's kernel tables: per layer and token count of a named model, per GPU and tensor-parallel degree.

A layer becomes the operator that the model's description says it is (`qkv_proj` of a model is a GEMM of that model's
sizes), so that its time serves every other model with the same shape. Attention lines with prefill and decode
together are the composite `mixed_attention`; the sampler has no kind and is refused.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

import workloads
from profiles.importers.imported import Import, Records, gathered, read_table, refused_rows, require, seconds
from profiles.store_schema import Frame
from workloads.layers import FeedForward, GroupedQueryAttention, MixtureOfExperts


def read_llmservingsim(path: Path, stack: str = "vllm-0.19.0", unit: str = "us") -> Import:
    """All measurements of one table file; layers of unknown models and operators without a kind are refused row by
    row."""
    frame = read_table(path)
    column = f"time_{unit}" if f"time_{unit}" in frame else "time"
    require(frame, ("hw", "model", "tp", "table", "layer", column), str(path))
    common = pd.DataFrame(
        {
            "device": frame["hw"].astype(str),
            "stack": stack,
            "kernel": frame["layer"].astype(object).where(frame["layer"].notna(), frame["table"]).astype(str),
            "source": "llmservingsim",
            "latency_s": seconds(frame[column], unit),
        },
        index=frame.index,
    )
    records, refused = [], []
    for (name, tp), rows in frame.groupby(["model", "tp"], sort=True):
        try:
            model = _known_model(str(name))
        except ValueError as error:
            refused.append(refused_rows(rows.index, "model", rows["model"], str(error)))
            continue
        for (table, layer), part in rows.groupby(["table", "layer"], sort=True, dropna=False):
            found, rest = _read_part(model, float(tp), str(table), str(layer), part, common.loc[part.index])
            records += found
            refused += rest
    return gathered(len(frame), records, refused)


def _known_model(name: str) -> Any:
    """The built-in model of a hub name: owner and fine-tuning suffixes dropped."""
    short = name.rpartition("/")[2].lower()
    for candidate in (short, short.partition("-instruct")[0]):
        if candidate in workloads.model_names():
            return workloads.load(candidate)
    raise ValueError(f"unknown model {name!r}")


Parts = tuple[list[Records], list[Frame]]


def _read_part(model: Any, tp: float, table: str, layer: str, rows: Frame, common: Frame) -> Parts:
    attention = next((g.attention for g in model.layers if isinstance(g.attention, GroupedQueryAttention)), None)
    if attention is None:
        return [], [refused_rows(rows.index, "model", rows["model"], "no grouped-query attention in the model")]
    common = common.assign(dtype=model.dtype)
    if table == "attention":
        return _attention(attention, tp, rows, common)
    if table == "moe":
        experts = next((g.feed_forward for g in model.layers if isinstance(g.feed_forward, MixtureOfExperts)), None)
        if experts is None:
            return [], [refused_rows(rows.index, "table", rows["table"], "the model has no experts")]
        shape = {
            "tokens": rows["tokens"], "hidden": model.hidden_size, "width": experts.width, "top_k": experts.top_k,
            "experts": experts.experts, "expert_tp": tp, "experts_hit": rows["activated_experts"],
        }  # fmt: skip
        return [Records("moe_layer", common.assign(**shape))], []
    width = next((g.feed_forward.width for g in model.layers if isinstance(g.feed_forward, FeedForward)), 0)
    counts = rows["tokens"] if table == "dense" else rows["sequences"]
    shapes = _dense_shapes(model, attention, width, tp)
    if layer not in shapes or (width == 0 and layer in ("gate_up_proj", "act_fn", "down_proj")):
        return [], [refused_rows(rows.index, "layer", rows["layer"], "operator without a kind")]
    kind, shape_of = shapes[layer]
    return [Records(kind, common.assign(**shape_of(counts)))], []


def _dense_shapes(
    model: Any, a: GroupedQueryAttention, width: int, tp: float
) -> dict[str, tuple[str, Callable[[Frame], dict[str, Any]]]]:
    heads, kv_heads, hidden = a.heads / tp, max(a.kv_heads / tp, 1.0), model.hidden_size
    return {
        "qkv_proj": ("gemm", lambda t: {"m": t, "n": (heads + 2 * kv_heads) * a.head_dim, "k": hidden}),
        "o_proj": ("gemm", lambda t: {"m": t, "n": hidden, "k": heads * a.head_dim}),
        "gate_up_proj": ("gemm", lambda t: {"m": t, "n": 2 * width / tp, "k": hidden}),
        "down_proj": ("gemm", lambda t: {"m": t, "n": hidden, "k": width / tp}),
        "lm_head": ("gemm", lambda t: {"m": t, "n": model.vocab_size / tp, "k": hidden}),
        "embedding": ("gather", lambda t: {"rows": t, "cols": hidden}),
        "layernorm": ("normalisation", lambda t: {"rows": t, "cols": hidden, "residual": 1.0}),
        "final_layernorm": ("normalisation", lambda t: {"rows": t, "cols": hidden, "residual": 1.0}),
        "qk_norm": ("normalisation", lambda t: {"rows": t * (heads + kv_heads), "cols": a.head_dim}),
        "rotary_emb": (
            "rotary_embedding",
            lambda t: {"tokens": t, "heads": heads + kv_heads, "rotary_dim": a.head_dim},
        ),
        "act_fn": ("elementwise", lambda t: {"elements": t * width / tp, "inputs": 2.0, "name": "silu_mul"}),
    }


def _attention(a: GroupedQueryAttention, tp: float, rows: Frame, common: Frame) -> Parts:
    require(rows, ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode"), "attention table")
    chunk, prefix = rows["prefill_chunk"].fillna(0.0), rows["kv_prefill"].fillna(0.0)
    decoding, context = rows["n_decode"].fillna(0.0), rows["kv_decode"].fillna(0.0)
    common = common.assign(heads=a.heads / tp, kv_heads=max(a.kv_heads / tp, 1.0), head_dim=a.head_dim)
    prefill = (chunk > 0) & (decoding <= 0)
    decode = (chunk <= 0) & (decoding > 0)
    mixed = (chunk > 0) & (decoding > 0)
    context = context.clip(lower=1.0)
    alone = common.assign(sequences=1.0, query_tokens=chunk, kv_tokens=prefix + chunk)
    decoded = common.assign(sequences=decoding, query_tokens=1.0, kv_tokens=context)
    both = common.assign(
        query_tokens=chunk, prefix_tokens=prefix, decode_sequences=decoding, decode_context_tokens=context
    )
    records = [
        Records("attention", alone[prefill]),
        Records("attention", decoded[decode]),
        Records("mixed_attention", both[mixed]),
    ]
    idle = ~(prefill | decode | mixed)
    return records, [refused_rows(rows.index[idle], "prefill_chunk", chunk[idle], "no sequence in the call")]
