"""`ridgeline calibrate-errors --data DIR --out FILE`: learn the error laws behind every interval from what refits left out."""

from pathlib import Path
from typing import Annotated

import typer


def calibrate_errors(
    out: Annotated[Path, typer.Option(help="TOML file to write, e.g. profiles/constants/error_laws.toml.")],
    data: Annotated[Path | None, typer.Option(help="Folder with the measurements (default: $RIDGELINE_DATA).")] = None,
    only: Annotated[str, typer.Option(help="Levels to learn anew, comma-separated; other laws are kept.")] = "",
) -> None:
    """Learn calibrated error intervals from measurements that refits leave out (minutes)."""
    from rich.console import Console

    from ridgeline.cli.files import check_target, measurements
    from ridgeline.error_calibration import calibrate_errors as learn

    folder = measurements(data)
    check_target("--out", out)
    text = learn(
        folder,
        only=[name.strip() for name in only.split(",") if name.strip()],
        progress=lambda line: Console(stderr=True).print(line, highlight=False),
    )
    out.write_text(text, encoding="utf-8")
    print(f"{text.count('level = ')} laws: {out}")
