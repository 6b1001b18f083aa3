"""Part of level `kernels`: decode, prefill and latent attention against measured kernels.

Splits: "none" scores the shipped constants; "shapes" refits every family without a quarter of the (heads, kv_heads,
head_dim) combinations and scores those; "gpu" fits the pooled kernel to the other GPUs only and scores the one left
out (what an unknown architecture gets); "few-shot" adds 32 rows per phase and stack of the new GPU to that and scores
the rest.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import hardware
from profiles.attention_families import PHASES, family_rows, few_shot, fit_family, predict_s
from profiles.attention_fit import GENERIC_PLAN, family_key, plan_of
from profiles.attention_points import FILES, PHASE, Frame, read_attention_table, shape_fold
from ridgeline.validate.report import track
from ridgeline.validate.tables import find_table, measured_or_nan
from tiles.attention_constants import GENERIC, NEAREST_STACK, AttentionConstants, attention_constants, stack_name

SPLITS = ("none", "shapes", "gpu", "few-shot")
#: Rows per phase and stack that a few-shot calibration may see.
SHOTS = 32
#: Rows per phase of each refit.
REFIT_SAMPLE = 1000


def attention_scores(folder: Path, *, split: str) -> tuple[Frame, list[str]]:
    """Scored rows of the attention tables in `folder`: op, gpu, dtype, stack, measured, predicted (s), calibration.

    Every row found is a row of the result; what could not be answered has a NaN prediction, what cannot be a duration a
    NaN measurement. The messages say how many of each. An empty frame if the folder has no attention table.
    """
    tables = [path for path in (find_table(folder, name) for name in FILES) if path is not None]
    if not tables:
        columns = ["op", "gpu", "dtype", "stack", "measured", "predicted", "calibration"]
        return pd.DataFrame(columns=columns), [f"{folder.name}: no attention table found"]
    frame: Any = pd.concat([read_attention_table(path) for path in tables], ignore_index=True)
    frame["phase"] = frame["op"].map(PHASE)
    measured_us, unusable = measured_or_nan(frame["latency_us"])
    score = {"none": _shipped, "shapes": _shapes, "gpu": _gpu, "few-shot": _few_shot}[split]
    usable = np.isfinite(measured_us) & frame["phase"].notna().to_numpy() & _known_chips(frame)
    predicted, calibration, scored = score(frame, usable)
    formats = np.where(frame["dtype"] == frame["kv_dtype"], frame["dtype"], frame["dtype"] + "+kv_" + frame["kv_dtype"])
    points: Any = pd.DataFrame(
        {
            "op": frame["op"],
            "gpu": frame["gpu"],
            "dtype": formats,
            "stack": frame["sw_version"],
            "measured": measured_us * 1e-6,
            "predicted": predicted,
            "calibration": calibration,
            "unit": frame["heads"] * 1e6 + frame["kv_heads"] * 1e3 + frame["head_dim"],
        }
    )[scored].reset_index(drop=True)
    messages = [f"attention: {len(points)} of {len(frame)} rows scored under split {split!r}"]
    if unusable:
        messages.append(f"attention: {unusable} rows have no positive finite latency and count as unanswered")
    unanswered = int((~np.isfinite(points["predicted"].to_numpy(float))).sum())
    if unanswered:
        messages.append(f"attention: {unanswered} rows have no prediction (unknown chip, stack, format or op)")
    return points, messages


def _shipped(frame: Frame, usable: np.ndarray) -> tuple[np.ndarray, Any, np.ndarray]:
    known: dict[tuple[str, str], AttentionConstants] = {}

    def constants_of(gpu: str, software: str) -> AttentionConstants:
        if (gpu, software) not in known:
            stack = software if stack_name(software) in NEAREST_STACK else "vllm"
            known[gpu, software] = attention_constants(hardware.load(gpu), stack)
        return known[gpu, software]

    predicted = predict_s(frame, constants_of)
    marks = {}
    for gpu, software in frame[["gpu", "sw_version"]].drop_duplicates().itertuples(index=False):
        marks[gpu, software] = known[gpu, software].calibration if (gpu, software) in known else "none"
    calibration = [marks[pair] for pair in zip(frame["gpu"], frame["sw_version"])]
    return predicted, calibration, np.ones(len(frame), bool)


def _shapes(frame: Frame, usable: np.ndarray) -> tuple[np.ndarray, Any, np.ndarray]:
    left_out = shape_fold(frame) == 0
    predicted = np.full(len(frame), np.nan)
    learn, families = frame[usable & ~left_out], {}
    for key, rows in track(list(family_rows(learn)), "refitting without a quarter of the shapes"):
        families[key] = fit_family(rows, key, plan_of(key), sample=REFIT_SAMPLE)[0]
    predicted[left_out] = predict_s(
        frame[left_out].reset_index(drop=True), lambda gpu, software: families[family_key(gpu, software)]
    )
    return predicted, "fitted", left_out


def _gpu(frame: Frame, usable: np.ndarray) -> tuple[np.ndarray, Any, np.ndarray]:
    predicted = np.full(len(frame), np.nan)
    for gpu, others in track(list(_pooled_without_each(frame, usable)), "one GPU left out at a time"):
        chosen = (frame["gpu"] == gpu).to_numpy()
        family = fit_family(others, (GENERIC, GENERIC), GENERIC_PLAN, sample=REFIT_SAMPLE)[0]
        predicted[chosen] = predict_s(frame[chosen].reset_index(drop=True), lambda g, s, family=family: family)
    return predicted, "datasheet", np.ones(len(frame), bool)


def _few_shot(frame: Frame, usable: np.ndarray) -> tuple[np.ndarray, Any, np.ndarray]:
    predicted, scored = np.full(len(frame), np.nan), np.ones(len(frame), bool)
    generator = np.random.default_rng(0)
    for gpu, others in track(list(_pooled_without_each(frame, usable)), "few-shot calibration of each GPU"):
        prior = fit_family(others, (GENERIC, GENERIC), GENERIC_PLAN, sample=REFIT_SAMPLE)[0]
        for software in sorted(frame.loc[frame["gpu"] == gpu, "sw_version"].unique()):
            chosen = ((frame["gpu"] == gpu) & (frame["sw_version"] == software)).to_numpy()
            seen = []
            for phase in PHASES:
                rows = np.flatnonzero(chosen & usable & (frame["phase"] == phase).to_numpy())
                seen.append(generator.choice(rows, min(SHOTS, len(rows)), replace=False))
            shots = np.concatenate(seen)
            family = few_shot(frame.iloc[shots].reset_index(drop=True), prior, GENERIC_PLAN)
            predicted[chosen] = predict_s(frame[chosen].reset_index(drop=True), lambda g, s, family=family: family)
            scored[shots] = False
    return predicted, "few-shot", scored


def _known_chips(frame: Frame) -> np.ndarray:
    known: dict[str, bool] = {}
    for gpu in frame["gpu"].unique():
        try:
            known[gpu] = bool(hardware.load(gpu).name)
        except ValueError:
            known[gpu] = False
    return frame["gpu"].map(known).to_numpy(bool)


def _pooled_without_each(frame: Frame, usable: np.ndarray):
    plain = usable & ~frame["op"].str.endswith("mla").to_numpy()
    for gpu in sorted(frame.loc[usable, "gpu"].unique()):
        others = frame[plain & (frame["gpu"] != gpu).to_numpy()].reset_index(drop=True)
        if len(others):
            yield gpu, others
