"""Scoring whole fp32 eager models on `e2e_neusight`: the sum of our kernel predictions over the operators of the model.

Nothing here is fitted to whole models. Operators are those that the eager implementation launches: unfused attention with
its mask and scale kernels, the tanh form of GELU as eight maps, one matrix product per projection. Kernels queue faster than
the device drains them, so the host's launch time that single-operator measurements contain is taken out (see `tiles.launch`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from composition import estimate, serial
from composition.calibrated import UNKNOWN_DEVIATION
from profiles.gemm_calibration import as_set, fit_rows, poolable
from profiles.memory_bound_fit import device
from ridgeline.prediction_error import operator_law
from ridgeline.validate.kernels_gemm import COLUMNS as GEMM_COLUMNS
from ridgeline.validate.kernels_gemm import known_device
from ridgeline.validate.tables import NUMBER, TEXT, find_table, measured_or_nan, read_table
from tiles.gemm import gemm_time
from tiles.gemm_constants import gemm_constants
from tiles.gemm_constants import shipped_sets as gemm_shipped_sets
from tiles.kernel_families import FamilySet, shipped_sets
from tiles.launch import launch_costs, repeated_stream_time_s
from tiles.memory_bound import memory_bound_constants, memory_bound_kernel, memory_bound_time
from workloads.operators import Elementwise, Gather, Gemm, Normalisation, Operator, Softmax

STEM = "e2e_neusight"
#: Points a pooled matrix-product set is refitted to inside a split.
SPLIT_POINTS = 900
#: Constant sets of matrix products and of memory-bound kernels.
Sets = tuple[Sequence[dict[str, Any]], Sequence[FamilySet]]
COLUMNS = {name: TEXT for name in ("gpu", "dtype", "model_name", "mode", "option", "sw_version")} | {
    name: NUMBER for name in ("seqlen", "batch", "latency_us")
}


class EagerModel(NamedTuple):
    """A transformer as an eager framework runs it. `activation`: "gelu" one kernel, "gelu_tanh" eight, "relu" one.

    `vocab`: columns of the language-model head, 0 without one. Attention scores pass two maps beside softmax, scale and
    mask; the mask is small and stays in cache.
    """

    hidden: int
    layers: int
    heads: int
    inter: int
    vocab: int
    activation: str


class EagerKernel(NamedTuple):
    """One operator of a model as predicted: seconds of device time of one run, runs, and how its constants were obtained."""

    operator: Operator
    busy_s: float
    count: float
    calibration: str


#: Published configurations, causal models with their language-model head.
MODELS: dict[str, EagerModel] = {
    "bert_large": EagerModel(1024, 24, 16, 4096, 0, "gelu"),
    "gpt2_large": EagerModel(1280, 36, 20, 5120, 50257, "gelu_tanh"),
    "gpt3_xl": EagerModel(3072, 24, 24, 12288, 50257, "gelu_tanh"),
    "gpt3_27": EagerModel(2560, 32, 32, 10240, 50257, "gelu_tanh"),
    "opt_13": EagerModel(2048, 24, 32, 8192, 50272, "relu"),
}


def eager_operators(model: EagerModel, batch: float, tokens: float) -> list[tuple[Operator, float]]:
    """(operator, count) of one forward pass over `batch` sequences of `tokens`, in fp32."""
    rows, h, f = batch * tokens, float(model.hidden), float(model.inter)
    head_dim, scores = h / model.heads, batch * model.heads * tokens * tokens
    layers = float(model.layers)

    def fc(m: float, n: float, k: float) -> Gemm:
        return Gemm(m=m, n=n, k=k, dtype="fp32")

    def bmm(m: float, n: float, k: float) -> Gemm:
        return Gemm(m=m, n=n, k=k, batch=batch * model.heads, dtype="fp32")

    def map_(elements: float, inputs: int, name: str = "map") -> Elementwise:
        return Elementwise(elements=elements, inputs=inputs, dtype="fp32", name=name)

    fused_qkv = model.activation == "gelu_tanh"
    table: list[tuple[Operator, float]] = [
        (Gather(rows=rows, cols=h, dtype="fp32"), 2.0),
        (Normalisation(rows=rows, cols=h, dtype="fp32", flavour="layer"), 2.0 * layers + 1.0),
        (fc(rows, 3.0 * h, h), layers) if fused_qkv else (fc(rows, h, h), 3.0 * layers),
        (map_(rows * h, 1), 4.0 * layers),  # heads to the front for q, k, v and back
        (bmm(tokens, tokens, head_dim), layers),
        (bmm(tokens, head_dim, tokens), layers),
        (Softmax(rows=scores / tokens, cols=tokens, dtype="fp32"), layers),
        (fc(rows, h, h), layers),
        (map_(rows * h, 2), 2.0 * layers),  # residuals
    ]
    table.append((map_(scores, 1), 2.0 * layers))
    table += [(fc(rows, f, h), layers), (fc(rows, h, f), layers)]
    table += [(map_(rows * f, inputs), layers) for inputs in _activation_maps(model.activation)]
    if model.vocab:
        table.append((fc(rows, float(model.vocab), h), 1.0))
    return table


def _activation_maps(name: str) -> tuple[int, ...]:
    return (1, 1, 2, 1, 1, 1, 1, 2) if name == "gelu_tanh" else (1,)


def e2e_points(folder: Path, *, split: str = "none") -> tuple[pd.DataFrame, list[str]]:
    """Points (measured, predicted in seconds) of the table in `folder` and messages; empty without a table.

    Inference in one process is predicted; training, multi-device and fused rows, models outside `MODELS` and the rows
    that contradict the same source's operators (BERT and GPT-2 on the 40 GB A100) are found but not answered.
    `split` "none" uses the shipped constants; "gpus" answers every chip from sets that were fitted without it, the
    pooled matrix-product sets that saw it refitted to the others' rows of the table `gemm`.
    """
    path = find_table(folder, STEM)
    if path is None:
        return pd.DataFrame(columns=["op", "gpu", "dtype", "stack", "measured", "predicted", "calibration"]), []
    frame: Any = read_table(path, COLUMNS)
    measured, useless = measured_or_nan(frame.latency_us)
    messages = [f"{STEM}: {useless} rows without a duration"] if useless else []
    predicted, marks = np.full(len(frame), np.nan), np.full(len(frame), "none", dtype=object)
    scale = np.full(len(frame), np.nan)
    sets_of = {gpu: _sets_without(folder, gpu) for gpu in frame.gpu.unique()} if split == "gpus" else {}
    row: Any
    for i, row in enumerate(frame.itertuples()):
        if row.mode != "inf" or row.option != "none" or row.model_name not in MODELS or _left_out(row):
            continue
        sets = sets_of.get(row.gpu)
        kernels = eager_kernels(MODELS[row.model_name], row.batch, row.seqlen, row.gpu, sets=sets)
        predicted[i] = eager_stream_s(kernels, row.gpu)
        marks[i] = max((k.calibration for k in kernels), key=("fitted", "few-shot", "transferred", "datasheet").index)
        scale[i] = eager_deviation(kernels, row.gpu, split)
    left = int(np.isnan(predicted).sum())
    messages.append(
        f"{STEM}: {left} of {len(frame)} rows not answered (training, several devices, fusion, inconsistent)"
    )
    points = {"op": "e2e_model", "gpu": frame.gpu, "dtype": frame["dtype"], "stack": frame.sw_version}
    points |= {"unit": frame.model_name, "scale": scale}
    return pd.DataFrame(points | {"predicted": predicted, "measured": measured * 1e-6, "calibration": marks}), messages


def eager_deviation(kernels: Sequence[EagerKernel], gpu: str, split: str = "none") -> float:
    """Relative deviation of the sum of `kernels`, composed from the kernels' error laws (shared and private)."""
    chip = device(gpu)
    stack = "torch2.4.1-eager" if chip.vendor == "AMD" else "torch2.1.0-cu121-eager"
    parts = []
    for index, kernel in enumerate(kernels):
        law, _ = operator_law(kernel.operator, chip, stack, "forward", kind=None if split == "none" else "datasheet")
        shared, private = (law.shared, float(law.private_at(kernel.busy_s))) if law else (UNKNOWN_DEVIATION,) * 2
        source = law.key.family if law else "unknown"
        parts.append(
            estimate(
                np.array([kernel.busy_s]), {source: shared}, private, count=kernel.count, label=f"operator {index}"
            )
        )
    return float(serial(*parts).relative_deviation)


