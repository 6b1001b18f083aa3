"""Questions the other way round: which chip or cluster is cheapest for a service level, which model shape suits a chip, and what is
still best when the prediction errs.

Each is a problem of `explore` with the objective and the limits that the question names, and its answer; whoever wants more
parameters or limits takes the problem (`design_problem`, `cluster_problem`, `shape_problem`) and sweeps or searches it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import hardware
from explore import (
    Constraint,
    Parameter,
    Problem,
    SearchResult,
    Space,
    SweepResult,
    categorical,
    integer,
    search,
    sweep,
)
from hardware.paths import unknown
from ridgeline.chip_design import design_problem
from ridgeline.model_shape import ShapeObjective
from ridgeline.objectives import DEPLOYMENT, REASONS, ModelObjective
from ridgeline.prediction_notes import comparison_notes
from workloads import TransformerModel
from workloads import load as load_model

#: Limits by name: the metric, and whether it is the most or the least that is allowed.
LIMITS = {
    "prefill_s": True,
    "decode_s": True,
    "request_s": True,
    "output_tokens_per_s": False,
    "output_tokens_per_s_per_device": False,
    "usd_per_hour": True,
    "usd_per_million_tokens": True,
    "devices": True,
    "price_usd": True,
    "peak_watts": True,
    "die_mm2": True,
}


def robust(problem: Problem, quantile: float = 0.95) -> Problem:
    """The same question, pessimistically: every objective and constraint on a time, a rate or a cost is on its value at `quantile`
    of the prediction's error (0.95: the upper end of the 90 % interval), with errors composed from those of the kernels.

    `ValueError` where the problem's objective has no errors (kernels, shapes) and for a quantile outside (0.5, 1).
    """
    if not hasattr(problem.evaluate, "at_quantile"):
        raise ValueError("robust: the objective carries no errors; expected a model on a deployment, or a chip design")
    evaluate: Any = problem.evaluate
    evaluate = evaluate.at_quantile(quantile)
    known = replace(problem, evaluate=evaluate).metric_names

    def twin(name: str) -> str:
        other = f"{name.removesuffix('_s')}_{evaluate.suffix}_s" if name.endswith("_s") else ""
        return next((one for one in (other, f"{name}_{evaluate.suffix}") if one in known), name)

    return replace(
        problem,
        evaluate=evaluate,
        minimise=tuple(twin(name) for name in problem.minimise),
        maximise=tuple(twin(name) for name in problem.maximise),
        constraints=tuple(replace(one, metric=twin(one.metric)) for one in problem.constraints),
        name=f"{problem.name} at p{100.0 * quantile:g}",
    )


def cheapest_chip(
    model: Any,
    *,
    limits: Mapping[str, float],
    objective: str = "usd_per_million_tokens",
    quantile: float | None = None,
    method: str = "gradient",
    budget: int = 20_000,
    seed: int = 0,
    **design: Any,
) -> SearchResult:
    """The chip design and its deployment that serve `model` within `limits` at the least `objective` (or price_usd, usd_per_hour).

    `limits`: service levels and budgets by metric (`LIMITS`), such as decode_s, output_tokens_per_s, price_usd, die_mm2;
    `quantile`: they are to hold at that quantile of the prediction's error. `method`, `budget`, `seed`: of the search; `design`:
    options of `design_problem`.
    `ValueError` naming what is missed where nothing is found.
    """
    problem = design_problem(model, objective=objective, constraints=limits_of(limits), **design)
    problem = problem if quantile is None else robust(problem, quantile)
    return search(problem, method=method, budget=budget, seed=seed).require_feasible()


def cheapest_cluster(
    model: Any,
    chips: Sequence[Any],
    *,
    limits: Mapping[str, float],
    quantile: float | None = None,
    **cluster: Any,
) -> SweepResult:
    """The cluster of one of `chips` that serves `model` within `limits` for the least `usd_per_hour`: every combination of chip,
    degrees, replicas and batch (`cluster_problem`, which takes `cluster`), best first.

    `limits` and `quantile` as in `cheapest_chip`. Static batching without queueing; `ridgeline serve plan` adds arrivals for one
    chip. `ValueError` naming the limits that exclude each other where nothing meets all.
    """
    problem = cluster_problem(model, chips, limits=limits, **cluster)
    return sweep(problem if quantile is None else robust(problem, quantile))


def cluster_problem(
    model: Any,
    chips: Sequence[Any],
    *,
    limits: Mapping[str, float] | None = None,
    objective: str = "usd_per_hour",
    estimator: str = "tiles",
    stack: str = "vllm",
    input_tokens: int = 2048,
    output_tokens: int = 512,
    most_batch: int = 4096,
    tp: Sequence[int] = (1, 2, 4, 8),
    pp: Sequence[int] = (1,),
    replicas: Sequence[int] = (1, 2, 4, 8, 16, 32),
    errors: bool = False,
    parameters: Mapping[str, Parameter] | None = None,
) -> Problem:
    """The problem of a cluster for `model`: chip, degrees, `replicas` (dp) and requests in flight on all of them, evaluated with
    NumPy (a grid of thousands of points needs no compiler). Always constrained: the model fits into memory."""
    spec = _transformer(model)
    loaded = [hardware.load(chip) for chip in chips]
    if not loaded:
        raise ValueError("chips: none; expected at least one")
    names = [chip.name for chip in loaded]
    space = {
        "chip": categorical(loaded, names),
        "tp": categorical(list(tp)),
        "pp": categorical(list(pp)),
        "dp": categorical(list(replicas)),
        "batch": integer(1, most_batch, log=True, points=2 * int(most_batch).bit_length()),
        **(parameters or {}),
    }
    subjects: dict[str, Any] = {"chip": loaded[0], **DEPLOYMENT}
    return Problem(
        space=Space(space),
        subjects={**subjects, "input_tokens": input_tokens, "output_tokens": output_tokens},
        evaluate=ModelObjective(model=spec, estimator=estimator, stack=stack, errors=errors),
        minimise=(objective,),
        constraints=(*limits_of(limits or {}), Constraint("memory_use", 1.0)),
        reasons=REASONS,
        name=f"a cluster for {spec.name}",
        traced=False,
        notes=comparison_notes(loaded, estimator, stack, spec.dtype),
    )


def best_shape(
    chip: Any, *, parameters: float, limits: Mapping[str, float] | None = None, keep: int = 100, **shape: Any
) -> SweepResult:
    """The dense decoder of about `parameters` parameters that `chip` serves best, within `limits`: every combination of layers,
    heads and head size whose proportions are usual (`shape_problem`, which takes `shape`), best first."""
    return sweep(shape_problem(chip, parameters=parameters, limits=limits, **shape), keep=keep)


def shape_problem(
    chip: Any,
    *,
    parameters: float,
    limits: Mapping[str, float] | None = None,
    objective: str = "output_tokens_per_s",
    estimator: str = "tiles",
    stack: str = "vllm",
    batch: int = 64,
    tp: int = 1,
    input_tokens: int = 2048,
    output_tokens: int = 512,
    layers: tuple[int, int] = (16, 128),
    most_heads: int = 128,
    points: int = 15,
    head_dim: Sequence[int] = (64, 128),
    kv_heads: int = 8,
    vocab_size: int = 128_256,
) -> Problem:
    """The problem of a model for `chip`: the shape that is best by `objective` (`ShapeObjective`) among those of about `parameters`
    parameters. The width of the feed-forward network makes up for the rest, so that all shapes have the same size to about 1 %.

    Always constrained: the model fits into memory; 2 to 6 times as wide in the feed-forward network as outside, and 32 to 256 as
    wide as deep, within which a language model's loss hardly depends on its shape (Kaplan et al., "Scaling Laws for Neural
    Language Models", 2020, figure 5). The model's quality is not predicted beyond that.
    """
    loaded = hardware.load(chip)
    evaluate = ShapeObjective(
        parameters=float(parameters), kv_heads=kv_heads, vocab_size=vocab_size, estimator=estimator, stack=stack
    )
    load = {"batch": batch, "tp": tp, "input_tokens": input_tokens, "output_tokens": output_tokens}
    always = (("memory_use", 1.0, True), ("parameters", 0.98 * parameters, False), ("parameters", 1.02 * parameters, True),
              ("feed_forward_ratio", 2.0, False), ("feed_forward_ratio", 6.0, True),
              ("width_per_layer", 32.0, False), ("width_per_layer", 256.0, True))  # fmt: skip
    return Problem(
        space=Space(
            {
                "layers": integer(*layers, log=True, points=points),
                "heads": categorical(list(range(kv_heads, most_heads + 1, kv_heads))),
                "head_dim": categorical(list(head_dim)),
            }
        ),
        subjects={
            "chip": loaded,
            **DEPLOYMENT,
            **load,
            "layers": layers[0],
            "heads": kv_heads,
            "head_dim": head_dim[0],
        },
        evaluate=evaluate,
        maximise=() if LIMITS.get(objective, False) else (objective,),
        minimise=(objective,) if LIMITS.get(objective, False) else (),
        constraints=(*limits_of(limits or {}), *(Constraint(*one) for one in always)),
        reasons=REASONS,
        name=f"a model of {parameters:.3g} parameters for {loaded.name}",
        traced=False,
        notes=comparison_notes([loaded], estimator, stack, "bf16"),
    )


def limits_of(limits: Mapping[str, float]) -> tuple[Constraint, ...]:
    """Constraints from limits by metric; `ValueError` for a metric that is no limit, and for values that are not positive."""
    found = []
    for name, value in limits.items():
        if name not in LIMITS:
            raise unknown("limits: no limit", name, LIMITS)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < float("inf"):
            raise ValueError(f"limits.{name}: {value!r}; expected a positive number")
        found.append(Constraint(name, float(value), LIMITS[name]))
    return tuple(found)


def _transformer(model: Any) -> TransformerModel:
    spec = load_model(model)
    if not isinstance(spec, TransformerModel):
        raise ValueError(f"model: {spec.name} is no transformer")
    return spec
