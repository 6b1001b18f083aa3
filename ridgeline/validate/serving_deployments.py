"""What a row of a serving table deploys: model in its served formats, chip, degrees of parallelism, cache format, protocol.

Facts of published checkpoints and engines, not of rows: NVFP4 checkpoints of mixtures keep attention in the model's own
format; quantised checkpoints are served with an fp8 cache by TensorRT-LLM and on Blackwell. Rows that leave the degree
of attention data parallelism out carry it as the ratio of the requests in flight to those of one rank.
"""

import re
from typing import Any, NamedTuple

import pandas as pd

import hardware
import workloads
from hardware.accelerator import Accelerator
from serving.engines import KnownEngine, engine_of
from serving.kv_capacity import USABLE
from workloads import Parallelism
from workloads.quantisation import Quantisation, uniform
from workloads.transformer import TransformerModel

#: Weight formats as tables write them.
FORMATS = {"fp8": "fp8", "fp8_block": "fp8_block", "nvfp4": "nvfp4", "int4_wo": "int4", "mxfp4": "mxfp4"}
#: Formats of rows that name only a precision.
PRECISION = {"fp8": "fp8_block", "fp4": "nvfp4", "int4": "int4"}
#: (prompt, output) lengths of InferenceX. Clients draw lengths uniformly in [0.8, 1] of the nominal ones, but for SGLang at
#: lengths that are not InferenceX's: there every wave of requests arrives and ends in step, as only equal lengths do.
INFERENCEX_LENGTHS = ((1024, 1024), (1024, 8192), (8192, 1024))
SPREAD = 0.2
#: Words in hub names that tell another model than the one the rest of the name is.
OTHER_SIZES = {"distill", "lite", "air", "flash", "mini", "nano", "small", "draft", "eagle3", "vl", "omni"}
#: Models that differ from a built-in one in weights alone.
SAME_STRUCTURE = {"minimax-m2": "minimax-m2.5", "minimax-m2.1": "minimax-m2.5"}
EQUAL_LENGTHS = ("sglang",)
#: Share of device memory that engines take for themselves in benchmarks that are not InferenceX's: the waits of all three
#: engines there are those of 0.8, not of their default.
USABLE_ELSEWHERE = 0.8
#: Decoding iterations between two looks at the queue, as those benchmarks launch SGLang (--scheduler-recv-interval).
INTAKE = {"sglang": 30}


class Pool(NamedTuple):
    """Workers of one kind: `replicas` of `parallelism` each; `parallelism.dp` ranks of attention data parallelism run in
    lockstep."""

    parallelism: Parallelism
    replicas: int = 1


class Served(NamedTuple):
    """What runs on every worker of a row."""

    model: TransformerModel
    chip: Accelerator
    stack: str
    kv_dtype: str


def served(row: Any) -> Served | None:
    """None for models and chips that are not built in."""
    model = served_model(row)
    try:
        chip = hardware.load(str(row["system"]))
    except ValueError:
        return None
    return None if model is None else Served(model, chip, str(row["backend"]), _kv_dtype(row, model, chip))


def spread_of(row: Any) -> float:
    """How far lengths scatter below the nominal ones."""
    return 0.0 if str(row["backend"]) in EQUAL_LENGTHS and not _inferencex(row) else SPREAD


def intake_of(row: Any) -> int:
    """Decoding iterations between two looks of the scheduler at the queue."""
    return INTAKE.get(str(row["backend"]), 1) if _inferencex(row) else 1


def usable_of(row: Any) -> float:
    """Share of device memory that the engine may fill."""
    return USABLE if _inferencex(row) else USABLE_ELSEWHERE


def row_engine(row: Any) -> KnownEngine | None:
    """The engine of a row as of its version; None where it is unknown."""
    version = row.get("backend_version")
    try:
        return engine_of(str(row["backend"]), version if isinstance(version, str) else "")
    except ValueError:
        return None


def _inferencex(row: Any) -> bool:
    return (int(row["isl"]), int(row["osl"])) in INFERENCEX_LENGTHS


def degree(row: Any, name: str) -> int:
    """A whole degree of at least 1; 1 where the row has none."""
    value = row.get(name)
    return int(value) if pd.notna(value) and value >= 1 else 1


