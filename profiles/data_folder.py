"""Where measured data are: beside the checkout or wherever `RIDGELINE_DATA` points. Read in place, never copied."""

import os
from pathlib import Path

VARIABLE = "RIDGELINE_DATA"


def data_folder() -> Path:
    """The folder of measured data: `$RIDGELINE_DATA`, else `../shared/data` beside the checkout or the current folder.

    `ValueError` if the variable names no folder or none of the places exists.
    """
    named = os.environ.get(VARIABLE)
    if named:
        folder = Path(named)
        if not folder.is_dir():
            raise ValueError(f"{VARIABLE}: {named!r} is not a folder")
        return folder
    checkout = Path(__file__).resolve().parent.parent
    candidates = [checkout.parent / "shared" / "data", Path.cwd().parent / "shared" / "data"]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise ValueError(f"no measured data: set {VARIABLE} to a folder with the subfolders collectives, kernels, ...")
