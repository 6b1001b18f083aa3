"""Model and system level: a request's prefill and decode with their errors, and what a whole deployment delivers.

prefill   one pass over the prompts
decode    mean step over the growing context: an expectation over batches, whose kernels err together
request   prefill + (output tokens - 1) decode
system    batch / request seconds, over tp pp dp devices
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from composition.argument_checks import check_number, check_shapes
from composition.deployment import Deployment
from composition.estimate import Estimate, averaged, serial
from composition.inter_kernel import EngineOverheads
from composition.iteration import iteration_time
from composition.operator_models import OperatorModel
from composition.phase_estimate import PhaseEstimate
from hardware import Accelerator
from workloads import Batch, TransformerModel
from workloads.numeric import Array, namespace

#: Gauss-Legendre points on which the mean decode step is taken: exact for what is cubic in the context.
CONTEXT_POINTS = 2


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class RequestEstimate:
    """`prefill`, `decode` (mean step, terms averaged; its operators keep a leading axis of sampled contexts) and the
    whole `request` as an `Estimate`; `requests_per_s`, `output_tokens_per_s` of the deployment, [...]."""

    prefill: PhaseEstimate
    decode: PhaseEstimate
    request: Estimate
    requests_per_s: Array
    output_tokens_per_s: Array

    def to_frame(self) -> Any:
        """A pandas frame (scalar estimates): seconds, deviation and 90 % interval per level."""
        import pandas as pd

        levels = {"prefill": self.prefill.time, "decode step": self.decode.time, "request": self.request}
        rows = []
        for name, time in levels.items():
            low, high = time.interval(0.9)
            values = (time.mean_s, time.relative_deviation, low, high)
            rows.append((name, *(float(np.reshape(np.asarray(v), ())) for v in values)))
        return pd.DataFrame(rows, columns=["level", "mean_s", "relative_deviation", "low_s", "high_s"])


def request_time(
    model: TransformerModel,
    chip: Accelerator,
    deployment: Deployment | None = None,
    *,
    batch: Array,
    input_tokens: Array,
    output_tokens: Array,
    models: Mapping[str, OperatorModel] | None = None,
    overheads: EngineOverheads | None = None,
    context_points: int = CONTEXT_POINTS,
) -> RequestEstimate:
    """Prefill, decode and both of `batch` requests in flight over the deployment, static batching; arguments broadcast.

    Includes and excludes what `iteration_time` does; no queueing, no chunking. `context_points` decode contexts are
    evaluated. `ValueError` naming the field for what is out of range.
    """
    deployment = deployment or Deployment()
    for name, value in (("batch", batch), ("input_tokens", input_tokens), ("output_tokens", output_tokens)):
        check_number(name, value, least=1.0)
    check_number("context_points", context_points, least=1.0)
    check_shapes(batch=batch, input_tokens=input_tokens, output_tokens=output_tokens)
    options = {"models": models, "overheads": overheads}
    xp = namespace(batch, input_tokens, output_tokens, deployment)
    prefill = iteration_time(model, chip, Batch.prefill_of(batch, input_tokens), deployment, **options)
    nodes, weights = np.polynomial.legendre.leggauss(context_points)
    rank = max(np.ndim(x) for x in jax.tree_util.tree_leaves((batch, input_tokens, output_tokens, deployment, chip)))
    steps = xp.asarray(output_tokens) - 1.0
    middles = ((nodes + 1.0) / 2.0).reshape((-1,) + (1,) * rank)
    contexts = input_tokens + middles * xp.maximum(steps, 0.0)
    sampled = iteration_time(model, chip, Batch.decode_of(batch, contexts), deployment, **options)
    # Where nothing depends on the context the axis is missing or of length one.
    shape = xp.broadcast_shapes(xp.shape(sampled.mean_s), xp.shape(contexts))
    whole = sampled.time._replace(mean_s=xp.broadcast_to(sampled.mean_s, shape))
    weights = weights / 2.0
    shaped = weights.reshape((-1,) + (1,) * rank)
    terms = {k: xp.sum(xp.broadcast_to(v, shape) * shaped, axis=0) for k, v in sampled.terms.items()}
    decode = PhaseEstimate(time=averaged(whole, weights), terms=terms, operators=sampled.operators, phase=sampled.phase)
    request = serial(prefill.time, decode.time.repeated(xp.maximum(steps, 0.0)))
    rate = batch / request.mean_s
    return RequestEstimate(
        prefill=prefill,
        decode=decode,
        request=request,
        requests_per_s=rate,
        output_tokens_per_s=rate * output_tokens,
    )


class RequestTimes(NamedTuple):
    """`RequestEstimate` without its operators: seconds and standard deviations, [...] each, and the terms of both phases."""

    prefill_s: Array
    prefill_deviation_s: Array
    decode_s: Array
    decode_deviation_s: Array
    request_s: Array
    request_deviation_s: Array
    prefill_terms: dict[str, Array]
    decode_terms: dict[str, Array]


def compiled_request_time(
    model: TransformerModel, chip: Accelerator, deployment: Deployment | None = None, **options: Any
) -> Callable[..., RequestTimes]:
    """`request_time` compiled once for a model structure and a chip: (batch, input_tokens, output_tokens, tp, pp, ep, dp)
    -> `RequestTimes`, all arrays of one shape [...] or numbers.

    `deployment` gives everything but the degrees; `options` are those of `request_time`. Differentiable by its arguments.
    """
    base = deployment or Deployment()

    def times(
        batch: Array,
        input_tokens: Array,
        output_tokens: Array,
        tp: Array = 1.0,
        pp: Array = 1.0,
        ep: Array = 1.0,
        dp: Array = 1.0,
    ) -> RequestTimes:
        degrees = replace(base.parallelism, tp=tp, pp=pp, ep=ep, dp=dp)
        found = request_time(
            model,
            chip,
            base._replace(parallelism=degrees),
            batch=batch,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            **options,
        )
        levels = (found.prefill.time, found.decode.time, found.request)
        prefill, decode, request = ((time.mean_s, time.deviation_s) for time in levels)
        return RequestTimes(*prefill, *decode, *request, found.prefill.terms, found.decode.terms)

    return jax.jit(times)
