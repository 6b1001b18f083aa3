"""Per-layer tables and serving runs of the same models and GPU: three levels of one system.

    kernels, predicted    the tile models on every operator of a decode iteration
    kernels, measured     the same operators from the measured per-layer tables, interpolated between entries
    iteration, measured   requests running / tokens per second of a real vLLM run, in seconds without prompts

What lies between the last two is what kernels do not see: host, scheduler, sampling, launch gaps, and, with several GPUs,
collectives.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

import hardware
import workloads
from composition import KernelCase
from tiles import tile_estimator
from workloads import Batch, Parallelism

STACK = "vllm"
TABLES = "llmservingsim_kernel_tables_us"


class Iterations(NamedTuple):
    """Decode iterations of one run, [iterations]. `running` sequences with mean `context` tokens; `measured_s` one iteration;
    `kernels` of each, in the order of `names`; `sampler_s` measured sampling, `communication_s` predicted collectives."""

    run: str
    running: np.ndarray
    context: np.ndarray
    measured_s: np.ndarray
    kernels: tuple[KernelCase, ...]
    names: tuple[str, ...]
    sampler_s: np.ndarray
    communication_s: np.ndarray


#: Operators of a decode step -> layers of the tables; the ones not listed were not measured.
LAYERS = {
    "qkv_proj": "qkv_proj",
    "o_proj": "o_proj",
    "gate_up_proj": "gate_up_proj",
    "down_proj": "down_proj",
    "activation": "act_fn",
    "embedding": "embedding",
    "norm": "layernorm",
    "qk_norm": "qk_norm",
    "final_norm": "final_layernorm",
    "rotary_embedding": "rotary_emb",
    "lm_head": "lm_head",
}


def decode_iterations(folder: Path, run: str) -> Iterations:
    """The seconds of vLLM `run` ("RTXPRO6000/Llama-3.1-8B") in which no prompt was computed. `folder`: data/serving.

    `ValueError` for an unknown run or one of several replicas (their iterations are in step with each other).
    """
    known = {entry["run"]: entry for entry in json.loads((folder / "vllm_runs/runs.json").read_text())}
    if run not in known:
        raise ValueError(f"run: unknown {run!r} (known: {', '.join(known)})")
    entry = known[run]
    if entry["data_parallel_size"] != 1:
        raise ValueError(f"run: {run!r} has {entry['data_parallel_size']} replicas; expected one")
    ticks: Any = pd.read_csv(folder / f"vllm_runs/{run.replace('/', '__')}__timeseries.csv")
    # A tick averages over the second before it; the one after a prompt still contains some of it.
    quiet = (ticks["prompt_throughput"] == 0) & (ticks["prompt_throughput"].shift(1, fill_value=1.0) == 0)
    ticks = ticks[quiet & (ticks["running"] > 0) & (ticks["gen_throughput"] > 0)]
    requests: Any = pd.read_parquet(folder / "vllm_runs/requests.parquet")
    running, context = _state(requests[requests["run"] == run], ticks["t"].to_numpy(float) - 0.5)
    keep = running >= 1
    running, context = running[keep], context[keep]
    measured = running / ticks["gen_throughput"].to_numpy(float)[keep]
    gpu, tp = run.split("/")[0], int(entry["tensor_parallel_size"])
    tables: Any = pd.read_parquet(folder / f"{TABLES}.parquet")
    own = tables[(tables["hw"] == gpu) & (tables["model"] == entry["model"]) & (tables["tp"] == tp)]
    names, predicted, count, communication = _predicted(entry["model"], gpu, tp, running, context)
    found = np.stack([_measured(own, name, running, context) for name in names])
    kernels = tuple(
        KernelCase(predicted[:, i], found[:, i], np.broadcast_to(count[:, 0], (len(names),)))
        for i in range(len(running))
    )
    sampler = _interpolated(own[own["layer"] == "sampler"], "sequences", running)
    return Iterations(run, running, context, measured, kernels, names, sampler, communication)


def _state(requests: Any, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sequences decoding at the seconds `at` and their mean context, tokens evenly spread between first and last."""
    first, last = (requests[name].to_numpy(float)[:, None] for name in ("first_token_s", "last_token_s"))
    prompt, out = (requests[name].to_numpy(float)[:, None] for name in ("input_toks", "output_toks"))
    alive = (first <= at) & (at < last)
    progress = np.clip((at - first) / np.maximum(last - first, 1e-9), 0.0, 1.0)
    running = alive.sum(axis=0).astype(float)
    return running, np.where(alive, prompt + progress * out, 0.0).sum(axis=0) / np.maximum(running, 1.0)


def _predicted(
    model: str, gpu: str, tp: int, running: np.ndarray, context: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, np.ndarray]:
    """Names, seconds of one run [kernels, iterations], counts [kernels, 1] and the sum of collectives [iterations]."""
    spec: Any = workloads.load(model.rpartition("/")[2].lower())
    chip, one = hardware.load(gpu), tile_estimator(STACK)
    table = spec.phase(Batch.decode_of(running, context), Parallelism(tp=tp))
    names, seconds, counts, communication = [], [], [], np.zeros(len(running))
    for group in table:
        times = np.asarray(one(group.operator, chip).total_s, float)
        shape = (len(group.names), len(running))
        times, runs = np.broadcast_to(times, shape), np.broadcast_to(np.asarray(group.count, float), shape)
        if group.kind == "collective":
            communication = communication + (times * runs).sum(axis=0)
            continue
        for i, name in enumerate(group.names):
            names.append(name)
            seconds.append(times[i])
            counts.append(runs[i, :1])
    return tuple(names), np.array(seconds), np.array(counts), communication


def _measured(own: Any, name: str, running: np.ndarray, context: np.ndarray) -> np.ndarray:
    """Measured seconds of one operator at each iteration; NaN where the tables do not have it."""
    if name.startswith("attention"):
        rows = own[(own["table"] == "attention") & (own["prefill_chunk"].fillna(0.0) == 0) & (own["n_decode"] > 0)]
        points = np.log2(rows[["n_decode", "kv_decode"]].to_numpy(float))
        wanted = np.stack([np.log2(running), np.log2(np.maximum(context, 16.0))], axis=1)
        log_s = np.log(rows["time_us"].to_numpy(float) * 1e-6)
        near = LinearNDInterpolator(points, log_s)(wanted)
        return np.exp(np.where(np.isfinite(near), near, NearestNDInterpolator(points, log_s)(wanted)))
    layer = LAYERS.get(name)
    rows = own[own["layer"] == layer]
    if layer is None or rows.empty:
        return np.full(len(running), np.nan)
    return _interpolated(rows, "sequences" if layer == "lm_head" else "tokens", running)


def _interpolated(rows: Any, column: str, at: np.ndarray) -> np.ndarray:
    ordered = rows.sort_values(column)
    return np.interp(at, ordered[column].to_numpy(float), ordered["time_us"].to_numpy(float) * 1e-6)
