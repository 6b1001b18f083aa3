"""Pictures and tables of mapped layers: loop nest, energy and latency per layer, utilisation, reuse per tensor and level.

Runs in, text, frames or axes out; units on every axis. Imported by name, so that models do not load a plotting library.
"""

from collections.abc import Mapping as MappingOf
from typing import Any

import numpy as np
import pandas as pd

from dataflow.layer_mapping import LayerRun
from roofline.plots import axes_for, plot_style


def nest_text(run: LayerRun) -> str:
    """The mapping as an indented loop nest, outermost first; what each level keeps stands beside its name."""
    lines, depth = [], 0
    for i, level in enumerate(run.mapping.levels):
        kept = ", ".join(run.mapping.keeps[i]) or "nothing"
        lines.append(f"{'  ' * depth}{level} [{kept}]")
        for dim, bound, axis in run.mapping.loops(i):
            depth += 1
            kind = f"parallel-for {dim.lower()} in {bound}  (over {axis})" if axis else f"for {dim.lower()} in {bound}"
            lines.append("  " * depth + kind)
        depth += 1
    output = run.problem.output.name
    return "\n".join([*lines, "  " * depth + f"{output} += {' * '.join(t.name for t in run.problem.inputs)}"])


def reuse_frame(run: LayerRun) -> pd.DataFrame:
    """One line per level and tensor: words read, filled, updated (all instances), operations served per word that enters
    the level (`reuse`), and energy in joules.
    """
    rows = []
    for level, tensors in run.evaluation.counts.words.items():
        for name, words in tensors.items():
            instances = float(words.instances)
            moved = [float(x) * instances for x in (words.reads, words.fills, words.updates)]
            entering = moved[1] if moved[1] > 0.0 else moved[2]
            whole = moved[0] + moved[1] + moved[2]
            served = whole - moved[1]
            reuse = served / entering if entering > 0.0 else np.nan
            joules = float(run.evaluation.energy.levels[level][name])
            rows.append((level, name, *moved, reuse, joules))
    columns = ["level", "tensor", "reads_words", "fills_words", "updates_words", "reuse", "energy_joules"]
    return pd.DataFrame(rows, columns=columns)


def energy_frame(runs: MappingOf[str, LayerRun]) -> pd.DataFrame:
    """Joules per layer (rows) and level, with the MACs as a column of their own (columns, outermost level first).

    NaN where energies are unknown, 0 for a level that a layer's accelerator does not have.
    """
    rows = {}
    for layer, run in runs.items():
        spent = {level: sum(float(x) for x in by.values()) for level, by in run.evaluation.energy.levels.items()}
        rows[layer] = spent | {"MAC": float(run.evaluation.energy.compute)}
    every = dict.fromkeys((level for spent in rows.values() for level in spent if level != "MAC"), 0.0)
    return pd.DataFrame.from_dict({layer: every | spent for layer, spent in rows.items()}, orient="index")


def latency_frame(runs: MappingOf[str, LayerRun]) -> pd.DataFrame:
    """Cycles per layer that each resource alone would take, the total (their maximum), and `bound`, its name."""
    rows = {}
    for layer, run in runs.items():
        alone = {"compute": float(run.evaluation.counts.compute_cycles)}
        alone |= {level: float(value) for level, value in run.evaluation.level_cycles.items()}
        bound = max(alone, key=lambda name: alone[name])
        rows[layer] = alone | {"total": float(run.evaluation.cycles), "bound": bound}
    return pd.DataFrame.from_dict(rows, orient="index")


def energy_bars(runs: MappingOf[str, LayerRun], *, per_mac: bool = False, ax: Any = None) -> Any:
    """Stacked bars of energy by level, one per layer; `per_mac`: picojoules per multiply-accumulate."""
    ax = axes_for(ax)
    frame = energy_frame(runs)
    if per_mac:
        frame = frame.div([float(run.problem.macs) for run in runs.values()], axis=0) * 1e12
        unit = "energy (pJ per MAC)"
    else:
        scale, name = _scale(float(frame.sum(axis=1).max()))
        frame, unit = frame * scale, f"energy ({name}J)"
    _stack(ax, frame)
    ax.set_ylabel(unit)
    for place, unknown in enumerate(frame.isna().any(axis=1)):
        if unknown:
            ax.annotate("unknown", (place, 0.0), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8)
    return ax


