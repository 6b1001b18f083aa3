"""Fitting the constants of memory-bound kernels to measured tables of rows x cols.

One set per (kernel, stack) pooled over the chips of one maker, and one per (kernel, stack, architecture) that starts from the
pooled one and is held near it by a prior. Kernels of one kind share a set (add, mul and div are "binary").

    python -m profiles.memory_bound_fit --data ../shared/data/kernels --out tiles/constants/memory_bound/memory_bound.toml

fits the shipped sets (minutes) and prints one line per set.
"""

import argparse
import datetime
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import hardware
from hardware.accelerator import Accelerator
from profiles.family_fit import file_hash, fit_values, write_sets
from profiles.fit import Parameter
from tiles.gemm_constants import constants_architecture
from tiles.kernel_families import ANY, FamilySet
from tiles.memory_bound import constants_with, memory_bound_time
from workloads.dtypes import canonical_dtype
from workloads.numeric import Array
from workloads.operators import Elementwise, Gather, Normalisation, Operator, Quantise, RotaryEmbedding, Softmax

#: Recorded operator name -> kernel family.
KERNEL_OF: dict[str, str] = {
    **dict.fromkeys(("add", "mul", "div"), "binary"),
    **dict.fromkeys(("addu", "mulu", "divu", "gelu", "relu", "tanh"), "unary"),
    **dict.fromkeys(("pow", "powu"), "pow"),
    **dict.fromkeys(("input_layernorm", "post_attention_layernorm"), "rms_norm"),
    "ln": "layer_norm",
    "softmax": "softmax",
    "attn_rope": "rotary_embedding",
    "emb": "gather",
    "mlp_act": "silu_mul",
    "scale_matrix": "quantise",
    "computescale": "amax",
}
#: Key heads per query head of the models whose rotary embedding was measured by query width alone (model cards).
KV_SHARE: dict[str, float] = {
    "CodeLlama-34b-Instruct-hf": 8 / 64,
    "Llama-2-70b-hf": 8 / 64,
    "Meta-Llama-3-70B": 8 / 64,
    "Meta-Llama-3-8B": 8 / 32,
}
BOUNDS: dict[str, tuple[float, float, float]] = {
    "launch_s": (3e-6, 3e-7, 8e-5),
    "traffic": (1.0, 0.6, 6.0),
    "elements_per_clock": (8.0, 0.1, 64.0),
    "l2_bytes_per_clock": (48.0, 8.0, 128.0),
    "latency_cycles": (1500.0, 100.0, 30000.0),
    "iteration_cycles": (200.0, 1.0, 5000.0),
    "residency": (0.5, 0.01, 1.5),
    "reread_residency": (1.0, 0.05, 4.0),
}
_EAGER_MAP = ("launch_s", "traffic", "elements_per_clock")
_EAGER_ROWS = ("launch_s", "traffic", "elements_per_clock", "latency_cycles", "reread_residency")
_REPLAYED = tuple(name for name in BOUNDS if name != "reread_residency")
#: Constants fitted per kernel; eager maps of tens of megabytes say nothing about caches.
FREE: dict[str, tuple[str, ...]] = {
    "pow": _EAGER_MAP,
    "unary": _EAGER_MAP,
    "layer_norm": _EAGER_ROWS,
    "softmax": _EAGER_ROWS,
}
#: Rows per chip, operator and stack behind the shipped sets.
MOST_SHIPPED = 600
HEADER = """Memory-bound kernels: fitted constants (profiles/memory_bound_fit.py).
Source: elementwise_norm_softmax (aiconfigurator, NeuSight, Vidur), all open rows; one set pooled over the chips of one maker
per kernel and stack, one per architecture held near it."""
#: Deviation of an architecture's constant from the pooled one, in its logarithm.
PRIOR_SIGMA = 0.5


class Points(NamedTuple):
    """Measured rows of one (chip, kernel, dtype): an operator of arrays [n], block rows if known, measured_s [n]."""

    chip: Accelerator
    operator: Operator
    rows: Array | None
    measured_s: np.ndarray


def operator_of(op: str, dtype: str, rows: Array, cols: Array, models: Sequence[str]) -> tuple[Operator, Array | None]:
    """The operator behind recorded name `op` over `rows` x `cols` [n]; its block rows where each row is a block."""
    kernel = KERNEL_OF[op]
    fmt = "bf16" if kernel in ("quantise", "amax") else canonical_dtype(dtype)
    if kernel in ("quantise", "amax"):
        return Quantise(rows=rows, cols=cols, dtype=fmt, out_dtype=canonical_dtype(dtype)), None
    if kernel in ("layer_norm", "rms_norm"):
        return Normalisation(rows=rows, cols=cols, dtype=fmt, flavour=kernel.split("_")[0]), None
    if kernel == "softmax":
        return Softmax(rows=rows, cols=cols, dtype=fmt), None
    if kernel == "gather":
        return Gather(rows=rows, cols=cols, dtype=fmt), None
    if kernel == "rotary_embedding":
        heads = 1.0 + np.array([KV_SHARE.get(model, 1.0) for model in models])
        return RotaryEmbedding(tokens=rows, heads=heads, rotary_dim=cols, dtype=fmt), None
    inputs = 2 if op in ("add", "mul", "div", "pow", "mlp_act") else 1
    name = kernel if kernel in ("pow", "silu_mul") else op
    block_rows = rows if kernel == "silu_mul" else None
    return Elementwise(elements=rows * cols, inputs=inputs, dtype=fmt, name=name), block_rows


