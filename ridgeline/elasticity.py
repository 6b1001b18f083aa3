"""What would help a model most: elasticities of its times by the numbers of its chip and its load."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

import hardware
import workloads
from explore import Parameter, Problem, Space, continuous, elasticities
from ridgeline.objectives import DEPLOYMENT, REASONS, ModelObjective

#: Numbers of a chip by short name, with the paths that move together.
CHIP: dict[str, tuple[str, ...]] = {
    "memory bandwidth": ("memory.dram.bandwidth_bytes_per_s",),
    "memory latency": ("memory.dram.latency_s",),
    "L2 capacity": ("memory.l2.capacity_bytes",),
    "L2 bandwidth": ("memory.l2.bandwidth_bytes_per_s",),
    "cores": ("cores",),
    "clock": ("clock_hz",),
    "scale-up bandwidth": ("scale_up.bandwidth_bytes_per_s",),
    "scale-up latency": ("scale_up.latency_s",),
    "launch latency": ("launch_latency_s",),
}
RATES = ("matrix_flops_per_s", "vector_flops_per_s")
LOAD = ("batch", "input_tokens", "output_tokens")
#: What is a rate, in work per second, and what a time: with all rates twice as fast and all times half as long, everything is.
_PER_SECOND = ("memory bandwidth", "L2 bandwidth", "clock", "scale-up bandwidth", "matrix rate", "vector rate")
_SECONDS = ("memory latency", "scale-up latency", "launch latency")
#: The row of what is left.
REMAINDER = "everything else"


def model_elasticities(
    model: Any,
    *,
    on: Any,
    metrics: Sequence[str] | None = None,
    estimator: str = "tiles",
    stack: str = "vllm",
    step: float = 0.1,
    **load: float,
) -> pd.DataFrame:
    """Elasticities of `metrics` (default: prefill_s and decode_s; see `ModelObjective`) of a model on chip `on`.

    `load`: batch, input_tokens, output_tokens, tp, pp, ep, dp. Parameters: known numbers of the chip (rates of all formats
    together), and of the load. Peak rates, cores and clock are moved one at a time: more cores alone do not raise the peak rate.
    The last row of each time, `REMAINDER`, is the share that none of these rates and latencies accounts for: fixed times of the
    kernels' constants, other memory levels and links. It follows from the rest: a time is homogeneous in all rates and times.
    """
    spec = workloads.load(model)
    if not isinstance(spec, workloads.TransformerModel):
        raise ValueError(f"model: {spec.name} is no transformer")
    chip = hardware.load(on)
    unknown = [name for name in load if name not in DEPLOYMENT]
    if unknown:
        raise ValueError(f"{unknown[0]}: unknown (known: {', '.join(DEPLOYMENT)})")
    for name, value in load.items():
        if not value >= 1:
            raise ValueError(f"{name}: {value!r}; expected at least 1")
    subjects: dict[str, Any] = {"chip": chip, **DEPLOYMENT, **load}
    parameters: dict[str, Parameter] = {}
    at: dict[str, float] = {}

    def add(name: str, value: float, paths: Sequence[str]) -> None:
        if math.isfinite(value) and value > 0.0:
            parameters[name] = continuous(value, value).bind(*paths)
            at[name] = value

    levels = {level.name for level in chip.memory}
    for name, paths in CHIP.items():
        if paths[0].startswith("memory.") and paths[0].split(".")[1] not in levels:
            continue
        add(name, float(hardware.get_path(chip, paths[0])), [f"chip.{path}" for path in paths])
    for name in LOAD:
        add(name, float(subjects[name]), [name])
    evaluate = _Scaled(ModelObjective(model=spec, estimator=estimator, stack=stack))
    for kind in RATES:
        subjects[kind] = 1.0
        add(kind.replace("_flops_per_s", " rate"), 1.0, [kind])
    problem = Problem(
        space=Space(parameters), subjects=subjects, evaluate=evaluate, minimise=("decode_s",), reasons=REASONS,
        name=f"{spec.name} on {chip.name}",
    )  # fmt: skip
    names = tuple(metrics) if metrics else ("prefill_s", "decode_s")
    found = elasticities(problem, at, metrics=names, step=step)
    if not np.isfinite(found["elasticity"].to_numpy(float)).any():
        raise ValueError(
            f"{spec.name} on {chip.name}: no answer at this point (degrees that do not divide, or no rate)"
        )
    return pd.concat([_with_remainder(part) for _, part in found.groupby("metric", sort=False)], ignore_index=True)


def _with_remainder(part: pd.DataFrame) -> pd.DataFrame:
    """The rows of one metric, and the row of what they leave: by Euler, the elasticities of all times less those of all rates are
    1 for a time and -1 for a rate."""
    metric = str(part["metric"].iloc[0])
    if not metric.endswith("_s"):
        return part
    degree = -1.0 if metric.removesuffix("_per_device").endswith("_per_s") else 1.0
    values = part["elasticity"].to_numpy(float)
    known = {str(name): float(value) for name, value in zip(part["parameter"], values) if math.isfinite(value)}
    rest = degree + sum(known.get(n, 0.0) for n in _PER_SECOND) - sum(known.get(n, 0.0) for n in _SECONDS)
    row = {"metric": metric, "parameter": REMAINDER, "elasticity": rest, "low": rest, "high": rest}
    return pd.concat([part, pd.DataFrame([row])], ignore_index=True)


class _Scaled:
    """An objective with two more subjects, factors on all matrix and all vector rates."""

    def __init__(self, objective: ModelObjective) -> None:
        self.objective = objective

    def __call__(self, subjects: Any, rounding: Any) -> Any:
        chip = subjects["chip"]
        scaled = {
            f"{kind}.{name}": rate * subjects[kind] for kind in RATES for name, rate in getattr(chip, kind).items()
        }
        return self.objective({**subjects, "chip": chip.replace(scaled)}, rounding)
