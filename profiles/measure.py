"""Running a profiling plan on the machine at hand, results straight into the store.

A backend (`profiles.measure_jax`, `profiles.measure_torch`) turns an operator into a callable and times it: warm-up,
caches flushed between repeats, median of the repeats. The loop here skips what the store already has, so an
interrupted run resumes where it stopped, and says for every skipped measurement why.
"""

import datetime
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from profiles.plan import Plan, PlannedOperator
from profiles.store import Store, shape_hashes
from profiles.store_schema import Frame, canonical, kind_of
from workloads.operators import Operator

#: Rows kept in memory before they go to the store, and the longest they wait, in seconds.
FLUSH_ROWS, FLUSH_AFTER_S = 64, 10.0


class Unsupported(ValueError):
    """Raised by a backend for an operator it cannot run; the message says why."""


class Backend(Protocol):
    """What times operators: names of device and software stack, memory it may use, and the two steps of a
    measurement."""

    device: str
    stack: str
    memory_bytes: float

    def prepare(self, op: Operator) -> Callable[[], object]:
        """A callable that runs `op` (scalar fields) once, inputs allocated; `Unsupported` if it cannot."""
        ...

    def samples_s(self, run: Callable[[], object], repeats: int) -> np.ndarray:
        """Seconds of `repeats` runs, after warm-up. [repeats]."""
        ...


class MeasureReport(NamedTuple):
    """What a run did: measurements made, already in the store, and skipped (kind, shape, reason)."""

    measured: int
    known: int
    skipped: Frame


def measure_plan(
    plan: Plan,
    store: Store,
    backend: Backend,
    *,
    repeats: int = 10,
    limit: int | None = None,
    budget_s: float | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> MeasureReport:
    """Measure what `plan` lists and `store` lacks for the backend's device and stack, at most `limit` points or
    `budget_s` seconds.

    Operators larger than the backend's memory, and those it cannot run, are skipped with a reason. Progress: (done,
    of, label).
    """
    if repeats < 1:
        raise ValueError(f"repeats: {repeats}; expected at least 1")
    total = sum(operator.points for operator in plan.operators)
    started, done, measured, known = time.monotonic(), 0, 0, 0
    skipped: list[tuple[str, str, str]] = []
    pending = _Pending(store)
    try:
        for planned in plan.operators:
            spec = kind_of(planned.kind)
            rows = canonical(spec, planned.frame().assign(device="", stack="", latency_s=1.0))
            present = store.shapes(planned.kind, device=backend.device, stack=backend.stack)
            hashes = shape_hashes(planned.kind, rows)
            for number in range(len(rows)):
                done += 1
                row = rows.iloc[[number]]
                if hashes[number] in present:
                    known += 1
                    continue
                if limit is not None and measured >= limit:
                    skipped.append((planned.kind, _shape(planned, row), "limit of measurements reached"))
                    continue
                if budget_s is not None and time.monotonic() - started > budget_s:
                    skipped.append((planned.kind, _shape(planned, row), "time budget spent"))
                    continue
                try:
                    samples = _timed(backend, _scalar(spec.operator_of(row)), repeats)
                except Unsupported as reason:
                    skipped.append((planned.kind, _shape(planned, row), str(reason)))
                    continue
                measured += 1
                pending.add(planned.kind, row, samples, backend)
                if progress is not None:
                    progress(done, total, f"{planned.kind} {_shape(planned, row)}")
    finally:
        pending.flush()
    return MeasureReport(measured, known, pd.DataFrame(skipped, columns=["kind", "shape", "reason"]))


class _Pending:
    """Measured rows on their way to the store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.rows: dict[str, list[Frame]] = {}
        self.since = time.monotonic()

    def add(self, kind: str, row: Frame, samples: np.ndarray, backend: Backend) -> None:
        low, median, high = np.quantile(samples, [0.16, 0.5, 0.84])
        self.rows.setdefault(kind, []).append(
            row.assign(
                device=backend.device, stack=backend.stack, source="ridgeline measure", date=_today(),
                latency_s=median, n_repeats=float(len(samples)), spread=(high - low) / 2.0 / median,
            )
        )  # fmt: skip
        if sum(map(len, self.rows.values())) >= FLUSH_ROWS or time.monotonic() - self.since > FLUSH_AFTER_S:
            self.flush()

    def flush(self) -> None:
        for kind, rows in self.rows.items():
            self.store.append(kind, pd.concat(rows, ignore_index=True))
        self.rows, self.since = {}, time.monotonic()


def _timed(backend: Backend, op: Operator, repeats: int) -> np.ndarray:
    # Several copies of the operands live at once (inputs, outputs, a kernel's temporaries).
    needed = 2.0 * float(op.bytes)
    if needed > backend.memory_bytes:
        raise Unsupported(f"needs {needed / 1e9:.1f} GB, {backend.memory_bytes / 1e9:.1f} GB free")
    samples = np.asarray(backend.samples_s(backend.prepare(op), repeats), float)
    if not (np.isfinite(samples) & (samples > 0.0)).all():
        raise Unsupported("the timer gave no positive time")
    return samples


def _scalar(op: Operator) -> Operator:
    values = {name: getattr(op, name) for name in (f.name for f in fields(op))}
    scalars: dict[str, Any] = {n: float(v[0]) if isinstance(v, np.ndarray) else v for n, v in values.items()}
    return type(op)(**scalars)


def _shape(planned: PlannedOperator, row: Frame) -> str:
    spec = kind_of(planned.kind)
    sizes = [f"{name}={row[name].iloc[0]:g}" for name in spec.fields if row[name].iloc[0] != spec.fields[name]]
    return " ".join([*sizes, *sorted({v for k, v in planned.options.items() if k.endswith("dtype") and v})])


def _today() -> str:
    return datetime.date.today().isoformat()
