"""Constants of memory-bound kernels and GEMMs inside a serving engine, from its profiled layers (LLMServingSim's tables).

The same families as `memory_bound_fit`, measured where they run: between other kernels of a captured graph, inputs hot
in L2, weights cold. Tables of kernels that were measured alone in eager mode have the host's dispatch in every small
one. GEMM constants are fitted chip by chip: boards of one architecture differ in memory (with or without error
correction) and in the clock they sustain.

    python -m profiles.layer_table_fit ../shared/data/serving/llmservingsim_kernel_tables_us.parquet
"""

import argparse
import datetime
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import hardware
from hardware.accelerator import Accelerator
from profiles.family_fit import file_hash, write_sets
from profiles.gemm_calibration import GroupFit, file_sha256, to_toml
from profiles.gemm_fit import Points as GemmPoints
from profiles.gemm_fit import fit_gemm, recipe_of
from profiles.importers.llmservingsim import read_llmservingsim
from profiles.memory_bound_fit import Points, fit_points
from tiles.gemm_constants import constants_architecture, gemm_constants, gemm_format
from tiles.kernel_families import ANY
from tiles.memory_bound import memory_bound_kernel
from workloads.operators import Elementwise, Gather, Gemm, Normalisation, RotaryEmbedding

HEADER = """Memory-bound kernels inside vLLM: fitted constants (profiles/layer_table_fit.py).
Source: per-layer tables of LLMServingSim @5daddb2 (MIT), RTX 4090 and RTX PRO 6000, vLLM 0.19.0, bf16."""
CONSTANTS = Path(__file__).parents[1] / "tiles" / "constants"
TARGET, GEMM_TARGET = CONSTANTS / "memory_bound" / "vllm_layers.toml", CONSTANTS / "gemm" / "vllm_layers.toml"
#: Layers cycle through their weights, so that none is found in L2.
COLD_COPIES = 5.0


#: Fitted constants. Small kernels between others say nothing about the issue rate: bytes through L2 bound them.
FREE = ("launch_s", "traffic", "l2_bytes_per_clock", "latency_cycles", "iteration_cycles", "residency")


def layer_points(path: Path) -> Iterator[tuple[str, str, Points]]:
    """(kernel, stack, points) of the memory-bound layers in a table file."""
    for records in read_llmservingsim(path).records:
        frame = records.frame
        for (device, stack), rows in frame.groupby(["device", "stack"]):
            found = _operators(records.kind, rows)
            for operator, block_rows, seconds in found:
                chip = hardware.load(str(device))
                yield memory_bound_kernel(operator), str(stack), Points(chip, operator, block_rows, seconds)


def _operators(kind: str, rows: pd.DataFrame) -> Iterator[tuple]:
    def column(name: str) -> np.ndarray:
        return rows[name].to_numpy(float)

    seconds = rows["latency_s"].to_numpy(float)
    if kind == "normalisation":
        residual = rows["residual"].fillna(0.0).to_numpy(float) if "residual" in rows else np.zeros(len(rows))
        yield Normalisation(rows=column("rows"), cols=column("cols"), residual=residual, dtype="bf16"), None, seconds
    if kind == "gather":
        yield Gather(rows=column("rows"), cols=column("cols"), dtype="bf16"), None, seconds
    if kind == "rotary_embedding":
        heads, width = column("heads"), column("rotary_dim")
        yield RotaryEmbedding(tokens=column("tokens"), heads=heads, rotary_dim=width, dtype="bf16"), None, seconds
    if kind == "elementwise":
        yield Elementwise(elements=column("elements"), inputs=2, dtype="bf16", name="silu_mul"), None, seconds


def gemm_groups(path: Path) -> Iterator[tuple[str, Accelerator, GemmPoints]]:
    """(stack, chip, points) of the matrix layers of each chip in a table file; a shape that several models share counts once."""
    frames = [records.frame for records in read_llmservingsim(path).records if records.kind == "gemm"]
    rows: Any = pd.concat(frames).drop_duplicates(["device", "stack", "kernel", "m", "n", "k"])
    for (device, stack), own in rows.groupby(["device", "stack"]):
        chip = hardware.load(str(device))
        m, n, k = (own[name].to_numpy(float) for name in ("m", "n", "k"))
        op = Gemm(m=m, n=n, k=k, dtype="bf16")
        copies = np.full(len(own), COLD_COPIES)
        yield str(stack), chip, GemmPoints(chip, op, own["latency_s"].to_numpy(float), copies)


def fit_gemms(path: Path) -> Iterator[GroupFit]:
    """GEMM constants of each chip, starting from its architecture's."""
    for stack, chip, points in gemm_groups(path):
        architecture = constants_architecture(chip)
        recipe = recipe_of(architecture, "bfloat16", stack)
        constants, fit = fit_gemm([points], recipe, gemm_constants(chip, points.op, stack))
        yield GroupFit(architecture, gemm_format(points.op), stack, (chip.name,), constants, fit, fit.errors.n)


def refit(path: Path, date: str) -> None:
    """Fit the tables at `path` and write the shipped constants."""
    sets = fit_points(layer_points(path), data=file_hash(path), date=date, free=FREE)
    # The pooled set leaves the rate of L2 to the chip's architecture: both measured chips have the same one.
    pooled = [
        replace(s, values={k: v for k, v in s.values.items() if k != "l2_bytes_per_clock"})
        for s in sets
        if s.architecture == ANY
    ]
    write_sets(TARGET, pooled + [s for s in sets if s.architecture != ANY], HEADER)
    GEMM_TARGET.write_text(to_toml(list(fit_gemms(path)), date=date, data_sha256=file_sha256(path)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="llmservingsim_kernel_tables_us.parquet")
    refit(parser.parse_args().path, datetime.date.today().isoformat())
