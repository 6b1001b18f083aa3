"""Kernel times from a measured table, with the signature of the closed-form models: (operator, chip) -> `KernelTime`.

A query that was measured is answered by its measurement. Otherwise the logarithm of (measured / reference) is
interpolated over the logarithms of the shape, where the reference is the roofline bound plus the table's shortest
time: rooflines carry the trend across shapes, the table what they miss. In a complete grid the interpolation is
multilinear; on scattered points, and outside the grid, it is the inverse-distance mean of the nearest points. Every
answer says whether it was measured, interpolated or extrapolated.

The table is data at the edge: answers are NumPy, never traced by JAX (see `profiles.table_regression` for a formula).
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from scipy.interpolate import RegularGridInterpolator
from scipy.spatial import KDTree

from hardware.accelerator import Accelerator
from profiles.store import Store
from profiles.store_schema import Frame, Kind, canonical, kind_of, option_text
from roofline.bound import roofline_time
from roofline.kernel_time import KernelTime, Reason, kernel_time
from workloads.operators import Operator

#: Measurements of the neighbourhood an answer between them is made of, and the power of distance that weighs them.
NEIGHBOURS, DISTANCE_POWER = 4, 2.0
#: A query further than this from the nearest point (in factors of two of one dimension) is extrapolated, in range or
#: not.
FAR_OCTAVES = 2.0


class Origin(IntEnum):
    """Where a time of a table comes from."""

    NONE = 0
    MEASURED = 1
    INTERPOLATED = 2
    EXTRAPOLATED = 3


class TableAnswer(NamedTuple):
    """Times with their origin (an `Origin` code each) and the distance to the nearest measurement, in octaves;
    arrays [...]."""

    time: KernelTime
    origin: np.ndarray
    distance_octaves: np.ndarray


class _Table(NamedTuple):
    """Points of one set of options: `varying` dimensions, their logarithms [points, dims], ln(measured /
    reference)."""

    varying: tuple[str, ...]
    constant: dict[str, float]
    points: np.ndarray
    residual: np.ndarray
    measured_s: np.ndarray
    tree: KDTree
    grid: RegularGridInterpolator | None


class TableEstimator:
    """Measured times of one chip and software stack, as an estimator. `method`: "auto" (multilinear in a grid) or
    "nearest" (the nearest measurement as it is, scaled by nothing)."""

    def __init__(self, chip: Accelerator, method: str = "auto") -> None:
        if method not in ("auto", "nearest"):
            raise ValueError(f"method: {method!r}; expected auto or nearest")
        self.chip = chip
        self.method = method
        self._tables: dict[tuple[str, tuple[str, ...]], _Table] = {}

    @classmethod
    def from_store(
        cls, store: Store, chip: Accelerator, stack: str, *, source: str | None = None, method: str = "auto"
    ) -> "TableEstimator":
        """All operator kinds `store` has for `chip` and `stack`; `ValueError` if it has none."""
        estimator = cls(chip, method)
        for name in store.kinds():
            if kind_of(name).operator is not None:
                estimator.add(name, store.read(name, device=chip.name, stack=stack, source=source))
        if not estimator._tables:
            raise ValueError(f"{store.path}: no measurement of {chip.name} with stack {stack!r}")
        return estimator

    def add(self, kind: str, rows: Frame) -> None:
        """Add the measured `rows` (columns of the store) of operator `kind`; repeats of a shape count by their
        median."""
        spec = kind_of(kind)
        rows = canonical(spec, rows)
        merged = rows.groupby(list(spec.shape), sort=True, as_index=False)["latency_s"].median()
        for options, group in merged.groupby(list(spec.options), sort=True):
            self._tables[kind, _as_tuple(options)] = _table(spec, group, self.chip, self.method)

    def __call__(self, op: Operator, chip: Accelerator) -> KernelTime:
        """Time of `op` on `chip`, [...] seconds; NaN with a reason where the table has nothing for the operator's
        kind, formats or chip."""
        return self.answer(op, chip).time

    def answer(self, op: Operator, chip: Accelerator) -> TableAnswer:
        """As a call, with the origin of each time."""
        spec = kind_of(op.kind)
        fields = [np.asarray(getattr(op, name), float) for name in spec.fields]
        shape = np.broadcast_shapes(*(f.shape for f in fields))
        columns = {name: np.broadcast_to(f, shape).ravel() for name, f in zip(spec.fields, fields)}
        statics = {name: option_text(getattr(op, name)) for name in spec.options}
        frame = canonical(spec, _frame(columns, statics, self.chip.name))
        options = tuple(str(frame[name].iloc[0]) for name in spec.options) if len(frame) else ()
        table = self._tables.get((op.kind, options))
        bound = roofline_time(op, chip, launch=False)
        if table is None or (chip.name and chip.name != self.chip.name):
            nothing = kernel_time(compute_s=np.zeros(shape), memory_s=0.0, reason=Reason.UNSUPPORTED_OPERATOR)
            return TableAnswer(nothing, np.zeros(shape, int), np.full(shape, np.inf))
        reference = np.broadcast_to(np.asarray(bound.total_s, float), shape).ravel() + float(table.measured_s.min())
        total, origin, distance = _interpolated(
            table, {n: frame[n].to_numpy() for n in spec.fields}, reference, self.method
        )
        time = kernel_time(
            compute_s=bound.compute_s,
            memory_s=bound.memory_s,
            flops=op.flops,
            bytes=op.bytes,
            busy_s=total.reshape(shape),
        )
        return TableAnswer(time, origin.reshape(shape), distance.reshape(shape))


def _as_tuple(options: object) -> tuple[str, ...]:
    return tuple(map(str, options)) if isinstance(options, tuple) else (str(options),)


def _frame(columns: dict[str, np.ndarray], statics: dict[str, str], device: str) -> Frame:
    import pandas as pd

    return pd.DataFrame({**columns, **statics, "device": device, "stack": "", "latency_s": 1.0})


def _table(spec: Kind, rows: Frame, chip: Accelerator, method: str) -> _Table:
    values = {name: rows[name].to_numpy(float) for name in spec.fields}
    varying = tuple(name for name, v in values.items() if np.ptp(v) > 0.0)
    constant = {name: float(v[0]) for name, v in values.items() if name not in varying}
    measured = rows["latency_s"].to_numpy(float)
    bound = np.asarray(roofline_time(spec.operator_of(rows), chip, launch=False).total_s, float)
    residual = np.log(measured / (np.nan_to_num(bound) + measured.min()))
    if method == "nearest":
        residual = np.log(measured)
    points = _coordinates([values[name] for name in varying], len(measured))
    grid = _grid(points, residual) if method == "auto" else None
    return _Table(varying, constant, points, residual, measured, KDTree(points), grid)


def _coordinates(values: list[np.ndarray], count: int) -> np.ndarray:
    """log2 of the dimensions, [points, dims]; zero (an absent window, say) counts as one half; one constant column
    if none vary."""
    return np.stack([np.log2(np.maximum(v, 0.5)) for v in values], axis=1) if values else np.zeros((count, 1))


def _grid(points: np.ndarray, residual: np.ndarray) -> RegularGridInterpolator | None:
    axes = [np.unique(column) for column in points.T]
    if np.prod([len(a) for a in axes]) != len(points) or any(len(a) < 2 for a in axes):
        return None
    values = np.full([len(a) for a in axes], np.nan)
    values[tuple(np.searchsorted(a, column) for a, column in zip(axes, points.T))] = residual
    return None if np.isnan(values).any() else RegularGridInterpolator(axes, values, bounds_error=False)


def _interpolated(
    table: _Table, columns: dict[str, np.ndarray], reference: np.ndarray, method: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(seconds, origin, octaves to the nearest point), [queries] each."""
    query = _coordinates([columns[name] for name in table.varying], len(reference))
    count = 1 if method == "nearest" else min(NEIGHBOURS, len(table.points))
    distance, index = (a.reshape(len(query), count) for a in table.tree.query(query, k=count))
    weight = 1.0 / np.maximum(distance, 1e-9) ** DISTANCE_POWER
    log_time = (weight * table.residual[index]).sum(axis=1) / weight.sum(axis=1)
    low, high = table.points.min(axis=0), table.points.max(axis=0)
    inside = ((query >= low) & (query <= high)).all(axis=1) & (distance[:, 0] <= FAR_OCTAVES)
    if table.grid is not None:
        linear = table.grid(query)
        log_time = np.where(np.isfinite(linear), linear, log_time)
    for name, value in table.constant.items():
        inside &= columns[name] == value
    total = np.exp(log_time) * (1.0 if method == "nearest" else reference)
    exact = (distance[:, 0] < 1e-9) & np.all([columns[n] == v for n, v in table.constant.items()] or [True], axis=0)
    total = np.where(exact, table.measured_s[index[:, 0]], total)
    origin = np.where(exact, Origin.MEASURED, np.where(inside, Origin.INTERPOLATED, Origin.EXTRAPOLATED))
    return total, origin.astype(int), distance[:, 0]
