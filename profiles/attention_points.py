"""Measured attention latencies as operators: one record per (gpu, stack, phase, number formats), arrays over the rows.

Tables: `attention_generation` (decode), `attention_context` (prefill) and `mla` (both phases of multi-head latent
attention). MLA decode runs in its absorbed form (one kv head of 512 + 64, whose first 512 are also the values); MLA
prefill runs with full heads of 128 + 64 for keys and 128 for values.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from workloads.dtypes import canonical_dtype
from workloads.operators import Attention

FILES = ("attention_generation", "attention_context", "mla")
#: A pandas DataFrame, whose stubs type every selection as a union of frame, series and scalar.
Frame = Any
LATENT, ROTARY, NARROW = 512, 64, 128
PHASE = {
    "generation_attention": "decode",
    "generation_mla": "decode",
    "context_attention": "prefill",
    "context_mla": "prefill",
}


class AttentionPoints(NamedTuple):
    """Rows that share gpu, stack, phase and formats. `op`: arrays [n]; `measured_s`: [n]; `rows`: table positions."""

    gpu: str
    software: str
    name: str
    phase: str
    op: Attention
    measured_s: np.ndarray
    rows: np.ndarray


def read_attention_table(path: Path) -> Frame:
    """One of the `FILES` as a frame with text columns as text and the missing columns of the MLA table filled in."""
    frame: Any = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    for name, default in (("q_len", 0), ("kv_heads", 0), ("head_dim", 0), ("window_size", 0)):
        if name not in frame:
            frame[name] = default
    texts = ["gpu", "dtype", "kv_dtype", "op", "sw_version"]
    numbers = ["batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim", "window_size", "latency_us"]
    missing = [name for name in texts + numbers if name not in frame]
    if missing:
        raise ValueError(f"{path.name}: columns {', '.join(missing)} are missing")
    return frame[texts + numbers].astype(dict.fromkeys(texts, str) | dict.fromkeys(numbers, float))


def attention_points(frame: Frame, rows: np.ndarray | None = None) -> list[AttentionPoints]:
    """The rows of `frame` (all, or those numbered `rows`) grouped into records; rows of unknown `op` or dtype left out.

    Left-out rows simply appear in no record, so that a caller who counts them sees how many were answered.
    """
    part = frame if rows is None else frame.iloc[rows]
    part = part.assign(_row=np.arange(len(frame)) if rows is None else rows)
    result = []
    for keys, group in part.groupby(["gpu", "sw_version", "op", "dtype", "kv_dtype"], sort=True):
        gpu, software, name, dtype, kv_dtype = (str(key) for key in keys)
        phase = PHASE.get(name)
        try:
            dtype, kv_dtype = canonical_dtype(dtype), canonical_dtype(kv_dtype)
        except ValueError:
            continue
        if phase is None:
            continue
        op = _operator(group, name, phase, dtype, kv_dtype)
        measured = group["latency_us"].to_numpy() * 1e-6
        result.append(AttentionPoints(gpu, software, name, phase, op, measured, group["_row"].to_numpy()))
    return result


def _operator(group: Frame, name: str, phase: str, dtype: str, kv_dtype: str) -> Attention:
    column = {key: group[key].to_numpy() for key in ("batch", "q_len", "kv_len", "heads", "kv_heads", "head_dim")}
    common: dict[str, Any] = {"sequences": column["batch"], "kv_tokens": column["kv_len"], "heads": column["heads"]}
    formats: dict[str, Any] = {"dtype": dtype, "kv_dtype": kv_dtype}
    if name == "generation_mla":
        latent: dict[str, Any] = {
            "kv_heads": 1.0,
            "head_dim": float(LATENT + ROTARY),
            "value_dim": float(LATENT),
            "shared_kv": True,
        }
        return Attention(query_tokens=1.0, **common, **latent, **formats)
    if name == "context_mla":
        full: dict[str, Any] = {
            "kv_heads": column["heads"],
            "head_dim": float(NARROW + ROTARY),
            "value_dim": float(NARROW),
        }
        return Attention(query_tokens=column["kv_len"], **common, **full, **formats)
    queries = 1.0 if phase == "decode" else column["q_len"]
    rest: dict[str, Any] = {
        "kv_heads": column["kv_heads"],
        "head_dim": column["head_dim"],
        "window": group["window_size"].to_numpy(),
    }
    return Attention(query_tokens=queries, **common, **rest, **formats)


def sampled_rows(frame: Frame, most: int, seed: int = 0) -> np.ndarray:
    """At most `most` row numbers, every slice (formats, head size, window) in proportion to the root of its size."""
    slices = frame.groupby(["op", "dtype", "kv_dtype", "head_dim", "window_size"], sort=True).indices
    if len(frame) <= most:
        return np.arange(len(frame))
    generator = np.random.default_rng(seed)
    roots = {key: np.sqrt(len(rows)) for key, rows in slices.items()}
    scale = most / sum(roots.values())
    chosen: list[np.ndarray] = []
    for key, rows in slices.items():
        count = min(len(rows), max(1, round(roots[key] * scale)))
        chosen.append(generator.choice(rows, count, replace=False))
    return np.sort(np.concatenate(chosen))


def shape_fold(frame: Frame, folds: int = 4) -> np.ndarray:
    """Fold number of each row, the same for every row of one (heads, kv_heads, head_dim) combination. [n] int."""
    keys = frame[["heads", "kv_heads", "head_dim"]].to_numpy(int)
    text = [f"{h}-{k}-{d}".encode() for h, k, d in keys]
    fold = {t: int.from_bytes(hashlib.sha256(t).digest()[:4], "big") % folds for t in set(text)}
    return np.array([fold[t] for t in text], dtype=int)


def data_hash(paths: Sequence[Path]) -> str:
    """First 16 hexadecimal digits of the SHA-256 over the files' bytes, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
