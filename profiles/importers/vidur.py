"""Vidur's profiling CSVs: `mlp.csv` and `attention.csv`, many operators per line, in milliseconds.

Every `time_stats.<operator>.<statistic>` group of a line is one measurement; the median is taken, the standard
deviation over the median is the spread. The device is not in the file (Vidur keeps it in the folder's name), so it
is an argument.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from profiles.importers.imported import Import, Records, gathered, read_table, refused_rows, seconds
from profiles.store_schema import Frame

STATISTIC, SPREAD = "median", "std"
Shape = dict[str, Frame | float | str]


def read_vidur(path: Path, device: str, stack: str = "vidur-2024", dtype: str = "fp16", unit: str = "ms") -> Import:
    """All measurements of one file measured on `device`. Columns of unknown operators are refused, one line each per
    row."""
    frame = read_table(path)
    columns = [c for c in frame.columns if str(c).startswith("time_stats.") and str(c).endswith(f".{STATISTIC}")]
    if not columns:
        raise ValueError(f"{path}: no column time_stats.<operator>.{STATISTIC}; expected a Vidur profile")
    records, refused, count = [], [], 0
    for column in columns:
        name = str(column).split(".")[1]
        rows = frame[frame[column].notna()]
        count += len(rows)
        if name not in OPERATORS:
            refused.append(refused_rows(rows.index, str(column), rows[column], "operator without a kind"))
            continue
        kind, shape = OPERATORS[name]
        try:
            fields = shape(rows)
        except KeyError as error:
            raise ValueError(f"{path}: column {error.args[0]!r} missing, needed for {name}") from None
        time = seconds(rows[column], unit)
        deviation = f"time_stats.{name}.{SPREAD}"
        spread = seconds(rows[deviation], unit) / time.where(time > 0.0) if deviation in rows else np.nan
        table = pd.DataFrame(fields, index=rows.index).assign(
            device=device, stack=stack, kernel=name, source="vidur", dtype=dtype,
            latency_s=time, spread=spread,
        )  # fmt: skip
        keep = table.pop("applies").astype(bool) if "applies" in table else pd.Series(True, table.index)
        refused.append(refused_rows(table.index[~keep], str(column), rows[column][~keep], "not of this line's phase"))
        records.append(Records(kind, table[keep]))
    return gathered(count, records, refused)


def _tokens(rows: Frame) -> Frame:
    return rows["num_tokens"].astype(float)


def _degree(rows: Frame) -> Frame:
    return rows["num_tensor_parallel_workers"].astype(float)


def _head_dim(rows: Frame) -> Frame:
    return rows["n_embd"].astype(float) / rows["n_head" if "n_head" in rows else "n_q_head"]


def _qkv_heads(rows: Frame) -> Frame:
    return (rows["n_head"] + 2.0 * rows["n_kv_head"]) / _degree(rows)


def _up(rows: Frame) -> Frame:
    gated = rows["use_gated_mlp"].astype(bool) if "use_gated_mlp" in rows else True
    return rows["n_expanded_embd"] * np.where(gated, 2.0, 1.0) / _degree(rows)


def _product(n: Callable[[Frame], Frame], k: Callable[[Frame], Frame]) -> Callable[..., Shape]:
    return lambda rows: {"m": _tokens(rows), "n": n(rows), "k": k(rows)}


def _hidden(rows: Frame) -> Frame:
    return rows["n_embd"].astype(float)


def _hidden_rows(rows: Frame) -> Shape:
    return {"rows": _tokens(rows), "cols": _hidden(rows)}


def _rotary(rows: Frame) -> Shape:
    heads = (rows["n_head"] + rows["n_kv_head"]) / _degree(rows)
    return {"tokens": _tokens(rows), "heads": heads, "rotary_dim": _head_dim(rows)}


def _heads(rows: Frame) -> Shape:
    at = _degree(rows)
    return {
        "heads": rows["n_q_head"] / at,
        "kv_heads": np.maximum(rows["n_kv_head"] / at, 1.0),
        "head_dim": _head_dim(rows),
    }


def _prefill(rows: Frame) -> Shape:
    chunk = rows["prefill_chunk_size"].astype(float)
    lengths: Shape = {"query_tokens": chunk, "kv_tokens": rows["kv_cache_size"] + chunk}
    return _heads(rows) | {"sequences": rows["batch_size"].astype(float)} | lengths | {"applies": chunk > 0}


def _decode(rows: Frame) -> Shape:
    lengths: Shape = {"query_tokens": 1.0, "kv_tokens": rows["kv_cache_size"] + 1.0}
    applies = rows["prefill_chunk_size"].astype(float) <= 0
    return _heads(rows) | {"sequences": rows["batch_size"].astype(float)} | lengths | {"applies": applies}


#: Vidur's operator names: the store's kind and how the shape follows from a line.
OPERATORS: dict[str, tuple[str, Callable[[Frame], Shape]]] = {
    "emb": ("gather", _hidden_rows),
    "input_layernorm": ("normalisation", _hidden_rows),
    "post_attention_layernorm": ("normalisation", _hidden_rows),
    "attn_pre_proj": ("gemm", _product(lambda r: _qkv_heads(r) * _head_dim(r), _hidden)),
    "attn_post_proj": ("gemm", _product(_hidden, lambda r: r["n_embd"] / _degree(r))),
    "attn_rope": ("rotary_embedding", _rotary),
    "mlp_up_proj": ("gemm", _product(_up, _hidden)),
    "mlp_down_proj": ("gemm", _product(_hidden, lambda r: r["n_expanded_embd"] / _degree(r))),
    "mlp_act": (
        "elementwise",
        lambda r: {"elements": _tokens(r) * r["n_expanded_embd"] / _degree(r), "inputs": 2.0, "name": "silu_mul"},
    ),
    "add": ("elementwise", lambda r: {"elements": _tokens(r) * r["n_embd"], "inputs": 2.0, "name": "add"}),
    "attn_prefill": ("attention", _prefill),
    "attn_decode": ("attention", _decode),
}
