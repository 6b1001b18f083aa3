"""`ridgeline dataflow LAYER --on ACCELERATOR`: map one layer on a spatial accelerator; without a layer, list the accelerators."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

#: Kinds of layers: the constructor in `dataflow` behind each.
KINDS = {
    "gemm": "gemm",
    "batched_gemm": "batched_gemm",
    "conv2d": "conv2d",
    "depthwise": "depthwise_conv2d",
    "grouped_conv2d": "grouped_conv2d",
    "attention_qk": "attention_qk",
    "attention_pv": "attention_pv",
}


def dataflow(
    layer: Annotated[
        list[str] | None,
        typer.Argument(help="Kind and sizes: conv2d n=1 c=64 m=64 height=56 width=56 r=3 s=3 padding=1"),
    ] = None,
    on: Annotated[str, typer.Option(help="Accelerator: catalogue name or TOML file.")] = "eyeriss",
    flow: Annotated[str, typer.Option("--dataflow", help="One of the accelerator's dataflows, or 'all'.")] = "",
    objective: Annotated[str, typer.Option(help="edp, latency or energy.")] = "edp",
    plot: Annotated[Path | None, typer.Option(help="Write energy, latency and utilisation to this picture.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON (SI units) instead of tables.")] = False,
) -> None:
    """Map a layer on a spatial accelerator: loop nest, cycles, utilisation, energy and reuse."""
    from json import dumps

    from rich.console import Console

    from dataflow.layer_mapping import run_layer
    from dataflow.presets import preset
    from ridgeline.cli.files import PICTURES, check_target, pyplot, save_picture

    check_target("--plot", plot, PICTURES)
    if not layer:
        _list(as_json)
        return
    chosen, problem = preset(on), problem_from_words(layer)
    names = [rule.name for rule in chosen.dataflows] if flow == "all" else [flow or chosen.dataflows[0].name]
    runs = {name: run_layer(problem, chosen, dataflow=name, objective=objective) for name in names}
    if plot is not None:
        pyplot()
        from dataflow.plots import layer_figure

        save_picture(layer_figure(runs, title=f"{' '.join(layer)} on {chosen.name}"), plot)
    if as_json:
        print(dumps([_described(chosen.name, name, run) for name, run in runs.items()], indent=1))
        return
    console = Console()
    for name, run in runs.items():
        _print(console, chosen.name, name, run)
    if plot is not None:
        console.print(f"picture: {plot}", markup=False, highlight=False)


def problem_from_words(words: list[str]) -> Any:
    """A problem from its kind and `size=value` words; ValueError names the word and what was expected."""
    import dataflow
    from dataflow.problem import unknown

    kind, *rest = words
    if kind not in KINDS:
        raise ValueError(unknown("layer kind", kind, KINDS, "LAYER"))
    make: Callable[..., Any] = getattr(dataflow, KINDS[kind])
    parameters = inspect.signature(make).parameters
    sizes: dict[str, int] = {}
    for word in rest:
        name, _, value = word.partition("=")
        if name not in parameters:
            raise ValueError(unknown("size", name, parameters, f"LAYER {kind}"))
        if name in sizes:
            raise ValueError(f"LAYER {kind}.{name}: given twice ({sizes[name]} and {value}), expected once")
        least = 0 if name == "padding" else 1
        if not re.fullmatch("[0-9]+", value) or len(value) > 16 or not least <= int(value) <= 2**53:
            shown = value if len(value) <= 40 else value[:37] + "..."
            raise ValueError(f"LAYER {kind}.{name}: {shown!r}, expected a whole number from {least} to 2^53")
        sizes[name] = int(value)
    missing = [name for name, p in parameters.items() if p.default is p.empty and name not in sizes]
    if missing:
        raise ValueError(f"LAYER {kind}: {', '.join(missing)} missing; expected e.g. {missing[0]}=64")
    return make(**sizes)


def _list(as_json: bool) -> None:
    from json import dumps

    from rich.console import Console
    from rich.table import Table

    from dataflow.presets import preset, preset_names

    found = [preset(name) for name in preset_names()]
    if as_json:
        rows = [
            {
                "name": p.name,
                "summary": p.summary,
                "source": p.source,
                "units": float(p.architecture.compute_units),
                "clock_hz": p.architecture.clock_hz,
                "levels": list(p.architecture.level_names),
                "dataflows": [rule.name for rule in p.dataflows],
            }
            for p in found
        ]
        print(dumps(rows, indent=1))
        return
    table = Table("name", "units", "clock", "dataflows", "what", box=None, pad_edge=False, header_style="bold")
    for p in found:
        rules = ", ".join(rule.name for rule in p.dataflows)
        units, clock = f"{float(p.architecture.compute_units):,.0f}", f"{float(p.architecture.clock_hz) / 1e6:g} MHz"
        table.add_row(p.name, units, clock, rules, p.summary)
    console = Console()
    console.print(table)
    console.print("Next: ridgeline dataflow gemm m=512 n=768 k=768 --on eyeriss", markup=False, highlight=False)


def _described(accelerator: str, name: str, run: Any) -> dict[str, Any]:
    from dataflow.plots import reuse_frame

    found = run.evaluation
    alone = {"compute": float(found.counts.compute_cycles)}
    alone |= {level: float(value) for level, value in found.level_cycles.items()}
    joules = {level: sum(float(x) for x in by.values()) for level, by in found.energy.levels.items()}
    return {
        "accelerator": accelerator,
        "dataflow": name,
        "macs": float(run.problem.macs),
        "cycles": float(found.cycles),
        "latency_s": float(found.latency_s),
        "bound": max(alone, key=lambda key: alone[key]),
        "cycles_alone": alone,
        "utilisation": float(found.utilisation),
        "energy_joules": _known(float(found.energy_joules)),
        "energy_joules_by_level": {k: _known(v) for k, v in (joules | {"MAC": float(found.energy.compute)}).items()},
        "energy_note": run.architecture.energy_note,
        "mapping": run.mapping.to_text(),
        "reuse": [{key: _known(value) for key, value in row.items()} for row in reuse_frame(run).to_dict("records")],
    }


def _known(value: Any) -> Any:
    return None if value != value else value


def _counted(words: float, none: str) -> str:
    """Words in full as long as they fit into a column."""
    return none if not words else f"{words:,.0f}" if words < 1e9 else f"{words:.4e}"


def _print(console: Any, accelerator: str, name: str, run: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    from dataflow.plots import nest_text

    facts = _described(accelerator, name, run)
    console.print(Text(f"{accelerator}, {name}", style="bold"))
    console.print(nest_text(run), markup=False, highlight=False)
    energy = facts["energy_note"]
    if not energy:
        per_mac = 1e12 * facts["energy_joules"] / facts["macs"]
        energy = f"{1e6 * facts['energy_joules']:,.4g} µJ ({per_mac:.3g} pJ per MAC)"
    line = (
        f"{facts['cycles']:,.0f} cycles ({1e3 * facts['latency_s']:.4g} ms), bound by {facts['bound'].replace('_', ' ')}; "
        f"utilisation {facts['utilisation']:.1%}; {energy}"
    )
    console.print(f"\n{line}\n", markup=False, highlight=False)
    table = Table("level", "tensor", box=None, pad_edge=False, header_style="bold")
    for title in ("reads", "fills", "updates", "reuse", "energy µJ"):
        table.add_column(title, justify="right")
    for row in facts["reuse"]:
        words = [_counted(row[key], "-") for key in ("reads_words", "fills_words", "updates_words")]
        reuse = "-" if row["reuse"] is None else f"{row['reuse']:,.1f}" if row["reuse"] < 1e6 else f"{row['reuse']:.3g}"
        spent = "?" if row["energy_joules"] is None else f"{1e6 * row['energy_joules']:,.3g}"
        table.add_row(row["level"], row["tensor"], *words, reuse, spent)
    console.print(table)
    console.print()
