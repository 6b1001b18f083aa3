"""Pictures of a replay: how long requests wait for the first token and for each further one."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from serving.replay import Served

LABELS = {"ttft_s": "time to first token (s)", "tpot_s": "time per output token (s)", "e2e_s": "end-to-end time (s)"}


def distribution_plot(served: Served, metric: str, *, ax: Any = None) -> Any:
    """Share of requests served within a time, with the median and the 99th percentile marked. Returns `ax`."""
    if metric not in LABELS:
        raise ValueError(f"metric: {metric!r} is unknown (known: {', '.join(LABELS)})")
    ax = plt.gca() if ax is None else ax
    values = np.sort(getattr(served, metric)[~served.refused])
    ax.step(values, np.arange(1, len(values) + 1) / max(len(values), 1), where="post")
    for share in (0.5, 0.99):
        at = np.percentile(values, 100 * share)
        ax.axhline(share, color="0.8", linewidth=0.8, zorder=0)
        ax.annotate(
            f"p{100 * share:.0f} {at:.3g} s", (at, share), textcoords="offset points", xytext=(4, -12), fontsize=8
        )
    ax.set(xlabel=LABELS[metric], ylabel="share of requests", ylim=(0.0, 1.02))
    return ax
