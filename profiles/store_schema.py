"""What a row of the store says: which operator of which shape, on what, with which software, how long.

A kind is an operator class of `workloads.operators` (its array fields become float64 columns, its static fields text
columns), or one of the measured composites that no single operator describes. Shapes are stored in one canonical
spelling, so that equal operators are equal rows: an empty number format is written out, a defaulted head size too,
dtypes by their canonical name.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import workloads.operators
from hardware.paths import nearest
from workloads.dtypes import canonical_dtype
from workloads.operators import Operator

#: Columns of every row beside the shape. Seconds in `latency_s`; `spread` is the relative half-width of the middle
#: 68 % of `n_repeats` repeats (NaN: not recorded). `includes` names what else ran inside the measured time
#: ("quantise").
TEXT_COLUMNS = ("device", "device_name", "stack", "kernel", "includes", "source", "date")
NUMBER_COLUMNS = ("latency_s", "n_repeats", "spread")
REQUIRED_COLUMNS = ("device", "stack", "latency_s")

#: Required or defaulted fields that may be zero (a copy computes nothing, a constant reads nothing).
MAY_BE_ZERO = ("flops_per_element", "inputs", "prefix_tokens")
#: Options that hold a number format; an empty one (but `dtype`) means the same as `dtype`.
DTYPE_OPTIONS = ("dtype", "weight_dtype", "out_dtype", "kv_dtype", "state_dtype")


#: A pandas frame, series or index; its stubs are too narrow to be of use.
Frame = Any


class Kind(NamedTuple):
    """Columns of one operator kind: shape `fields` and `options` with their defaults (None: required), `least`
    values.

    `operator`: the operator class, None for a composite (which estimators over tables read by shape only).
    """

    name: str
    fields: Mapping[str, float | None]
    options: Mapping[str, str | None]
    operator: type[Operator] | None

    @property
    def shape(self) -> tuple[str, ...]:
        """Names of all shape columns, fields then options."""
        return (*self.fields, *self.options)

    @property
    def identity(self) -> tuple[str, ...]:
        """Columns that say what was measured, where and by whom: equal identities are repeats of one measurement."""
        return (*self.shape, *(c for c in TEXT_COLUMNS if c not in ("date", "device_name")))

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column of the kind's table."""
        return (*self.shape, *TEXT_COLUMNS, *NUMBER_COLUMNS)

    def least(self, field: str) -> tuple[float, bool]:
        """Smallest value `field` may take, and whether that value itself is allowed."""
        default = self.fields[field]
        if field in MAY_BE_ZERO:
            return 0.0, True
        return (0.0, False) if default is None or default > 0.0 else (float(default), True)

    def operator_of(self, frame: Frame) -> Operator:
        """The rows of `frame` (equal options) as one operator of arrays [rows]. `ValueError` for mixed options or
        composites."""
        if self.operator is None:
            raise ValueError(f"kind {self.name!r} is a measured composite, not an operator")
        options = {}
        for name in self.options:
            values = frame[name].unique()
            if len(values) != 1:
                raise ValueError(f"{self.name}.{name}: {len(values)} values in one table; expected one")
            options[name] = _option(str(values[0]), self.operator, name)
        arrays = {name: frame[name].to_numpy(float) for name in self.fields}
        return self.operator(**arrays, **options)  # type: ignore[call-arg]  # every operator class takes its own fields


def _option(text: str, cls: type[Operator], name: str) -> Any:
    default = next(f.default for f in fields(cls) if f.name == name)  # type: ignore[arg-type]
    return text == "true" if isinstance(default, bool) else text


def _of_class(cls: type[Operator]) -> Kind:
    numbers: dict[str, float | None] = {}
    options: dict[str, str | None] = {}
    for f in fields(cls):  # type: ignore[arg-type]  # operators are dataclasses
        default = None if f.default is MISSING else f.default
        if f.metadata.get("static"):
            options[f.name] = option_text(default)
        else:
            numbers[f.name] = None if default is None else float(default)
    return Kind(cls.kind, numbers, options, cls)


