"""A prediction as a table, as JSON and as a picture. Human units appear here and nowhere below."""

import io
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from ridgeline.prediction import Phase, Prediction
from roofline import Bound
from workloads import TransformerModel

#: Characters of a phase table without its list of operators.
_FIXED_WIDTH = 76


def kind_rows(phase: Phase) -> list[dict[str, Any]]:
    """One row per operator kind and dtype of a scalar prediction's phase, longest first.

    `time_s` and `share` of one pass (mean over sampled decode contexts), `count` of runs, `bound` of most of that time,
    `flops`, `bytes` and their ratio, FLOP per byte.
    """
    rows = []
    for group, times in zip(phase.table, phase.times.groups):
        op, one = group.operator, times.one
        count = np.asarray(group.count)
        shape = np.broadcast_shapes(np.shape(count), np.shape(one.total_s))
        runs = np.broadcast_to(count, shape).reshape(shape[0], -1)
        spent = runs * np.broadcast_to(one.total_s, shape).reshape(shape[0], -1)
        bound = np.broadcast_to(one.bound, shape).reshape(shape[0], -1)
        total = {
            name: float(np.mean(np.sum(runs * _flat(getattr(op, name), shape), axis=0))) for name in ("flops", "bytes")
        }
        codes = list(Bound)
        weights = [float(spent[bound == code].sum()) for code in codes]
        rows.append(
            {
                "kind": times.kind,
                "dtype": op.dtype,
                "operators": ", ".join(dict.fromkeys(times.names)),
                "count": float(np.mean(np.sum(runs, axis=0))),
                "time_s": float(np.mean(np.sum(spent, axis=0))),
                "bound": codes[int(np.argmax(weights))].name.lower(),
                **total,
            }
        )
    rows = _merged(rows)
    whole = sum(row["time_s"] for row in rows)
    for row in rows:
        row["share"] = row["time_s"] / whole if whole else 0.0
    return sorted(rows, key=lambda row: -row["time_s"])


def _merged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the same kind and dtype (they differ in static detail only) as one; the longer one's bound stands."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: -row["time_s"]):
        first = merged.setdefault((row["kind"], row["dtype"]), row)
        if first is not row:
            for name in ("count", "time_s", "flops", "bytes"):
                first[name] += row[name]
            first["operators"] += f", {row['operators']}"
    for row in merged.values():
        row["intensity_flops_per_byte"] = row["flops"] / row["bytes"] if row["bytes"] else 0.0
    return list(merged.values())


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _flat(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, dtype=float), shape).reshape(shape[0], -1)


def prediction_json(prediction: Prediction) -> dict[str, Any]:
    """Everything a scalar prediction says, in SI units, as plain data."""
    p = prediction
    scalars = (
        "prefill_s",
        "decode_s",
        "request_s",
        "requests_per_s",
        "output_tokens_per_s",
        "output_tokens_per_s_per_device",
    )
    degrees = {name: float(getattr(p.parallelism, name)) for name in ("tp", "pp", "ep", "dp")}
    return {
        "model": p.model.name,
        "chip": p.chip.name,
        "estimator": p.estimator,
        "parallelism": degrees,
        "batch": float(p.batch),
        "input_tokens": float(p.input_tokens),
        "output_tokens": float(p.output_tokens),
        **{name: _number(getattr(p, name)) for name in scalars},
        "interval90_s": {
            name: [float(np.ravel(bound)[0]) for bound in interval]
            for name, interval in (
                ("prefill", p.prefill_interval_s),
                ("decode", p.decode_interval_s),
                ("request", p.request_interval_s),
            )
            if interval is not None
        },
        "basis": p.basis,
        "needed_bytes_per_device": float(p.needed_bytes),
        "capacity_bytes_per_device": float(p.capacity_bytes),
        "fits": bool(p.fits),
        "phases": {phase.name: {"time_s": float(phase.time_s), "operators": kind_rows(phase)} for phase in p.phases},
        "notes": list(p.notes),
        "includes": list(p.phases[0].table.notes),
    }