def _left_out(row: Any) -> bool:
    contradictory = row.gpu == "NVIDIA A100-PCIE-40GB" and row.model_name in ("bert_large", "gpt2_large")
    return contradictory or known_device(row.gpu) is None


def _sets_without(folder: Path, gpu: str) -> Sets | None:
    chip = known_device(gpu)
    if chip is None:
        return None
    own = [entry for entry in gemm_shipped_sets() if chip.name in entry["chips"]]
    others = [entry for entry in gemm_shipped_sets() if chip.name not in entry["chips"]]
    stacks = {entry["stack"] for entry in own if entry["architecture"] == "any" and entry["format"] == "fp32"}
    path = find_table(folder, "gemm")
    if stacks and path is not None:
        rows: Any = read_table(path, GEMM_COLUMNS)
        rows["measured"] = measured_or_nan(rows["latency_us"])[0] * 1e-6
        products = np.where(rows["op"] == "bmm", "-bmm", "-linear")
        rows["stack"] = rows["sw_version"] + products
        rows = rows[(rows["dtype"] == "fp32") & (rows["gpu"] != gpu) & np.isfinite(rows["measured"])]
        rows = rows[rows["stack"].isin(stacks)]
        chips = {name: device(name) for name in rows["gpu"].unique()}
        for stack, part in rows.groupby("stack"):
            kept = part["gpu"].map({name: poolable(c, "fp32", str(stack)) for name, c in chips.items()})
            if kept.any():
                pooled = fit_rows(part[kept], chips, "any", "fp32", str(stack), SPLIT_POINTS)
                others.append(as_set(pooled, date="split"))
    maps = tuple(entry for entry in shipped_sets("memory_bound") if chip.name not in entry.chips)
    return tuple(others), maps


