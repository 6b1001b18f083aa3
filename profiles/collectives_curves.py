"""The measured collectives as curves in one form: what was sent, among how many, over which fabric, and how long it
took.

Every file becomes a frame with the columns `stack` (library and version), `family` (library and kernel: what
constants are keyed by),
`gpu`, `fabric` (platform within the family: chip, and node layout where it matters), `op`, `dtype`, `payload_bytes`,
`traffic_bytes` (what
the busiest member sends), `growth` (ranks; or what plays their part: SMs for DeepEP's normal kernels, experts for its
low-latency ones),
`measured_s` (NaN where unusable).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from roofline.collectives_algorithms import wire_fraction
from roofline.collectives_moe import expected_destinations, token_bytes

#: A pandas frame (its annotations lose the type at every selection of rows).
Frame = Any
TEXT, NUMBER, FLAG = "text", "number", "true/false"
#: The library's name for an operation -> ours.
OP = {"alltoall": "all_to_all", "sendrecv": "send_recv"}
#: Bytes per value on the wire; nvfp4 with one scale byte per 16 values.
WIRE_BYTES = {"bfloat16": 2.0, "half": 2.0, "fp8": 1.0, "nvfp4": 0.5625, "float": 4.0, "int8": 1.0}


class Source(NamedTuple):
    """A file: its columns with kinds, and how its rows become curves."""

    stem: str
    columns: dict[str, str]
    curves: Callable[[Frame], Frame]


def _frame(rows: Frame, **columns) -> Frame:
    frame = pd.DataFrame(columns, index=rows.index)
    micro = frame.pop("us").to_numpy(float)
    good = np.isfinite(micro) & (micro > 0.0)
    frame["measured_s"] = np.where(good, micro, np.nan) * 1e-6
    return frame


def _wire(op: Any, ranks: Any, payload: Any) -> np.ndarray:
    traffic = np.full(len(op), np.nan)
    for name in op.unique():
        rows = (op == name).to_numpy()
        known = name in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "send_recv")
        if known:
            traffic[rows] = payload.to_numpy(float)[rows] * wire_fraction(name, ranks.to_numpy(float)[rows])
    return traffic


def _library(rows: Frame, op: Any, payload: Any, **columns) -> Frame:
    op = op.replace(OP)
    return _frame(
        rows, op=op, payload_bytes=payload, growth=rows.p, traffic_bytes=_wire(op, rows.p, payload), **columns
    )


def _nccl(rows: Frame) -> Frame:
    family = rows.library.str.lower()
    return _library(
        rows,
        rows.op,
        rows.bytes,
        us=rows.us,
        family=family,
        gpu=rows.system,
        fabric=rows.system,
        dtype=rows.dtype,
        stack=family + " " + rows.stack_version,
    )


def _custom(rows: Frame) -> Frame:
    rows = rows[~rows.copy_of_other_version.astype(bool)]
    op = pd.Series("all_reduce", index=rows.index)
    return _library(
        rows,
        op,
        rows.bytes,
        us=rows.us,
        family=rows.kernel,
        gpu=rows.system,
        fabric=rows.system,
        dtype=rows.dtype,
        stack=rows.kernel + " " + rows.stack_version,
    )


def _vidur(rows: Frame) -> Frame:
    scope = np.where(rows.devices_per_node >= rows.p, "", "/scale_out")
    return _library(
        rows,
        rows.op,
        rows.bytes,
        us=rows.median_us,
        family="vidur",
        gpu=rows.system,
        fabric=rows.system + scope,
        dtype="",
        stack="vidur",
    )


def _apex(rows: Frame) -> Frame:
    rows = rows[~(rows.system.str.startswith("V100") & (rows.op == "reduce_scatter"))]
    nodes = np.where(rows.num_nodes > 1, "/" + rows.num_nodes.astype(int).astype(str) + "_nodes", "")
    # Sizes are given in whole KiB; 0 stands for less than one.
    payload = np.maximum(rows.kb, 0.5) * 1024.0
    return _library(
        rows,
        rows.op,
        payload,
        us=rows.us,
        family="apex",
        gpu=rows.system,
        fabric=rows.system + nodes,
        dtype=rows.dtype,
        stack="apex",
    )


def _trtllm(rows: Frame) -> Frame:
    width = rows.moe_dtype.map(WIRE_BYTES)
    width = width.where(rows.op_name != "alltoall_combine", 2.0)
    payload = token_bytes(rows.num_tokens, rows.hidden_size, width)
    reached = expected_destinations(rows.moe_ep_size.to_numpy(), rows.topk.to_numpy(), rows.num_experts.to_numpy())
    return _frame(
        rows,
        us=rows.us,
        family=rows.kernel_source,
        gpu=rows.system,
        fabric=rows.system,
        op=rows.op_name + np.where(rows.op_name == "alltoall_combine", "", "/" + rows.moe_dtype),
        dtype=rows.moe_dtype,
        payload_bytes=payload,
        traffic_bytes=payload * reached,
        growth=rows.moe_ep_size,
        stack=rows.kernel_source,
    )


def _deepep(rows: Frame, family: str, parts: dict[str, tuple[Any, float, Any]]) -> Frame:
    nodes = np.where(rows.node_num > 1, "/" + rows.node_num.astype(int).astype(str) + "_nodes", "")
    frames = []
    for op, (us, width, growth) in parts.items():
        payload = token_bytes(rows.num_token, rows.hidden_size, width)
        ranks = np.minimum(8.0 * rows.node_num, rows.num_experts).to_numpy(float)
        reached = expected_destinations(ranks, rows.num_topk.to_numpy(), rows.num_experts.to_numpy())
        copies = rows.num_topk if family == "deepep_ll" else reached
        frames.append(
            _frame(
                rows,
                us=us,
                family=family,
                gpu=rows.system,
                fabric=rows.system + nodes,
                op=op,
                dtype="",
                payload_bytes=payload,
                traffic_bytes=payload * copies,
                growth=growth,
                stack="deepep " + rows.stack_version,
            )
        )
    return pd.concat(frames, ignore_index=True)


def _deepep_ll(rows: Frame) -> Frame:
    parts = {
        "low_latency_dispatch": (rows.dispatch_avg_t_us, 1.0, rows.num_experts),
        "low_latency_combine": (rows.combine_avg_t_us, 2.0, rows.num_experts),
    }
    return _deepep(rows, "deepep_ll", parts)


def _deepep_normal(rows: Frame) -> Frame:
    parts = {
        "normal_dispatch": (rows.dispatch_transmit_us, 1.0, rows.dispatch_sms),
        "normal_combine": (rows.combine_transmit_us, 2.0, rows.combine_sms),
    }
    return _deepep(rows, "deepep_normal", parts)


def _kinds(text: str, number: str) -> dict[str, str]:
    return dict.fromkeys(text.split(), TEXT) | dict.fromkeys(number.split(), NUMBER)


SOURCES = (
    Source("collectives_nccl", _kinds("system library stack_version op dtype", "p bytes us"), _nccl),
    Source(
        "custom_allreduce",
        _kinds("system stack_version kernel dtype", "p bytes us") | {"copy_of_other_version": FLAG},
        _custom,
    ),
    Source("vidur_network", _kinds("system op", "p devices_per_node bytes median_us"), _vidur),
    Source("apex_nccl", _kinds("system op dtype", "num_nodes p kb us"), _apex),
    Source(
        "trtllm_moe_alltoall",
        _kinds("system kernel_source op_name moe_dtype", "num_tokens hidden_size topk num_experts moe_ep_size us"),
        _trtllm,
    ),
    Source(
        "deepep_ll",
        _kinds(
            "system stack_version",
            "node_num hidden_size num_token num_topk num_experts combine_avg_t_us dispatch_avg_t_us",
        ),
        _deepep_ll,
    ),
    Source(
        "deepep_normal",
        _kinds(
            "system stack_version",
            "node_num hidden_size num_token num_topk num_experts "
            "dispatch_sms dispatch_transmit_us combine_sms combine_transmit_us",
        ),
        _deepep_normal,
    ),
)


def collectives_folder(data: Path) -> Path:
    """`data` itself or its `collectives` subfolder, whichever holds the files."""
    return data / "collectives" if (data / "collectives").is_dir() else data
