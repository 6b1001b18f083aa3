"""Reading YAML with the path of every field at hand, so that an error can name what is wrong and where."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dataflow.problem import unknown


class Tagged(dict):
    """A mapping that carried a YAML tag: `tag` is "Component" for `!Component`."""

    tag: str = ""


class _Loader(yaml.SafeLoader):
    """Plain YAML plus tags on mappings, which are kept by name."""


def _tagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"yaml line {node.start_mark.line + 1}: tag '!{suffix}' on a value, expected on a mapping")
    made = Tagged(loader.construct_mapping(node, deep=True))
    made.tag = suffix
    return made


_Loader.add_multi_constructor("!", _tagged)


def load_yaml(source: str | Path) -> dict[str, Any]:
    """The top-level mapping of a file (a `Path`) or of a text; ValueError in one line for what is not YAML."""
    text, name = (source.read_text(), source.name) if isinstance(source, Path) else (source, "yaml")
    if "{{" in text:
        raise ValueError(f"{name}: holds a template ('{{{{'), expected plain YAML; render it first")
    try:
        found = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise ValueError(f"{name}{where}: not YAML ({getattr(error, 'problem', None) or 'cannot be read'})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{name}: a {type(found).__name__}, expected a mapping of sections")
    return found


def fields(
    data: Any, path: str, required: Iterable[str] = (), optional: Iterable[str] = (), ignored: Iterable[str] = ()
) -> dict[str, Any]:
    """`data` as a mapping with these keys and no other; ValueError naming the path, the key and the nearest known one."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{path}: {_short(data)}, expected a mapping")
    required, known = tuple(required), (*required, *optional, *ignored)
    for key in data:
        if key not in known:
            raise ValueError(f"{path}.{key}: {_short(data[key])}; " + unknown("key", key, [*required, *optional]))
    for key in required:
        if key not in data:
            raise ValueError(f"{path}.{key}: missing, expected a value")
    return dict(data)


def items(data: Any, path: str) -> list[Any]:
    """`data` as a list."""
    if not isinstance(data, list):
        raise ValueError(f"{path}: {_short(data)}, expected a list")
    return data


def number(value: Any, path: str, low: float = 0.0, strictly: bool = True) -> float:
    """`value` as a number above (or not below) `low`."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{path}: {_short(value)}, expected a number") from None
    if isinstance(value, bool) or not (found > low if strictly else found >= low):
        raise ValueError(f"{path}: {_short(value)}, expected a number {'above' if strictly else 'not below'} {low:g}")
    return found


def whole(value: Any, path: str) -> int:
    """`value` as a positive integer."""
    found = number(value, path)
    if found != int(found):
        raise ValueError(f"{path}: {_short(value)}, expected a positive integer")
    return int(found)


def names_of(value: Any, path: str) -> list[str]:
    """A list of names, written as a list or separated by commas or spaces."""
    if isinstance(value, str):
        return [part for part in value.replace(",", " ").split() if part]
    return [str(part) for part in items(value, path)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
