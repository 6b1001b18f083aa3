"""`ridgeline serve network`: a network of stages from a TOML file, in closed form and, if asked, replayed or in time."""

from pathlib import Path
from typing import Annotated, Any

import typer

#: Seconds of a course.
SHORTEST_S, LONGEST_S = 1e-6, 1e9


def network(
    file: Annotated[Path, typer.Argument(help="TOML file of pools, request classes and their stages.")],
    scale: Annotated[float, typer.Option(help="Factor on all rates of the file.")] = 1.0,
    overload: Annotated[bool, typer.Option("--overload", help="Answer a load that a pool cannot take, too.")] = False,
    replay: Annotated[int | None, typer.Option(help="Replay so many requests beside the closed form.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the replay.")] = 0,
    elasticities: Annotated[int, typer.Option(help="Show so many numbers that matter most to the first class.")] = 0,
    transient: Annotated[
        float | None,
        typer.Option(help="Seconds of a course in time instead: arrivals, autoscaling, failures of the file."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the network, or its course, to this picture.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON (SI units) instead of tables.")] = False,
) -> None:
    """Times, queues, the bottleneck and the energy of a network of stages."""
    from json import dumps

    from rich.console import Console

    from ridgeline.cli.files import PICTURES, check_target
    from ridgeline.stage_network_file import read_network
    from ridgeline.toml_fields import LARGEST
    from serving.stages import answerable, check_stable, network_secants, replay_network, steady_network

    check_target("--plot", plot, PICTURES)
    if not 1.0 / LARGEST <= scale <= LARGEST:
        raise ValueError(f"--scale: {scale!r}; expected a number above 0, from {1.0 / LARGEST:g} to {LARGEST:g}")
    for name, given, least in (("--replay", replay, 10), ("--seed", seed, 0), ("--elasticities", elasticities, 0)):
        if given is not None and given < least:
            raise ValueError(f"{name}: {given}; expected a whole number of at least {least}")
    if transient is not None and not SHORTEST_S <= transient <= LONGEST_S:
        raise ValueError(f"--transient: {transient!r}; expected seconds from {SHORTEST_S:g} to {LONGEST_S:g}")
    for name, given in (("--replay", replay is not None), ("--elasticities", elasticities > 0)):
        if transient is not None and given:
            raise ValueError(f"{name}: no part of a course in time; leave out one of it and --transient")
    found = read_network(file)
    asked = found.network.scaled(scale)
    if transient is not None:
        try:
            from ridgeline.cli import serve_course

            serve_course.show(found, asked, transient, plot, json)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        return
    state = steady_network(asked)
    if not overload:
        try:
            check_stable(asked, state)
        except ValueError as error:
            raise ValueError(f"{file}: {error}; --overload answers anyway") from None
    seen = None if replay is None else replay_network(asked, replay, seed=seed)
    matters = network_secants(asked) if elasticities > 0 and bool(state.stable) else {}
    matters = dict(list(matters.items())[:elasticities])
    asked = answerable(asked)
    if plot is not None:
        _picture(asked, state, plot)
    if json:
        print(dumps(as_json(found, asked, state, seen, matters), indent=1))
    else:
        _print(found, asked, state, seen, matters, Console())
        if plot is not None:
            Console().print(f"picture: {plot}", markup=False)


def as_json(
    found: Any, network: Any, state: Any, seen: Any = None, matters: dict[str, float] | None = None
) -> dict[str, Any]:
    """Figures of a network in SI units; what has no end is null."""
    from serving.stages import backpressure

    k, classes = 0, {}
    for i, c in enumerate(network.classes):
        stages = {}
        for stage in c.stages:
            stages[stage.name] = {
                "pool": stage.pool, "visits_per_s": _finite(state.rate_per_s[k]), "time_s": _finite(state.stage_s[k]),
                "wait_s": _finite(state.wait_s[k]), "replayed_s": None if seen is None else _finite(seen.stage_s[k]),
            }  # fmt: skip
            k += 1
        classes[c.name] = {
            "rate_per_s": float(c.rate_per_s), "throughput_per_s": _finite(state.throughput_per_s[i]),
            "lost_per_s": _finite(state.lost_per_s[i]),
            **{f"{name}_s": _finite(getattr(state, f"{name}_s")[i]) for name in ("e2e", "e2e_p50", "e2e_p90", "e2e_p99")},
            "slo": {name: _promise(state, name, limit, i) for name, limit in found.slo[c.name].items()},
            "replayed": None if seen is None else {
                "throughput_per_s": _finite(seen.throughput_per_s[i]), "e2e_s": _finite(seen.e2e_s[i]),
                "e2e_p99_s": _finite(seen.e2e_quantile_s(0.99)[i]),
            },
            "stages": stages,
        }  # fmt: skip
    names = ("offered", "utilisation", "busy", "queue", "in_service", "batch", "passed", "growth_per_s")
    return {
        "name": found.name,
        "stable": bool(state.stable),
        "scale": _finite(state.scale),
        "bottleneck": network.pools[int(state.bottleneck)].name if _finite(state.scale) is not None else None,
        "statements": backpressure(network, state),
        "classes": classes,
        "pools": {
            pool.name: {"kind": pool.kind, **{name: _finite(getattr(state, name)[j]) for name in names}}
            for j, pool in enumerate(network.pools)
        },
        "energy": _energy(found, network, state),
        "elasticities": matters or {},
    }


def _promise(state: Any, name: str, limit: float, i: int) -> dict[str, Any]:
    value = float(getattr(state, f"{name}_s")[i])
    return {"limit_s": limit, "met": value <= limit}


def _energy(found: Any, network: Any, state: Any) -> dict[str, float] | None:
    import numpy as np

    from serving.stages import network_energy, usual_machine

    if not found.power:
        return None
    share = np.asarray(state.throughput_per_s, dtype=float)
    tokens = share @ np.array([found.tokens[c.name] for c in network.classes]) / share.sum()
    energy = network_energy(network, state, found.power, tokens_per_request=tokens, machine=usual_machine())
    return {
        "device_watts": float(energy.device_watts.sum()), "machine_watts": float(energy.machine_watts.sum()),
        "joules_per_request": float(energy.joules_per_request),
        "joules_per_million_tokens": float(energy.joules_per_million_tokens),
    }  # fmt: skip


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if abs(number) < float("inf") else None


def _print(found: Any, network: Any, state: Any, seen: Any, matters: dict[str, float], console: Any) -> None:
    from rich.table import Table

    from serving.stages import backpressure

    answer = as_json(found, network, state, seen, matters)
    table = Table(title=f"{found.name}: request classes" + ("" if seen is None else " (below: replayed)"))
    for name in ("class", "asked/s", "served/s", "mean", "p50", "p90", "p99", "promised"):
        words = name in ("class", "promised")
        table.add_column(name, justify="left" if words else "right", no_wrap=not words)
    for name, c in answer["classes"].items():
        promised = ", ".join(
            f"{key} {_seconds(value['limit_s'])} {'met' if value['met'] else 'missed'}"
            for key, value in c["slo"].items()
        )
        cells = [name, f"{c['rate_per_s']:.4g}", f"{c['throughput_per_s']:.4g}"]
        cells += [_seconds(c[f"{key}_s"]) for key in ("e2e", "e2e_p50", "e2e_p90", "e2e_p99")] + [promised]
        if seen is not None:
            cells[2] += f"\n{c['replayed']['throughput_per_s']:.4g}"
            cells[3] += f"\n{_seconds(c['replayed']['e2e_s'])}"
            cells[6] += f"\n{_seconds(c['replayed']['e2e_p99_s'])}"
        table.add_row(*cells)
    console.print(table)
    table = Table(title="stages")
    for name in ("class", "stage", "pool", "visits/s", "wait", "time"):
        table.add_column(name, justify="left" if name in ("class", "stage", "pool") else "right")
    for name, c in answer["classes"].items():
        for stage, row in c["stages"].items():
            numbers = (f"{row['visits_per_s']:.4g}", _seconds(row["wait_s"]), _seconds(row["time_s"]))
            table.add_row(name, stage, row["pool"], *numbers)
    console.print(table)
    table = Table(title="pools")
    for name in ("pool", "kind", "utilisation", "waiting", "in service", "batch"):
        table.add_column(name, justify="left" if name in ("pool", "kind") else "right")
    for name, row in answer["pools"].items():
        batch = f"{row['batch']:.3g}" if row["kind"] in ("batch", "continuous") else "-"
        queue = (
            "grows" if row["growth_per_s"] > 0.0 else f"{row['queue'] if (row['queue'] or 0.0) >= 0.005 else 0.0:.3g}"
        )
        inside = "-" if row["in_service"] is None else f"{row['in_service'] if row['in_service'] >= 5e-7 else 0.0:.3g}"
        used = "-" if row["kind"] == "delay" else f"{100 * row['utilisation']:.0f} %"
        table.add_row(name, row["kind"], used, queue, inside, batch)
    console.print(table)
    for line in backpressure(network, state):
        console.print(line, markup=False, highlight=False)
    if answer["energy"]:
        row = answer["energy"]
        console.print(
            f"{row['device_watts']:,.0f} W of devices, {row['machine_watts']:,.0f} W around them; "
            f"{row['joules_per_request']:,.0f} J per request, {row['joules_per_million_tokens'] / 3.6e6:,.3g} kWh per Mtoken",
            highlight=False,
        )
    for path, value in matters.items():
        console.print(f"+1 % of {path}: {value:+.2f} % of mean time", markup=False, highlight=False)


def _seconds(value: float | None) -> str:
    if value is None or value != value:
        return "-"
    return f"{value:.3g} s" if value >= 0.9995 else f"{1e3 * value if value >= 5e-7 else 0.0:.3g} ms"


def _picture(network: Any, state: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    from roofline.plots import plot_style
    from serving.stages.plots import network_plot

    with plot_style():
        figure = network_plot(network, state)
        try:
            figure.savefig(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"--plot: {str(path)!r} cannot be written: {error}") from None
        finally:
            plt.close(figure)
