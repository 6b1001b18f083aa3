"""Level "training": published training runs (step time) and their parameter and optimiser memory.

Folder: `training_measured.csv` and, optionally, `training_memory.csv`. One efficiency of matrix products is shared by all
runs. What a publication does not print is assumed: one sequence per microbatch, no interleaving (Llama 3: one layer per model
chunk), flash attention, fp32 gradients and their overlap only where the model is of the Llama 3 generation (GPTs reduce
theirs in fp16). Runs of models that are neither of the GPT, the Llama nor the PaLM shape are counted and not answered. Splits:
"source" refits the efficiency without each publication in turn.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import hardware
import workloads
from composition import training_time, zero3_time
from composition.training_constants import training_constants
from hardware import Accelerator
from ridgeline.validate.intervals import with_intervals
from ridgeline.validate.report import Validation
from ridgeline.validate.tables import NUMBER, TEXT, find_table, measured_or_nan, read_table
from roofline import KernelTime, operator_bound
from tiles import tile_estimator
from workloads import Attention, Operator, Parallelism, TransformerModel

SPLITS = ("none", "source")

_SIZES = ("heads", "hidden", "layers", "seq", "vocab", "tp", "pp", "cp", "gpus", "global_batch", "microbatch")
_COLUMNS = {name: NUMBER for name in (*_SIZES, "tflops_per_gpu", "mfu_pct", "hfu_pct", "iter_s", "derived_iter_s")}
_COLUMNS |= {name: TEXT for name in ("source", "hw", "model_B", "recompute", "seq_par", "verified")}
_MEMORY = {"source": TEXT, "hw": TEXT, "model": TEXT, "param_opt_GiB": NUMBER}
_TILES = tile_estimator("vllm")
#: Hardware as publications write it -> catalogue name.
_CHIPS = {"A100": "a100_sxm", "H100": "h100_sxm", "TPUV4": "tpu_v4"}


def validate(data: Path, *, split: str = "none") -> Validation:
    """Score the runs under `data` (the folder itself or one that holds `training/`)."""
    folder = data / "training" if (data / "training").is_dir() else data
    path = find_table(folder, "training_measured")
    if path is None:
        raise ValueError(f"{folder}: no training_measured.csv")
    runs = read_table(path, _COLUMNS)
    points = _time_points(runs, split)
    messages = [
        f"{len(points)} runs of {path.name}, {int(np.isnan(points['predicted'].to_numpy(float)).sum())} not answered"
    ]
    memory = find_table(folder, "training_memory")
    if memory is not None:
        points = pd.concat([points, _memory_points(read_table(memory, _MEMORY), runs)], ignore_index=True)
    return Validation(level="training", points=points, extra=("max_ape",), messages=messages)


def _time_points(runs: pd.DataFrame, split: str) -> pd.DataFrame:
    constants = training_constants()
    measured, _ = measured_or_nan(pd.Series([_measured_s(run) for run in runs.itertuples()]))
    if split == "none":
        predicted = np.array([_predicted_s(run, constants.matrix_efficiency) for run in runs.itertuples()])
        calibration = "fitted"
    else:
        predicted = np.full(len(runs), np.nan)
        for source in runs["source"].unique():
            out = (runs["source"] == source).to_numpy()
            efficiency = fit_efficiency(runs.loc[~out], measured[~out])
            predicted[out] = [_predicted_s(run, efficiency) for run in runs[out].itertuples()]
        calibration = "transferred"
    zero3 = runs["source"].str.contains("ZeRO-3").to_numpy()
    points = pd.DataFrame(
        {
            "op": ["training_step:" + source for source in runs["source"]],
            "gpu": [_chip_name(hw) or hw for hw in runs["hw"]],
            "dtype": "bf16",
            "stack": runs["recompute"].to_numpy(),
            "measured": measured,
            "predicted": predicted,
            "calibration": calibration,
            "family": np.where(zero3, "training sharded", "training"),
            "unit": runs["source"].to_numpy(),
            # Another publication is another code, model and machine room: one draw among publications.
            "basis": "other generation",
            "chip": runs["source"].to_numpy(),
            "architecture": "",
        }
    )
    return with_intervals(points, "training", split)


def fit_efficiency(runs: pd.DataFrame, measured: np.ndarray) -> float:
    """The matrix efficiency with the least mean absolute log error over `runs`, by search on a grid of 0.2 %."""
    grid = np.arange(0.40, 1.2001, 0.01)
    table = np.array([[_predicted_s(run, e) for e in (grid[0], grid[-1])] for run in runs.itertuples()])
    # A step is a + b / efficiency, so two evaluations give the whole curve.
    b = (table[:, 0] - table[:, 1]) / (1 / grid[0] - 1 / grid[-1])
    a = table[:, 1] - b / grid[-1]
    fine = np.arange(grid[0], grid[-1], 0.002)
    errors = np.abs(np.log((a[:, None] + b[:, None] / fine) / measured[:, None]))
    return float(fine[np.argmin(np.nanmean(errors, axis=0))])


def _predicted_s(run: Any, efficiency: float) -> float:
    model, chip = _model(run), _chip_name(run.hw)
    if model is None or chip is None:
        return float("nan")
    accelerator = hardware.load(chip)
    llama = model.name.startswith("llama")
    is_palm = model.name == "palm"
    zero3 = "ZeRO-3" in run.source
    cp = run.cp if run.cp >= 1 else 1.0
    dp = run.gpus / (run.tp * run.pp * cp)
    per_rank = run.global_batch / dp
    # PaLM runs its share of the batch in one piece.
    size = run.microbatch if run.microbatch >= 1 else per_rank if is_palm else 1.0
    # Without pipeline and microbatch size, weights are gathered once for all sequences of a rank.
    microbatches = 1 if zero3 else max(1, round(per_rank / size))
    parallelism = Parallelism(
        tp=int(run.tp),
        pp=int(run.pp),
        dp=int(dp),
        pp_scope="scale_out",
        dp_scope="scale_up" if is_palm else "scale_out",
        sequence_parallel=run.seq_par == "yes",
    )
    if run.recompute == "partial":
        # A third more FLOPs is a whole forward pass again; the publication's two utilisations say how much of it was.
        share = min(max(3.0 * (run.hfu_pct / run.mfu_pct - 1.0), 0.0), 1.0)
        none, full = (_predicted_s(run._replace(recompute=word), efficiency) for word in ("none", "full"))
        return (1.0 - share) * none + share * full
    recompute = run.recompute if run.recompute in ("full", "selective") else "none"
    table = model.training_step(
        run.global_batch,
        run.seq,
        parallelism,
        microbatches=microbatches,
        context_parallel=cp,
        recompute=recompute,
        flash_attention=llama,
        distributed_optimiser=zero3 or is_palm,
        gradient_dtype="fp32" if llama or is_palm else "fp16",
    )
    constants = training_constants()
    if zero3:
        kept = model.parameters / model.layer_count <= constants.zero3_live_parameters
        time = zero3_time(
            table,
            accelerator,
            parallelism,
            weight_bytes=model.weight_bytes,
            microbatches=microbatches,
            matrix_efficiency=efficiency,
            gathers=2.0 if kept or recompute != "full" else 3.0,
            overlap=constants.zero3_overlap,
            rank_deviation=constants.rank_deviation,
        )
    else:
        time = training_time(
            table,
            accelerator,
            parallelism,
            microbatches=microbatches,
            estimator=_kernels,
            matrix_efficiency=efficiency,
            interleave=_interleave(run, llama),
            gradient_overlap=1.0 if llama or is_palm else 0.0,
            rank_deviation=constants.rank_deviation,
            context_parallel=cp,
        )
    return float(np.ravel(time.total_s)[0])


def _kernels(op: Operator, chip: Accelerator) -> KernelTime:
    """Flash attention by its tile model, everything else at the roofline."""
    return _TILES(op, chip) if isinstance(op, Attention) else operator_bound(op, chip)


def _interleave(run: Any, llama: bool) -> int:
    stated = re.search(r"interleaving (\d+)", run.verified)
    if stated:
        return int(stated[1])
    return max(1, round(run.layers / run.pp)) if llama else 1


def _model(run: Any) -> TransformerModel | None:
    """The model of a run: GPT, Llama 3 and PaLM by their sizes; None for other shapes."""
    if re.search("palm", run.source, re.IGNORECASE):
        return palm(run.hidden, run.layers, run.heads, run.seq, run.vocab)
    if re.search("llama", run.source, re.IGNORECASE):
        for name in ("llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b"):
            model = workloads.load(name)
            assert isinstance(model, TransformerModel)
            if (model.hidden_size, model.layer_count) == (run.hidden, run.layers):
                return model
        return None
    if not re.search("megatron|korthikanti|mtnlg|gpt", run.source, re.IGNORECASE):
        return None
    return gpt(run.hidden, run.layers, run.heads, run.seq, run.vocab)


def palm(hidden: float, layers: float, heads: float, positions: float, vocab: float) -> TransformerModel:
    """A PaLM: one key-value head of 256, gated feed-forward four times as wide, tied embeddings (arXiv 2204.02311, section 2)."""
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": vocab}
    sizes |= {
        "intermediate_size": 4 * hidden,
        "max_position_embeddings": positions,
        "num_key_value_heads": 1,
        "head_dim": 256,
    }
    fixed = {"model_type": "llama", "tie_word_embeddings": True, "rms_norm_eps": 1e-6}
    model = workloads.load(fixed | {key: int(value) for key, value in sizes.items()})
    assert isinstance(model, TransformerModel)
    return replace(model, name="palm")


def gpt(hidden: float, layers: float, heads: float, positions: float, vocab: float) -> TransformerModel:
    """A GPT of the given sizes."""
    sizes = {"n_embd": hidden, "n_layer": layers, "n_head": heads, "n_positions": positions, "vocab_size": vocab}
    model = workloads.load({"model_type": "gpt2", **{key: int(value) for key, value in sizes.items()}})
    assert isinstance(model, TransformerModel)
    return model


def _measured_s(run: Any) -> float:
    """The published step time; else from the published FLOP/s and the FLOPs the publication counts.

    GPT: eq. 3 of Narayanan et al., recomputation included. Llama: 6 N per token plus attention, no recomputation. PaLM: the
    same from the share of the peak its publication prints (attention not halved for causality).
    """
    for value in (run.iter_s, run.derived_iter_s):
        if value > 0:
            return value
    tokens = run.global_batch * run.seq
    model, chip = _model(run), _chip_name(run.hw)
    if model is not None and model.name == "palm" and chip is not None and run.mfu_pct > 0:
        flops = tokens * (6.0 * model.parameters + 12.0 * run.layers * run.heads * 256.0 * run.seq)
        return flops / (run.mfu_pct / 100.0 * hardware.load(chip).matrix_flops_per_s["bf16"] * run.gpus)
    if not run.tflops_per_gpu > 0:
        return float("nan")
    if model is not None and model.name.startswith("llama"):
        flops = tokens * (6.0 * model.parameters + 6.0 * run.layers * run.hidden * run.seq)
    else:
        square = run.layers * run.hidden**2
        flops = 96.0 * tokens * square * (1 + run.seq / (6 * run.hidden) + run.vocab / (16 * run.layers * run.hidden))
    return flops / (run.tflops_per_gpu * 1e12 * run.gpus)


def _chip_name(hw: str) -> str | None:
    return next((name for mark, name in _CHIPS.items() if mark in hw.upper()), None)


def _memory_points(memory: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Weights, gradients and optimiser state of a stage's layers (the publications leave embeddings out)."""
    rows = []
    listed: list[Any] = list(runs.itertuples())
    wanted: list[Any] = list(memory.itertuples())
    for row in wanted:
        run = next((r for r in listed if r.model_B == row.model and "korthikanti" in r.source), None)
        predicted = float("nan")
        if run is not None:
            layers_only = gpt(run.hidden, run.layers, run.heads, 1, run.tp)
            use = layers_only.training_memory(
                run.global_batch, run.seq, Parallelism(tp=int(run.tp), pp=int(run.pp)), gradient_dtype="fp32"
            )
            predicted = float(np.ravel(use.weights_bytes + use.gradients_bytes + use.optimiser_bytes)[0])
        rows.append(
            {
                "op": "parameter_and_optimiser_bytes",
                "gpu": _chip_name(row.hw) or row.hw,
                "dtype": "bf16",
                "stack": "",
                "measured": row.param_opt_GiB * 2**30,
                "predicted": predicted,
                "calibration": "datasheet",
            }
        )
    return pd.DataFrame(rows)