def print_prediction(prediction: Prediction, console: Any) -> None:
    """The prediction as a summary and one table per phase; a sweep is summarised by its shape and range."""
    from rich.markup import escape
    from rich.table import Table

    p = prediction
    if np.ndim(p.request_s):
        console.print(
            f"{p.model.name} on {p.chip.name}: {np.size(p.request_s)} points, shape {np.shape(p.request_s)}",
            markup=False,
        )
        return
    devices = float(p.parallelism.devices)
    model, chip = escape(p.model.name), escape(p.chip.name)
    console.print(f"[bold]{model}[/] on {devices:g} x [bold]{chip}[/]: {_question(p)}")
    summary = Table.grid(padding=(0, 2))
    for label, value in _summary(p):
        summary.add_row(label, value)
    console.print(summary)
    for phase in p.phases:
        title = f"{phase.name}: {_time(float(phase.time_s))} per pass"
        table = Table(title=title, title_justify="left", title_style="bold", header_style="", box=None, padding=(0, 1))
        table.add_column("kind", no_wrap=True)
        for name in ("dtype", "runs", "time", "share", "bound", "FLOP/byte"):
            table.add_column(name, justify="left" if name in ("dtype", "bound") else "right", no_wrap=True)
        room = console.width - _FIXED_WIDTH
        if room >= 20:
            table.add_column("operators", no_wrap=True, style="dim")
        for row in kind_rows(phase):
            cells = [row["kind"], row["dtype"], f"{row['count']:,.0f}", _time(row["time_s"]), f"{row['share']:.1%}"]
            cells += [row["bound"], f"{row['intensity_flops_per_byte']:,.1f}"]
            if room >= 20:
                cells.append(shorten(row["operators"], room, placeholder=" ..."))
            table.add_row(*cells)
        console.print()
        console.print(table)
    console.print()
    text = escape(f"Estimator: {p.estimator}. {'; '.join(p.notes)}.")
    console.print(f"[dim]{text}[/]", highlight=False)


def _question(p: Prediction) -> str:
    batch = f"batch {float(p.batch):g}"
    if not isinstance(p.model, TransformerModel):
        return batch
    if len(p.phases) == 1:
        return f"{batch}, {float(p.input_tokens):g} tokens"
    return f"{batch}, {float(p.input_tokens):g} tokens in, {float(p.output_tokens):g} out"


def _summary(p: Prediction) -> list[tuple[str, str]]:
    memory = f"{_gigabytes(p.needed_bytes)} of {_gigabytes(p.capacity_bytes)}: {_parts(p.memory)}"
    if len(p.phases) == 1:
        return [
            ("forward, whole batch", _with_interval(p.prefill_s, p.prefill_interval_s)),
            ("throughput", f"{float(p.requests_per_s):,.1f} inputs/s"),
            ("memory per device", memory),
        ]
    rate, share = float(p.output_tokens_per_s), float(p.output_tokens_per_s_per_device)
    return [
        ("prefill, whole batch", _with_interval(p.prefill_s, p.prefill_interval_s)),
        ("decode, per token", _with_interval(p.decode_s, p.decode_interval_s)),
        ("request, start to end", _with_interval(p.request_s, p.request_interval_s)),
        ("throughput", f"{_rate(rate)} output tokens/s ({_rate(share)} per device)"),
        ("memory per device", memory),
    ]


def _with_interval(seconds: Any, interval: Any) -> str:
    if interval is None:
        return _time(float(seconds))
    low, high = (_time(float(np.ravel(bound)[0])) for bound in interval)
    return f"{_time(float(seconds))}  (90 %: {low} to {high})"


def _parts(memory: Any) -> str:
    parts = {name.removesuffix("_bytes"): float(value) for name, value in memory._asdict().items()}
    return ", ".join(f"{name} {_gigabytes(value)}" for name, value in parts.items() if value)


def _gigabytes(value: Any) -> str:
    return f"{float(value) / 1e9:,.1f} GB" if float(value) >= 5e7 else f"{float(value) / 1e6:,.1f} MB"


def _time(seconds: float) -> str:
    if seconds >= 1e3:
        return f"{seconds:,.0f} s"
    if seconds >= 1.0:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def prediction_text(prediction: Prediction) -> str:
    """`print_prediction` as a string."""
    from rich.console import Console

    buffer = io.StringIO()
    print_prediction(prediction, Console(file=buffer, width=110))
    return buffer.getvalue()


def save_roofline(prediction: Prediction, path: Path) -> None:
    """Write the roofline picture of a scalar prediction: one point per operator kind and phase."""
    import matplotlib

    matplotlib.use("Agg")  # no screen is needed to write a file
    import matplotlib.pyplot as plt

    from roofline.plots import RooflinePoint, plot_style, roofline_plot

    points, dtypes = [], []
    for phase in prediction.phases:
        for row in kind_rows(phase):
            points.append(RooflinePoint(row["kind"], phase.name, row["flops"], row["bytes"], row["time_s"]))
            if row["kind"] in ("gemm", "grouped_gemm", "attention", "conv2d"):
                dtypes.append(row["dtype"])
    p = prediction
    with plot_style():
        figure, ax = plt.subplots()
        roofline_plot(p.chip, list(dict.fromkeys(dtypes)), points, ax=ax)
        title = f"{p.model.name} on {float(p.parallelism.devices):g} x {p.chip.name}: {_question(p)}"
        ax.set_title(title, parse_math=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        plt.close(figure)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2g}"
