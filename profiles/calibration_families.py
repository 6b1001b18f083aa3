"""Calibrating memory-bound kernels, expert layers and convolutions of one chip and stack: one set per kernel.

The nearest shipped set that was not fitted to this chip is where the search starts and, with few points, what holds it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from hardware.accelerator import Accelerator
from profiles import conv2d_fit, memory_bound_fit, moe_fit
from profiles.calibration import (
    PRIOR_POINTS,
    Found,
    NoRows,
    Request,
    check_unit,
    file_hash,
    own_rows,
    report_row,
    split_rows,
    today,
    usable_rows,
)
from profiles.family_fit import fit_values
from profiles.fit import Parameter, error_figures
from profiles.measured_table import NUMBER, TEXT, read_table
from tiles.conv2d import conv2d_constants, conv2d_constants_with, conv2d_time
from tiles.gemm_constants import constants_architecture
from tiles.kernel_families import Chosen, FamilySet, shipped_sets
from tiles.memory_bound import constants_with, memory_bound_constants, memory_bound_time
from tiles.moe import moe_constants, moe_constants_with, moe_time

COLUMNS: dict[str, Any] = {
    "memory_bound": dict.fromkeys(("gpu", "dtype", "op", "model", "sw_version"), TEXT)
    | dict.fromkeys(("rows", "cols", "latency_us"), NUMBER),
    "moe": dict.fromkeys(("gpu", "dtype", "distribution", "kernel_source", "sw_version"), TEXT)
    | dict.fromkeys(("hidden_size", "inter_size", "topk", "num_experts", "num_tokens"), NUMBER)
    | dict.fromkeys(("moe_tp_size", "moe_ep_size", "latency_us"), NUMBER),
    "conv2d": dict.fromkeys(("gpu", "dtype", "sw_version"), TEXT)
    | dict.fromkeys(("batch", "cin", "cout", "ksize", "hw", "stride", "pad", "latency_us"), NUMBER),
}
#: What a table of one's own may leave out.
DEFAULTS: dict[str, dict[str, Any]] = {
    "memory_bound": {"model": ""},
    "moe": {"distribution": "balanced", "kernel_source": "cutlass", "moe_tp_size": 1.0, "moe_ep_size": 1.0},
    "conv2d": {"pad": 0.0, "stride": 1.0},
}
Values = Mapping[str, float]


class Kernel(NamedTuple):
    """One kernel to calibrate: its rows, the nearest set, and (seconds of values, measured seconds) of any rows."""

    name: str
    rows: Any
    near: Chosen
    bounds: Mapping[str, tuple[float, float, float]]
    spread: float
    prepared: Callable[[Any], tuple[Callable[[Values], np.ndarray], np.ndarray]]


def calibrated(request: Request) -> Found:
    """Sets of every kernel of the family with rows of the chip and stack."""
    path = request.paths[0]
    frame: Any = read_table(path, COLUMNS[request.op], DEFAULTS[request.op])
    rows = own_rows(frame, request, path.name)
    sizes = [name for name, kind in COLUMNS[request.op].items() if kind == NUMBER and name != "latency_us"]
    least = {name: 0.0 if name == "pad" else 1.0 for name in sizes}
    rows = usable_rows(rows, request, path.name, least, ("dtype",))
    kernels = {"memory_bound": _memory_bound, "moe": _moe, "conv2d": _conv2d}[request.op]
    others = [entry for entry in shipped_sets(request.op) if request.chip.name not in entry.chips]
    tables, report = [], []
    for kernel in kernels(rows.reset_index(drop=True), request, others):
        request.progress(f"{request.op} {kernel.name}: {len(kernel.rows)} rows")
        entry, row = _fitted(kernel, request, file_hash(path), path.name)
        tables.append(entry)
        report.append(row)
    if not tables:
        raise NoRows(f"{path.name}: no row of a known kernel")
    return Found(tables, report)


def _fitted(kernel: Kernel, request: Request, data: str, name: str) -> tuple[dict[str, Any], Any]:
    chosen, held = split_rows(kernel.rows, request)
    predict, measured = kernel.prepared(chosen)
    few = len(measured) < PRIOR_POINTS
    # `fit_values` weighs a prior by the number of points; here one constant that is one spread away counts as one point.
    sigma = 0.1 * float(np.sqrt(len(measured))) * kernel.spread if few else None
    parameters = []
    for key, (initial, lower, upper) in kernel.bounds.items():
        start = float(np.clip(kernel.near.values.get(key, initial), lower, upper))
        parameters.append(Parameter(key, start, lower, upper, sigma))
    check_unit(f"{name} {kernel.name}", predict({p.name: p.initial for p in parameters}), measured)
    values, errors, deviation = fit_values(predict, measured, parameters, starts=1, max_evaluations=30)
    if few:
        # Fewer points than twice the constants leave a part of the prior's spread in the prediction.
        deviation *= float(np.sqrt(len(measured) / max(len(measured) - len(parameters), 1)))
        deviation = max(deviation, 0.2 * kernel.spread) if len(measured) < 2 * len(parameters) else deviation
    scored = None
    if len(held):
        there, seen = kernel.prepared(held)
        scored = error_figures(there(values), seen)
    row = report_row(kernel.name, len(measured), errors, scored, deviation, kernel.near.source if few else "")
    found = FamilySet(
        kernel=kernel.name,
        stack=request.stack,
        architecture=constants_architecture(request.chip),
        chips=(request.chip.name,),
        values={key: float(f"{value:.5g}") for key, value in values.items()},
        n=errors.n,
        mape=errors.mape,
        median_ape=errors.median_ape,
        log_sigma=row.log_sigma,
        date=today(),
        data=data,
        kind="few-shot" if few else "fitted",
    )
    return asdict(found), row


def _memory_bound(rows: Any, request: Request, others: Sequence[FamilySet]) -> Iterator[Kernel]:
    kernel_of = rows["op"].map(memory_bound_fit.KERNEL_OF)
    _count_unknown(rows["op"], kernel_of.isna(), request)
    eager = request.stack.startswith("torch")
    for name, part in rows.groupby(kernel_of):
        near = memory_bound_constants(str(name), request.chip, request.stack, others)[1]

        def prepared(part: Any, name: str = str(name)) -> tuple[Callable[[Values], np.ndarray], np.ndarray]:
            found = [points for _, _, points in memory_bound_fit.points_of(part, len(part))]

            def predict(values: Values) -> np.ndarray:
                return np.concatenate(
                    [
                        memory_bound_time(p.operator, p.chip, constants_with(name, p.chip, values), rows=p.rows).total_s
                        for p in found
                    ]
                )

            return predict, np.concatenate([p.measured_s for p in found])

        names = memory_bound_fit.free_constants(str(name), eager=eager)
        bounds = {key: memory_bound_fit.BOUNDS[key] for key in names}
        yield Kernel(str(name), part, near, bounds, memory_bound_fit.PRIOR_SIGMA, prepared)


def _moe(rows: Any, request: Request, others: Sequence[FamilySet]) -> Iterator[Kernel]:
    rows = moe_fit.with_loads(rows).rename(columns={"dtype": "dtype_name"})
    unknown = rows["rows"].isna() | ~rows["dtype_name"].isin(list(moe_fit.FORMATS))
    _count_unknown(rows["dtype_name"], unknown, request)
    rows = rows[~unknown]
    labels = [moe_fit.kernel_of(*pair) for pair in zip(rows["dtype_name"], rows["kernel_source"])]
    chip = request.chip
    for name, part in rows.groupby(np.array(labels, dtype=object)):
        near = moe_constants(str(name), chip, request.stack, others)[1]

        def prepared(part: Any, name: str = str(name)) -> tuple[Callable[[Values], np.ndarray], np.ndarray]:
            fmt, weight = moe_fit.FORMATS[part["dtype_name"].iloc[0]]
            layer, load = moe_fit.layer_of(part)

            def predict(values: Values) -> np.ndarray:
                constants = moe_constants_with(name, values)
                return np.asarray(
                    moe_time(layer, load, chip, constants, dtype=fmt, weight_dtype=weight).total_s, dtype=float
                )

            return predict, part["latency_us"].to_numpy(float) * 1e-6

        yield Kernel(str(name), part, near, moe_fit.BOUNDS, moe_fit.PRIOR_SIGMA, prepared)


def _conv2d(rows: Any, request: Request, others: Sequence[FamilySet]) -> Iterator[Kernel]:
    chip: Accelerator = memory_bound_fit.device(request.chip.name)

    def prepared(part: Any) -> tuple[Callable[[Values], np.ndarray], np.ndarray]:
        groups = [(conv2d_fit.operator_of(p), p["latency_us"].to_numpy(float) * 1e-6) for _, p in part.groupby("dtype")]

        def predict(values: Values) -> np.ndarray:
            constants = conv2d_constants_with(chip, values)
            return np.concatenate([np.asarray(conv2d_time(op, chip, constants).total_s, float) for op, _ in groups])

        return predict, np.concatenate([seconds for _, seconds in groups])

    near = conv2d_constants(chip, request.stack, others)[1]
    yield Kernel("conv2d", rows, near, conv2d_fit.BOUNDS, conv2d_fit.PRIOR_SIGMA, prepared)


def _count_unknown(names: Any, unknown: Any, request: Request) -> None:
    if unknown.any():
        shown = ", ".join(sorted(map(str, names[unknown].unique()))[:5])
        request.messages.append(f"{request.op}: {int(unknown.sum())} rows of no known kernel left out ({shown})")
