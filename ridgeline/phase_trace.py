"""The phases of a prediction as a trace a person can look at (chrome://tracing, ui.perfetto.dev)."""

from pathlib import Path

import numpy as np

from composition import (
    Deployment,
    chrome_trace,
    iteration_time,
    longest_path,
    operator_models,
    phase_graph,
    write_chrome_trace,
)
from composition.chrome_trace import next_pid
from composition.inter_kernel import EngineOverheads
from ridgeline.prediction import Prediction
from workloads import Batch, TransformerModel


def save_phase_trace(prediction: Prediction, path: Path) -> None:
    """Write the prefill pass and, behind it, one decode pass half way through the output of a scalar `prediction`.

    Every operator run is an event; each phase and pipeline stage is a process of its own, with a row for kernels and one for the
    network. Nothing overlaps.
    Raises `ValueError` for models without phases and for more than one configuration.
    """
    model, p = prediction.model, prediction.parallelism
    if not isinstance(model, TransformerModel):
        raise ValueError(
            f"--trace: {getattr(model, 'name', 'the model')} has no layers to lay out; expected a transformer"
        )
    if np.size(prediction.request_s) != 1:
        raise ValueError(f"--trace: {np.size(prediction.request_s)} configurations; expected one")
    models = operator_models(prediction.kernels, name=prediction.estimator)
    tokens, output = float(np.ravel(prediction.input_tokens)[0]), float(np.ravel(prediction.output_tokens)[0])
    batch = float(np.ravel(prediction.batch)[0])
    passes = {"prefill": Batch.prefill_of(batch, tokens)}
    if model.causal and output > 1:
        passes["decode"] = Batch.decode_of(batch, tokens + (output - 1.0) / 2.0)
    events, start_s = [], 0.0
    stages = round(float(np.ravel(p.pp)[0]))
    for name, work in passes.items():
        found = iteration_time(
            model, prediction.chip, work, Deployment(p), models=models, overheads=EngineOverheads(start_s=0.0)
        )
        graph = phase_graph(found, layers=model.layer_count, stages=stages)
        schedule = longest_path(graph)
        events += chrome_trace(graph, schedule, process=name, start_s=start_s, first_pid=next_pid(events))
        start_s += float(schedule.total_s)
    write_chrome_trace(events, path)
