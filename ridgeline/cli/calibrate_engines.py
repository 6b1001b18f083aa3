"""`ridgeline calibrate-engines --data DIR`: overheads of serving engines from measured benchmarks, with what each
left-out deployment, GPU type and model says of them."""

from pathlib import Path
from typing import Annotated

import typer


def calibrate_engines(
    data: Annotated[
        Path | None, typer.Option(help="Folder with silicon_points.parquet (default: $RIDGELINE_DATA).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the constants of each engine (TOML lines) to this file.")
    ] = None,
    engine: Annotated[str, typer.Option(help="Fit this engine alone, e.g. vllm.")] = "",
    json: Annotated[Path | None, typer.Option(help="Write the rows of the report to this file.")] = None,
) -> None:
    """Fit the host overheads of serving engines, at most four constants each, and cross-validate them (minutes)."""
    import json as encoder

    from rich.console import Console
    from rich.table import Table

    from profiles.data_folder import data_folder
    from ridgeline.engine_calibration import calibrate_engines as fit
    from ridgeline.engine_calibration import constants_toml, report
    from serving.engines import load_engine

    folder = data_folder() if data is None else data
    path = next((p for p in (folder / "silicon_points.parquet", folder / "serving" / "silicon_points.parquet")
                 if p.is_file()), None)  # fmt: skip
    if path is None:
        raise ValueError(f"--data: no silicon_points.parquet in {folder} or {folder / 'serving'}")
    if engine:
        load_engine(engine)
    for option, target in (("--out", out), ("--json", json)):
        if target is not None and not target.parent.is_dir():
            raise ValueError(f"{option}: {target.parent} is not a folder")
    fits = fit(path, only=engine, progress=lambda line: Console(stderr=True).print(line, highlight=False))
    rows = report(fits)
    table = Table(title="engine overheads: error of what was left out (none: of the fitted points themselves)")
    for name in ("engine", "metric", "left out", "n", "mean error", "median error", "bias"):
        table.add_column(name, justify="right" if name in ("n", "mean error", "median error", "bias") else "left")
    for row in rows:
        table.add_row(
            row["engine"], row["metric"], row["left_out"], str(row["n"]), f"{100 * row['mape']:.1f} %",
            f"{100 * row['median_ape']:.1f} %", f"{100 * row['bias']:+.1f} %",
        )  # fmt: skip
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)
    constants = "\n\n".join(f"[{name}]\n{lines}" for name, lines in constants_toml(fits).items())
    if out is None:
        console.print(constants, markup=False, highlight=False)
    else:
        out.write_text(constants + "\n", encoding="utf-8")
    if json is not None:
        json.write_text(encoder.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
