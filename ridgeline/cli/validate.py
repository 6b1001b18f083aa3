"""`ridgeline validate LEVEL --data DIR --json FILE`: score the models against a folder of measurements."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def validate(
    level: Annotated[str, typer.Argument(help="What to validate, e.g. collectives.")],
    data: Annotated[Path | None, typer.Option(help="Folder with the measurements (default: $RIDGELINE_DATA).")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the rows to this file.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Print every group, not only the summary rows.")] = False,
    split: Annotated[
        str | None,
        typer.Option(
            help="Refit without part of the data and score that part: seconds for none (the default), minutes for the others. "
            "kernels: none, shapes, gpu, extrapolate, generation, few-shot; a wrong name lists those of a level."
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="serving: none (kernel constants only) or engine (adds fitted overheads; default)."),
    ] = None,
) -> None:
    """Compare predictions with measurements: signed errors per group, and over all."""
    # Imported here: pandas and the models cost more than the rest of the command line together.
    from ridgeline.cli.files import check_target, measurements
    from ridgeline.validate.levels import checked_calibration, checked_split, load_level
    from ridgeline.validate.report import print_rows, summary_rows, write_json

    module = load_level(level)
    split = checked_split(module, split)
    options = checked_calibration(module, level, calibration)
    if json is not None and not json.parent.exists():
        json.parent.mkdir(parents=True)
    check_target("--json", json)
    validation = module.validate(measurements(data), split=split, **options)
    rows = validation.rows()
    if json is not None:
        write_json(rows, json, validation.messages)
    console = Console()
    if not console.is_terminal:
        # Labels must stay readable in a pipe, which has no width.
        console.width = max(console.width, 170)
    shown = rows if full or len(rows) <= 40 else summary_rows(validation, rows)
    print_rows(validation, shown, console)
    if len(shown) < len(rows):
        console.print(f"{len(rows) - len(shown)} more groups: --full, or --json FILE")


def register(app: typer.Typer) -> None:
    """Add the command to the command line `app`."""
    app.command("validate")(validate)
