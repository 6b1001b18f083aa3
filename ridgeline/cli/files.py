"""Files and folders that options name, checked before anything is computed; what is wrong is said the same way everywhere."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Endings of pictures.
PICTURES = (".png", ".pdf", ".svg", ".jpg")


def check_target(option: str, path: Path | None, endings: tuple[str, ...] = ()) -> None:
    """`ValueError` naming `option` unless a file can be written at `path`: no folder, in a folder that exists. None passes.

    `endings`: those the file may have, e.g. `PICTURES` (default: any).
    """
    if path is None:
        return
    expected = f"; expected a path that ends in {', '.join(endings[:-1])} or {endings[-1]}" if endings else ""
    if path.is_dir():
        raise ValueError(f"{option}: {str(path)!r} is a folder, not a file to write{expected}")
    if endings and path.suffix.lower() not in endings:
        raise ValueError(f"{option}: {str(path)!r} has no known ending{expected}")
    if not path.parent.is_dir():
        raise ValueError(f"{option}: {str(path.parent)!r} is not a folder; expected a file in an existing one")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{option}: {str(path)!r} may not be written to")


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """What is written to `path` inside; what goes wrong becomes a `ValueError` naming `option`."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(f"{option}: {str(path)!r} cannot be written: {error}") from None


def pyplot() -> Any:
    """`matplotlib.pyplot` that needs no screen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save_picture(figure: Any, path: Path, option: str = "--plot") -> None:
    """Write `figure` to `path` and close it; `ValueError` naming `option` where that fails."""
    try:
        with writing(option, path):
            figure.savefig(path)
    finally:
        pyplot().close(figure)


def checked_folder(option: str, path: Path) -> Path:
    """`path`, a folder to read that is there and not empty; `ValueError` naming `option` otherwise."""
    if not path.is_dir():
        raise ValueError(f"{option}: {str(path)!r} is not a folder")
    if next(path.iterdir(), None) is None:
        raise ValueError(f"{option}: {str(path)!r} is empty; expected a folder of measurements")
    return path


def measurements(data: Path | None) -> Path:
    """The folder that --data names, else the one of `profiles.data_folder`, checked."""
    from profiles.data_folder import data_folder

    return checked_folder("--data", data_folder() if data is None else data)
