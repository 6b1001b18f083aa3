"""Which chips are known, and how a name, a file or a dict becomes one. An unknown name is an error, never another
chip.
"""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from hardware.accelerator import Accelerator
from hardware.chip_file import from_dict
from hardware.paths import nearest, numeric_paths

#: A chip file is a page of text; anything larger is some other file.
MAX_FILE_BYTES = 1 << 20

_FOLDER = files("hardware").joinpath("catalogue")


@cache
def _entries() -> tuple[str, ...]:
    return tuple(sorted(e.name.removesuffix(".toml") for e in _FOLDER.iterdir() if e.name.endswith(".toml")))


@cache
def _entry(name: str) -> Accelerator:
    where = f"catalogue/{name}.toml"
    chip = from_dict(_parse(_FOLDER.joinpath(f"{name}.toml").read_text("utf-8"), where), where, name)
    if chip.name != name:
        raise ValueError(f"{where}: name: {chip.name!r}; expected the file's own name {name!r}")
    return chip


@cache
def _by_name() -> dict[str, str]:
    known: dict[str, str] = {}
    for chip in map(_entry, _entries()):
        for name in (chip.name, *chip.aliases):
            if known.setdefault(name.lower(), chip.name) != chip.name:
                raise ValueError(f"catalogue: {name!r} names both {known[name.lower()]!r} and {chip.name!r}")
    return known


def names() -> list[str]:
    """Names of the chips in the catalogue, sorted."""
    return list(_entries())


def aliases() -> dict[str, str]:
    """Every spelling `load` accepts, in lower case, with the chip's name."""
    return dict(_by_name())


def load(device: str | Path | Mapping[str, Any] | Accelerator) -> Accelerator:
    """The chip that `device` is: a name or alias (case does not matter), a path to a TOML file, a dict, or a chip
    itself.

    Text that ends in `.toml` or contains a path separator is a path. Errors: `ValueError` in one line: an unknown name
    with the nearest known one; a file or dict with field path, value and expectation.
    """
    if isinstance(device, Accelerator):
        return device
    if isinstance(device, Mapping):
        return from_dict(device)
    if isinstance(device, Path) or (
        isinstance(device, str) and (device.endswith(".toml") or "/" in device or "\\" in device)
    ):
        return _load_file(Path(device))
    if not isinstance(device, str):
        raise ValueError(
            f"device: {type(device).__name__}; expected a name, a path to a .toml file, a dict or an Accelerator"
        )
    spelling = " ".join(device.split()).lower()
    if spelling in _entries():
        return _entry(spelling)
    if spelling not in _by_name():
        shown = device if len(device) <= 60 else device[:57] + "..."
        raise ValueError(f"unknown device {shown!r}{_suggestion(spelling)} ({len(names())} known: ridgeline devices)")
    return _entry(_by_name()[spelling])


def _suggestion(spelling: str) -> str:
    """The variants of a chip family that `spelling` begins ("h100"), else the nearest name or alias."""
    variants = [name for name in names() if spelling and name.startswith(f"{spelling}_")]
    if variants:
        return f"; did you mean {' or '.join(map(repr, variants))}?"
    return nearest(spelling, names()) or nearest(spelling, aliases())


def _load_file(path: Path) -> Accelerator:
    try:
        if not path.is_file():
            raise ValueError(f"{path}: no such chip file; expected a TOML file, or a name listed by: ridgeline devices")
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ValueError(f"{path}: {size} bytes; expected a chip file of at most {MAX_FILE_BYTES} bytes")
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8 text; expected a TOML chip file") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); expected a TOML chip file") from None
    chip = from_dict(_parse(text, str(path)), str(path), path.stem)
    for field, value in numeric_paths(chip).items():
        if np.ndim(value) > 0:
            raise ValueError(f"{path}: {field}: {np.size(value)} values; expected one (a file describes one chip)")
    return chip


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split()) or "nested too deeply"
        raise ValueError(f"{where}: not valid TOML: {reason}; expected a chip file") from None
