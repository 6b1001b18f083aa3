"""Eager models and their own kernels: what the measured per-operator tables say a model's kernels take.

The shapes of the models are not in the tables, so a kernel's measured time is its prediction times the median ratio measured /
predicted of its `NEIGHBOURS` nearest shapes (log distance) on the same chip: an estimate, not a measurement.
"""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from composition import KernelCase
from profiles.memory_bound_fit import KERNEL_OF, device
from profiles.memory_bound_fit import operator_of as memory_bound_operator
from ridgeline.validate.kernels_e2e import MODELS, STEM, EagerKernel, eager_kernels, eager_stream_s
from ridgeline.validate.kernels_gemm import known_device
from tiles.gemm import gemm_time
from tiles.gemm_constants import gemm_constants
from tiles.memory_bound import memory_bound_constants, memory_bound_kernel, memory_bound_time, rows_and_cols
from workloads.operators import Gemm

NEIGHBOURS = 9
#: Shorter single-operator measurements are the host's dispatch, not the kernel.
LEAST_S = 100e-6


class EagerCase(NamedTuple):
    """One forward pass: its kernels, their predicted stream and the measured pass, seconds."""

    name: str
    gpu: str
    kernels: KernelCase
    names: tuple[str, ...]
    predicted_s: float
    measured_s: float


def eager_cases(folder: Path) -> list[EagerCase]:
    """The answered forward passes of `e2e_neusight` in `folder` (data/kernels) with their kernels."""
    frame: Any = pd.read_parquet(folder / f"{STEM}.parquet")
    cases = []
    for row in frame.itertuples():
        contradictory = row.gpu == "NVIDIA A100-PCIE-40GB" and row.model_name in ("bert_large", "gpt2_large")
        plain = row.mode == "inf" and row.option == "none" and row.model_name in MODELS
        if not plain or contradictory or known_device(str(row.gpu)) is None:
            continue
        kernels = eager_kernels(MODELS[row.model_name], row.batch, row.seqlen, str(row.gpu))
        ratio = np.array([_ratio(folder, str(row.gpu), kernel) for kernel in kernels])
        busy, count = np.array([k.busy_s for k in kernels]), np.array([float(k.count) for k in kernels])
        names = tuple(_group(kernel) for kernel in kernels)
        stream = eager_stream_s(kernels, str(row.gpu))
        name = f"{row.model_name} b{row.batch} {row.gpu}"
        case = KernelCase(busy, busy * ratio, count)
        cases.append(EagerCase(name, str(row.gpu), case, names, stream, float(row.latency_us) * 1e-6))
    return cases


def _group(kernel: EagerKernel) -> str:
    op = kernel.operator
    if isinstance(op, Gemm):
        return "bmm" if op.batch > 1 else "linear"
    return memory_bound_kernel(op)


def _ratio(folder: Path, gpu: str, kernel: EagerKernel) -> float:
    points, log_ratio = _residuals(folder, gpu, _group(kernel))
    if not len(points):
        return float("nan")
    distance = np.abs(points - _shape(kernel.operator)).sum(axis=1)
    return float(np.exp(np.median(log_ratio[np.argsort(distance)[:NEIGHBOURS]])))


def _shape(op: Any) -> np.ndarray:
    if isinstance(op, Gemm):
        return np.log([float(op.m), float(op.n), float(op.k), float(op.batch)])
    return np.log([float(x) for x in rows_and_cols(op)])


@cache
def _residuals(folder: Path, gpu: str, group: str) -> tuple[np.ndarray, np.ndarray]:
    """Log shapes and ln(measured / predicted) of the measured kernels of `group` on `gpu`."""
    chip = device(gpu)
    if group in ("bmm", "linear"):
        rows: Any = pd.read_parquet(folder / "gemm.parquet", filters=[("gpu", "==", gpu), ("dtype", "==", "fp32")])
        rows = rows[(rows["op"] == "bmm") == (group == "bmm")]
        rows = rows[rows["latency_us"] > LEAST_S * 1e6]
        rows = rows.sample(min(len(rows), 1500), random_state=0)
        m, n, k, b = (rows[name].to_numpy(float) for name in ("m", "n", "k", "batch"))
        op = Gemm(m=m, n=n, k=k, batch=b, dtype="fp32")
        stack = f"{rows['sw_version'].iloc[0]}-{group}"
        predicted = gemm_time(op, chip, gemm_constants(chip, op, stack)).total_s
        return np.log(np.stack([m, n, k, b], axis=1)), np.log(rows["latency_us"].to_numpy(float) * 1e-6 / predicted)
    table: Any = pd.read_parquet(folder / "elementwise_norm_softmax.parquet", filters=[("gpu", "==", gpu)])
    table = table[[KERNEL_OF.get(str(op)) == group for op in table["op"]]]
    table = table[table["latency_us"] > LEAST_S * 1e6]
    parts, ratios = [], []
    for (name, stack), rows in table.groupby(["op", "sw_version"], observed=True):
        r, c = rows["rows"].to_numpy(float), rows["cols"].to_numpy(float)
        op, block_rows = memory_bound_operator(str(name), "fp32", r, c, list(rows["model"]))
        constants, _ = memory_bound_constants(group, chip, str(stack))
        predicted = np.asarray(memory_bound_time(op, chip, constants, rows=block_rows).total_s)
        grid = [np.broadcast_to(np.asarray(x, float), r.shape) for x in rows_and_cols(op)]
        parts.append(np.log(np.stack(grid, axis=1)))
        ratios.append(np.log(rows["latency_us"].to_numpy(float) * 1e-6 / predicted))
    if not parts:
        return np.empty((0, 2)), np.empty(0)
    return np.concatenate(parts), np.concatenate(ratios)
