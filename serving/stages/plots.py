"""A stage network as a picture: the stages of every class with their times, the pools with utilisation and queue."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from serving.stages.network import END, Network, RequestClass
from serving.stages.steady_network import SteadyNetwork

_COLOURS, _SCALE = "RdYlGn_r", Normalize(0.0, 1.0)


def network_plot(network: Network, state: SteadyNetwork) -> Figure:
    """Flow chart of one configuration above a bar per pool; colours are utilisation. Returns the figure."""
    widest = max(len(c.stages) for c in network.classes)
    pools = len(network.pools)
    height = 1.7 * len(network.classes) + 0.42 * pools + 1.3
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(max(7.0, 1.9 * widest + 1.0), height), constrained_layout=True,
        height_ratios=[1.7 * len(network.classes), 0.42 * pools + 0.8],
    )  # fmt: skip
    k = 0
    for row, c in enumerate(network.classes):
        _class_row(top, network, c, state, k, -1.7 * row, row)
        k += len(c.stages)
    top.set(xlim=(-1.0, widest + 0.1), ylim=(-1.7 * (len(network.classes) - 1) - 0.95, 0.85))
    top.axis("off")
    _pool_bars(bottom, network, state)
    return figure


def _class_row(
    ax: Any, network: Network, c: RequestClass, state: SteadyNetwork, first: int, y: float, row: int
) -> None:
    names = [stage.name for stage in c.stages]
    at = {name: i for i, name in enumerate(names)} | {END: len(names)}
    index = {pool.name: j for j, pool in enumerate(network.pools)}
    cmap = plt.get_cmap(_COLOURS)
    ax.text(-0.95, y + 0.62, f"{c.name}: {float(c.rate_per_s):.3g} requests/s, mean {_time(state.e2e_s[row])}, "
            f"99 % within {_time(state.e2e_p99_s[row])}", fontsize=8, va="center")  # fmt: skip
    ax.add_patch(FancyArrowPatch((-0.85, y), (-0.42, y), arrowstyle="-|>", mutation_scale=9, color="0.3"))
    for i, stage in enumerate(c.stages):
        used = float(state.utilisation[index[stage.pool]])
        box = FancyBboxPatch(
            (i - 0.4, y - 0.3), 0.8, 0.6, boxstyle="round,pad=0.02", facecolor=cmap(_SCALE(used)), alpha=0.55
        )
        ax.add_patch(box)
        text = f"{stage.name}\n{stage.pool}\n{_time(state.stage_s[first + i])}"
        ax.text(i, y, text, ha="center", va="center", fontsize=7.5)
        for name, probability in stage.next.items():
            if float(probability) > 0.0:
                _arrow(ax, i, at[name], y, float(probability))
    ax.text(len(names) - 0.3, y, "out", fontsize=7.5, va="center", color="0.3")


def _arrow(ax: Any, start: int, end: int, y: float, probability: float) -> None:
    label = "" if probability > 0.999 else f"{probability:.2g}"
    if end == start + 1:
        line, text = ((start + 0.43, y), (end - 0.43, y), 0.0), (start + 0.5, y + 0.09)
    elif end > start:
        line = ((start + 0.15, y + 0.33), (end - 0.35, y + (0.33 if end - start > 1 else 0.0)), -0.25)
        text = (0.5 * (start + end), y + 0.45)
    elif end == start:
        line, text = ((start + 0.18, y - 0.33), (start - 0.18, y - 0.33), -1.6), (start + 0.05, y - 0.66)
    else:
        line, text = ((start - 0.1, y - 0.33), (end + 0.1, y - 0.33), -0.25), (0.5 * (start + end), y - 0.62)
    begin, finish, bend = line
    arrow = FancyArrowPatch(
        begin,
        finish,
        connectionstyle=f"arc3,rad={bend}",
        arrowstyle="-|>",
        mutation_scale=9,
        color="0.3",
        linewidth=0.9,
    )
    ax.add_patch(arrow)
    if label:
        ax.text(*text, label, fontsize=7, ha="center", va="center", color="0.25")


def _pool_bars(ax: Any, network: Network, state: SteadyNetwork) -> None:
    used = np.asarray(state.utilisation, dtype=float)
    places = np.arange(len(network.pools))[::-1]
    ax.barh(places, np.minimum(used, 1.0), color=plt.get_cmap(_COLOURS)(_SCALE(used)), alpha=0.75, height=0.62)
    for j, (place, pool) in enumerate(zip(places, network.pools)):
        text = f"{100.0 * used[j]:.0f} %" if pool.kind != "delay" else "nobody waits"
        if pool.kind != "delay":
            queue, inside = float(state.queue[j]), float(state.in_service[j])
            waits = (
                f"queue grows by {float(state.growth_per_s[j]):.3g}/s"
                if state.growth_per_s[j] > 0.0
                else f"{queue if queue >= 0.005 else 0.0:.2g} wait"
            )
            text += f", {waits}, {inside:.3g} in service"
        if j == int(state.bottleneck):
            text += f"   bottleneck: holds {float(state.scale):.3g} x these rates"
        ax.text(min(used[j], 1.0) + 0.01, place, text, va="center", fontsize=8)
    ax.set_yticks(places, [f"{pool.name} ({pool.kind})" for pool in network.pools], fontsize=8)
    ax.set(xlim=(0.0, 1.75), xlabel="utilisation", xticks=np.linspace(0.0, 1.0, 6), ylim=(-0.6, len(places) - 0.4))
    ax.axvline(1.0, color="0.6", linewidth=0.8)


def _time(seconds: Any) -> str:
    value = float(seconds)
    if not np.isfinite(value):
        return "no end"
    return (
        f"{value:.3g} s"
        if value >= 0.9995
        else f"{1e3 * value:.3g} ms"
        if value >= 9.995e-4
        else f"{1e6 * value:.3g} us"
    )
