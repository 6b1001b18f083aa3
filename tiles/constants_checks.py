"""Checks of a calibration file's values: known names, numbers, finite, within what the models can divide by.

Every model names its constants after their unit, so their sign follows from the name: rates, efficiencies and counts are positive,
shares and times at least 0, exponents any number. Efficiencies of peaks are at most 1: no model answers faster than its bound.
"""

import math
from collections.abc import Mapping
from typing import Any

from hardware.paths import nearest
from tiles.attention_kernels import DecodeKernel, PrefillKernel
from tiles.candidates import FAMILIES as CANDIDATES
from tiles.conv2d import Conv2dConstants
from tiles.gemm_constants import CONSTANT_NAMES, GemmConstants
from tiles.memory_bound import MemoryBoundConstants
from tiles.moe import MoeConstants
from workloads.dtypes import canonical_dtype

#: Constants of each model with their defaults.
DEFAULTS: dict[str, Mapping[str, Any]] = {
    "gemm": {name: getattr(GemmConstants(), name) for name in CONSTANT_NAMES},
    "memory_bound": MemoryBoundConstants._field_defaults,
    "moe": MoeConstants._field_defaults,
    "conv2d": Conv2dConstants._field_defaults,
    "decode": DecodeKernel._field_defaults,
    "prefill": PrefillKernel._field_defaults,
}
#: Constants that models divide by or that would make work free.
_POSITIVE = (
    "efficiency", "_per_clock", "_speedup", "traffic", "threads", "per_thread", "per_core", "group_rows", "tile_rows",
    "chunk_tokens", "most_splits", "lone", "queue", "overlap", "half_head_dim", "k_start",
)  # fmt: skip
#: An efficiency against DRAM of work that may stay in a cache.
_BEYOND_ONE = ("side_efficiency",)
_FAMILY = ("kernel", "stack", "architecture")
#: Fields a set cannot do without.
REQUIRED = {
    "gemm": ("architecture", "format", "stack", "chips", "candidates", "date", "n", "log_sigma", "values"),
    "memory_bound": _FAMILY,
    "moe": _FAMILY,
    "conv2d": _FAMILY,
    "attention": ("architecture", "stack", "decode", "prefill"),
}
_KINDS = ("fitted", "few-shot")
#: Fields of every set besides its values, by type.
_TEXTS = ("architecture", "stack", "kernel", "format", "date", "data", "data_sha256", "kind", "candidates")
_FIGURES = ("mape", "median_ape", "log_sigma")


def check_constants(table: Mapping[str, Any], where: str) -> None:
    """`ValueError` naming file, field, value and expectation for the first wrong value of the parsed calibration file `table`."""
    for name in ("device", "stack", "date"):
        if not isinstance(table.get(name, ""), str):
            raise ValueError(f"{where}: {name}: {table[name]!r}; expected text")
    for model in ("gemm", "memory_bound", "moe", "conv2d"):
        sets = table.get(model, [])
        if not isinstance(sets, list) or not all(isinstance(entry, dict) for entry in sets):
            raise ValueError(f"{where}: {model}: expected sets, [[{model}]]")
        for i, entry in enumerate(sets):
            _check_set(entry, model, f"{where}: {model}[{i}]")
    attention = table.get("attention", {})
    if not isinstance(attention, dict):
        raise ValueError(f"{where}: attention: expected one table, [attention]")
    if attention:
        _check_attention(attention, f"{where}: attention")


def _check_set(entry: Mapping[str, Any], model: str, path: str) -> None:
    _check_head(entry, path, REQUIRED[model])
    chips = entry.get("chips", [])
    if not isinstance(chips, list) or not all(isinstance(chip, str) for chip in chips):
        raise ValueError(f"{path}.chips: {chips!r}; expected a list of names")
    if model == "gemm":
        if (name := entry.get("candidates", "")) not in CANDIDATES:
            raise ValueError(f"{path}.candidates: unknown {name!r} (known: {', '.join(CANDIDATES)})")
        for part in str(entry.get("format", "")).split("_weight_"):
            try:
                canonical_dtype(part)
            except ValueError as error:
                raise ValueError(f"{path}.format: {error}") from None
    values = entry.get("values", {})
    if not isinstance(values, dict):
        raise ValueError(f"{path}.values: {values!r}; expected a table of numbers")
    _check_values(values, DEFAULTS[model], f"{path}.values")


def _check_attention(table: Mapping[str, Any], path: str) -> None:
    _check_head(table, path, REQUIRED["attention"])
    for phase in ("decode", "prefill"):
        part = table.get(phase, {})
        if not isinstance(part, dict) or not isinstance(part.get("base", {}), dict):
            raise ValueError(f"{path}.{phase}: expected a table with base and kernels")
        _check_values(part.get("base", {}), DEFAULTS[phase], f"{path}.{phase}.base")
        kernels = part.get("kernels", [])
        if not isinstance(kernels, list) or not kernels or not all(isinstance(kernel, dict) for kernel in kernels):
            raise ValueError(f"{path}.{phase}.kernels: expected at least one kernel")
        for i, kernel in enumerate(kernels):
            own = {name: value for name, value in kernel.items() if name not in ("name", "when")}
            _check_values(own, DEFAULTS[phase], f"{path}.{phase}.kernels[{i}]")
        _check_head(part.get("fit", {}), f"{path}.{phase}.fit")


def _check_head(entry: Mapping[str, Any], path: str, required: tuple[str, ...] = ()) -> None:
    for name in required:
        if name not in entry:
            raise ValueError(f"{path}.{name}: missing")
    for name in _TEXTS:
        if name in entry and not isinstance(entry[name], str):
            raise ValueError(f"{path}.{name}: {entry[name]!r}; expected text")
    if entry.get("kind", "fitted") not in _KINDS:
        raise ValueError(f"{path}.kind: {entry['kind']!r}; expected {' or '.join(_KINDS)}")
    for name in _FIGURES:
        if name in entry:
            _number(entry[name], f"{path}.{name}")
            if not 0.0 <= entry[name] < math.inf:
                raise ValueError(f"{path}.{name}: {entry[name]}; expected a finite number, at least 0")
    if "n" in entry and (not isinstance(entry["n"], int) or isinstance(entry["n"], bool) or entry["n"] < 1):
        raise ValueError(f"{path}.n: {entry['n']!r}; expected a whole number of points, at least 1")


def _check_values(values: Mapping[str, Any], defaults: Mapping[str, Any], path: str) -> None:
    for name, value in values.items():
        if name not in defaults:
            raise ValueError(f"{path}.{name}: unknown constant{nearest(name, defaults)}")
        _number(value, f"{path}.{name}")
        _check_range(name, float(value), math.isinf(defaults[name]), f"{path}.{name}")


def _check_range(name: str, value: float, may_be_infinite: bool, path: str) -> None:
    if math.isnan(value) or (math.isinf(value) and not (may_be_infinite and value > 0.0)):
        raise ValueError(f"{path}: {value}; expected a finite number")
    if name.endswith("_exponent"):
        return
    positive = name.endswith(_POSITIVE)
    if value < 0.0 or (positive and value == 0.0):
        raise ValueError(f"{path}: {value:g}; expected {'more than' if positive else 'at least'} 0")
    if name.endswith("efficiency") and name not in _BEYOND_ONE and value > 1.0:
        raise ValueError(f"{path}: {value:g}; expected at most 1 (a share of the peak)")


def _number(value: Any, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{path}: {value!r}; expected a number")
