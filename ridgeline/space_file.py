"""A problem from a TOML file: what is asked of which model on which chip, over which parameters, under which constraints.

name = "bandwidth or cores"
[objective]
kind = "model"                  # or "kernel"
model = "llama-3.1-70b"         # kernel: operator = "gemm"
estimator = "tiles"             # or "roofline"
# robust = 0.95                 # times, rates and costs at this quantile of the prediction's error
minimise = ["decode_s"]
[fixed]
chip = "h100_sxm"
batch = 32
[parameters.bandwidth]
path = "chip.memory.dram.bandwidth_bytes_per_s"
low = "2 TB/s"
high = "8 TB/s"
scale = "log"
[parameters.tp]
options = [1, 2, 4, 8]
[constraints]
memory_use = "<= 1"
[sweep]
method = "sobol"
count = 100000
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import hardware
import workloads
from explore import (
    Constraint,
    Parameter,
    Problem,
    Space,
    categorical,
    constraint,
    continuous,
    die_of,
    integer,
    logarithmic,
)
from hardware.paths import unknown
from hardware.quantities import parse_quantity
from ridgeline.chip_design import design_problem
from ridgeline.inverse import robust
from ridgeline.kernel_estimators import ESTIMATORS
from ridgeline.objectives import DEPLOYMENT, REASONS, KernelObjective, ModelObjective
from ridgeline.prediction_notes import comparison_notes
from ridgeline.toml_file import read_toml
from tiles.estimator import STACKS
from workloads.dtypes import canonical_dtype
from workloads.operators import Attention, Elementwise, Gemm, GroupedGemm

KINDS = ("model", "kernel", "design")
OPERATORS = {"gemm": Gemm, "attention": Attention, "grouped_gemm": GroupedGemm, "elementwise": Elementwise}
SECTIONS = ("name", "objective", "fixed", "parameters", "constraints", "sweep", "search")
_PARAMETER = ("path", "paths", "low", "high", "scale", "kind", "points", "options", "when", "otherwise")
_OBJECTIVE = ("kind", "model", "operator", "estimator", "stack", "kv_dtype", "errors", "robust", "minimise", "maximise")
_MOST_POINTS = 10**6


def read_space(path: str | Path) -> tuple[Problem, dict[str, Any], dict[str, Any]]:
    """(problem, options of its sweep, options of its search) of a file; `ValueError` with the field's path otherwise."""
    path = Path(path)
    text = read_toml(path)
    try:
        return _problem(text, path.stem), _table(text, "sweep"), _table(text, "search")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


@contextmanager
def _field(path: str) -> Iterator[None]:
    """Complaints of what a field's value reaches, with the field in front."""
    try:
        yield
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path}: {error or 'too large'}") from None


def _problem(text: dict[str, Any], stem: str) -> Problem:
    check_keys("", text, SECTIONS)
    asked = _objective(text)
    fixed = _table(text, "fixed")
    name = text.get("name", stem)
    if not isinstance(name, str):
        raise ValueError(f"name: {name!r}; expected text")
    limits = tuple(constraint(metric, limit) for metric, limit in _table(text, "constraints").items())
    parameters = {name: _parameter(name, table) for name, table in _table(text, "parameters").items()}
    kind = asked.get("kind", "model")
    if kind == "design":
        found = _design(asked, fixed, parameters, limits, name)
    elif not parameters:
        raise ValueError("parameters: none; expected at least one table [parameters.NAME]")
    else:
        evaluate, subjects = (_kernel if kind == "kernel" else _model)(asked, fixed)
        found = Problem(
            space=Space(parameters),
            subjects=subjects,
            evaluate=evaluate,
            minimise=_names(asked, "minimise"),
            maximise=_names(asked, "maximise"),
            constraints=limits,
            reasons=REASONS,
            name=name,
            notes=_notes(parameters, subjects, evaluate),
        )
    if "robust" not in asked:
        return found
    with _field("objective.robust"):
        return robust(found, asked["robust"])


def _objective(text: dict[str, Any]) -> dict[str, Any]:
    """The table [objective], its values of the right types and known."""
    asked = _table(text, "objective")
    check_keys("objective.", asked, _OBJECTIVE)
    for key in ("kind", "model", "operator", "estimator", "stack", "kv_dtype"):
        if not isinstance(asked.get(key, ""), str):
            raise ValueError(f"objective.{key}: {asked[key]!r}; expected text")
    choices = {"kind": KINDS, "operator": OPERATORS, "estimator": ESTIMATORS, "stack": STACKS}
    for key, known in choices.items():
        if key in asked and asked[key] not in known:
            raise unknown(f"objective.{key}: unknown", asked[key], known)
    if asked.get("kv_dtype"):
        with _field("objective.kv_dtype"):
            canonical_dtype(asked["kv_dtype"])
    if not isinstance(asked.get("errors", False), bool):
        raise ValueError(f"objective.errors: {asked['errors']!r}; expected true or false")
    share = asked.get("robust", 0.95)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0.5 < share < 1.0:
        raise ValueError(f"objective.robust: {share!r}; expected a quantile, more than 0.5 and less than 1")
    return asked