def aggregated_pool(row: Any) -> Pool:
    """The workers of an aggregated deployment."""
    tp, ranks, experts = degree(row, "tp_size"), degree(row, "attention_dp_size"), degree(row, "moe_ep_size")
    pp, batch = degree(row, "pp_size"), row.get("batch_size")
    groups = 1
    if pd.notna(batch) and batch >= 1:
        groups = max(round(float(row["concurrency"]) / float(batch) / ranks), 1)
    if groups > 1 and pd.isna(row.get("attention_dp_size")) and tp % groups == 0:
        return Pool(layout(tp // groups, groups, experts, pp))
    labelled = degree(row, "attention_dp_size") == row.get("attention_dp_size")
    return Pool(layout(tp, ranks, experts, pp), groups if labelled else 1)


def parallelism(row: Any) -> Parallelism:
    """Degrees of one aggregated worker as the row labels them; experts of data-parallel ranks span all of them."""
    tp, ranks, experts, pp = (degree(row, name) for name in ("tp_size", "attention_dp_size", "moe_ep_size", "pp_size"))
    return layout(tp, ranks, max(experts, 2) if ranks > 1 else experts, pp)


def layout(tp: int, ranks: int, experts: int, pp: int) -> Parallelism:
    """Degrees of one worker: experts of data-parallel ranks travel by all-to-all over all of them."""
    if ranks > 1:
        return Parallelism(tp=tp, dp=ranks, ep=tp * ranks if experts > 1 or tp == 1 else 1, pp=pp)
    return Parallelism(tp=tp, ep=experts if tp % experts == 0 else 1, pp=pp)


def model_name(row: Any) -> str:
    """The built-in name of a row's model; the row's own where it is not built in."""
    model = built_in(str(row["model_path"]))
    return str(row["model_path"]) if model is None else model.name


def served_model(row: Any, *, published: bool = True) -> TransformerModel | None:
    """The model of a row in the row's formats; None if it is not built in. `published`: attention of NVFP4 mixtures stays in
    the model's own format, as in the checkpoints; else every part is in the format the row names."""
    model = built_in(str(row["model_path"]))
    if model is None:
        return None
    dense, experts = row.get("gemm_quant_mode"), row.get("moe_quant_mode")
    precision = str(row["prec"])
    if model.quantisation.experts == "mxfp4":
        return model
    named = FORMATS.get(dense) if isinstance(dense, str) else PRECISION.get(precision)
    mixture = _is_mixture(model)
    if named is None:
        return model.with_quantisation(Quantisation())
    if named == "int4":  # published int4 checkpoints of mixtures quantise the experts alone
        return model.with_quantisation(Quantisation(experts="int4") if mixture else uniform("int4"))
    routed = FORMATS.get(experts, named) if isinstance(experts, str) else named
    attention = "" if published and mixture and named == "nvfp4" else named
    return model.with_quantisation(Quantisation(attention=attention, dense=named, experts=routed, shared_experts=named))


def _is_mixture(model: TransformerModel) -> bool:
    return any(hasattr(group.feed_forward, "experts") for group in model.layers)


def _kv_dtype(row: Any, model: TransformerModel, chip: Accelerator) -> str:
    formats = (model.quantisation.dense, model.quantisation.experts)
    quantised = any(name.startswith(("fp8", "mxfp4", "nvfp4")) for name in formats)
    return "fp8" if quantised and (row["backend"] == "trtllm" or chip.architecture.startswith("Blackwell")) else ""


def built_in(path: str) -> TransformerModel | None:
    """The built-in model of a hub path: suffixes of fine-tuning, date and format dropped, but not those of other sizes."""
    name = path.rpartition("/")[2].lower().replace("_", "-").removeprefix("meta-")
    name = re.sub(r"-(nvfp4|fp8|fp4|bf16|int4|awq|gptq|dynamic|mxfp4|w4a16|w8a8)(?=-|$)", "", name)
    name = re.sub(r"-(instruct|it|base|chat|thinking)-v?\d[\d.]*$", "", name)
    known = workloads.model_names()
    plain = re.sub(r"-v0\.\d$|-\d{4}$", "", name)
    if not OTHER_SIZES.intersection(name.split("-")):
        prefixes = [stem for stem in known if plain == stem or plain.startswith(stem + "-")]
    else:
        prefixes = []
    same = [plain, SAME_STRUCTURE.get(plain, ""), re.sub(r"\.1$", "", plain), *sorted(prefixes, key=len, reverse=True)]
    for candidate in same:
        if candidate in known:
            found = workloads.load(candidate)
            return found if isinstance(found, TransformerModel) else None
    shorter = re.sub(r"-(instruct|it)$", "", plain)
    return built_in(shorter) if shorter != plain else None