def points_of(frame: Any, most: int = 1200) -> list[tuple[str, str, Points]]:
    """(kernel, stack, points) of a frame with op, gpu, dtype, sw_version, model, rows, cols, latency_us.

    At most `most` rows each. Rows that took no time (a difference of two timings that vanished) are left out.
    """
    frame = frame[(frame.latency_us > 0.0) & frame.op.isin(list(KERNEL_OF))]
    found = []
    for (gpu, op, dtype, stack), part in frame.groupby(["gpu", "op", "dtype", "sw_version"], observed=True):
        if len(part) > most:
            part = part.sample(most, random_state=0)
        rows, cols = part.rows.to_numpy(float), part.cols.to_numpy(float)
        operator, block_rows = operator_of(op, dtype, rows, cols, list(part.model))
        seconds = part.latency_us.to_numpy(float) * 1e-6
        found.append((KERNEL_OF[op], stack, Points(device(gpu), operator, block_rows, seconds)))
    return found


def device(gpu: str) -> Accelerator:
    """The chip one process sees of the recorded `gpu`: an MI250 is two devices of half the chip each."""
    chip = hardware.load(gpu)
    if chip.name != "mi250":
        return chip
    halves = tuple(
        replace(level, capacity_bytes=level.capacity_bytes / 2, bandwidth_bytes_per_s=level.bandwidth_bytes_per_s / 2)
        for level in chip.memory
    )
    matrix = {name: rate / 2 for name, rate in chip.matrix_flops_per_s.items()}
    vector = {name: rate / 2 for name, rate in chip.vector_flops_per_s.items()}
    return chip.replace(memory=halves, cores=chip.cores / 2, matrix_flops_per_s=matrix, vector_flops_per_s=vector)


def free_constants(kernel: str, *, eager: bool) -> tuple[str, ...]:
    """The constants of `kernel` that measurements of eager calls, or of replayed graphs, can speak about."""
    return FREE.get(kernel, _EAGER_MAP if eager else _REPLAYED)


def fit_memory_bound(frame: Any, *, data: str, date: str, most: int = 1200) -> list[FamilySet]:
    """Pooled and per-architecture sets of every (kernel, engine) in `frame` (see `points_of` for `most`)."""
    return fit_points(points_of(frame, most), data=data, date=date)


def fit_points(
    found: Iterable[tuple[str, str, Points]], *, data: str, date: str, free: Sequence[str] = ()
) -> list[FamilySet]:
    """Pooled and per-architecture sets of every (kernel, engine) in `found`: (kernel, stack, points). `free`: the
    constants to fit (default: those of the kernel)."""
    groups: dict[tuple[str, str], list[tuple[str, Points]]] = {}
    for kernel, stack, points in found:
        name = stack if not stack.startswith("torch") else "torch-eager"
        groups.setdefault((kernel, name), []).append((stack, points))
    sets = []
    for (kernel, stack), members in sorted(groups.items()):
        names = free or free_constants(kernel, eager=stack == "torch-eager")
        start = {name: BOUNDS[name][0] for name in names}
        # Another maker's compiler is another code base: the set for chips never measured is NVIDIA's where there is one.
        kin = [p for _, p in members if p.chip.vendor == "NVIDIA"] or [p for _, p in members]
        pooled = _fit(kernel, stack, ANY, kin, start, None, data, date)
        sets.append(pooled)
        by_architecture: dict[str, list[Points]] = {}
        for _, points in members:
            by_architecture.setdefault(constants_architecture(points.chip), []).append(points)
        for architecture, own in sorted(by_architecture.items()):
            sets.append(_fit(kernel, stack, architecture, own, dict(pooled.values), PRIOR_SIGMA, data, date))
    return sets


def _fit(
    kernel: str,
    stack: str,
    architecture: str,
    points: list[Points],
    start: dict[str, float],
    prior: float | None,
    data: str,
    date: str,
) -> FamilySet:
    parameters = [Parameter(name, value, BOUNDS[name][1], BOUNDS[name][2], prior) for name, value in start.items()]

    def predict(values: dict[str, float]) -> np.ndarray:
        times = [
            memory_bound_time(p.operator, p.chip, constants_with(kernel, p.chip, values), rows=p.rows).total_s
            for p in points
        ]
        return np.concatenate(times)

    measured = np.concatenate([p.measured_s for p in points])
    values, errors, sigma = fit_values(predict, measured, parameters, starts=2 if prior is None else 1)
    chips = tuple(sorted({p.chip.name for p in points}))
    return FamilySet(
        kernel=kernel, stack=stack, architecture=architecture, chips=chips, values=values, n=errors.n, mape=errors.mape,
        median_ape=errors.median_ape, log_sigma=sigma, date=date, data=data,
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Command line: fit `--data`/elementwise_norm_softmax.parquet, write `--out`, print one line per set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with elementwise_norm_softmax.parquet")
    parser.add_argument("--out", type=Path, required=True, help="TOML file to write")
    options = parser.parse_args(arguments)
    path = options.data / "elementwise_norm_softmax.parquet"
    rows = pd.read_parquet(path)
    rows = rows.astype(dict.fromkeys(("gpu", "dtype", "op", "model", "sw_version"), str))
    sets = fit_memory_bound(rows, data=file_hash(path), date=datetime.date.today().isoformat(), most=MOST_SHIPPED)
    write_sets(options.out, sets, HEADER)
    for entry in sets:
        print(f"{entry.kernel:18} {entry.stack:18} {entry.architecture:10} n {entry.n:6d}  mape {entry.mape:.2%}")


if __name__ == "__main__":
    main()
