"""Level `kernels`: every class of GPU kernel that the tile models cover, against measured latencies.

Splits, each a refit without the part that is scored: "none" (shipped constants); "shapes" (whole (n, k), (heads, kv_heads,
head_dim), ... combinations left out); "gpu" (one chip left out at a time); "extrapolate" and "generation" (GEMM only);
"few-shot" (32 points of a new chip or generation). A refit uses a sample of the rows (`SPLIT_POINTS`, `SPLIT_ROWS`,
`REFIT_SAMPLE` of the parts) and all rows left out are scored, so that a split takes minutes; parts run side by side on two
cores. The messages say how long each part took.

One part per operator class, each a function (folder, split) -> (points, messages); a part that does not know a split says so in
a message and contributes no points, so that the rows of a split are all honest.
"""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
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
from ridgeline.validate.report import Validation, no_bars, track

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
#: A part's name, its points, messages, and the seconds it took.
Scored = tuple[str, Any, list[str], float]


def validate(data: Path, *, split: str) -> Validation:
    """Score every kernel table under `data` (or `data`/kernels); `ValueError` if there is none."""
    folder = data / "kernels" if (data / "kernels").is_dir() else data
    frames, messages = [], []
    known = [name for name, (_, splits) in PARTS.items() if split in splits]
    messages = [f"{name}: has no split {split!r}; not scored" for name in PARTS if name not in known]
    done = {scored[0]: scored for scored in track(_scored(known, folder, split), "kernels", total=len(known))}
    for name in known:
        _, points, notes, seconds = done[name]
        messages += notes
        if len(points):
            messages.append(f"{name}: {len(points)} rows in {seconds:.0f} s")
            level = "model" if name == "whole models" else "kernel"
            frames.append(with_intervals(points.assign(family=_family(name, points)), level, split))
    if not frames:
        raise ValueError(f"{folder}: no kernel table found (gemm, attention_generation, ... as .parquet or .csv)")
    return Validation(level="kernels", points=pd.concat(frames, ignore_index=True), messages=messages)


def _scored(names: list[str], folder: Path, split: str) -> Iterator[Scored]:
    """The parts as they are done; those that refit run in two processes side by side (each fit uses one core)."""
    if split == "none" or (os.cpu_count() or 1) < 2:
        yield from (_score(name, folder, split) for name in names)
        return
    pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=no_bars)
    try:
        done = [pool.submit(_score, name, folder, split) for name in names]
        yield from (future.result() for future in as_completed(done))
    finally:
        pool.shutdown(cancel_futures=True)


def _score(name: str, folder: Path, split: str) -> Scored:
    scorer, splits = PARTS[name]
    started = time.perf_counter()
    points, notes = scorer(folder, split=splits[split])
    return name, points, notes, time.perf_counter() - started


def _family(part: str, points: Any) -> Any:
    """The operator family that error laws go by: prefill, decode and latent attention err differently."""
    if part != "attention":
        return pd.Series("eager forward" if part == "whole models" else part, index=points.index)
    phase = points["op"].map(lambda op: "prefill" if "context" in op else "decode")
    latent = points["op"].str.endswith("mla")
    return "attention " + phase.mask(latent, "latent " + phase)
