"""Which measured rows may enter the store: every refused row is reported with its number, column, value and the
reason."""

import re
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import pandas as pd

import hardware
from hardware.accelerator import Accelerator
from hardware.paths import nearest
from profiles.store_schema import DTYPE_OPTIONS, Frame, Kind
from roofline.bound import roofline_time
from workloads.dtypes import BYTES_PER_ELEMENT

#: Software whose measurements are understood: the letters a stack's name begins with, before version or dash.
STACKS = (
    "trtllm", "tensorrt", "vllm", "sglang", "torch", "vidur", "llmcompass", "jax", "numpy", "onnxruntime",
    "cublas", "cudnn", "triton", "rocm", "deepspeed",
)  # fmt: skip
#: The machine a measurement ran on when no chip of the catalogue names it (see `hardware.measure_host`).
HOST = "host"
#: Latencies outside this range are not of kernels: a wrong unit, or a timer that failed.
SHORTEST_S, LONGEST_S = 1e-8, 1e4
#: The median measurement of a table is between these multiples of the chip's roofline plus 1 us (fast side) or 20 us
#: (slow).
LEAST_RATIO, MOST_RATIO, CHECKED_ROWS = 0.02, 100.0, 2000

REFUSED_COLUMNS = ("row", "column", "value", "reason")


class Checked(NamedTuple):
    """`good`: which rows may enter, [rows] bool. `refused`: one line (row, column, value, reason) per refused row."""

    good: np.ndarray
    refused: Frame


def no_refusals() -> Frame:
    """An empty table of refused rows."""
    return pd.DataFrame({name: pd.Series(dtype=object) for name in REFUSED_COLUMNS})


def refusals(frame: Frame, mask: np.ndarray, column: str, reason: str) -> Frame:
    """The rows of `frame` where `mask`, reported as refused for `reason`."""
    rows = frame.index[mask]
    values = frame.loc[mask, column].map(str) if column in frame else ""
    lines = pd.DataFrame({"row": rows, "column": column, "value": values, "reason": reason})
    return lines.reset_index(drop=True).astype(object)


def check_rows(kind: Kind, frame: Frame, devices: Collection[str] = (), stacks: Collection[str] = ()) -> Checked:
    """Check canonical rows: latency, device, stack, number formats, shape. The first reason found refuses a row.

    `devices`, `stacks`: names that count as known beside the catalogue's and `STACKS`.
    """
    latency = frame["latency_s"].to_numpy(float)
    bad: list[tuple[str, np.ndarray, str]] = [
        ("latency_s", ~np.isfinite(latency), "not a number of seconds"),
        ("latency_s", latency <= 0.0, "not positive"),
        ("latency_s", (latency < SHORTEST_S) | (latency > LONGEST_S), f"outside {SHORTEST_S:g}..{LONGEST_S:g} s"),
    ]
    known = set(hardware.names()) | set(devices) | {HOST}
    bad += [("device", *entry) for entry in _unknown(frame["device"], known, "device")]
    families = (*STACKS, *stacks)
    names = {s: s if stack_family(s) in families else "" for s in frame["stack"].unique()}
    bad += [("stack", *entry) for entry in _unknown(frame["stack"], {s for s in names if names[s]}, "stack", families)]
    for option in DTYPE_OPTIONS:
        if option in kind.options:
            bad += [(option, *entry) for entry in _unknown(frame[option], set(BYTES_PER_ELEMENT), "dtype")]
    for field in kind.fields:
        values = frame[field].to_numpy(float)
        least, allowed = kind.least(field)
        low = ~(values >= least) if allowed else ~(values > least)
        bound = f"at least {least:g}" if allowed else f"more than {least:g}"
        bad.append((field, low | ~np.isfinite(values), f"expected {bound}"))
    if {"heads", "kv_heads"} <= set(kind.fields):
        bad.append(("kv_heads", (frame["kv_heads"] > frame["heads"]).to_numpy(), "more kv heads than heads"))
    good, lines = np.ones(len(frame), bool), []
    for column, mask, reason in bad:
        fresh = mask & good
        if fresh.any():
            lines.append(refusals(frame, fresh, column, reason))
            good &= ~mask
    refused = pd.concat(lines).sort_values("row", kind="stable", ignore_index=True) if lines else no_refusals()
    return Checked(good, refused)


def stack_family(stack: str) -> str:
    """The software's name without version: "trtllm-1.3.0rc20" -> "trtllm", "torch2.1.0-cu121-eager" -> "torch"."""
    found = re.match(r"[a-z]+", stack.lower())
    return found.group(0) if found else ""


def check_unit(kind: Kind, frame: Frame) -> None:
    """`ValueError` if the rows of a catalogue chip are, in the median, absurdly far from its roofline: a wrong unit.

    Only kinds with an operator and chips of the catalogue are checked, on at most `CHECKED_ROWS` rows each.
    """
    if kind.operator is None or kind.operator.unit == "network":
        return
    options = list(kind.options)
    for device, rows in frame.groupby("device", sort=True):
        if device not in hardware.names():
            continue
        sample = rows if len(rows) <= CHECKED_ROWS else rows.sample(CHECKED_ROWS, random_state=0)
        bounds = np.concatenate(
            [_bound(kind, g, hardware.load(str(device))) for _, g in sample.groupby(options, sort=False)]
        )
        order = np.concatenate([g["latency_s"].to_numpy() for _, g in sample.groupby(options, sort=False)])
        found = np.isfinite(bounds)
        if not found.any():
            continue
        fast = float(np.median(order[found] / (bounds[found] + 1e-6)))
        slow = float(np.median(order[found] / (bounds[found] + 20e-6)))
        if fast < LEAST_RATIO or slow > MOST_RATIO:
            factor = f"{1.0 / fast:.0f} times faster" if fast < LEAST_RATIO else f"{slow:.0f} times slower"
            raise ValueError(
                f"latency_s: {kind.name} on {device} is {factor} than its roofline "
                f"in the median of {found.sum()} rows; wrong unit?"
            )


def _bound(kind: Kind, rows: Frame, chip: Accelerator) -> np.ndarray:
    return np.asarray(roofline_time(kind.operator_of(rows), chip).total_s, float)


def _unknown(column: Frame, known: set[str], what: str, shown: Collection[str] = ()) -> list[tuple[np.ndarray, str]]:
    found = []
    for value in column.unique():
        if value not in known:
            hint = nearest(str(value), known) or (f" (known: {', '.join(shown)})" if shown else "")
            found.append(((column == value).to_numpy(), f"unknown {what}{hint}"))
    return found
