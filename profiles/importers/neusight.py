"""NeuSight's data set: one CSV per operator family, FP32 kernels of eager PyTorch.

Columns (any case): `OPName` or `Op` (linear, bmm, softmax, layernorm, add, ...), `Device`, shape `B, M, N, K`
(products) or `B, H` (row-wise and elementwise operators: B rows of H), `Latency`, optionally `Kernel Name`. NeuSight
writes milliseconds; say so otherwise.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from profiles.importers.imported import Import, Records, gathered, read_table, refused_rows, seconds
from profiles.store_schema import Frame

BINARY = ("add", "mul", "div", "pow", "sub", "vecadd", "vecmul", "vecdiv", "vecpow")
UNARY = ("addu", "mulu", "divu", "powu", "gelu", "relu", "tanh", "vecgelu", "vecrelu", "vectanh")
#: Spellings of one column, in lower case without blanks and underscores.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "op": ("opname", "op", "operator", "function"),
    "device": ("device", "gpu", "devicename"),
    "latency": ("latency", "latencyms", "measuredlatency", "time"),
    "kernel": ("kernelname", "kernel"),
    "b": ("b", "batch"),
    "m": ("m", "i"),
    "n": ("n", "j"),
    "k": ("k",),
    "h": ("h", "hidden", "cols"),
    "rows": ("rows",),
}


def read_neusight(
    path: Path, stack: str = "torch2.1.0-cu121-eager", unit: str = "ms", device: str = "", op: str = ""
) -> Import:
    """Rows of one file; `device` and `op` stand in where the file has no such column (NeuSight names files after the
    operator)."""
    raw = read_table(path)
    frame = _renamed(raw)
    if "latency" not in frame:
        raise ValueError(f"{path}: no latency column (has: {', '.join(map(str, raw.columns))})")
    for name, given in (("device", device), ("op", op or path.stem)):
        if name not in frame:
            if not given:
                raise ValueError(f"{path}: no column {name!r}; say which with {name}=")
            frame[name] = given
    names = frame["op"].astype(str).str.lower()
    common = pd.DataFrame(
        {
            "device": frame["device"].astype(str),
            "stack": stack,
            "kernel": frame["kernel"].astype(str) if "kernel" in frame else names,
            "source": "neusight",
            "dtype": "fp32",
            "latency_s": seconds(frame["latency"], unit),
        },
        index=frame.index,
    )
    records, refused = [], []
    for name, rows in frame.groupby(names, sort=True):
        table = common.loc[rows.index]
        try:
            records.append(_record(str(name), rows, table))
        except KeyError as error:
            reason = f"column {error.args[0]!r} missing" if error.args[0] != name else "unknown operator"
            refused.append(refused_rows(rows.index, "op", name, reason))
    return gathered(len(frame), records, refused)


def _record(name: str, rows: Frame, table: Frame) -> Records:
    if name in ("linear", "fc", "bmm", "matmul", "mm"):
        batch = rows["b"] if "b" in rows else pd.Series(1.0, rows.index)
        return Records("gemm", table.assign(m=rows["m"], n=rows["n"], k=rows["k"], batch=batch))
    count = rows["rows"] if "rows" in rows else rows["b"]
    if name in ("softmax",):
        return Records("softmax", table.assign(rows=count, cols=rows["h"]))
    if name in ("ln", "layernorm", "layer_norm"):
        return Records("normalisation", table.assign(rows=count, cols=rows["h"], flavour="layer"))
    if name in BINARY or name in UNARY:
        elements = count.astype(float) * np.asarray(rows["h"], float)
        inputs = 2 if name in BINARY else 1
        return Records("elementwise", table.assign(elements=elements, inputs=inputs, name=name.removeprefix("vec")))
    raise KeyError(name)


def _renamed(raw: Frame) -> Frame:
    plain = {str(column).lower().replace(" ", "").replace("_", ""): column for column in raw.columns}
    found = {}
    for field, spellings in SPELLINGS.items():
        column = next((plain[s] for s in spellings if s in plain), None)
        if column is not None:
            found[field] = raw[column]
    return pd.DataFrame(found, index=raw.index)