def option_text(value: Any) -> str:
    """A static field as text: booleans "true" and "false"."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _classes() -> list[type[Operator]]:
    found = [getattr(workloads.operators, name) for name in workloads.operators.__all__]
    return [c for c in found if isinstance(c, type) and issubclass(c, Operator) and c is not Operator]


#: One fused mixture-of-experts layer on one device: routing, both grouped products, activation, permutation.
#: `experts_hit` 0: unknown.
_MOE = Kind(
    "moe_layer",
    {
        "tokens": None, "hidden": None, "width": None, "top_k": None, "experts": None, "expert_tp": 1.0,
        "expert_ranks": 1.0, "power_law": 0.0, "experts_hit": 0.0,
    },
    {"dtype": "bf16", "weight_dtype": ""},
    None,
)  # fmt: skip
#: One attention call over a prefill chunk of one sequence and `decode_sequences` decoding ones.
_MIXED = Kind(
    "mixed_attention",
    {
        "query_tokens": None, "prefix_tokens": 0.0, "decode_sequences": None, "decode_context_tokens": None,
        "heads": None, "kv_heads": None, "head_dim": None,
    },
    {"dtype": "bf16", "kv_dtype": ""},
    None,
)  # fmt: skip

KINDS: dict[str, Kind] = {k.name: k for k in (*map(_of_class, _classes()), _MOE, _MIXED)}


def kind_of(name: str) -> Kind:
    """The kind called `name`; `ValueError` with the nearest known one otherwise."""
    if name not in KINDS:
        raise ValueError(f"unknown operator kind {name!r}{nearest(name, KINDS)} (known: {', '.join(KINDS)})")
    return KINDS[name]


def canonical(kind: Kind, frame: Frame) -> Frame:
    """`frame` with all columns of `kind`, defaults filled in and equal shapes spelt equally; unknown dtypes are left
    as they are.

    `ValueError` for a missing required column, and for an unknown one (a latency in another unit is named as such).
    """
    for name in frame.columns:
        if name not in kind.columns:
            raise ValueError(_unknown_column(kind, str(name)))
    required = [*REQUIRED_COLUMNS, *(f for f, default in kind.fields.items() if default is None)]
    missing = [name for name in required if name not in frame.columns]
    if missing:
        raise ValueError(
            f"{kind.name}: column {', '.join(missing)} missing (has: {', '.join(map(str, frame.columns))})"
        )
    out: dict[str, Any] = {}
    for name, default in kind.fields.items():
        column = frame[name] if name in frame else pd.Series(default, frame.index)
        out[name] = _numbers(column)
        if default is not None and name in frame:
            out[name] = out[name].where(frame[name].notna(), default)
    for name, default in kind.options.items():
        out[name] = _text(frame, name, default or "")
        if name in DTYPE_OPTIONS:
            out[name] = out[name].map(_dtype_map(out[name]))
    for name in DTYPE_OPTIONS[1:]:
        if name in out:
            out[name] = out[name].where(out[name] != "", out["dtype"])
    for field, stands_for in (("value_dim", "head_dim"), ("key_heads", "heads")):
        if kind.fields.get(field) == 0.0 and stands_for in out:
            out[field] = out[field].where(out[field] != 0.0, out[stands_for])
    for name in TEXT_COLUMNS:
        out[name] = _text(frame, name, "")
    for name, default in (("latency_s", np.nan), ("n_repeats", 1.0), ("spread", np.nan)):
        column = frame[name] if name in frame else pd.Series(default, frame.index)
        out[name] = _numbers(column)
    return pd.DataFrame(out, index=frame.index)


def _numbers(column: Frame) -> Frame:
    numbers: Frame = pd.to_numeric(column, errors="coerce")
    return numbers.astype(float)


def _text(frame: Frame, name: str, default: str) -> Frame:
    if name not in frame:
        return pd.Series(default, frame.index, dtype=object)
    column = frame[name].astype(object).where(frame[name].notna(), default)
    return column.map({value: option_text(value) for value in column.unique()})


def _dtype_map(column: Frame) -> dict[str, str]:
    names = {}
    for value in column.unique():
        try:
            names[value] = canonical_dtype(value) if value else ""
        except ValueError:
            names[value] = value
    return names


def _unknown_column(kind: Kind, name: str) -> str:
    if name.startswith(("latency", "time", "duration")):
        return f"{kind.name}: column {name!r}; expected latency_s in seconds (convert, or import with its unit)"
    return f"{kind.name}: unknown column {name!r}{nearest(name, kind.columns)}"
