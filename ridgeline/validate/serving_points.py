"""Measured serving points (`silicon_points.parquet`): what each row deploys, and what the models say of it.

A row's engine, chip, formats and degrees of parallelism give one phase law (shared by rows that differ in load only);
its load is the closed loop of `serving.closed_loop`. Rows without the degrees of parallelism of an aggregated
deployment, of unknown models or chips are counted and not answered.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import hardware
import workloads
from ridgeline.validate.report import track
from serving.closed_form_law import Knots, closed_form_law
from serving.closed_loop import closed_loop
from serving.engines import KnownEngine, engines
from serving.kv_capacity import kv_capacity_tokens
from serving.phase_law import PhaseLaw
from tiles import tile_estimator
from workloads import Parallelism
from workloads.quantisation import Quantisation, uniform
from workloads.transformer import TransformerModel

#: Weight formats as the table writes them.
FORMATS = {"fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "nvfp4", "int4_wo": "int4", "mxfp4": "mxfp4"}
#: Formats of rows that name only a precision.
PRECISION = {"fp8": "fp8_block", "fp4": "nvfp4", "int4": "int4"}


def read_points(path: Path) -> pd.DataFrame:
    """The table; `ValueError` naming the columns it lacks."""
    frame = pd.read_parquet(path)
    needed = ("model_path", "system", "backend", "prec", "mode", "isl", "osl", "concurrency", "tp_size",
              "silicon_ttft_ms", "silicon_tpot_ms", "clean")  # fmt: skip
    missing = [name for name in needed if name not in frame]
    if missing:
        raise ValueError(f"{path.name}: no column {', '.join(missing)}")
    return frame.reset_index(drop=True)


def predict_points(rows: pd.DataFrame, *, calibrated: bool, known: dict[str, KnownEngine] | None = None):
    """(time to first token, time per output token) in seconds, arrays [rows]; NaN where not answered."""
    known = engines() if known is None else known
    laws: dict[tuple, tuple[PhaseLaw, float] | None] = {}
    found = np.full((len(rows), 2), np.nan)
    order = rows.sort_values(["model_path", "system", "backend", "concurrency"]).index
    for index in track(order, "serving points"):
        row = rows.loc[index]
        if not answerable(row, known):
            continue
        key = tuple(str(row.get(name)) for name in LAW_COLUMNS)
        if key not in laws:
            laws[key] = _law(row)
        law = laws[key]
        if law is None:
            continue
        found[rows.index.get_loc(index)] = closed_loop(
            law[0], known[row["backend"]], int(row["concurrency"]), int(row["isl"]), int(row["osl"]),
            calibrated=calibrated, kv_tokens=law[1],
        )  # fmt: skip
    return found[:, 0], found[:, 1]


LAW_COLUMNS = (
    "model_path", "system", "backend", "prec", "gemm_quant_mode", "moe_quant_mode", "tp_size", "pp_size",
    "attention_dp_size", "moe_tp_size", "moe_ep_size",
)  # fmt: skip


def answerable(row: Any, known: dict[str, KnownEngine]) -> bool:
    """Whether a row describes an aggregated deployment of a known engine and its load."""
    return (
        row["mode"] == "agg"
        and row["backend"] in known
        and all(pd.notna(row[name]) and row[name] >= 1 for name in ("concurrency", "isl", "osl", "tp_size"))
    )


def _law(row: Any) -> tuple[PhaseLaw, float] | None:
    model = served_model(row)
    try:
        chip = hardware.load(str(row["system"]))
    except ValueError:
        return None
    if model is None:
        return None
    layout = parallelism(row)
    try:
        law = closed_form_law(model, chip, layout, tile_estimator(row["backend"]), knots=Knots())
    except ValueError:
        return None
    return law, float(kv_capacity_tokens(model, chip, layout, context_tokens=float(row["isl"] + row["osl"])))


def parallelism(row: Any) -> Parallelism:
    """Degrees of one aggregated replica. Experts over more ranks than tensor parallelism has travel by all-to-all."""

    def degree(name: str) -> int:
        value = row.get(name)
        return int(value) if pd.notna(value) and value >= 1 else 1

    tp, dp, experts = degree("tp_size"), degree("attention_dp_size"), degree("moe_ep_size")
    if dp > 1:
        return Parallelism(tp=tp, dp=dp, ep=tp * dp, pp=degree("pp_size"))
    return Parallelism(tp=tp, ep=experts if tp % experts == 0 else 1, pp=degree("pp_size"))


def served_model(row: Any) -> TransformerModel | None:
    """The model of a row in the row's formats; None if it is not built in."""
    model = _built_in(str(row["model_path"]))
    if model is None:
        return None
    dense, experts = row.get("gemm_quant_mode"), row.get("moe_quant_mode")
    precision = str(row["prec"])
    native = model.quantisation.experts
    if native == "mxfp4":
        return model
    if not isinstance(dense, str) or dense not in FORMATS:
        return model.with_quantisation(uniform(PRECISION[precision]) if precision in PRECISION else Quantisation())
    if dense == "int4_wo":
        # Published int4 checkpoints quantise the experts; a dense model quantises all of it.
        only_experts = Quantisation(experts="int4")
        return model.with_quantisation(only_experts if row.get("model_kind") == "moe" else uniform("int4"))
    routed = FORMATS.get(experts, FORMATS[dense]) if isinstance(experts, str) else FORMATS[dense]
    fmt = FORMATS[dense]
    return model.with_quantisation(Quantisation(attention=fmt, dense=fmt, experts=routed, shared_experts=fmt))


def _built_in(path: str) -> TransformerModel | None:
    """The built-in model of a hub path: fine-tuning and format suffixes dropped."""
    name = path.rpartition("/")[2].lower()
    name = re.sub(r"-(nvfp4|fp8|fp4|bf16|int4|awq|gptq|dynamic)\b", "", name)
    for candidate in (name, re.sub(r"-instruct.*$", "", name), re.sub(r"\.1$", "", name), re.sub(r"-\d{4}$", "", name)):
        if candidate in workloads.model_names():
            found = workloads.load(candidate)
            return found if isinstance(found, TransformerModel) else None
    return None
