"""`ridgeline predict MODEL --on CHIP`: prefill and decode time, what bounds them, and whether the model fits."""

from pathlib import Path
from typing import Annotated

import typer


def predict(
    model: Annotated[str, typer.Argument(help="Built-in name, folder with a config.json, or a config.json.")],
    on: Annotated[str, typer.Option(help="Chip: catalogue name or TOML file.")],
    tp: Annotated[int, typer.Option(help="Tensor parallelism.")] = 1,
    pp: Annotated[int, typer.Option(help="Pipeline stages.")] = 1,
    ep: Annotated[int, typer.Option(help="Expert parallelism.")] = 1,
    dp: Annotated[int, typer.Option(help="Data-parallel ranks.")] = 1,
    dtype: Annotated[str | None, typer.Option(help="Weight format instead of the model's own, e.g. fp8.")] = None,
    kv_dtype: Annotated[str, typer.Option(help="Cache format instead of the model's own.")] = "",
    batch: Annotated[int, typer.Option(help="Requests in flight.")] = 1,
    input: Annotated[int, typer.Option(help="Prompt tokens per request.")] = 1024,
    output: Annotated[int, typer.Option(help="Generated tokens per request.")] = 256,
    estimator: Annotated[str, typer.Option(help="tiles (kernels as scheduled) or roofline (bounds).")] = "tiles",
    stack: Annotated[
        str | None, typer.Option(help="Software whose kernels are predicted: vllm (default), trtllm, sglang.")
    ] = None,
    constants: Annotated[Path | None, typer.Option(help="Constants of one's own, from: ridgeline calibrate.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the roofline picture to this file.")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write both phases as a Chrome / Perfetto trace to this file.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON (SI units) instead of tables.")] = False,
) -> None:
    """Predict prefill and decode of a model on a chip."""
    from json import dumps

    from rich.console import Console

    from ridgeline import report
    from ridgeline.cli.files import PICTURES, check_target, writing
    from ridgeline.prediction import predict as answer

    check_target("--plot", plot, PICTURES)
    check_target("--trace", trace)
    prediction = answer(
        model,
        on=on,
        tp=tp,
        pp=pp,
        ep=ep,
        dp=dp,
        dtype=dtype,
        kv_dtype=kv_dtype,
        batch=batch,
        input_tokens=input,
        output_tokens=output,
        estimator=estimator,
        stack=stack,
        constants=constants,
    ).require_answer()
    if plot is not None:
        with writing("--plot", plot):
            report.save_roofline(prediction, plot)
    if trace is not None:
        from ridgeline.phase_trace import save_phase_trace

        save_phase_trace(prediction, trace)
    if json:
        print(dumps(report.prediction_json(prediction), indent=1))
    else:
        report.print_prediction(prediction, Console())
    if plot is not None and not json:
        Console().print(f"picture: {plot}", markup=False)
