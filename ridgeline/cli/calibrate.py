"""`ridgeline calibrate --data DIR --gpu X --stack Y`: constants of a chip from measured kernels, with an error
report."""

from pathlib import Path
from typing import Annotated

import typer


def calibrate(
    gpu: Annotated[str, typer.Option(help="Chip: catalogue name, alias or TOML file.")],
    stack: Annotated[str, typer.Option(help="Software and version as in the data, e.g. trtllm-1.3.0rc20.")],
    data: Annotated[Path | None, typer.Option(help="Folder with kernels/*.parquet (default: $RIDGELINE_DATA).")] = None,
    op: Annotated[str, typer.Option(help="all, gemm, attention, memory_bound, moe or conv2d.")] = "all",
    points: Annotated[int | None, typer.Option(min=1, help="Few-shot: fit to this many rows per set only.")] = None,
    seed: Annotated[int, typer.Option(help="Which rows are drawn.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="TOML file (default: print it).")] = None,
) -> None:
    """Fit kernel constants to measurements of one chip and software stack; use them with: predict --constants FILE.

    The report gives errors on the rows fitted to and on others that were held out; sigma is the spread to expect of
    ln(measured / predicted), wider where points are few. Rows that cannot be used are counted with the reason.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table

    from profiles.calibration import FAMILIES
    from profiles.calibration import calibrate as fit
    from ridgeline.cli.files import check_target, measurements
    from ridgeline.validate.scores import relative_bias

    folder = measurements(data)
    check_target("--output", output)
    console = Console(stderr=True)
    columns = (
        BarColumn(),
        TextColumn("{task.completed}/{task.total} families  {task.description}"),
        TimeElapsedColumn(),
    )
    families = list(FAMILIES) if op == "all" else [op]
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"calibrating {op}", total=len(families))

        def report(label: str) -> None:
            done = families.index(label.split()[0].rstrip(":")) if label.split()[0].rstrip(":") in families else 0
            bar.update(task, completed=done, description=label)

        found = fit(folder, gpu, stack, op, points=points, seed=seed, progress=report)
        bar.update(task, completed=len(families), description="done")
    console.width = max(console.width, 150)
    table = Table(
        "set", "points", "fitted MAPE / median", "held out (rows) MAPE / median / bias", "sigma", "", box=None
    )
    for row in found.rows:
        held = "-"
        if row.held_out is not None:
            h = row.held_out
            held = f"({h.n}) {h.mape:.1%} / {h.median_ape:.1%} / {relative_bias(h.bias):+.1%}"
        fitted = f"{row.fitted.mape:.1%} / {row.fitted.median_ape:.1%}"
        table.add_row(row.label, str(row.points), fitted, held, f"{row.log_sigma:.3f}", row.warning)
    console.print(table)
    for message in found.messages:
        console.print(message, markup=False, highlight=False)
    if output is None:
        typer.echo(found.text, nl=False)
    else:
        output.write_text(found.text, "utf-8")
        console.print(f"wrote {output}", markup=False, highlight=False)