def _notes(parameters: dict[str, Parameter], subjects: dict[str, Any], evaluate: Any) -> tuple[str, ...]:
    """What a reader must know of the chips that are compared."""
    chips = next((p.options for p in parameters.values() if p.paths == ("chip",)), (subjects["chip"],))
    dtype = subjects["op"].dtype if "op" in subjects else evaluate.model.dtype
    return comparison_notes(chips, evaluate.estimator, evaluate.stack, dtype)


def _design(
    asked: dict[str, Any],
    fixed: dict[str, Any],
    parameters: dict[str, Parameter],
    limits: tuple[Constraint, ...],
    name: str,
) -> Problem:
    check_keys("fixed.", fixed, ("chip", "input_tokens", "output_tokens"))
    _check_numbers("fixed.", {key: value for key, value in fixed.items() if key != "chip"})
    best = [("minimise", name) for name in _names(asked, "minimise")] + [
        ("maximise", name) for name in _names(asked, "maximise")
    ]
    if len(best) != 1:
        raise ValueError("objective: a design needs exactly one metric to minimise or maximise")
    ((direction, metric),) = best
    options = {key: asked[key] for key in ("estimator", "stack", "errors") if key in asked}
    with _field("fixed.chip"):
        like = _chip(fixed)
        die_of(like)
    return design_problem(
        _transformer(asked.get("model", "llama-3.1-70b")),
        like=like,
        objective=metric,
        maximise=direction == "maximise",
        constraints=limits,
        parameters=parameters or None,
        name=name,
        **options,
        **{key: fixed[key] for key in ("input_tokens", "output_tokens") if key in fixed},
    )


def _transformer(name: str) -> workloads.TransformerModel:
    with _field("objective.model"):
        model = workloads.load(name)
    if not isinstance(model, workloads.TransformerModel):
        raise ValueError(f"objective.model: {model.name} is no transformer; deployments are modelled for those")
    return model


def _model(asked: dict[str, Any], fixed: dict[str, Any]) -> tuple[ModelObjective, dict[str, Any]]:
    if "model" not in asked:
        raise ValueError("objective.model: missing; expected a built-in model, a folder or a config.json")
    check_keys("fixed.", fixed, ("chip", *DEPLOYMENT))
    model = _transformer(asked["model"])
    options = {name: asked[name] for name in ("estimator", "stack", "kv_dtype", "errors") if name in asked}
    subjects = {**DEPLOYMENT, **{name: value for name, value in fixed.items() if name != "chip"}}
    _check_numbers("fixed.", subjects)
    return ModelObjective(model=model, **options), {"chip": _chip(fixed), **subjects}


def _kernel(asked: dict[str, Any], fixed: dict[str, Any]) -> tuple[KernelObjective, dict[str, Any]]:
    name = asked.get("operator", "gemm")
    check_keys("fixed.", fixed, ("chip", "op"))
    given = fixed.get("op", {})
    made = OPERATORS[name]
    check_keys("fixed.op.", given, tuple(f.name for f in fields(made)))
    options = {key: asked[key] for key in ("estimator", "stack") if key in asked}
    names = {f.name: f.metadata.get("static") for f in fields(made)}
    _check_numbers("fixed.op.", {key: value for key, value in given.items() if not names[key]})
    for key, value in given.items():
        if key.endswith("dtype"):
            with _field(f"fixed.op.{key}"):
                canonical_dtype(value)
    with _field("fixed.op"):
        op = made(**given)
    return KernelObjective(**options), {"chip": _chip(fixed), "op": op}


def _check_numbers(where: str, given: dict[str, Any]) -> None:
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < 2**53:
            raise ValueError(f"{where}{name}: {value!r}; expected a number of at least 1 (and below 2^53)")


def _chip(fixed: dict[str, Any]) -> hardware.Accelerator:
    return _loaded(fixed.get("chip", "h100_sxm"), "fixed.chip")


def _loaded(name: Any, where: str) -> hardware.Accelerator:
    if not isinstance(name, str):
        raise ValueError(f"{where}: {name!r}; expected a chip's name, or a TOML file")
    with _field(where):
        return hardware.load(name)


