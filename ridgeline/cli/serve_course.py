"""The course of a stage network in time for `ridgeline serve network --transient`."""

from pathlib import Path
from typing import Any

import numpy as np


def show(found: Any, network: Any, duration_s: float, plot: Path | None, as_text: bool) -> None:
    """Answers and prints the course of `network`, what `found` (a network file) changes in it included."""
    from json import dumps

    from rich.console import Console

    from serving.stages import answerable

    changes = found.changes
    how: dict[str, Any] = {"duration_s": duration_s, "edges_s": changes.edges_s, "factors": changes.factors}
    course, paid, extra = _answer(network, changes, how, found)
    if changes.losses:
        extra["losses"] = [
            {"pool": loss.pool, "count": loss.count, "at_s": loss.at_s, "back_s": loss.at_s + loss.repair_s}
            for loss in changes.losses
        ]
    plain = answerable(network)
    if plot is not None:
        _picture(plain, course, paid, plot)
    answer = as_json(found.name, plain, course, extra)
    if as_text:
        print(dumps(answer, indent=1))
        return
    _print(answer, Console())
    if plot is not None:
        Console().print(f"picture: {plot}", markup=False)


def _answer(network: Any, changes: Any, how: dict[str, Any], found: Any) -> tuple[Any, Any, dict[str, Any]]:
    """The course, replicas paid for by pool (None without autoscalers), and what else there is to say."""
    from serving.dynamics import autoscaled_course, loss_course, network_course

    if changes.scalers:
        scaled = autoscaled_course(network, changes.scalers, losses=changes.losses, **how)
        hours = {
            name: {
                "replica_hours": hours,
                "extra_hours": scaled.extra_hours[name],
                "most": float(scaled.paid[name].max()),
            }
            for name, hours in scaled.replica_hours.items()
        }
        return scaled.course, scaled.paid, {"autoscaling": hours}
    if not changes.losses:
        return network_course(network, **how), None, {}
    limits = {name: min(promised.values()) for name, promised in found.slo.items() if promised}
    lost = loss_course(network, changes.losses, limits_s=limits, **how)
    names = [c.name for c in network.classes]
    return lost.course, None, {
        "failure": {
            "recovered_s": _finite(lost.recovered_s),
            "peak_queue": lost.peak_queue,
            "classes": {
                name: {
                    "before_p99_s": _finite(lost.before.e2e_p99_s[i]), "e2e_p99_s": _finite(lost.e2e_p99_s[i]),
                    "worst_p99_s": _finite(lost.worst_p99_s[i]), "reduced_e2e_s": _finite(lost.reduced.e2e_s[i]),
                    "limit_s": limits.get(name), "goodput_share": float(lost.goodput_share[i]),
                }
                for i, name in enumerate(names)
            },
        }
    }  # fmt: skip


