"""Dotted paths into descriptions: `memory.dram.bandwidth_bytes_per_s`, `matrix_flops_per_s.bf16`, `scale_up.latency_s`.

A path walks dataclass fields, dictionary keys and the names (or indices) of tuple elements. Sweeps bind parameters by
path.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from typing import Any


def nearest(name: str, known: Any) -> str:
    """ "; did you mean 'x'?" for the nearest of `known`, else the empty string."""
    choices = {str(k).lower(): str(k) for k in known}
    close = get_close_matches(name.lower(), list(choices), n=1, cutoff=0.5)
    return f"; did you mean {choices[close[0]]!r}?" if close else ""


def unknown(what: str, name: Any, known: Iterable[Any]) -> ValueError:
    """The refusal of a name: `what` it is, the name, the nearest of `known`, and all of them."""
    names = [str(k) for k in known]
    return ValueError(f"{what} {name!r}{nearest(str(name), names)} (known: {', '.join(names) or 'none'})")


def _children(node: Any) -> dict[str, Any]:
    if is_dataclass(node):
        return {f.name: getattr(node, f.name) for f in fields(node)}
    if isinstance(node, Mapping):
        return {str(k): v for k, v in node.items()}
    if isinstance(node, tuple):
        return {getattr(v, "name", "") or str(i): v for i, v in enumerate(node)}
    return {}


def _child(node: Any, key: str, path: str) -> Any:
    children = _children(node)
    if key not in children:
        known = f" (known: {', '.join(children)})" if children else " (it has no parts)"
        raise ValueError(f"unknown path {path!r}: no {key!r}{nearest(key, children)}{known}")
    return children[key]


def get_path(node: Any, path: str) -> Any:
    """The value at dotted `path` below `node`; `ValueError` with the nearest known name otherwise."""
    for key in path.split("."):
        node = _child(node, key, path)
    return node


def set_path(node: Any, path: str, value: Any, *, _whole: str = "") -> Any:
    """A copy of `node` with the value at dotted `path` replaced. A dictionary accepts a new last key."""
    whole = _whole or path
    key, _, rest = path.partition(".")
    if isinstance(node, Mapping):
        if rest:
            value = set_path(_child(node, key, whole), rest, value, _whole=whole)
        return {**node, key: value}
    current = _child(node, key, whole)
    if rest:
        value = set_path(current, rest, value, _whole=whole)
    if isinstance(node, tuple):
        return tuple(value if v is current else v for v in node)
    return replace(node, **{key: value})


def numeric_paths(node: Any, prefix: str = "") -> dict[str, Any]:
    """Every non-static leaf below `node` with its dotted path, in field order; NaN (unknown) leaves included."""
    found: dict[str, Any] = {}
    static = {f.name for f in fields(node) if f.metadata.get("static")} if is_dataclass(node) else set()
    for key, child in _children(node).items():
        if key in static:
            continue
        path = f"{prefix}{key}"
        if child is None:  # a part the node does not have
            continue
        if is_dataclass(child) or isinstance(child, Mapping | tuple):
            found |= numeric_paths(child, path + ".")
        else:
            found[path] = child
    return found
