"""Pictures of explorations: fronts, many parameters at once, two parameters against a metric, convergence, what helps most."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from explore.search_result import SearchResult
from explore.sweep_result import SweepResult
from roofline.plots import axes_for

#: Most options that get a colour each; others are drawn alike.
_MOST_COLOURS = 8


def pareto_plot(
    result: SweepResult, x: str | None = None, y: str | None = None, *, colour: str | None = None, ax: Any = None
) -> Any:
    """The front of a sweep over two metrics (default: the first two objectives), as steps; where the front has columns
    `..._p95_s` beside a time `..._s`, a bar reaches from the prediction to that. Points are coloured by the column `colour`
    (default: the first option with a name, such as the chip; else the numeric option with the fewest values)."""
    names = [*result.minimise, *result.maximise]
    if len(names) < 2 and (x is None or y is None):
        raise ValueError("a front needs two objectives; name the metrics x and y")
    x, y = str(x or names[0]), str(y or names[1])
    ax = axes_for(ax)
    front = result.front.sort_values(x)
    for name in (x, y):
        if name not in front:
            raise ValueError(f"no column {name!r} (known: {', '.join(front)})")
    where = "post" if (x in result.minimise) == (y in result.minimise) else "pre"
    ax.step(front[x], front[y], where=where, lw=1.0, color="0.6")
    chosen = colour or _told_apart(front, (x, y))
    if chosen is None:
        ax.plot(front[x], front[y], "o", ms=4)
    else:
        for option, part in front.groupby(chosen, sort=True):
            ax.plot(part[x], part[y], "o", ms=4, label=option if isinstance(option, str) else f"{option:g}")
        ax.legend(title=_label(chosen), frameon=False, fontsize=8, title_fontsize=8)
    for name, axis in ((x, "xerr"), (y, "yerr")):
        high = name.removesuffix("_s") + "_p95_s"
        if name.endswith("_s") and high in front:
            up = np.maximum(front[high] - front[name], 0.0)
            ax.errorbar(
                front[x], front[y], **{axis: [np.zeros(len(up)), up]}, fmt="none", ecolor="0.5", lw=0.8, zorder=1
            )
    ax.set(xlabel=_label(x), ylabel=_label(y), title=result.name)
    for scale, name in ((ax.set_xscale, x), (ax.set_yscale, y)):
        values = front[name].to_numpy(float)
        if values.min() > 0 and values.max() / values.min() > 20:
            scale("log")
    return ax


def parallel_plot(frame: pd.DataFrame, columns: Sequence[str], *, colour: str, ax: Any = None) -> Any:
    """One line per design through its values of `columns`, each on an axis from its least to its largest value; the colour
    follows the metric `colour`, best (smallest) last and darkest."""
    ax = axes_for(ax)
    import matplotlib as mpl

    order = frame.sort_values(colour, ascending=False)
    rank = np.linspace(0.1, 1.0, max(len(order), 2))
    heights = {}
    for name in columns:
        values = order[name]
        codes = values if is_numeric_dtype(values) else values.astype("category").cat.codes
        numbers = np.asarray(codes, dtype=float)
        low, high = float(numbers.min()), float(numbers.max())
        heights[name] = np.asarray((numbers - low) / (high - low) if high > low else 0.0 * numbers + 0.5)
    paths = np.stack([heights[name] for name in columns], axis=-1)
    for path, shade in zip(paths, rank):
        ax.plot(range(len(columns)), path, lw=0.9, color=mpl.colormaps["viridis_r"](shade), alpha=0.8)
    for i, name in enumerate(columns):
        values = order[name]
        text = (min(values), max(values))
        for at, value in zip((-0.04, 1.04), text):
            shown = value if isinstance(value, str) else f"{value:.3g}"
            ax.text(i, at, shown, ha="center", va="top" if at < 0 else "bottom", fontsize=7)
        ax.axvline(i, lw=0.6, color="0.8", zorder=0)
    ax.set(xticks=range(len(columns)), yticks=[], ylim=(-0.12, 1.12))
    ax.set_xticklabels([_label(name) for name in columns], rotation=30, ha="right", fontsize=8)
    return ax


def contour_plot(frame: pd.DataFrame, x: str, y: str, metric: str, *, ax: Any = None) -> Any:
    """Lines of equal `metric` over two parameters: the best (smallest) value at each pair of the swept values."""
    ax = axes_for(ax)
    table = frame.pivot_table(index=y, columns=x, values=metric, aggfunc="min")
    if min(table.shape) < 2:
        raise ValueError(f"{x}, {y}: {table.shape[1]} x {table.shape[0]} values; a contour needs at least 2 x 2")
    filled = ax.contourf(table.columns, table.index, table.to_numpy(), levels=14, cmap="viridis")
    ax.figure.colorbar(filled, ax=ax, label=_label(metric))
    ax.set(xlabel=_label(x), ylabel=_label(y))
    for scale, swept in ((ax.set_xscale, table.columns), (ax.set_yscale, table.index)):
        values = np.asarray(swept, dtype=float)
        if values.min() > 0 and values.max() / values.min() > 8:
            scale("log")
    return ax


def convergence_plot(results: Mapping[str, SearchResult], *, ax: Any = None) -> Any:
    """Best feasible objective against evaluations spent, one line per search (a derivative counts as five)."""
    ax = axes_for(ax)
    for name, result in results.items():
        best = result.history["best"].to_numpy(float)
        spent = np.maximum(result.history["evaluations"].to_numpy(float), 1.0)
        (line,) = ax.step(spent[np.isfinite(best)], best[np.isfinite(best)], where="post", label=name)
        ax.plot(spent[np.isfinite(best)][-1:], best[np.isfinite(best)][-1:], "o", ms=5, color=line.get_color())
    first = next(iter(results.values()))
    ax.set(
        xscale="log", xlabel="exact evaluations", ylabel=_label(first.problem.objectives[0]), title=first.problem.name
    )
    ax.legend(frameon=False, fontsize=8)
    return ax


def tornado_plot(
    elasticities: pd.DataFrame, metric: str | None = None, *, most: int = 12, title: str = "", ax: Any = None
) -> Any:
    """What helps most: bars of d ln metric / d ln parameter, largest first, each with the span of its secants."""
    ax = axes_for(ax)
    metric = metric or str(elasticities["metric"].iloc[0])
    rows = elasticities[(elasticities["metric"] == metric) & elasticities["elasticity"].notna()]
    rows = rows.iloc[np.argsort(-np.abs(rows["elasticity"].to_numpy(float)), kind="stable")[:most][::-1]]
    if rows.empty:
        raise ValueError(f"no elasticities of {metric!r}")
    at = np.arange(len(rows))
    value = rows["elasticity"].to_numpy()
    ax.barh(at, value, height=0.6, color=np.where(value < 0, "C0", "C1"))
    ax.errorbar(
        value, at, xerr=[np.maximum(value - rows["low"], 0.0), np.maximum(rows["high"] - value, 0.0)],
        fmt="none", ecolor="0.25", lw=1.0, capsize=2,
    )  # fmt: skip
    ax.axvline(0.0, lw=0.8, color="0.3")
    ax.set(yticks=at, xlabel=f"change of {_label(metric)} per 1 % of the parameter (%)", title=title)
    ax.set_yticklabels([str(name).replace("_", " ") for name in rows["parameter"]])
    return ax


def _told_apart(front: pd.DataFrame, drawn: Sequence[str]) -> str | None:
    """The column whose few values points are to be coloured by: names first, then small whole numbers (degrees, counts)."""
    columns = {
        str(name): front[name].to_numpy() for name in front if name not in (*drawn, "index", "reason", "devices")
    }
    named = [n for n, v in columns.items() if not is_numeric_dtype(v) and len(set(v)) <= _MOST_COLOURS]
    if named:
        return named[0]
    whole = {
        n: len(set(v)) for n, v in columns.items() if is_numeric_dtype(v) and np.all((v == np.round(v)) & (v < 1e4))
    }
    few = {n: count for n, count in whole.items() if 1 < count <= min(6, len(front) // 3)}
    return min(few, key=lambda name: few[name], default=None)


_UNITS = ("bytes_per_s", "flops_per_s", "tokens_per_s", "s", "bytes", "watts", "usd", "hz", "mm2", "joules")


def _label(name: str) -> str:
    for unit in _UNITS:
        if name == unit:
            return unit.replace("_per_", "/")
        if name.endswith("_" + unit):
            return f"{name.removesuffix('_' + unit).replace('_', ' ')} ({unit.replace('_per_', '/')})"
    return name.replace("_", " ")
