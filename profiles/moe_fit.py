"""Fitting the constants of expert layers to measured fused-MoE tables.

One set per (kernel, stack) pooled over chips and one per (kernel, stack, architecture) held near it by a prior; a
kernel is "<format>/<variant>", variant being what the recorded kernel source names (cutlass, nongated, deepgemm, triton, ...).

    python -m profiles.moe_fit --data ../shared/data/kernels --out tiles/constants/moe/moe.toml

fits the shipped sets (minutes) and prints one line per set.
"""

import argparse
import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import hardware
from profiles.family_fit import file_hash, fit_values, write_sets
from profiles.fit import Parameter
from tiles.gemm_constants import constants_architecture
from tiles.kernel_families import ANY, FamilySet, engine
from tiles.moe import TILE_M, MoeLayer, moe_constants_with, moe_time
from tiles.moe_load import ExpertLoad, balanced_loads, expert_load, power_law_loads

#: Recorded format -> (activations and matrix unit, weights).
FORMATS: dict[str, tuple[str, str]] = {
    "bfloat16": ("bf16", ""),
    "float16": ("fp16", ""),
    "fp8": ("fp8", ""),
    "fp8_block": ("fp8_block", ""),
    "nvfp4": ("nvfp4", ""),
    "int4_wo": ("bf16", "int4"),
    "int8_wo": ("bf16", "int8"),
    "w4a16_mxfp4": ("bf16", "mxfp4"),
    "w4a8_mxfp4_mxfp8": ("fp8", "mxfp4"),
    "w4afp8": ("fp8", "int4"),
}
BOUNDS: dict[str, tuple[float, float, float]] = {
    "fixed_s": (2.5e-5, 5e-6, 1.2e-4),
    "expert_s": (1e-8, 1e-10, 3e-7),
    "tensor_efficiency": (0.8, 0.2, 1.0),
    "dram_efficiency": (0.88, 0.4, 0.98),
    "side_efficiency": (0.5, 0.1, 4.0),
    "port_share": (0.008, 0.002, 0.06),
    "l2_share": (0.006, 0.001, 0.04),
    "tile_latency_s": (1.5e-6, 1e-7, 2e-5),
    "residency": (0.2, 0.01, 1.5),
    "ragged": (0.5, 0.01, 1.0),
    "pair_s": (1e-10, 1e-12, 2e-8),
}
PRIOR_SIGMA = 0.7
#: Rows per chip and kernel behind the shipped sets.
MOST_SHIPPED = 1000
_LOAD = ["rows", "active", "worst", *(f"tiles_{int(t)}" for t in TILE_M)]
_ROUTING = ["num_tokens", "num_experts", "topk", "moe_ep_size", "distribution", "replicated"]


def kernel_of(dtype: str, kernel_source: str) -> str:
    """The kernel label of a recorded format and kernel source: "fp8/cutlass", "bf16/triton", ..."""
    name = kernel_source.lower()
    known = ("nongated", "min_latency", "cutlass", "deepgemm", "marlin", "triton", "flashinfer")
    variant = next((v for v in known if v in name), "triton" if "fused_moe" in name else "torch")
    fmt = {"bfloat16": "bf16", "float16": "fp16"}.get(dtype, dtype)
    return f"{fmt}/{variant}"


def with_loads(frame: Any) -> Any:
    """`frame` plus the columns of `ExpertLoad` per row, worked out once per distinct routing.

    SGLang's benchmark sends every copy of a token that passes this rank to its experts, so loads grow by
    min(expert_parallel, top_k), up to all tokens top_k rows, over the same active experts. Rows whose expert
    parallelism does not divide the experts, or whose distribution is unknown, get NaN.
    """
    frame = frame.assign(replicated=frame.sw_version.map({s: engine(s) == "sglang" for s in frame.sw_version.unique()}))
    routing = frame[_ROUTING].drop_duplicates().reset_index(drop=True)
    found = np.full((len(routing), len(_LOAD)), np.nan)
    for keys, part in routing.groupby(["num_experts", "topk", "moe_ep_size", "distribution", "replicated"]):
        experts, top_k, parallel, distribution, replicated = keys
        tokens = part.num_tokens.to_numpy(float)
        experts, top_k, parallel = int(experts), float(top_k), int(parallel)
        if experts % parallel:
            continue
        if distribution == "balanced":
            loads = balanced_loads(tokens, experts, top_k, expert_parallel=parallel)
        elif str(distribution).startswith("power_law_"):
            loads = power_law_loads(
                tokens, experts, top_k, float(str(distribution).split("_")[-1]), expert_parallel=parallel
            )
        else:
            continue
        if replicated:
            most = tokens * top_k / np.maximum(loads.sum(-1), 1.0)
            loads = loads * np.maximum(np.minimum(min(parallel, top_k), most), 1.0)[:, None]
        load = expert_load(loads, TILE_M)
        found[part.index] = np.column_stack([load.rows, load.active, load.worst, load.tiles])
    routing[_LOAD] = found
    return frame.merge(routing, on=_ROUTING, how="left").set_index(frame.index)


