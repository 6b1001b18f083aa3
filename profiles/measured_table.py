"""Reading a measured table with its columns checked, so that a wrong file is one clear line and not a traceback."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TEXT, NUMBER, FLAG = "text", "number", "true/false"


def find_table(folder: Path, stem: str) -> Path | None:
    """`folder/stem.parquet` or `folder/stem.csv`, whichever exists; None otherwise."""
    for suffix in (".parquet", ".csv"):
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            return path
    return None


def read_table(path: Path, columns: Mapping[str, str], defaults: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """The named columns (name -> TEXT, NUMBER or FLAG) of a Parquet or CSV file, numbers as float64, index 0..n-1.

    Other columns are dropped; those in `defaults` may be missing and take that value.
    `ValueError`, one line, for an unreadable file, a missing column or one of another kind.
    """
    try:
        frame: Any = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except Exception as error:  # pandas and Arrow raise many kinds for a damaged file
        raise ValueError(f"{path}: cannot be read as {path.suffix[1:]}: {str(error).splitlines()[0]}") from None
    frame = frame.assign(**{name: value for name, value in (defaults or {}).items() if name not in frame.columns})
    for name, kind in columns.items():
        if name not in frame.columns:
            near = get_close_matches(name, [str(c) for c in frame.columns], n=1)
            hint = f"; did you mean the column {near[0]!r}?" if near else ""
            raise ValueError(f"{path.name}: column {name!r} ({kind}) is missing{hint}")
        if kind == NUMBER and not _is_number(frame[name]):
            raise ValueError(f"{path.name}: column {name!r} holds {frame[name].dtype} values, expected numbers")
        if kind == FLAG and not set(frame[name].dropna().unique()) <= {True, False}:
            raise ValueError(f"{path.name}: column {name!r} holds {frame[name].dtype} values, expected true/false")
    frame = frame[list(columns)].reset_index(drop=True)
    numbers = [name for name, kind in columns.items() if kind == NUMBER]
    texts = [name for name, kind in columns.items() if kind == TEXT]
    return frame.astype({name: float for name in numbers} | {name: str for name in texts})


def measured_or_nan(values: pd.Series) -> tuple[np.ndarray, int]:
    """`values` with what cannot be a duration (NaN, infinite, zero, negative) as NaN, and how many of those."""
    numbers = values.to_numpy(float)
    good = np.isfinite(numbers) & (numbers > 0.0)
    return np.where(good, numbers, np.nan), int((~good).sum())


def _is_number(column: Any) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
