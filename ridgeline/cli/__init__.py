"""The command line, one module per command group; `main` is the entry point of the `ridgeline` command.

Modules here parse, call the facade and print. Imports of models happen inside the commands, so that `--help` stays
instant.
"""

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NoReturn

import typer

from ridgeline.cli import (
    calibrate,
    calibrate_engines,
    calibrate_errors,
    dataflow,
    devices,
    explore,
    gap,
    measure,
    models,
    predict,
    profile,
    serve,
    validate,
    validation,
)

#: The base of all complaints about options and arguments. Typer carries its own click or uses the installed one, by
#: version; its public exceptions lead to the right one.
_UsageError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Analytical performance models for ML hardware and LLM serving.",
)
app.command("predict")(predict.predict)
app.command("devices")(devices.devices)
app.command("measure-host")(devices.measure_host)
app.command("dataflow")(dataflow.dataflow)
app.command("models")(models.models)
app.command("operators")(models.operators)
app.command("validate")(validate.validate)
app.command("validation")(validation.validation)
app.command("mtap")(validation.mtap)
app.command("calibrate")(calibrate.calibrate)
app.command("calibrate-errors")(calibrate_errors.calibrate_errors)
app.command("calibrate-engines")(calibrate_engines.calibrate_engines)
app.command("measure")(measure.measure)
app.command("gap")(gap.gap)
app.command("sweep")(explore.sweep)
app.command("search")(explore.search)
app.command("elasticity")(explore.elasticity)
app.add_typer(profile.profile, name="profile")
app.add_typer(serve.serve, name="serve")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; wrong input ends in one line on standard error and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = app(args=arguments or ["--help"], standalone_mode=False)
    except _UsageError as error:
        _fail(error.format_message() + _given(error, arguments), 2)
    except (ValueError, OSError) as error:
        _fail(str(error), 2)
    except (KeyboardInterrupt, typer.Abort) as error:
        _fail(str(error) or "interrupted", 130)
    else:
        raise SystemExit(code or 0)


def _given(error: Any, arguments: list[str]) -> str:
    """The value an option was given, where the message leaves it out."""
    names = getattr(getattr(error, "param", None), "opts", ())
    values = [value for name, value in pairwise(arguments) if name in names]
    return f" (given: {values[0]!r})" if values and values[0] not in error.format_message() else ""


def _fail(message: str, code: int) -> NoReturn:
    print(f"ridgeline: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
