"""A problem from a TOML file: what is asked of which model on which chip, over which parameters, under which constraints.

name = "bandwidth or cores"
[objective]
kind = "model"                  # or "kernel"
model = "llama-3.1-70b"         # kernel: operator = "gemm"
estimator = "tiles"             # or "roofline"
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

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import hardware
import workloads
from explore import Parameter, Problem, Space, categorical, constraint, continuous, integer, logarithmic
from hardware.paths import nearest
from hardware.quantities import parse_quantity
from ridgeline.chip_design import design_problem
from ridgeline.objectives import DEPLOYMENT, REASONS, KernelObjective, ModelObjective
from workloads.operators import Attention, Elementwise, Gemm, GroupedGemm

OPERATORS = {"gemm": Gemm, "attention": Attention, "grouped_gemm": GroupedGemm, "elementwise": Elementwise}
SECTIONS = ("name", "objective", "fixed", "parameters", "constraints", "sweep", "search")
_PARAMETER = ("path", "paths", "low", "high", "scale", "kind", "points", "options", "when", "otherwise")
_OBJECTIVE = ("kind", "model", "operator", "estimator", "stack", "kv_dtype", "errors", "minimise", "maximise")


def read_space(path: str | Path) -> tuple[Problem, dict[str, Any], dict[str, Any]]:
    """(problem, options of its sweep, options of its search) of a file; `ValueError` with the field's path otherwise."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        text = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no TOML file ({error})") from None
    try:
        return _problem(text, path.stem), _table(text, "sweep"), _table(text, "search")
    except (ValueError, TypeError, AttributeError, IndexError, OverflowError, MemoryError) as error:
        # Values of another type than a field takes end in whatever the model they reach makes of them.
        raise ValueError(f"{path}: {error or 'too large'}") from None


def _problem(text: dict[str, Any], stem: str) -> Problem:
    _known("", text, SECTIONS)
    asked = _table(text, "objective")
    _known("objective.", asked, _OBJECTIVE)
    fixed = _table(text, "fixed")
    parameters = _table(text, "parameters")
    kind = asked.get("kind", "model")
    if kind == "design":
        return _design(text, asked, fixed, parameters, stem)
    if not parameters:
        raise ValueError("parameters: none; expected at least one table [parameters.NAME]")
    if kind == "model":
        evaluate, subjects = _model(asked, fixed)
    elif kind == "kernel":
        evaluate, subjects = _kernel(asked, fixed)
    else:
        raise ValueError(f"objective.kind: {kind!r}; expected model, kernel or design")
    space = Space({name: _parameter(name, table) for name, table in parameters.items()})
    return Problem(
        space=space,
        subjects=subjects,
        evaluate=evaluate,
        minimise=_names(asked, "minimise"),
        maximise=_names(asked, "maximise"),
        constraints=tuple(constraint(metric, limit) for metric, limit in _table(text, "constraints").items()),
        reasons=REASONS,
        name=str(text.get("name", stem)),
    )


def _design(
    text: dict[str, Any], asked: dict[str, Any], fixed: dict[str, Any], parameters: dict[str, Any], stem: str
) -> Problem:
    _known("fixed.", fixed, ("chip", "input_tokens", "output_tokens"))
    best = [("minimise", name) for name in _names(asked, "minimise")] + [
        ("maximise", name) for name in _names(asked, "maximise")
    ]
    if len(best) != 1:
        raise ValueError("objective: a design needs exactly one metric to minimise or maximise")
    ((direction, metric),) = best
    options = {name: asked[name] for name in ("model", "estimator", "stack", "errors") if name in asked}
    space = {name: _parameter(name, table) for name, table in parameters.items()} if parameters else None
    return design_problem(
        like=fixed.get("chip", "h100_sxm"),
        objective=metric,
        maximise=direction == "maximise",
        constraints=tuple(constraint(name, limit) for name, limit in _table(text, "constraints").items()),
        parameters=space,
        name=str(text.get("name", stem)),
        **options,
        **{name: fixed[name] for name in ("input_tokens", "output_tokens") if name in fixed},
    )


def _model(asked: dict[str, Any], fixed: dict[str, Any]) -> tuple[ModelObjective, dict[str, Any]]:
    if "model" not in asked:
        raise ValueError("objective.model: missing; expected a built-in model, a folder or a config.json")
    _known("fixed.", fixed, ("chip", *DEPLOYMENT))
    model = workloads.load(asked["model"])
    if not isinstance(model, workloads.TransformerModel):
        raise ValueError(f"objective.model: {model.name} is no transformer; deployments are modelled for those")
    options = {name: asked[name] for name in ("estimator", "stack", "kv_dtype", "errors") if name in asked}
    subjects = {**DEPLOYMENT, **{name: value for name, value in fixed.items() if name != "chip"}}
    for name in DEPLOYMENT:
        value = subjects[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < 2**53:
            raise ValueError(f"fixed.{name}: {value!r}; expected a number of at least 1")
    return ModelObjective(model=model, **options), {"chip": _chip(fixed), **subjects}


def _kernel(asked: dict[str, Any], fixed: dict[str, Any]) -> tuple[KernelObjective, dict[str, Any]]:
    name = asked.get("operator", "gemm")
    if name not in OPERATORS:
        raise ValueError(f"objective.operator: {name!r}{nearest(name, OPERATORS)} (known: {', '.join(OPERATORS)})")
    _known("fixed.", fixed, ("chip", "op"))
    given = fixed.get("op", {})
    made = OPERATORS[name]
    _known("fixed.op.", given, tuple(f.name for f in fields(made)))
    options = {key: asked[key] for key in ("estimator", "stack") if key in asked}
    for key, value in given.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and not 1 <= value < 2**53:
            raise ValueError(f"fixed.op.{key}: {value!r}; expected at least 1 (and below 2^53)")
    try:
        op = made(**given)
    except TypeError as error:
        raise ValueError(f"fixed.op: {error}") from None
    return KernelObjective(**options), {"chip": _chip(fixed), "op": op}


def _chip(fixed: dict[str, Any]) -> Any:
    return hardware.load(fixed.get("chip", "h100_sxm"))


def _parameter(name: str, table: Any) -> Parameter:
    where = f"parameters.{name}"
    if not isinstance(table, dict):
        raise ValueError(f"{where}: {table!r}; expected a table with options, or low and high")
    _known(f"{where}.", table, _PARAMETER)
    paths = table.get("paths", [table["path"]] if "path" in table else [name])
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
        raise ValueError(f"{where}.paths: {paths!r}; expected a list of dotted paths")
    try:
        if "options" in table:
            options = table["options"]
            if not isinstance(options, list):
                raise ValueError(f"options: {options!r}; expected a list")
            if paths == ["chip"]:
                found = categorical([hardware.load(chip) for chip in options], [str(chip) for chip in options])
            else:
                found = categorical(options)
        else:
            found = _number(table, paths[0])
        if "when" in table:
            found = _conditional(found, table)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
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


def _known(where: str, given: Any, known: tuple[str, ...]) -> None:
    if not isinstance(given, dict):
        raise ValueError(f"{where.rstrip('.')}: {given!r}; expected a table")
    for name in given:
        if name not in known:
            raise ValueError(f"{where}{name}: unknown{nearest(name, known)} (known: {', '.join(known)})")