def as_json(name: str, network: Any, course: Any, extra: dict[str, Any]) -> dict[str, Any]:
    """Figures of a course in SI units; what has no end is null. `series`: at about 100 times."""
    time, rates = course.time_s, course.rate_per_s
    step = max((len(time) - 1) // 100, 1)
    classes, pools = {}, {}
    for i, c in enumerate(network.classes):
        share = rates[1:, i] / max(float(rates[1:, i].sum()), 1e-300)
        late = int(np.argmax(course.e2e_s[:, i]))
        classes[c.name] = {
            "served": float(course.served[i]), "lost": float(course.lost[i]),
            "e2e_s": _finite(float(np.where(share > 0.0, share * course.e2e_s[1:, i], 0.0).sum())),
            "worst_e2e_s": _finite(course.e2e_s[late, i]), "worst_at_s": float(time[late]),
        }  # fmt: skip
    for j, pool in enumerate(network.pools):
        top = int(np.argmax(course.waiting[:, j]))
        pools[pool.name] = {
            "kind": pool.kind, "peak_queue": float(course.waiting[top, j]), "peak_at_s": float(time[top]),
            "peak_wait_s": _finite(course.wait_s[:, j].max()), "peak_utilisation": float(course.utilisation[:, j].max()),
            "least_servers": float(course.servers[:, j].min()), "most_servers": float(course.servers[:, j].max()),
        }  # fmt: skip
    series = {"time_s": time[::step].tolist()}
    for i, c in enumerate(network.classes):
        series[f"classes.{c.name}.throughput_per_s"] = course.throughput_per_s[::step, i].tolist()
        series[f"classes.{c.name}.e2e_s"] = [_finite(x) for x in course.e2e_s[::step, i]]
    for j, pool in enumerate(network.pools):
        series[f"pools.{pool.name}.waiting"] = course.waiting[::step, j].tolist()
        series[f"pools.{pool.name}.servers"] = course.servers[::step, j].tolist()
    return {"name": name, "duration_s": float(time[-1]), "classes": classes, "pools": pools, **extra, "series": series}


def _print(answer: dict[str, Any], console: Any) -> None:
    from rich.table import Table

    table = Table(title=f"{answer['name']}: {answer['duration_s']:g} s")
    for name in ("class", "served", "lost", "mean time", "worst mean", "at"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for name, row in answer["classes"].items():
        numbers = (_count(row["served"]), _count(row["lost"]), _seconds(row["e2e_s"]), _seconds(row["worst_e2e_s"]))
        table.add_row(name, *numbers, f"{row['worst_at_s']:.4g} s")
    console.print(table)
    table = Table(title="pools")
    for name in ("pool", "kind", "servers", "most\nbusy", "peak\nqueue", "at", "longest\nwait"):
        table.add_column(name, justify="left" if name in ("pool", "kind") else "right", no_wrap=True)
    for name, row in answer["pools"].items():
        few, many = row["least_servers"], row["most_servers"]
        table.add_row(
            name, row["kind"], f"{few:g}" if few == many else f"{few:g} to {many:g}", f"{100 * row['peak_utilisation']:.0f} %",
            _count(row["peak_queue"]), f"{row['peak_at_s']:.4g} s", _seconds(row["peak_wait_s"]),
        )  # fmt: skip
    console.print(table)
    for name, row in answer.get("autoscaling", {}).items():
        console.print(
            f"{name}: {row['replica_hours']:.4g} replica-hours, {row['extra_hours']:+.3g} beyond the need of each moment",
            highlight=False,
            markup=False,
        )  # fmt: skip
    for row in answer.get("losses", ()):
        after = "; after the end of this course" if row["at_s"] >= answer["duration_s"] else ""
        console.print(
            f"{row['pool']}: {row['count']} lost at {row['at_s']:.4g} s, back at {row['back_s']:.4g} s{after}",
            highlight=False, markup=False,
        )  # fmt: skip
    failure = answer.get("failure")
    for name, row in failure["classes"].items() if failure else ():
        promised = f", {100 * row['goodput_share']:.2f} % within {row['limit_s']:g} s" if row["limit_s"] else ""
        console.print(
            f"{name}: 99 % within {_seconds(row['before_p99_s'])} before, {_seconds(row['worst_p99_s'])} at the worst{promised}",
            highlight=False, markup=False,
        )  # fmt: skip
    if failure:
        back = failure["recovered_s"]
        console.print("not recovered in this course" if back is None else f"recovered at {back:.4g} s", highlight=False)


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if abs(number) < float("inf") else None


def _seconds(value: float | None) -> str:
    if value is None:
        return "no end"
    return f"{value:.3g} s" if value >= 0.9995 else f"{1e3 * value if value >= 5e-7 else 0.0:.3g} ms"


def _count(value: float) -> str:
    """Requests, of which less than a hundredth is none."""
    return f"{value:,.0f}" if value >= 1000.0 else f"{value if value >= 0.005 else 0.0:.3g}"


def _picture(network: Any, course: Any, paid: Any, path: Path) -> None:
    from ridgeline.cli.files import pyplot, save_picture
    from roofline.plots import plot_style

    pyplot()
    from serving.dynamics.plots import course_plot

    with plot_style():
        save_picture(course_plot(network, course, paid), path)
