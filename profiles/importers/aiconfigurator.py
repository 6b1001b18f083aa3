"""aiconfigurator's measured tables as Parquet or CSV: GEMM, attention, MLA, MoE, convolution and memory-bound
kernels.

The columns are those of its collector (`m, n, k`; `batch, q_len, kv_len, heads, ...`), one table per file, latencies
in `latency_us` (or `latency`, with `unit`). Tables of other projects brought into these columns read the same way.
GEMM latencies in a quantised format include the kernels that quantise the activations; their rows say so in
`includes`.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from profiles.importers.imported import Import, Records, gathered, read_table, refused_rows, require, seconds
from profiles.store_schema import Frame

#: Number formats of a GEMM: operator options and what the measured time includes beside the product.
GEMM_FORMATS: dict[str, tuple[dict[str, str], str]] = {
    "bfloat16": ({"dtype": "bf16"}, ""),
    "fp16": ({"dtype": "fp16"}, ""),
    "fp32": ({"dtype": "fp32"}, ""),
    "fp8": ({"dtype": "fp8", "out_dtype": "bf16"}, "quantise"),
    "fp8_block": ({"dtype": "fp8_block", "out_dtype": "bf16"}, "quantise"),
    "nvfp4": ({"dtype": "nvfp4", "out_dtype": "bf16"}, "quantise"),
    "sq": ({"dtype": "int8", "out_dtype": "bf16"}, "quantise"),
    "int8_wo": ({"dtype": "bf16", "weight_dtype": "int8"}, "dequantise"),
    "int4_wo": ({"dtype": "bf16", "weight_dtype": "int4"}, "dequantise"),
}
#: Number formats of the weights of experts that are not formats of their own.
MOE_FORMATS: dict[str, dict[str, str]] = {
    "bfloat16": {"dtype": "bf16"},
    "fp8": {"dtype": "fp8"},
    "fp8_block": {"dtype": "fp8_block"},
    "nvfp4": {"dtype": "nvfp4"},
    "int4_wo": {"dtype": "bf16", "weight_dtype": "int4"},
    "w4a16_mxfp4": {"dtype": "bf16", "weight_dtype": "mxfp4"},
    "w4a8_mxfp4_mxfp8": {"dtype": "fp8", "weight_dtype": "mxfp4"},
}
ELEMENTWISE_INPUTS: dict[str, int] = {
    "add": 2, "mul": 2, "div": 2, "pow": 2, "addu": 1, "mulu": 1, "divu": 1, "powu": 1, "gelu": 1, "relu": 1,
    "tanh": 1, "mlp_act": 2, "computescale": 1,
}  # fmt: skip
ELEMENTWISE_NAMES = {"mlp_act": "silu_mul", "computescale": "absolute_maximum"}
LATENT, ROTARY, NARROW = 512.0, 64.0, 128.0


def read_aiconfigurator(path: Path, unit: str = "us") -> Import:
    """The rows of one table file. `unit` of the latency column when it is called `latency`.

    Raises `ValueError` for a file whose columns are none of the known tables; rows of unknown operators or formats
    are refused one by one.
    """
    frame = read_table(path)
    if "latency_us" in frame:
        frame["latency_s"] = seconds(frame["latency_us"], "us")
    elif "latency" in frame:
        frame["latency_s"] = seconds(frame["latency"], unit)
    else:
        raise ValueError(f"{path}: no column latency_us, nor latency (with its unit)")
    require(frame, ("gpu", "dtype", "op", "sw_version"), str(path))
    for needed, read in _TABLES:
        if set(needed) <= set(frame.columns):
            records, refused = read(frame)
            return gathered(len(frame), records, refused)
    raise ValueError(f"{path}: columns {', '.join(map(str, frame.columns))} are no known kernel table")


Parts = tuple[list[Records], list[Frame]]


def _common(rows: Frame) -> Frame:
    kernel = rows["kernel_source"] if "kernel_source" in rows else rows["op"]
    source = rows["source"] if "source" in rows else pd.Series("aiconfigurator", rows.index)
    columns = {"device": rows["gpu"], "stack": rows["sw_version"], "kernel": kernel, "source": source}
    return pd.DataFrame({k: v.astype(str) for k, v in columns.items()} | {"latency_s": rows["latency_s"]})


def _gemm(frame: Frame) -> Parts:
    records, refused = [], []
    batch = frame["batch"] if "batch" in frame else pd.Series(1.0, frame.index)
    for dtype, rows in frame.groupby("dtype", observed=True, sort=True):
        if dtype not in GEMM_FORMATS:
            refused.append(refused_rows(rows.index, "dtype", dtype, "unknown GEMM format"))
            continue
        options, includes = GEMM_FORMATS[str(dtype)]
        shape = {"m": rows["m"], "n": rows["n"], "k": rows["k"], "batch": batch[rows.index]}
        records.append(Records("gemm", _common(rows).assign(**shape, **options, includes=includes)))
    return records, refused


def _attention(frame: Frame) -> Parts:
    q = frame["q_len"].where(frame["op"] != "generation_attention", 1)
    table = _common(frame).assign(
        sequences=frame["batch"], query_tokens=q, kv_tokens=frame["kv_len"], heads=frame["heads"],
        kv_heads=frame["kv_heads"], head_dim=frame["head_dim"], window=frame["window_size"],
        dtype=frame["dtype"].astype(str), kv_dtype=frame["kv_dtype"].astype(str),
    )  # fmt: skip
    known = frame["op"].isin(["generation_attention", "context_attention"])
    refused = refused_rows(frame.index[~known], "op", frame["op"][~known], "unknown attention operator")
    return [Records("attention", table[known])], [refused]


def _mla(frame: Frame) -> Parts:
    """Decode in the absorbed form (one latent head that is key and value), prefill with full heads."""
    records, refused = [], []
    for op, rows in frame.groupby("op", observed=True, sort=True):
        table = _common(rows).assign(
            sequences=rows["batch"], kv_tokens=rows["kv_len"], heads=rows["heads"],
            dtype=rows["dtype"].astype(str), kv_dtype=rows["kv_dtype"].astype(str),
        )  # fmt: skip
        if op == "generation_mla":
            latent = {"kv_heads": 1.0, "head_dim": LATENT + ROTARY, "value_dim": LATENT, "shared_kv": "true"}
            records.append(Records("attention", table.assign(query_tokens=1.0, **latent)))
        elif op == "context_mla":
            full = {"kv_heads": rows["heads"], "head_dim": NARROW + ROTARY, "value_dim": NARROW}
            records.append(Records("attention", table.assign(query_tokens=rows["kv_len"], **full)))
        else:
            refused.append(refused_rows(rows.index, "op", op, "unknown attention operator"))
    return records, refused


def _moe(frame: Frame) -> Parts:
    records, refused = [], []
    power = {d: _power_law(str(d)) for d in frame["distribution"].unique()}
    known = frame["dtype"].isin(list(MOE_FORMATS)) & frame["distribution"].astype(object).map(power).notna()
    refused.append(refused_rows(frame.index[~known], "dtype", frame["dtype"][~known], "unknown format or distribution"))
    for dtype, rows in frame[known].groupby("dtype", observed=True, sort=True):
        shape = {
            "tokens": rows["num_tokens"], "hidden": rows["hidden_size"], "width": rows["inter_size"],
            "top_k": rows["topk"],
            "experts": rows["num_experts"], "expert_tp": rows["moe_tp_size"], "expert_ranks": rows["moe_ep_size"],
            "power_law": rows["distribution"].astype(object).map(power).astype(float),
        }  # fmt: skip
        records.append(Records("moe_layer", _common(rows).assign(**shape, **MOE_FORMATS[str(dtype)])))
    return records, refused


def _power_law(distribution: str) -> float:
    if distribution in ("balanced", "uniform"):
        return 0.0
    try:
        return float(distribution.removeprefix("power_law_"))
    except ValueError:
        return np.nan


def _memory_bound(frame: Frame) -> Parts:
    records, refused = [], []
    for op, rows in frame.groupby("op", observed=True, sort=True):
        table = _common(rows).assign(dtype=rows["dtype"].astype(str), kernel=str(op))
        matrix = {"rows": rows["rows"], "cols": rows["cols"]}
        if op in ELEMENTWISE_INPUTS:
            elements = rows["rows"].astype(float) * rows["cols"]
            name = ELEMENTWISE_NAMES.get(str(op), str(op))
            dtype = "bf16" if op == "computescale" else table["dtype"]
            shape = {"elements": elements, "inputs": ELEMENTWISE_INPUTS[str(op)], "name": name, "dtype": dtype}
            records.append(Records("elementwise", table.assign(**shape)))
        elif op == "softmax":
            records.append(Records("softmax", table.assign(**matrix)))
        elif op in ("ln", "input_layernorm", "post_attention_layernorm"):
            records.append(Records("normalisation", table.assign(**matrix, flavour="layer" if op == "ln" else "rms")))
        elif op == "emb":
            records.append(Records("gather", table.assign(**matrix)))
        elif op == "attn_rope":
            shape = {"tokens": rows["rows"], "heads": 1.0, "rotary_dim": rows["cols"]}
            records.append(Records("rotary_embedding", table.assign(**shape)))
        elif op == "scale_matrix":
            records.append(Records("quantise", table.assign(**matrix, dtype="bf16", out_dtype=table["dtype"])))
        else:
            refused.append(refused_rows(rows.index, "op", op, "unknown memory-bound operator"))
    return records, refused


def _conv2d(frame: Frame) -> Parts:
    shape = {
        "batch": frame["batch"], "channels": frame["cin"], "filters": frame["cout"],
        "height": frame["hw"], "width": frame["hw"],
        "kernel_h": frame["ksize"], "kernel_w": frame["ksize"], "stride": frame["stride"], "padding": frame["pad"],
    }  # fmt: skip
    return [Records("conv2d", _common(frame).assign(**shape, dtype=frame["dtype"].astype(str)))], []


def _whole_model(frame: Frame) -> Parts:
    return [], [refused_rows(frame.index, "op", frame["op"], "a whole model, not a kernel")]


#: Tables by the columns that only they have, the most specific first.
_TABLES = (
    (("model_name", "seqlen"), _whole_model),
    (("num_tokens", "topk", "inter_size", "distribution"), _moe),
    (("cin", "cout", "ksize"), _conv2d),
    (("q_len", "kv_len", "heads", "kv_heads", "head_dim", "window_size"), _attention),
    (("kv_len", "heads", "kv_dtype"), _mla),
    (("m", "n", "k"), _gemm),
    (("rows", "cols"), _memory_bound),
)
