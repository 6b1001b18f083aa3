"""A plain CSV (or Parquet) file with a mapping: which column is which field, and in what unit the latency is.

read_plain_csv(path, kind="gemm", columns={"M": "m", "N": "n", "K": "k", "t": "latency_s"}, unit="us",
               constants={"device": "h100_sxm", "stack": "torch-2.4", "dtype": "bf16"})
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hardware.paths import nearest
from profiles.importers.imported import Import, Records, gathered, read_table, require, seconds
from profiles.store_schema import kind_of


def read_plain_csv(
    path: Path,
    kind: str,
    columns: Mapping[str, str],
    unit: str,
    constants: Mapping[str, Any] | None = None,
) -> Import:
    """Rows of `kind`: `columns` maps file columns to fields, `constants` gives fields the file lacks, `unit` is the
    latency's.

    Text in a number column becomes a refused row, not an error. `ValueError` for an unknown field, a missing column
    or an unknown unit.
    """
    spec = kind_of(kind)
    fixed = dict(constants or {})
    for where, fields in (("columns", columns.values()), ("constants", fixed)):
        for name in fields:
            if name not in spec.columns:
                raise ValueError(f"{where}: unknown field {name!r} of {kind}{nearest(name, spec.columns)}")
    if "latency_s" not in columns.values():
        raise ValueError("columns: none is mapped to latency_s; say which column holds the measured time")
    frame = read_table(path)
    require(frame, columns, str(path))
    rows = frame[list(columns)].rename(columns=dict(columns))
    rows = rows.assign(**{"source": path.name, **fixed})
    rows["latency_s"] = seconds(rows["latency_s"], unit)
    return gathered(len(rows), [Records(kind, rows)], [])
