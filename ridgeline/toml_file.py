"""Reading a TOML file that a user wrote."""

import tomllib
from pathlib import Path
from typing import Any


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a file; `ValueError` naming it where it does not exist or is no TOML."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no TOML file ({error})") from None
