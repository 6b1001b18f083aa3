"""Roofline pictures: roofs of a chip with operators as points. `ax` in, `ax` out; units on both axes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from hardware.accelerator import Accelerator
from roofline.bound import peak_flops_per_s

_MARKERS = "osD^vP*X"


@contextmanager
def plot_style() -> Iterator[None]:
    """The shared style sheet, for the length of a `with` block."""
    with as_file(files("roofline") / "ridgeline.mplstyle") as path, mpl.rc_context(fname=path):
        yield


def axes_for(ax: Any = None) -> Any:
    """`ax`, or the axes of a new figure."""
    return plt.subplots(constrained_layout=True)[1] if ax is None else ax


class RooflinePoint(NamedTuple):
    """One operator on a roofline. `flops`, `bytes`, `time_s` of all its runs; `phase` chooses the marker, `label` the colour."""

    label: str
    phase: str
    flops: float
    bytes: float
    time_s: float


def roofline_plot(
    chip: Accelerator, dtypes: Sequence[str], points: Sequence[RooflinePoint] = (), *, ax: Any = None
) -> Any:
    """Draw the roofs of `chip` (one ridge per dtype, one slope per memory level with a known bandwidth) and `points` below them.

    Horizontal: arithmetic intensity against DRAM traffic, FLOP per byte. Vertical: FLOP/s reached. Marker area grows with the share
    of its phase's time. Points without FLOPs (copies, collectives) have no place on a roofline and are left out. Returns `ax`.
    """
    ax = plt.gca() if ax is None else ax
    shown = [p for p in points if p.flops > 0 and p.bytes > 0 and p.time_s > 0]
    peaks = {d: p for d in dict.fromkeys(dtypes) if (p := peak_flops_per_s(chip, "matrix", d)) is not None}
    intensities = [p.flops / p.bytes for p in shown]
    top_ridge = max([p / float(chip.dram.bandwidth_bytes_per_s) for p in peaks.values()], default=1.0)
    low = 10 ** np.floor(np.log10(min([*intensities, top_ridge / 1e3])))
    high = 10 ** np.ceil(np.log10(max([*intensities, top_ridge * 10])))
    ax.set(xscale="log", yscale="log", xlim=(low, high))
    _draw_roofs(ax, chip, peaks, low, high)
    _draw_points(ax, shown)
    _label_slopes(ax, chip, low)
    ax.set_xlabel("arithmetic intensity (FLOP per byte of DRAM traffic)")
    ax.set_ylabel("rate (FLOP/s)")
    ax.set_title(f"Roofline of {chip.name}")
    return ax


def _draw_roofs(ax: Any, chip: Accelerator, peaks: dict[str, Any], low: float, high: float) -> None:
    x = np.geomspace(low, high, 400)
    highest = max((float(p) for p in peaks.values()), default=float("inf"))
    for shade, level in zip(("#222222", "#888888", "#bbbbbb"), chip.memory):
        bandwidth = float(level.bandwidth_bytes_per_s)
        if not np.isfinite(bandwidth):
            continue
        ax.plot(x, np.minimum(x * bandwidth, highest), color=shade, zorder=1)
    bandwidth = float(chip.dram.bandwidth_bytes_per_s)
    for dtype, peak in peaks.items():
        ridge = float(peak) / bandwidth
        ax.plot([ridge, high], [peak, peak], color="#222222", zorder=1)
        label = f"{dtype}\n{float(peak) / 1e12:,.0f} TFLOP/s\nridge {ridge:,.0f} FLOP/B"
        above = float(peak) == highest
        ax.annotate(
            label,
            (high, float(peak)),
            xytext=(6, 2 if above else -2),
            textcoords="offset points",
            va="bottom" if above else "top",
            fontsize=8.5,
            annotation_clip=False,
        )


def _label_slopes(ax: Any, chip: Accelerator, low: float) -> None:
    """Name each memory roof along its slope, once the limits of the axes are known."""
    ax.set_ylim(*ax.get_ylim())
    ax.figure.canvas.draw()
    for level in chip.memory:
        bandwidth = float(level.bandwidth_bytes_per_s)
        if not np.isfinite(bandwidth):
            continue
        start, end = ax.transData.transform([(low, low * bandwidth), (10 * low, 10 * low * bandwidth)])
        angle = np.degrees(np.arctan2(*(end - start)[::-1]))
        text = f"{level.name.upper()} {bandwidth / 1e12:.3g} TB/s"
        at = (low * 2.5, low * 2.5 * bandwidth)
        ax.annotate(
            text, at, xytext=(-3, 5), textcoords="offset points", rotation=angle, rotation_mode="anchor", fontsize=8.5
        )


def _draw_points(ax: Any, points: Sequence[RooflinePoint]) -> None:
    labels, phases = list(dict.fromkeys(p.label for p in points)), list(dict.fromkeys(p.phase for p in points))
    colours = dict(zip(labels, (f"C{i % 8}" for i in range(len(labels)))))
    markers = dict(zip(phases, (_MARKERS[i % len(_MARKERS)] for i in range(len(phases)))))
    spent = {phase: sum(p.time_s for p in points if p.phase == phase) for phase in phases}
    for p in points:
        area = 25 + 375 * p.time_s / spent[p.phase]
        ax.scatter(
            p.flops / p.bytes,
            p.flops / p.time_s,
            s=area,
            color=colours[p.label],
            marker=markers[p.phase],
            alpha=0.8,
            edgecolor="white",
            linewidth=0.8,
            zorder=3,
        )
    keys = [Line2D([], [], linestyle="", marker="s", color=colours[label], label=label) for label in labels]
    keys += [
        Line2D([], [], linestyle="", marker=markers[p], color="#444444", label=f"{p} (area: time share)")
        for p in phases
    ]
    if keys:
        ax.legend(handles=keys, loc="lower right", ncols=2)
