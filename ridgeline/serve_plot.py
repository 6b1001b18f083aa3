"""The picture of a plan: throughput per chip against the speed each user sees, aggregated and disaggregated apart."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

#: How the two modes are drawn: line and marker.
LOOKS = {"aggregated": ("-", "o"), "disaggregated": ("--", "s")}
#: Layouts named in the legend, those with most of the front first.
NAMED = 4
#: Throughputs below this share of the largest are cut off.
LEAST = 3e-3
SPEED, PER_CHIP = "user_tokens_per_s", "output_tokens_per_s_per_gpu"


def plan_plot(plan: Any, *, ax: Any = None) -> Any:
    """Output tokens/s per chip against output tokens/s per user: every layout and pair in grey, the front of each mode (circles
    and solid aggregated, squares and dashed disaggregated), the best setting, and the level of TPOT. Returns `ax`."""
    ax = plt.gca() if ax is None else ax
    kinds = len(plan.stocks) > 1
    colours = iter(f"C{i}" for i in range(2 * NAMED))
    for mode, (line, marker) in LOOKS.items():
        curve = plan.curve[plan.curve["mode"] == mode]
        if not len(curve):
            continue
        curve = curve.assign(label=[layout_words(row, kinds=kinds) for _, row in curve.iterrows()])
        for _, part in curve.groupby("label"):
            part = part.sort_values(SPEED)
            ax.plot(part[SPEED], part[PER_CHIP], line, lw=0.6, color="0.85", zorder=1)
        points = curve.sort_values([SPEED, PER_CHIP], ascending=False)
        front = points[points[PER_CHIP] > points[PER_CHIP].cummax().shift(fill_value=0.0)]
        ax.plot(front[SPEED], front[PER_CHIP], line, lw=1.0, color="0.25", zorder=2, label=f"{mode}, front")
        groups = sorted(front.groupby("label"), key=lambda group: -len(group[1]))
        for name, part in groups[:NAMED]:
            ax.plot(part[SPEED], part[PER_CHIP], marker, ms=3.5, color=next(colours), zorder=3, label=name)
        for _, part in groups[NAMED:]:
            ax.plot(part[SPEED], part[PER_CHIP], marker, ms=2.5, color="0.45", zorder=3)
    best = plan.settings.iloc[0]
    ax.plot(best[SPEED], best[PER_CHIP], "k*", ms=10, label="best setting", zorder=4)
    if np.isfinite(plan.levels.each_s):
        ax.axvline(1.0 / plan.levels.each_s, color="0.5", lw=0.8, ls=":", label="TPOT level")
    ax.set(
        xlabel="output tokens/s per user (1 / mean TPOT)", ylabel="output tokens/s per chip", yscale="log",
        ylim=(LEAST * plan.curve[PER_CHIP].max(), 1.5 * plan.curve[PER_CHIP].max()),
        title=f"{plan.model.name} on {' and '.join(map(str, plan.stocks))}, {plan.engine.name}",
    )  # fmt: skip
    ax.legend(fontsize=7, loc="lower left", title=f"TTFT within {plan.levels.first_s:g} s", title_fontsize=7)
    return ax


def layout_words(row: Any, *, kinds: bool, counts: bool = False) -> str:
    """A layout in few words: degrees above 1, the pool for prompts before the one for decoding; `kinds`: with the chips',
    `counts`: with the numbers of workers."""

    def pool(prefix: str) -> str:
        degrees = [f"{name}{row[prefix + name]}" for name in ("tp", "ep", "dp") if row[prefix + name] > 1]
        words = [f"{row[prefix + 'replicas']} x"] if counts else []
        words += [row[prefix + "chip"]] if kinds else []
        return " ".join([*words, *(degrees or ["tp1"])])

    if row["mode"] == "aggregated":
        return pool("")
    return f"{pool('prefill_')} > {pool('')}"
