"""Real serving runs, request by request (`vllm_runs/requests.parquet` + `runs.json`), replayed over a phase law.

Each run's arrivals, lengths, limits, cache size and link are its own record; the law comes from the measured
per-layer tables of the same GPU (`llmservingsim_kernel_tables_us.parquet` beside or above the runs).
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import hardware
from hardware.accelerator import Accelerator, Link
from ridgeline.validate.tables import NUMBER, TEXT, read_table
from roofline.collectives import datasheet_time_s
from roofline.kernel_time import KernelTime, kernel_time
from serving.closed_form_law import closed_form_law
from serving.engines import engine_of
from serving.measured_law import Ranks, load_served, measured_law
from serving.phase_law import PhaseLaw
from serving.replay import Deployment, Served, replay
from serving.requests import Requests
from tiles import tile_estimator
from workloads import Parallelism
from workloads.operators import Collective, Operator

#: A pandas frame (its stubs do not know what selecting rows returns).
Frame = Any
TABLES = "llmservingsim_kernel_tables_us.parquet"
#: What a run's record and a request's must hold.
RUN = {"run": str, "model": str, "tensor_parallel_size": int, "max_num_seqs": int, "max_num_batched_tokens": int}
REQUESTS = {"run": TEXT} | {
    name: NUMBER for name in ("queued_s", "input_toks", "output_toks", "ttft_s", "tpot_s", "e2e_s")
}
METRICS = {"ttft": "ttft_s", "tpot": "tpot_s", "e2e": "e2e_s"}


def read_runs(folder: Path) -> tuple[list[dict[str, Any]], Frame, Frame | None] | None:
    """(runs, requests, layer tables or None) under `folder`; None where there are no runs."""
    runs, requests = folder / "vllm_runs" / "runs.json", folder / "vllm_runs" / "requests.parquet"
    tables = folder / TABLES
    if not (runs.is_file() and requests.is_file()):
        return None
    try:
        listed = json.loads(runs.read_text())
    except ValueError as error:
        raise ValueError(f"{runs}: not JSON ({error})") from None
    if not isinstance(listed, list) or not all(isinstance(run, dict) for run in listed):
        raise ValueError(f"{runs}: expected a list of runs, each a table")
    if not listed:
        raise ValueError(f"{runs}: no runs; expected at least one")
    for index, run in enumerate(listed):
        for name, kind in RUN.items():
            if not isinstance(run.get(name), kind) or (kind is int and run[name] < 1):
                expected = "a whole number of at least 1" if kind is int else "text"
                raise ValueError(f"{runs}: [{index}].{name}: {run.get(name)!r}; expected {expected}")
    found = read_table(requests, REQUESTS)
    for name in REQUESTS:
        if REQUESTS[name] == NUMBER and not np.all(np.isfinite(found[name]) & (found[name] >= 0.0)):
            raise ValueError(f"{requests.name}: column {name!r} holds numbers that are not finite or below 0")
    lost = sorted({str(run["run"]) for run in listed} - set(found["run"]))
    if lost:
        raise ValueError(f"{requests.name}: no requests of run {lost[0]!r}")
    return listed, found, pd.read_parquet(tables) if tables.is_file() else None


def run_law(run: dict[str, Any], tables: Frame | None) -> PhaseLaw:
    """The law of a run from the measured layers; its link as the run's record describes it. `ValueError` without tables."""
    if tables is None:
        raise ValueError(f"{TABLES}: not there; expected the measured layers of the run's GPU")
    name = str(run["run"]).partition("/")[0]
    dp = int(run.get("data_parallel_size") or 1)
    experts = dp if run.get("enable_expert_parallel") else 1
    ranks = Ranks(int(run["tensor_parallel_size"]), experts)
    return measured_law(tables, name, str(run["model"]), ranks, _link(run, name))


def _link(run: dict[str, Any], name: str) -> Link:
    """The link of the chip `name` as the run records it."""
    link = hardware.load(name).scale_up
    cluster = run.get("sim_cluster_config") or {}
    if cluster.get("link_bw"):
        link = replace(
            link, bandwidth_bytes_per_s=float(cluster["link_bw"]) * 1e9,
            latency_s=float(cluster.get("link_latency", 0.0)) * 1e-9,
        )  # fmt: skip
    return link


def closed_run_law(run: dict[str, Any]) -> PhaseLaw:
    """The law of one rank of a run from closed-form kernels; collectives take what the recorded link does, as above."""
    name = str(run["run"]).partition("/")[0]
    chip = replace(hardware.load(name), scale_up=_link(run, name))
    model = load_served(str(run["model"]))
    dp, tp = int(run.get("data_parallel_size") or 1), int(run["tensor_parallel_size"])
    experts = tp * dp if run.get("enable_expert_parallel") else 1
    kernels = tile_estimator("vllm")

    def time(op: Operator, on: Accelerator) -> KernelTime:
        if not isinstance(op, Collective):
            return kernels(op, on)
        alone = np.asarray(op.payload_bytes) * np.asarray(op.ranks) <= 0
        seconds = datasheet_time_s(op.op, op.payload_bytes, op.ranks, on.scale_up, latency_s=on.scale_up.latency_s)
        zero = 0.0 * np.asarray(seconds)
        return kernel_time(compute_s=zero, memory_s=zero, network_s=np.where(alone, 0.0, seconds))

    return closed_form_law(model, chip, Parallelism(tp=tp, dp=dp, ep=experts), time).of_rank(dp)


def replay_run(run: dict[str, Any], rows: Frame, law: PhaseLaw, *, calibrated: bool) -> Served:
    """The run replayed; prefix hits are the run's mean share of every prompt, whole blocks."""
    known = engine_of("vllm", str(run.get("vllm_version") or ""))
    engine = known.calibrated() if calibrated else known.engine
    dp = int(run.get("data_parallel_size") or 1)
    capacity = (run.get("sim_kv_tokens_per_instance") or [float("inf")])[0]
    engine = replace(
        engine, max_sequences=int(run["max_num_seqs"]), max_batched_tokens=int(run["max_num_batched_tokens"]),
        kv_tokens=float(capacity),
    )  # fmt: skip
    share = float(run.get("sim_prefix_hit_pct") or 0.0) / 100.0
    prompts = rows["input_toks"].to_numpy(float)
    cached = np.floor(prompts * share / engine.block_tokens) * engine.block_tokens
    requests = Requests.of(rows["queued_s"].to_numpy(float), prompts, rows["output_toks"].to_numpy(float), cached)
    return replay(requests, law, engine, Deployment(dp, "round_robin", dp > 1))
