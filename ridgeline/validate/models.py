"""Level `models`: whole models against measured forward passes, decode steps and published inference.

- `e2e_neusight`: forward passes of transformers in an eager framework (see `kernels_e2e`);
- `silicon_points`: mean time per output token of serving runs with few requests in flight, where prompts take next to nothing of
  the time: a decode step at that batch and the mean context, in one engine's own kernels. Prompt-heavy points are a matter of
  queues and belong to serving; they are not counted here;
- `inference_facts`: published prefill and decode times.

Split "gpu" answers each chip from constants fitted to the others (eager models only; what cannot be refitted is left out of the
split). Split "model" learns the intervals without the model scored (no prediction is fitted to whole models). Rows have
intervals: the composed deviation of the kernels, calibrated on whole models; of decode steps, the spread between models.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ridgeline.prediction import predict
from ridgeline.validate.intervals import with_intervals
from ridgeline.validate.kernels_e2e import e2e_points
from ridgeline.validate.report import Validation, track
from ridgeline.validate.serving_deployments import FORMATS, parallelism, served_model
from ridgeline.validate.tables import FLAG, NUMBER, TEXT, find_table, measured_or_nan, read_table

SPLITS = ("none", "model", "gpu")
#: Requests in flight up to which a mean time per token is taken for a decode step.
MOST_IN_FLIGHT = 16
#: Largest share of the time that prompts may take.
MOST_PROMPT_SHARE = 0.1
_NUMBERS = ("isl", "osl", "concurrency", "tp_size", "pp_size", "attention_dp_size", "moe_ep_size", "silicon_tpot_ms")
_SERVING = {name: NUMBER for name in _NUMBERS} | {"clean": FLAG}
_SERVING_TEXT = (
    "system",
    "backend",
    "model",
    "model_path",
    "model_kind",
    "prec",
    "gemm_quant_mode",
    "moe_quant_mode",
    "mode",
)
_SERVING |= {name: TEXT for name in _SERVING_TEXT}
_FACTS = {name: NUMBER for name in ("batch", "prompt", "gen", "tp", "model_B", "prefill_ms", "decode_ms_per_tok")}
_FACTS |= {"gpu": TEXT, "source": TEXT}


def validate(data: Path, *, split: str = "none") -> Validation:
    """Score whole models under `data` (with kernels/, serving/, training/ inside, or the folder of one of them)."""
    frames, messages = [], []
    points, notes = e2e_points(_folder(data, "kernels"), split="gpus" if split == "gpu" else "none")
    messages += notes
    if len(points):
        basis = points["calibration"].map(lambda kind: "other generation" if kind == "transferred" else kind)
        frames.append(points.assign(family="eager forward", basis=basis))
    if split != "gpu":
        for part in (decode_points, fact_points):
            points, notes = part(data)
            messages += notes
            if len(points):
                frames.append(points)
    elif find_table(_folder(data, "serving"), "silicon_points") is not None:
        messages.append("decode steps of serving runs: no refit without a chip; not scored under this split")
    if not frames:
        raise ValueError(f"{data}: no e2e_neusight, silicon_points or inference_facts (.parquet or .csv)")
    points = pd.concat(frames, ignore_index=True)
    for name in ("op", "gpu", "dtype", "stack"):
        points[name] = points[name].astype(str)
    return Validation(level="models", points=with_intervals(points, "model", split), messages=messages)


def decode_points(data: Path) -> tuple[pd.DataFrame, list[str]]:
    """Decode steps (seconds) of the serving runs with at most `MOST_IN_FLIGHT` requests; empty without the table."""
    path = find_table(_folder(data, "serving"), "silicon_points")
    if path is None:
        return pd.DataFrame(), []
    frame: Any = read_table(path, _SERVING)
    few = frame[frame["clean"].astype(bool) & (frame["mode"] != "disagg") & (frame["concurrency"] <= MOST_IN_FLIGHT)]
    parts = []
    keys = ["model", "model_path", "model_kind", "prec", "gemm_quant_mode", "moe_quant_mode", "system", "backend"]
    keys += ["tp_size", "moe_ep_size", "attention_dp_size", "pp_size"]
    for values, rows in track(list(few.groupby(keys, sort=True, dropna=False)), "decode steps"):
        parts.append(_predicted_steps(dict(zip(keys, values)), rows))
    if not parts:
        return pd.DataFrame(), [f"{path.name}: no clean run with at most {MOST_IN_FLIGHT} requests in flight"]
    points: Any = pd.concat(parts)
    heavy = points.pop("prompt_share") > MOST_PROMPT_SHARE
    messages = [f"{path.name}: {len(points)} runs with few requests, {int(heavy.sum())} of them prompt-heavy, left out"]
    return points[~heavy], messages


def _predicted_steps(group: dict[str, Any], rows: Any) -> pd.DataFrame:
    count = len(rows)
    predicted, share, calibration = np.full(count, np.nan), np.zeros(count), "none"
    try:
        model, layout = served_model(group, published=False), parallelism(group)
        if model is None:
            raise ValueError(f"model: {group['model_path']!r} is not built in")
        answer = predict(
            model,
            on=group["system"],
            tp=layout.tp,
            pp=layout.pp,
            ep=layout.ep,
            dp=layout.dp,
            batch=rows["concurrency"].to_numpy(float),
            # Lengths are uniform in [0.8, 1] of the nominal.
            input_tokens=0.9 * rows["isl"].to_numpy(float),
            output_tokens=np.maximum(0.9 * rows["osl"].to_numpy(float), 2.0),
            stack=group["backend"],
        )
    except ValueError:
        pass  # unknown model, chip or degree: found, not answered
    else:
        predicted = np.broadcast_to(np.asarray(answer.decode_s, float), count)
        steps = np.maximum(rows["osl"].to_numpy(float), 1.0) * predicted
        # All prompts of the batch are computed once per request's life, while decode steps wait.
        share = np.nan_to_num(np.broadcast_to(np.asarray(answer.prefill_s, float), count) / steps)
        calibration = answer.kind
    measured, _ = measured_or_nan(rows["silicon_tpot_ms"])
    return pd.DataFrame(
        {
            "op": "decode_step",
            "gpu": group["system"],
            "dtype": group["gemm_quant_mode"] if group["gemm_quant_mode"] in FORMATS else "bf16",
            "stack": group["backend"],
            "measured": measured * 1e-3,
            "predicted": predicted,
            "calibration": calibration,
            "unit": group["model"],
            # What moves these errors is the model and its engine, not the chip: a new model is one draw among models.
            "scale": 1.0,
            "basis": "other generation",
            "chip": group["model"],
            "architecture": "",
            "family": "decode",
            "prompt_share": share,
        }
    )


def fact_points(data: Path) -> tuple[pd.DataFrame, list[str]]:
    """Published prefill and decode times (seconds); empty without the table."""
    path = find_table(_folder(data, "training"), "inference_facts")
    if path is None:
        return pd.DataFrame(), []
    rows = []
    listed: list[Any] = list(read_table(path, _FACTS).itertuples())
    for row in listed:
        name = f"gpt3-{row.model_B:g}b"
        try:
            answer = predict(
                name, on=str(_CHIPS.get(row.gpu, row.gpu)), tp=int(row.tp), batch=int(row.batch), dtype="fp16",
                input_tokens=int(row.prompt), output_tokens=int(row.gen), stack="trtllm",
            )  # fmt: skip
        except ValueError:
            answer = None
        for phase, measured_ms in (("prefill", row.prefill_ms), ("decode", row.decode_ms_per_tok)):
            seconds = float(getattr(answer, f"{phase}_s")) if answer else np.nan
            whole = answer.prefill_estimate if answer and phase == "prefill" else None
            rows.append(
                {
                    "op": f"{phase}_step" if phase == "decode" else phase,
                    "gpu": row.gpu,
                    "dtype": "fp16",
                    "stack": "fastertransformer",
                    "measured": measured_ms * 1e-3,
                    "predicted": seconds,
                    "calibration": answer.kind if answer else "none",
                    "unit": name,
                    "scale": float(np.ravel(whole.relative_deviation)[0]) if whole else 1.0,
                    "basis": answer.basis if answer and phase == "prefill" else "other generation",
                    "chip": name if phase == "decode" else None,
                    "architecture": "" if phase == "decode" else None,
                    "family": "decode" if phase == "decode" else "eager forward",
                }
            )
    return pd.DataFrame(rows), []


#: GPUs as publications write them.
_CHIPS = {"A100-40GB": "NVIDIA A100-SXM4-40GB"}


def _folder(data: Path, name: str) -> Path:
    return data / name if (data / name).is_dir() else data
