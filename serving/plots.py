"""Pictures of a replay: how long requests wait for the first token and for each further one."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from serving.replay import Served

LABELS = {"ttft_s": "time to first token", "tpot_s": "time per output token", "e2e_s": "end-to-end time"}


def distribution_plot(served: Served, metric: str, *, ax: Any = None) -> Any:
    """Share of requests served within a time, with the median and the 99th percentile marked. Returns `ax`."""
    if metric not in LABELS:
        raise ValueError(f"metric: {metric!r} is unknown (known: {', '.join(LABELS)})")
    ax = plt.gca() if ax is None else ax
    values = np.sort(getattr(served, metric)[~served.refused])
    scale, unit = (1e3, "ms") if len(values) and values[-1] < 1.0 else (1.0, "s")
    values = scale * values
    ax.step(values, np.arange(1, len(values) + 1) / max(len(values), 1), where="post")
    for share in (0.5, 0.99):
        at = np.percentile(values, 100 * share)
        ax.axhline(share, color="0.8", linewidth=0.8, zorder=0)
        text = f"p{100 * share:.0f}: {at:.3g} {unit}"
        ax.annotate(text, (at, share), textcoords="offset points", xytext=(-5, -11), ha="right", fontsize=8)
    ax.set(xlabel=f"{LABELS[metric]} ({unit})", ylabel="share of requests", ylim=(0.0, 1.02))
    return ax