def _parameter(name: str, table: Any) -> Parameter:
    where = f"parameters.{name}"
    if not isinstance(table, dict):
        raise ValueError(f"{where}: {table!r}; expected a table with options, or low and high")
    check_keys(f"{where}.", table, _PARAMETER)
    paths = table.get("paths", [table["path"]] if "path" in table else [name])
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
        raise ValueError(f"{where}.paths: {paths!r}; expected a list of dotted paths")
    if "options" in table:
        options = table["options"]
        if not isinstance(options, list) or not all(isinstance(option, int | float | str) for option in options):
            raise ValueError(f"{where}.options: {options!r}; expected a list of numbers or names")
        labels = None
        if paths == ["chip"]:
            labels = [str(chip) for chip in options]
            options = [_loaded(chip, f"{where}.options") for chip in options]
        with _field(f"{where}.options"):
            found = categorical(options, labels)
    else:
        with _field(where):
            found = _number(table, paths[0])
    if "when" in table:
        with _field(where):
            found = _conditional(found, table)
    found = found.bind(*paths)
    for path in paths:
        _check_sizes(found, path, where)
    return found


def _check_sizes(found: Parameter, path: str, where: str) -> None:
    """`ValueError` where a size, a rate or a degree may become zero or negative."""
    if found.static or not (path.startswith(("chip.", "op.", "die.")) or path in DEPLOYMENT):
        return
    least = 1.0 if path in DEPLOYMENT or path.startswith("op.") else 0.0
    spare = path.rpartition(".")[2].startswith("spare_") or path.endswith("latency_s")
    for value in found.options if found.kind == "categorical" else (found.low, found.high):
        fits = value >= least if least or spare else value > 0.0
        if isinstance(value, bool) or not fits or not value < float("inf"):
            expected = f"at least {least:g}" if least or spare else "a positive number"
            raise ValueError(f"{where}: {value!r} for {path}; expected {expected}")


def _number(table: dict[str, Any], path: str) -> Parameter:
    missing = [key for key in ("low", "high") if key not in table]
    if missing:
        raise ValueError(f"{missing[0]}: missing; expected low and high, or options")
    low, high = (_quantity(table[key], key, path) for key in ("low", "high"))
    scale, points = table.get("scale", "linear"), table.get("points", 0)
    if isinstance(points, int) and points > _MOST_POINTS:
        raise ValueError(f"points: {points}; expected at most {_MOST_POINTS:,}")
    if scale not in ("linear", "log"):
        raise ValueError(f"scale: {scale!r}; expected linear or log")
    kind = table.get("kind", "integer" if _is_count(path) else "real")
    if kind not in ("integer", "real"):
        raise ValueError(f"kind: {kind!r}; expected integer or real")
    if kind == "integer":
        return integer(low, high, log=scale == "log", points=points)
    return (logarithmic if scale == "log" else continuous)(low, high, points=points)


def _is_count(path: str) -> bool:
    """Whether a number is whole by nature: cores, degrees, requests, tokens, sizes of operators."""
    last = path.rpartition(".")[2]
    return last == "cores" or path in DEPLOYMENT or path.startswith("op.")


def _quantity(value: Any, key: str, path: str) -> Any:
    if not isinstance(value, str):
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError(f"{key}: a whole number of {len(str(value))} digits; expected less than 2^63")
        return value
    last = path.rpartition(".")[2]
    dimensions = ("bytes_per_s", "flops_per_s", "joules_per_byte", "bytes", "hz", "watts", "usd", "s")
    inner = "flops_per_s" if ".matrix_flops_per_s." in path or ".vector_flops_per_s." in path else ""
    dimension = inner or next((d for d in dimensions if last.endswith("_" + d)), "count")
    return float(parse_quantity(value, dimension, key))


def _conditional(found: Parameter, table: dict[str, Any]) -> Parameter:
    when = table["when"]
    if not isinstance(when, dict) or len(when) != 1 or "otherwise" not in table:
        raise ValueError('when: expected { PARAMETER = "option" } and a value `otherwise`')
    ((other, option),) = when.items()
    return found.only_when(other, option, table["otherwise"])


def _table(text: dict[str, Any], name: str) -> dict[str, Any]:
    found = text.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f"{name}: {found!r}; expected a table [{name}]")
    return found


def _names(asked: dict[str, Any], key: str) -> tuple[str, ...]:
    found = asked.get(key, [])
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"objective.{key}: {found!r}; expected metrics by name")
    return tuple(found)


def check_keys(where: str, given: Any, known: Iterable[str]) -> None:
    """`ValueError` for a key of the table `given` that is none of `known`; `where` is the table's path, with its dot."""
    if not isinstance(given, dict):
        raise ValueError(f"{where.rstrip('.')}: {given!r}; expected a table")
    for name in given:
        if name not in known:
            raise unknown("unknown key", where + name, [where + key for key in known])
