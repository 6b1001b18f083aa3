"""Tables of constants as TOML text: numbers with five significant digits, strings escaped, short tables in one line."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

#: Tables under these names are written in one line.
INLINE = ("values", "when", "data")


def toml_text(table: Mapping[str, Any], prefix: str = "") -> str:
    """`table` (nested mappings, lists of mappings, strings, numbers, booleans, lists) as TOML, ending in a newline."""
    plain, nested = [], []
    for key, value in table.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and key not in INLINE:
            nested.append(f"\n[{path}]\n{toml_text(value, path + '.')}")
        elif _tables(value):
            nested += [f"\n[[{path}]]\n{toml_text(entry, path + '.')}" for entry in value]
        else:
            plain.append(f"{key} = {_value(value)}\n")
    return "".join(plain + nested)


def _tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(entry, Mapping) for entry in value)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }" if value else "{}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(_value, value)) + "]"
    number = float(value)
    if math.isnan(number) or math.isinf(number):
        return "nan" if math.isnan(number) else ("inf" if number > 0.0 else "-inf")
    text = f"{number:.5g}"
    return text if "." in text or "e" in text else f"{text}.0"


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() else json.dumps(key)
