"""Pictures of gaps: what a level's time is made of, and rules of error composition beside what was measured."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from composition.gap import Gap

_UP, _DOWN, _WHOLE = "#b2432f", "#2f6db2", "#444444"


def waterfall_plot(found: Gap, *, case: int | None = None, ax: Any = None) -> Any:
    """From the sum of the parts' predictions to the level's time, one bar per term of the attribution.

    `case`: index where the gap holds arrays; None: a scalar gap. Heights in units of the parts. Returns `ax`.
    """
    import matplotlib.pyplot as plt

    ax = plt.gca() if ax is None else ax

    def at(value: Any) -> float:
        return float(np.asarray(value) if case is None else np.broadcast_to(value, np.shape(found.level_s))[case])

    parts = at(found.parts_s)
    level = at(found.level_s) / parts
    names, bottom = ["predicted\nparts"], 1.0
    ax.bar(0, 1.0, color=_WHOLE, width=0.62)
    for index, term in enumerate(found.terms, start=1):
        height = at(term.seconds) / parts
        ax.bar(index, height, bottom=bottom, color=_UP if height >= 0 else _DOWN, width=0.62)
        top = max(bottom, bottom + height)
        ax.annotate(f"{height:+.1%}", (index, top), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8)
        ax.plot([index - 0.69, index - 0.31], [bottom, bottom], color="#999999", linewidth=0.8)
        bottom += height
        names.append(term.name.replace(" ", "\n"))
    ax.bar(len(names), level, color=_WHOLE, width=0.62)
    names.append("measured\nlevel" if found.measured else "predicted\nlevel")
    ax.set_xticks(range(len(names)), names, fontsize=8)
    heights = np.cumsum([1.0, *(at(t.seconds) / parts for t in found.terms)])
    low = min(float(heights.min()), level)
    ax.set_ylim(
        max(0.0, low - 0.6 * (float(heights.max()) - low) - 0.05), float(max(heights.max(), level)) * 1.04 + 0.01
    )
    ax.set_ylabel("time / predicted parts")
    ax.set_title(found.boundary, fontsize=10)
    return ax


def rules_plot(
    kernels: Sequence[float],
    measured: Sequence[float],
    rules: Mapping[str, Sequence[float]],
    *,
    ax: Any = None,
) -> Any:
    """Root-mean-square relative error of sums of `kernels` kernels, measured and by rule, on logarithmic axes. Returns `ax`."""
    import matplotlib.pyplot as plt

    ax = plt.gca() if ax is None else ax
    ax.plot(kernels, measured, "o", color="black", label="measured", zorder=3)
    styles = {"sqrt(N) sigma": ":", "sigma / sqrt(N)": "--", "shared + private": "-"}
    for name, values in rules.items():
        label = name.replace("sqrt(N) sigma", "√N σ").replace("sigma / sqrt(N)", "σ / √N")
        ax.plot(kernels, values, styles.get(name, "-."), label=label)
    ax.set(xscale="log", yscale="log", xlabel="kernels in the sum, N", ylabel="relative error of the sum (RMS)")
    ax.legend(fontsize=8)
    return ax


def parity_plot(
    predicted_s: Any, measured_s: Any, *, lower_s: Any = None, upper_s: Any = None, label: str = "", ax: Any = None
) -> Any:
    """Predicted against measured seconds on logarithmic axes, with error bars where bounds are given. Returns `ax`."""
    import matplotlib.pyplot as plt

    ax = plt.gca() if ax is None else ax
    predicted, measured = np.asarray(predicted_s, float), np.asarray(measured_s, float)
    if lower_s is not None and upper_s is not None:
        bars = np.maximum([predicted - np.asarray(lower_s), np.asarray(upper_s) - predicted], 0.0)
        ax.errorbar(measured, predicted, yerr=np.nan_to_num(bars), fmt="o", ms=2.5, lw=0.5, alpha=0.6, label=label)
    else:
        ax.plot(measured, predicted, "o", ms=2.5, alpha=0.6, label=label)
    if measured.size:
        ends = np.array([min(measured.min(), predicted.min()), max(measured.max(), predicted.max())])
        ax.plot(ends, ends, color="black", lw=0.8)
    ax.set(xscale="log", yscale="log", xlabel="measured (s)", ylabel="predicted (s)")
    return ax
