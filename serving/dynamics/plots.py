"""A stage network in time as a picture: rates, what waits at the pools that fill, replicas, times of requests."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from serving.dynamics.course import NetworkCourse
from serving.stages.network import Network

#: Pools shown, those with the longest queues.
SHOWN = 4


def course_plot(
    network: Network,
    course: NetworkCourse,
    paid: dict[str, np.ndarray] | None = None,
    without: NetworkCourse | None = None,
) -> Figure:
    """Four panels over time: requests per second that come and are served, requests waiting (of the `SHOWN` fullest pools),
    servers of the pools whose number changes (dashed: `paid`), mean end-to-end time (dotted: `without` the changes). `network`:
    without routers. Returns the figure."""
    time = np.asarray(course.time_s)
    figure, panels = plt.subplots(4, 1, figsize=(8.0, 8.5), sharex=True, constrained_layout=True)
    names = [pool.name for pool in network.pools]
    for i, c in enumerate(network.classes):
        colour = f"C{i}"
        panels[0].plot(time, course.rate_per_s[:, i], color=colour, linestyle="--", linewidth=1.0)
        panels[0].plot(time, course.throughput_per_s[:, i], color=colour, label=c.name)
        panels[3].plot(time, _finite(course.e2e_s[:, i]), color=colour, label=c.name)
        if without is not None:
            panels[3].plot(time, _finite(without.e2e_s[:, i]), color=colour, linestyle=":")
    fullest = np.argsort(-course.waiting.max(axis=0), kind="stable")[:SHOWN]
    for j in sorted(fullest):
        panels[1].plot(time, course.waiting[:, j], label=names[j])
    for j, name in enumerate(names):
        if np.ptp(course.servers[:, j]) > 0.0 or name in (paid or {}):
            (line,) = panels[2].step(time, course.servers[:, j], where="pre", label=name)
            if paid and name in paid:
                panels[2].step(time, paid[name], where="pre", color=line.get_color(), linestyle="--", linewidth=1.0)
    labels = ("requests/s\n(dashed: come)", "waiting", "servers\n(dashed: paid for)", "mean time (s)")
    for panel, label in zip(panels, labels):
        panel.set_ylabel(label)
        panel.set_ylim(bottom=0.0)
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=8, loc="upper right")
    panels[-1].set_xlabel("time (s)")
    return figure


def _finite(values: Any) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)
