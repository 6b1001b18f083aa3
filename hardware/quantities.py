"""Human units at the edge: "3.35 TB/s", "141 GiB", "989 TFLOP/s", "1.83 GHz" to plain SI numbers and back.

Decimal prefixes are powers of ten, `Ki`, `Mi`, `Gi`, `Ti` powers of two; the arithmetic is decimal, so that what is
written is what is read. A number without unit is in the SI unit of its dimension.
"""

import math
import re
from decimal import Decimal
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

PREFIXES: dict[str, Decimal] = {
    "": Decimal(1),
    "p": Decimal(10) ** -12,
    "n": Decimal(10) ** -9,
    "u": Decimal(10) ** -6,
    "µ": Decimal(10) ** -6,
    "m": Decimal(10) ** -3,
    "k": Decimal(10) ** 3,
    "K": Decimal(10) ** 3,
    "M": Decimal(10) ** 6,
    "G": Decimal(10) ** 9,
    "T": Decimal(10) ** 12,
    "P": Decimal(10) ** 15,
    "E": Decimal(10) ** 18,
    "Ki": Decimal(2) ** 10,
    "Mi": Decimal(2) ** 20,
    "Gi": Decimal(2) ** 30,
    "Ti": Decimal(2) ** 40,
}

#: Unit spellings of each dimension; the first one is written.
UNITS: dict[str, tuple[str, ...]] = {
    "bytes": ("B",),
    "bytes_per_s": ("B/s",),
    "flops_per_s": ("FLOP/s", "FLOPS", "OP/s", "OPS"),
    "s": ("s",),
    "hz": ("Hz",),
    "watts": ("W",),
    "usd": ("USD",),
    "joules_per_byte": ("J/B",),
    "count": ("",),
}

#: An example of each dimension, for error messages.
EXAMPLES: dict[str, str] = {
    "bytes": "'141 GB' or '50 MiB'",
    "bytes_per_s": "'3.35 TB/s'",
    "flops_per_s": "'989 TFLOP/s'",
    "s": "'2 us'",
    "hz": "'1.83 GHz'",
    "watts": "'700 W'",
    "usd": "'30000 USD'",
    "joules_per_byte": "'7 pJ/B'",
    "count": "132",
}

_QUANTITY = re.compile(r"\s*([-+]?(?:\d[\d_]*\.?[\d_]*|\.\d+)(?:[eE][-+]?\d{1,4})?)\s*(\S*)\s*")
_WRITTEN_PREFIXES = ("P", "T", "G", "M", "k", "", "m", "u", "n", "p")


def parse_quantity(value: Any, dimension: str, path: str) -> Any:
    """`value` (a number, text with a unit, or an array in SI units) as a positive finite float64 (array).

    `dimension`: a key of `UNITS`; `path`: how the error names the field. Raises `ValueError` in one line otherwise.
    """
    expected = f"expected a positive {dimension} quantity such as {EXAMPLES[dimension]}"
    if isinstance(value, bool) or value is None or isinstance(value, dict):
        raise ValueError(f"{path}: {_short(value)}; {expected}")
    if isinstance(value, str):
        value = _parse_text(value, dimension, path, expected)
    if isinstance(value, Tracer):
        return value
    try:
        number = value if isinstance(value, jax.Array) else np.asarray(value, dtype=float)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{path}: {_short(value)}; {expected}") from None
    if number.size == 0 or not bool(((number > 0) & (number < math.inf)).all()):
        raise ValueError(f"{path}: {_short(value)} is not positive and finite; {expected}")
    return float(number) if number.ndim == 0 and not isinstance(number, jax.Array) else number


def _parse_text(text: str, dimension: str, path: str, expected: str) -> float:
    match = _QUANTITY.fullmatch(text) if len(text) <= 80 else None
    if match is None:
        raise ValueError(f"{path}: {_short(text)}; {expected}")
    digits, unit = match.groups()
    scale = _scale(unit, dimension)
    if scale is None:
        raise ValueError(f"{path}: {text!r} has unit {unit!r}; {expected}")
    return float(Decimal(digits.replace("_", "")) * scale)


def _scale(unit: str, dimension: str) -> Decimal | None:
    if not unit:
        return Decimal(1)
    for spelling in UNITS[dimension]:
        if spelling and unit.endswith(spelling):
            return PREFIXES.get(unit[: -len(spelling)])
    return None


def format_quantity(value: float, dimension: str, *, digits: int | None = None, binary: bool = False) -> str:
    """`value` in the prefix that leaves 1..999 before the point. Exact with `digits=None`: parsing gives `value` back.

    `binary` writes byte counts that are multiples of 1024 with `Ki`, `Mi`, ... (on-chip memories).
    """
    if not math.isfinite(value):
        return "unknown"
    unit = UNITS[dimension][0]
    if not unit:
        return repr(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
    prefixes: tuple[str, ...] = _WRITTEN_PREFIXES if dimension not in ("usd",) else ("",)
    if binary and value % 1024 == 0:
        prefixes = ("Ti", "Gi", "Mi", "Ki")
    exact = Decimal(repr(float(value)))
    prefix = next((p for p in prefixes if PREFIXES[p] <= exact), prefixes[-1])
    scaled = exact / PREFIXES[prefix]
    text = f"{scaled:.{digits}g}" if digits else f"{scaled.normalize():f}"
    if digits and "e" in text:
        text = f"{float(text):g}"
    if digits is None and (len(text) > 40 or float(Decimal(text) * PREFIXES[prefix]) != value):
        text, prefix = repr(float(value)), ""
    return f"{text} {prefix}{unit}"


def _short(value: Any) -> str:
    text = repr(value).replace("\n", " ")
    return text if len(text) <= 60 else text[:57] + "..."