def layer_of(part: Any) -> tuple[MoeLayer, ExpertLoad]:
    """Layer and load of the rows of one kernel (see `with_loads`)."""
    tiles = part[_LOAD[3:]].to_numpy(float)
    rows, active, worst = (part[name].to_numpy(float) for name in _LOAD[:3])
    load = ExpertLoad(rows, active, worst, tiles)
    gated = 0.0 if part.kernel_source.str.contains("nongated").any() else 1.0
    layer = MoeLayer(
        tokens=part.num_tokens.to_numpy(float),
        hidden=part.hidden_size.to_numpy(float),
        inter=part.inter_size.to_numpy(float) / part.moe_tp_size.to_numpy(float),
        local_experts=part.num_experts.to_numpy(float) / part.moe_ep_size.to_numpy(float),
        top_k=part.topk.to_numpy(float),
        gated=gated,
    )
    return layer, load


def fit_moe(frame: Any, *, data: str, date: str, most: int = 1500) -> list[FamilySet]:
    """Pooled and per-architecture sets of every (kernel, stack) of `frame` (from `with_loads`), `most` rows per chip."""
    frame = frame[(frame.latency_us > 0.0) & frame.rows.notna() & frame.dtype_name.isin(list(FORMATS))]
    labels = frame.dtype_name + "|" + frame.kernel_source
    kernel = labels.map({label: kernel_of(*label.split("|")) for label in labels.unique()})
    sets = []
    for (name, stack), members in frame.groupby([kernel, frame.sw_version]):
        chips = {gpu: hardware.load(gpu) for gpu in members.gpu.unique()}
        samples = [part.sample(min(most, len(part)), random_state=0) for _, part in members.groupby("gpu")]
        start = {key: bound[0] for key, bound in BOUNDS.items()}
        pooled = _fit(str(name), str(stack), ANY, samples, chips, start, None, data, date)
        by_architecture: dict[str, list[pd.DataFrame]] = {}
        for part in samples:
            by_architecture.setdefault(constants_architecture(chips[part.gpu.iloc[0]]), []).append(part)
        sets.append(pooled)
        for architecture, own in sorted(by_architecture.items()):
            prior = PRIOR_SIGMA if len(by_architecture) > 1 else None
            values = dict(pooled.values)
            sets.append(_fit(str(name), str(stack), architecture, own, chips, values, prior, data, date))
    return sets


def _fit(
    kernel: str,
    stack: str,
    architecture: str,
    samples: list[pd.DataFrame],
    chips: dict[str, Any],
    start: dict[str, float],
    prior: float | None,
    data: str,
    date: str,
) -> FamilySet:
    parts = [(chips[part.gpu.iloc[0]], FORMATS[part.dtype_name.iloc[0]], *layer_of(part)) for part in samples]
    parameters = [Parameter(name, value, BOUNDS[name][1], BOUNDS[name][2], prior) for name, value in start.items()]

    def predict(values: dict[str, float]) -> np.ndarray:
        constants = moe_constants_with(kernel, values)
        times = [
            moe_time(layer, load, chip, constants, dtype=fmt, weight_dtype=weight).total_s
            for chip, (fmt, weight), layer, load in parts
        ]
        return np.concatenate(times)

    measured = np.concatenate([part.latency_us.to_numpy(float) * 1e-6 for part in samples])
    values, errors, sigma = fit_values(predict, measured, parameters, starts=1, max_evaluations=20)
    names = tuple(sorted({chip.name for chip, *_ in parts}))
    return FamilySet(
        kernel=kernel, stack=stack, architecture=architecture, chips=names, values=values, n=errors.n, mape=errors.mape,
        median_ape=errors.median_ape, log_sigma=sigma, date=date, data=data,
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Command line: fit `--data`/moe.parquet, write `--out`, print one line per set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with moe.parquet")
    parser.add_argument("--out", type=Path, required=True, help="TOML file to write")
    parser.add_argument("--most", type=int, default=MOST_SHIPPED, help="rows per chip and kernel (default %(default)s)")
    options = parser.parse_args(arguments)
    path = options.data / "moe.parquet"
    rows = pd.read_parquet(path)
    rows = rows.astype(dict.fromkeys(("gpu", "dtype", "distribution", "kernel_source", "sw_version"), str))
    frame = with_loads(rows).rename(columns={"dtype": "dtype_name"})
    sets = fit_moe(frame, data=file_hash(path), date=datetime.date.today().isoformat(), most=options.most)
    header = f"""Expert layers: fitted constants (profiles/moe_fit.py).
Source: moe (aiconfigurator), all open rows, at most {options.most} per chip and kernel; per kernel and stack one set pooled over
chips, one per architecture held near it."""
    write_sets(options.out, sets, header)
    for entry in sets:
        print(f"{entry.kernel:24} {entry.stack:20} {entry.architecture:10} n {entry.n:5d}  mape {entry.mape:.2%}")


if __name__ == "__main__":
    main()
