"""Level `kernels`: every class of GPU kernel that the tile models cover, against measured latencies.

Splits, each a refit without the part that is scored, and what takes their time on two free cores: "none" (shipped constants,
seconds); "shapes" (whole (n, k), (heads, kv_heads, head_dim), ... combinations left out; attention refits every family);
"gpu" (one chip left out at a time); "extrapolate" and "generation" (GEMM only); "few-shot" (32 points of a new chip or
generation). The messages say how long each part took.

One part per operator class, each a function (folder, split) -> (points, messages); a part that does not know a split says so in
a message and contributes no points, so that the rows of a split are all honest.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from ridgeline.validate.intervals import with_intervals
from ridgeline.validate.kernels_attention import attention_scores
from ridgeline.validate.kernels_conv2d import conv2d_points
from ridgeline.validate.kernels_e2e import e2e_points
from ridgeline.validate.kernels_gemm import gemm_points
from ridgeline.validate.kernels_memory_bound import memory_bound_points
from ridgeline.validate.kernels_moe import moe_points
from ridgeline.validate.report import Validation, track

SPLITS = ("none", "shapes", "gpu", "extrapolate", "generation", "few-shot")
#: Operator class -> scorer, and what it calls each split of this level it knows.
PARTS: dict[str, tuple[Callable[..., tuple[pd.DataFrame, list[str]]], dict[str, str]]] = {
    "gemm": (gemm_points, {name: name for name in SPLITS}),
    "attention": (attention_scores, {name: name for name in ("none", "shapes", "gpu", "few-shot")}),
    "memory-bound": (memory_bound_points, {"none": "none", "shapes": "shapes", "gpu": "gpus"}),
    "moe": (moe_points, {"none": "none", "shapes": "shapes", "gpu": "gpus"}),
    "conv2d": (conv2d_points, {"none": "none", "shapes": "shapes", "gpu": "gpus"}),
    "whole models": (e2e_points, {"none": "none", "gpu": "gpus"}),
}


def validate(data: Path, *, split: str) -> Validation:
    """Score every kernel table under `data` (or `data`/kernels); `ValueError` if there is none."""
    folder = data / "kernels" if (data / "kernels").is_dir() else data
    frames, messages = [], []
    for name, (scorer, splits) in track(list(PARTS.items()), "kernels"):
        if split not in splits:
            messages.append(f"{name}: has no split {split!r}; not scored")
            continue
        started = time.perf_counter()
        points, notes = scorer(folder, split=splits[split])
        messages += notes
        if len(points):
            messages.append(f"{name}: {len(points)} rows in {time.perf_counter() - started:.0f} s")
            level = "model" if name == "whole models" else "kernel"
            frames.append(with_intervals(points.assign(family=_family(name, points)), level, split))
    if not frames:
        raise ValueError(f"{folder}: no kernel table found (gemm, attention_generation, ... as .parquet or .csv)")
    return Validation(level="kernels", points=pd.concat(frames, ignore_index=True), messages=messages)


def _family(part: str, points: Any) -> Any:
    """The operator family that error laws go by: prefill, decode and latent attention err differently."""
    if part != "attention":
        return pd.Series("eager forward" if part == "whole models" else part, index=points.index)
    phase = points["op"].map(lambda op: "prefill" if "context" in op else "decode")
    latent = points["op"].str.endswith("mla")
    return "attention " + phase.mask(latent, "latent " + phase)
