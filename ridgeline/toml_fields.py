"""Fields of a TOML file that a user wrote: numbers with units, choices, tables; `ValueError` with the field's path otherwise."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hardware.paths import nearest
from hardware.quantities import parse_quantity

#: Numbers beyond are slips of the pen; their squares and ratios would leave the floating-point range.
LARGEST = 1e24


def number(table: dict[str, Any], key: str, where: str, unit: str, default: float | None = None) -> float:
    """The number at `key` of the table `where`, in SI units; one without a default must be there."""
    if key not in table and default is None:
        raise ValueError(f"{where}.{key}: missing")
    return _quantity(table[key], f"{where}.{key}", unit) if key in table else float(default or 0.0)


def whole_number(table: dict[str, Any], key: str, where: str, default: int) -> int:
    """The whole number of 0 or more at `key`."""
    found = number(table, key, where, "count", default)
    if found != int(found):
        raise ValueError(f"{where}.{key}: {table[key]!r}; expected a whole number")
    return int(found)


def numbers(table: dict[str, Any], key: str, where: str, unit: str) -> list[float]:
    """The list of numbers at `key`, empty where there is none."""
    found = table.get(key, [])
    if not isinstance(found, list):
        raise ValueError(f"{where}.{key}: {found!r}; expected a list of numbers")
    return [_quantity(value, f"{where}.{key}", unit) for value in found]


def choice(table: dict[str, Any], key: str, where: str, options: tuple[str, ...], default: str) -> str:
    """The one of `options` at `key`."""
    found = table.get(key, default)
    if not isinstance(found, str) or found not in options:
        raise ValueError(
            f"{where}.{key}: {found!r} is unknown{nearest(str(found), options)} (known: {', '.join(options)})"
        )
    return found


def table(text: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """The table at `name`, empty where there is none."""
    found = text.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f"{where}{name}: {found!r}; expected a table")
    return found


def check_keys(where: str, given: Any, known: tuple[str, ...]) -> dict[str, Any]:
    """`given`; `ValueError` unless it is a table with `known` keys only."""
    if not isinstance(given, dict):
        raise ValueError(f"{where.rstrip('.')}: {given!r}; expected a table")
    for name in given:
        if name not in known:
            raise ValueError(f"{where}{name}: unknown{nearest(name, known)} (known: {', '.join(known)})")
    return given


@contextmanager
def field(path: str) -> Iterator[None]:
    """What the body makes of the value at `path` fails with that path."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
        message = str(error)
        raise ValueError(message if message.startswith(path) else f"{path}: {message}") from None


def _quantity(value: Any, path: str, unit: str) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{path}: {value!r}; expected a number")
    nothing = re.fullmatch(r"0+(?:\.0*)?(?![\d.])(.*)", value.strip()) if isinstance(value, str) else None
    if nothing:  # a quantity of 0 has a unit, too
        _quantity(f"1{nothing[1]}", path, unit)
        return 0.0
    if value == 0:
        return 0.0
    try:
        found = float(parse_quantity(value, unit, path))
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{path}: {value!r}; {error}") from None
    if not 1.0 / LARGEST <= found <= LARGEST:
        raise ValueError(f"{path}: {value!r}; expected a number from {1.0 / LARGEST:g} to {LARGEST:g}")
    return found
