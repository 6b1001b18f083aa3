"""`ridgeline devices` and `ridgeline measure-host`: the catalogue, one chip with its sources, and this machine as a
chip.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

#: Columns of the list: title, dotted path, dimension, significant digits.
COLUMNS: tuple[tuple[str, str, str, int | None], ...] = (
    ("16-bit", "matrix_flops_per_s.bf16", "flops_per_s", 4),
    ("8-bit", "matrix_flops_per_s.fp8", "flops_per_s", 4),
    ("4-bit", "matrix_flops_per_s.fp4", "flops_per_s", 4),
    ("fp32", "vector_flops_per_s.fp32", "flops_per_s", 3),
    ("memory", "memory.dram.capacity_bytes", "bytes", 4),
    ("bandwidth", "memory.dram.bandwidth_bytes_per_s", "bytes_per_s", 4),
    ("cores", "cores", "count", None),
    ("clock", "clock_hz", "hz", 3),
    ("power", "peak_watts", "watts", 4),
    ("scale-up", "scale_up.bandwidth_bytes_per_s", "bytes_per_s", 4),
)

#: Formats that stand in where a chip lacks the column's own.
STAND_INS = {"matrix_flops_per_s.bf16": ("fp16",), "matrix_flops_per_s.fp8": ("int8",)}


def devices(
    name: Annotated[str | None, typer.Argument(help="A chip, or a .toml file, to print in full with sources.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON in SI units instead of a table.")] = False,
) -> None:
    """List the chips of the catalogue, or print every number of one chip with its kind and source."""
    import hardware

    if name is None:
        chips = [hardware.load(known) for known in hardware.names()]
        if as_json:
            typer.echo(json.dumps([_described(chip) for chip in chips], indent=1))
        else:
            _print_list(chips)
        return
    chip = hardware.load(name)
    if as_json:
        typer.echo(json.dumps(_described(chip, origins=True), indent=1))
    else:
        _print_chip(chip)


def measure_host(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; default: print it.")] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.5, max=600.0, help="Rough duration.")] = 5.0,
) -> None:
    """Measure this machine's matrix, vector and stream rates and write them as a chip file for `--on`."""
    from rich.console import Console

    from hardware.chip_file import dump
    from hardware.measure_host import measure_host as measure
    from ridgeline.cli.files import check_target

    check_target("--output", output)
    console = Console(stderr=True)
    with console.status("measuring this machine") as status:
        chip = measure(seconds, lambda stage: status.update(f"measuring this machine: {stage}"))
    if output is None:
        typer.echo(dump(chip), nl=False)
        return
    output.write_text(dump(chip), "utf-8")
    console.print(f"wrote {output}; use it as: ridgeline predict MODEL --on {output}", markup=False, highlight=False)


def _print_list(chips: list[Any]) -> None:
    from rich.table import Table

    table = Table("name", "architecture", box=None, pad_edge=False, header_style="bold")
    for title, *_ in COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    for chip in chips:
        cells = (_cell(chip, path, dimension, digits) for _, path, dimension, digits in COLUMNS)
        table.add_row(chip.name, f"{chip.vendor} {chip.architecture}", *cells)
    console = _console()
    console.print(table)
    note = "Dense matrix rates; * fp16 or int8 where bf16 or fp8 is missing. ridgeline devices NAME prints sources."
    console.print(f"{len(chips)} chips. {note}", markup=False, highlight=False)


def _cell(chip: Any, path: str, dimension: str, digits: int | None) -> str:
    from hardware import format_quantity, numeric_paths

    numbers = numeric_paths(chip)
    table = path.rpartition(".")[0]
    for spelling in (path, *(f"{table}.{dtype}" for dtype in STAND_INS.get(path, ()))):
        value = numbers.get(spelling, math.nan)
        if not math.isnan(value):
            return format_quantity(value, dimension, digits=digits) + ("" if spelling == path else "*")
    return "-"


def _print_chip(chip: Any) -> None:
    from rich.table import Table
    from rich.text import Text

    from hardware import format_quantity, numeric_paths
    from hardware.chip_file import dimension_of

    console = _console()
    console.print(Text(f"{chip.name}: {chip.vendor} {chip.architecture}", style="bold"))
    if chip.aliases:
        console.print(f"also known as: {', '.join(chip.aliases)}", markup=False, highlight=False)
    table = Table("field", "value", "kind", "source", box=None, pad_edge=False, header_style="bold")
    for path, value in numeric_paths(chip).items():
        if math.isnan(value):
            table.add_row(path, Text("unknown", style="dim"), "", "")
            continue
        kind, source = chip.origin(path)
        dimension = dimension_of(path)
        on_chip = dimension == "bytes" and not path.startswith("memory.dram")
        table.add_row(path, format_quantity(value, dimension, binary=on_chip), kind, Text(source))
    for key in ("scale_up", "scale_out"):
        link = getattr(chip, key)
        if not math.isnan(link.bandwidth_bytes_per_s):
            reduction = ", in-switch reduction" if link.in_switch_reduction else ""
            table.add_row(key, f"{link.name or 'link'}, {link.topology.replace('_', ' ')}{reduction}", "", "")
    console.print(table)


def _described(chip: Any, *, origins: bool = False) -> dict[str, Any]:
    """A chip as plain JSON: names, then every number in SI units by dotted path (null where unknown)."""
    from hardware import numeric_paths

    numbers = {path: None if math.isnan(value) else value for path, value in numeric_paths(chip).items()}
    described: dict[str, Any] = {
        "name": chip.name,
        "vendor": chip.vendor,
        "architecture": chip.architecture,
        "aliases": list(chip.aliases),
        "numbers": numbers,
    }
    if origins:
        known = [path for path, value in numbers.items() if value is not None]
        described["origins"] = {path: dict(zip(("kind", "source"), chip.origin(path))) for path in known}
    return described


def _console() -> Any:
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=180)