def latency_bars(runs: MappingOf[str, LayerRun], *, ax: Any = None) -> Any:
    """Stacked bars of cycles, one per layer: work that fills the array, work lost to idle units, waiting for the level
    that binds.
    """
    ax = axes_for(ax)
    rows = {}
    for layer, run in runs.items():
        units = float(np.asarray(run.architecture.compute_units))
        ideal, compute = float(run.problem.macs) / units, float(run.evaluation.counts.compute_cycles)
        rows[layer] = {
            "all units busy": ideal,
            "idle units": max(compute - ideal, 0.0),
            "waiting for a memory": max(float(run.evaluation.cycles) - compute, 0.0),
        }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    power = 3 * int(max(np.log10(max(float(frame.sum(axis=1).max()), 1.0)) // 3, 0))
    _stack(ax, frame / 10.0**power)
    ax.set_ylabel({0: "cycles", 3: "cycles (thousands)", 6: "cycles (millions)"}.get(power, f"cycles (1e{power})"))
    bounds = latency_frame(runs)["bound"]
    for place, (bar, bound) in enumerate(zip(frame.sum(axis=1) / 10.0**power, bounds)):
        ax.annotate(
            bound.replace("_", "\n"), (place, bar), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=7.5
        )
    ax.margins(y=0.16)
    return ax


def utilisation_bars(runs: MappingOf[str, LayerRun], *, ax: Any = None) -> Any:
    """Share of all units' cycles that do useful work, one bar per layer, in per cent."""
    ax = axes_for(ax)
    values = [100.0 * float(run.evaluation.utilisation) for run in runs.values()]
    ax.bar(range(len(values)), values, width=0.65)
    for place, value in enumerate(values):
        ax.annotate(f"{value:.0f}", (place, value), xytext=(0, 2), textcoords="offset points", ha="center", fontsize=8)
    ax.set_ylim(0.0, 108.0)
    ax.set_ylabel("utilisation (%)")
    _names(ax, list(runs))
    return ax


def layer_figure(runs: MappingOf[str, LayerRun], *, title: str = "") -> Any:
    """Energy per MAC, latency and utilisation of several runs side by side, as one figure."""
    import matplotlib.pyplot as plt

    with plot_style():
        figure, axes = plt.subplots(1, 3, figsize=(max(10.0, 3.0 + 2.1 * len(runs)), 4.2))
        energy_bars(runs, per_mac=True, ax=axes[0]).set_title("Energy")
        latency_bars(runs, ax=axes[1]).set_title("Latency (what binds)")
        utilisation_bars(runs, ax=axes[2]).set_title("Utilisation")
        if title:
            figure.suptitle(title)
    return figure


def _stack(ax: Any, frame: pd.DataFrame) -> None:
    bottom = np.zeros(len(frame))
    for name in frame.columns:
        values = np.nan_to_num(frame[name].to_numpy(float))
        ax.bar(range(len(frame)), values, bottom=bottom, width=0.65, label=str(name).replace("_", " "))
        bottom = bottom + values
    _names(ax, [str(layer) for layer in frame.index])
    # Above the bars, where no bar can hide it.
    ax.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.07), ncols=2, borderaxespad=0.0, handlelength=1.2, columnspacing=1.0
    )


def _names(ax: Any, names: list[str]) -> None:
    long = max(len(name) for name in names) * len(names) > 40
    ax.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=30 if long else 0)
    if long:
        for label in ax.get_xticklabels():
            label.set_horizontalalignment("right")
    ax.grid(axis="x", visible=False)


def _scale(largest: float) -> tuple[float, str]:
    for factor, name in ((1.0, ""), (1e3, "m"), (1e6, "µ"), (1e9, "n")):
        if largest * factor >= 1.0:
            return factor, name
    return 1e12, "p"