def eager_model_time(
    model: EagerModel, batch: float, tokens: float, gpu: str, *, sets: Sets | None = None
) -> tuple[float, str]:
    """Seconds of one forward pass on `gpu` and the least certain calibration among its kernels.

    `sets`: constant sets of matrix products and of memory-bound kernels to choose from (default: shipped).
    """
    kernels = eager_kernels(model, batch, tokens, gpu, sets=sets)
    worst = max((k.calibration for k in kernels), key=("fitted", "few-shot", "transferred", "datasheet").index)
    return eager_stream_s(kernels, gpu), worst


def eager_stream_s(kernels: Sequence[EagerKernel], gpu: str) -> float:
    """Seconds of `kernels` in a row: the device drains them while the host queues the next ones."""
    busy, counts = np.array([k.busy_s for k in kernels]), np.array([k.count for k in kernels])
    return float(repeated_stream_time_s(busy, counts, launch_costs(device(gpu))))


def eager_kernels(
    model: EagerModel, batch: float, tokens: float, gpu: str, *, sets: Sets | None = None
) -> list[EagerKernel]:
    """The kernels of one forward pass on `gpu`, predicted one by one."""
    chip = device(gpu)
    stack = "torch2.4.1-eager" if chip.vendor == "AMD" else "torch2.1.0-cu121-eager"
    gemm_sets, map_sets = sets or (gemm_shipped_sets(), shipped_sets("memory_bound"))
    kernels = []
    for operator, count in eager_operators(model, batch, tokens):
        if isinstance(operator, Gemm):
            kind_of_product = "bmm" if operator.batch > 1 else "linear"
            constants = gemm_constants(chip, operator, f"{stack}-{kind_of_product}", gemm_sets)
            time, kind = gemm_time(operator, chip, constants), constants.kind
        else:
            constants, chosen = memory_bound_constants(memory_bound_kernel(operator), chip, stack, map_sets)
            time, kind = memory_bound_time(operator, chip, constants), chosen.kind
        kernels.append(EagerKernel(operator, float(time.total_s - time.launch_s), count, kind))
    return kernels
