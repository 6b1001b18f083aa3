"""Reading YAML with the path of every field at hand, so that an error can name what is wrong and where."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from reprlib import Repr
from typing import Any

import yaml

from dataflow.architecture import INF
from dataflow.problem import unknown


class Tagged(dict):
    """A mapping that carried a YAML tag: `tag` is "Component" for `!Component`."""

    tag: str = ""


class _Loader(yaml.SafeLoader):
    """Plain YAML plus tags on mappings, which are kept by name."""


def _tagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if not isinstance(node, yaml.MappingNode):
        problem = f"tag '!{suffix[:40]}' on a value, expected on a mapping"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    made = Tagged(loader.construct_mapping(node, deep=True))
    made.tag = suffix
    return made


_Loader.add_multi_constructor("!", _tagged)


def load_yaml(source: str | Path) -> dict[str, Any]:
    """The top-level mapping of a file (a `Path`) or of a text; ValueError in one line for what is not YAML."""
    text, name = text_of(source, "yaml")
    if "{{" in text:
        raise ValueError(f"{name}: holds a template ('{{{{'), expected plain YAML; render it first")
    try:
        found = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or "cannot be read").split())
        raise ValueError(f"{name}{where}: not YAML ({problem})") from None
    except RecursionError:
        raise ValueError(f"{name}: nested too deeply, expected sections of a few levels") from None
    except (ValueError, OverflowError, AttributeError, TypeError) as error:  # numbers and dates that cannot be
        raise ValueError(f"{name}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{name}: a {type(found).__name__}, expected a mapping of sections")
    return found


def text_of(source: str | Path, kind: str) -> tuple[str, str]:
    """Text and name of a file (a `Path`), or a text and `kind`; ValueError for what is neither, or is not text."""
    if isinstance(source, str):
        return source, kind
    if not isinstance(source, Path):
        raise ValueError(f"{kind}: a {type(source).__name__}, expected a Path or text")
    if not source.is_file():
        raise ValueError(f"{source}: {'not a regular file' if source.exists() else 'no such file'}, expected {kind}")
    try:
        return source.read_text("utf-8-sig"), str(source)
    except UnicodeDecodeError:
        raise ValueError(f"{source}: not text, expected {kind}") from None


def fields(
    data: Any, path: str, required: Iterable[str] = (), optional: Iterable[str] = (), ignored: Iterable[str] = ()
) -> dict[str, Any]:
    """`data` as a mapping with these keys and no other; ValueError naming the path, the key and the nearest known one."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{path}: {_short(data)}, expected a mapping")
    required, known = tuple(required), (*required, *optional, *ignored)
    for key in data:
        if key not in known:
            raise ValueError(
                f"{path}.{_label(key)}: {_short(data[key])}; " + unknown("key", key, [*required, *optional])
            )
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
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{path}: {_short(value)}, expected a number") from None
    fits = (found > low if strictly else found >= low) and found < INF
    if isinstance(value, bool) or not fits:
        kind = "above" if strictly else "not below"
        raise ValueError(
            f"{path}: {_short(value)}, expected a number {kind} {low:g}{', finite' if found == INF else ''}"
        )
    return found


def whole(value: Any, path: str) -> int:
    """`value` as a positive integer of at most 2^53."""
    found = number(value, path)
    if found != int(found) or found > 2**53:
        raise ValueError(f"{path}: {_short(value)}, expected a positive integer")
    return int(found)


def names_of(value: Any, path: str) -> list[str]:
    """A list of names, written as a list or separated by commas or spaces."""
    if isinstance(value, str):
        return [part for part in value.replace(",", " ").split() if part]
    return [name_of(part, path) for part in items(value, path)]


def name_of(value: Any, path: str) -> str:
    """`value` as a name, on one line."""
    if isinstance(value, list | dict) or value is None or not str(value).strip() or len(str(value).splitlines()) > 1:
        raise ValueError(f"{path}: {_short(value)}, expected a name")
    return str(value)


def integer(value: Any, path: str) -> int:
    """`value` as an integer that may be 0."""
    found = number(value, path, strictly=False)
    if found != int(found):
        raise ValueError(f"{path}: {_short(value)}, expected a non-negative integer")
    return int(found)


_REPR = Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 2, 57, 57, 40


def _short(value: Any) -> str:
    """On one line, however deep or long the value is."""
    text = " ".join(_REPR.repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def _label(key: Any) -> str:
    return " ".join(str(key).split()) if isinstance(key, str) else _short(key)
