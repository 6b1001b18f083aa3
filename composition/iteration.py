"""One iteration of an engine: kernels -> layers -> the pass of a prefill, decode or mixed batch, with error and overheads.

    stage  =  [ K overlapped with C ] / pp                      K kernels, C collectives of one micro-batch over all stages
    pass   =  (m + pp - 1) stage + sends + waiting + launch + sync,   overlapped with the host where it runs ahead

A mixed batch is ONE pass: linear layers see the sum of its prompt and decode tokens, attention runs as two kernels. Every
number may be an array; the call is then one sweep over configurations. Limits: one stage, no overlap, no overheads: the sum of
`roofline.phase_time`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import jax
import numpy as np

from composition.argument_checks import check_number, check_shapes
from composition.deployment import Deployment
from composition.estimate import Estimate, contended, estimate, known, overlap, serial
from composition.inter_kernel import EngineOverheads, host_s, launch_s
from composition.operator_models import DEFAULT, OperatorModel, operator_models
from composition.phase_estimate import OperatorTimes, PhaseEstimate
from composition.straggler import expected_maximum
from hardware import Accelerator
from workloads import Batch, DecodeGroup, OperatorGroup, OperatorTable, PrefillGroup, TransformerModel
from workloads.numeric import Array, namespace
from workloads.operators import Attention, LinearAttention, Operator

#: Error sources of the terms between kernels.
LAUNCH_SOURCE, HOST_SOURCE, RANK_SOURCE = "launch", "host", "stragglers"
_MATRIX = ("gemm", "grouped_gemm", "conv2d")


def mixed_batch(
    *,
    prefill_tokens: Array = 0,
    prefill_context: Array = 0,
    prefill_requests: Array = 1,
    decode_sequences: Array = 0,
    decode_context: Array = 0,
) -> Batch:
    """A chunked iteration: `prefill_requests` chunks of `prefill_tokens` each behind `prefill_context` cached tokens, and
    `decode_sequences` single tokens behind `decode_context` cached ones each (their mean: the total cache read over their
    number). Where tokens or sequences are 0 that part does not run. Arguments broadcast.
    """
    given = {"prefill_tokens": prefill_tokens, "prefill_context": prefill_context, "prefill_requests": prefill_requests}
    given |= {"decode_sequences": decode_sequences, "decode_context": decode_context}
    for name, value in given.items():
        check_number(name, value, least=0.0)
    check_shapes(**given)
    xp = namespace(prefill_tokens, prefill_requests, decode_sequences)
    chunks = xp.where(xp.asarray(prefill_tokens) > 0, prefill_requests, 0)
    return Batch(
        prefill=(PrefillGroup(chunks, xp.maximum(prefill_tokens, 1), prefill_context),),
        decode=(DecodeGroup(decode_sequences, decode_context),),
    )


def iteration_time(
    model: TransformerModel,
    chip: Accelerator,
    batch: Batch,
    deployment: Deployment | None = None,
    *,
    models: Mapping[str, OperatorModel] | None = None,
    overheads: EngineOverheads | None = None,
) -> PhaseEstimate:
    """Time of one pass of `model` over `batch` (see `mixed_batch`, `Batch.prefill_of`, `Batch.decode_of`) on `chip`.

    `deployment`: degrees of parallelism and overlap (default: one device). `models`: estimator and error by operator class
    (default: `operator_models()`, roofline bounds). `overheads`: the engine's (default: a captured graph, no host time).
    Array arguments broadcast; compiled with `jax.jit` it compiles once per model structure. Excludes queueing.
    """
    deployment = deployment or Deployment()
    deployment.check()
    _check_batch(batch)
    pieces = deployment.microbatches
    part = batch if isinstance(pieces, int) and pieces == 1 else batch.scaled(1.0 / pieces)
    phase = _name(batch)
    table = model.phase(part, deployment.parallelism, kv_dtype=deployment.kv_dtype)
    sequences = batch.share(deployment.parallelism.dp).logit_rows
    return table_time(table, chip, deployment, models=models, overheads=overheads, sequences=sequences, phase=phase)


def table_time(
    table: OperatorTable,
    chip: Accelerator,
    deployment: Deployment,
    *,
    models: Mapping[str, OperatorModel] | None = None,
    overheads: EngineOverheads | None = None,
    sequences: Array = 0.0,
    phase: str = "pass",
) -> PhaseEstimate:
    """`iteration_time` of an operator table, that of one micro-batch; `sequences` are sampled at its end. `phase` labels shapes:
    estimates of equal phases share the private errors of their shapes."""
    models = models if models is not None else operator_models()
    overheads = overheads or EngineOverheads()
    deployment.check()
    overheads.check()
    operators = _operators(table, chip, models)
    xp = namespace([o.one_s for o in operators], deployment, overheads)
    zero = 0.0 * sum((xp.sum(o.total_s, axis=0) for o in operators), start=0.0)

    def summed(*parts: str) -> Estimate:
        return serial(known(zero), *(_estimate(o, models, phase) for o in operators if o.part in parts))

    matrix, others = summed("matrix"), summed("memory-bound")
    attention = {name: summed(name) for name in ("attention_prefill", "attention_decode")}
    both = serial(*attention.values())
    fused = both
    if not _is(deployment.attention_overlap, 0.0):
        fused = overlap(*attention.values(), factor=deployment.attention_overlap, label=f"{phase}:attention")
    kernels, network, sends = serial(matrix, others, fused), summed("communication"), summed("sends")
    busy = serial(kernels, network)
    if not _is(deployment.communication_overlap, 0.0):
        # Full overlap under contention, of the share that overlaps at all.
        hidden = contended(kernels, network, demand=deployment.communication_demand, label=f"{phase}:communication")
        share = deployment.communication_overlap
        busy = serial(hidden.repeated(share), busy.repeated(1.0 - share))
    pp, m = deployment.parallelism.pp, deployment.microbatches
    runs, fill = m / (1.0 * pp), (pp - 1.0) / pp
    own, filling = busy.repeated(runs), busy.repeated(fill)
    waiting = _waiting(own, deployment)
    device = serial(own, filling, sends, waiting)
    kernel_count = sum((xp.sum(o.count + 0.0 * o.one_s, axis=0) for o in operators), start=0.0) / pp * m
    spread = overheads.deviation
    launch = _uncertain(launch_s(kernel_count, device.mean_s, overheads) + zero, LAUNCH_SOURCE, spread)
    host = _uncertain(host_s(sequences, overheads) + zero, HOST_SOURCE, spread)
    sync = _uncertain(overheads.synchronisation_s + zero, HOST_SOURCE, spread)
    running = serial(device, launch)
    whole = serial(running, host)
    if not _is(overheads.host_overlap, 0.0):
        whole = overlap(running, host, factor=overheads.host_overlap, label=f"{phase}:host")
    time = serial(whole, sync)
    terms = {
        "matrix": matrix.mean_s * runs,
        "attention": both.mean_s * runs,
        "memory-bound": others.mean_s * runs,
        "communication": network.mean_s * runs,
        "pipeline": filling.mean_s + sends.mean_s,
        "waiting": waiting.mean_s,
        "launch": launch.mean_s,
        "host": host.mean_s,
        "synchronisation": sync.mean_s,
    }
    terms["hidden"] = time.mean_s - sum(terms.values())
    mask = xp.where(xp.asarray(table.divisible), 0.0, xp.nan)
    return PhaseEstimate(
        time=time._replace(mean_s=time.mean_s + mask),
        terms={name: seconds + mask for name, seconds in terms.items()},
        operators=tuple(operators),
        phase=phase,
    )


def _check_batch(batch: Batch) -> None:
    if not batch.prefill and not batch.decode:
        raise ValueError("batch: no requests; expected at least one group")
    for part in ("prefill", "decode"):
        for index, group in enumerate(getattr(batch, part)):
            for name, value in vars(group).items():
                check_number(f"batch.{part}[{index}].{name}", value, least=0.0)


def _operators(table: OperatorTable, chip: Accelerator, models: Mapping[str, OperatorModel]) -> list[OperatorTimes]:
    """One vectorised estimator call per group, then split by the part of the pass the operators belong to."""
    found = []
    for group in table:
        model = _model_of(group.kind, models)
        one_s = model.estimator(_running(group), chip).total_s
        xp = namespace(one_s, group.count)
        one_s, count = xp.asarray(one_s), xp.asarray(group.count)
        private = xp.asarray(model.error.private_at(one_s))
        by_part: dict[str, list[int]] = {}
        for index, name in enumerate(group.names):
            by_part.setdefault(_part(name, group.kind), []).append(index)
        for part, indices in by_part.items():
            found.append(
                OperatorTimes(
                    one_s=_rows(one_s, indices, len(group)),
                    count=_rows(count, indices, len(group)),
                    private=_rows(private, indices, len(group)) if private.ndim else private,
                    kind=group.kind,
                    names=tuple(group.names[i] for i in indices),
                    layers=tuple(group.layers[i] for i in indices),
                    model=model.name,
                    part=part,
                )
            )
    return found


def _running(group: OperatorGroup) -> Operator:
    """The operators, with one sequence where there is none: such an operator does not run and its time is not used."""
    operator = group.operator
    if not isinstance(operator, Attention | LinearAttention) or (
        not isinstance(group.count, jax.Array) and np.all(np.asarray(group.count) > 0)
    ):
        return operator
    xp = namespace(group)
    return replace(operator, sequences=xp.where(xp.asarray(group.count) > 0, operator.sequences, 1.0))


def _rows(value: Array, indices: Sequence[int], size: int) -> Array:
    return value if len(indices) == size else value[np.asarray(indices)]


def _estimate(o: OperatorTimes, models: Mapping[str, OperatorModel], phase: str) -> Estimate:
    error = _model_of(o.kind, models).error
    xp = namespace(o.one_s, o.count)
    ran = xp.where(o.count > 0, o.one_s, 0.0)
    # Shapes are what their names say: equal names of one phase are one shape.
    label = f"{phase}:{o.kind}:{','.join(o.names)}"
    return estimate(ran, {error.source: error.shared}, o.private, count=o.count, label=label)


def _part(name: str, kind: str) -> str:
    if name.startswith("pipeline_send_recv"):
        return "sends"
    if kind in ("collective", "transfer"):
        return "communication"
    if kind in ("attention", "linear_attention"):
        return "attention_decode" if name.startswith("attention_decode") else "attention_prefill"
    return "matrix" if kind in _MATRIX else "memory-bound"


def _waiting(own: Estimate, deployment: Deployment) -> Estimate:
    """Time the mean rank waits for the slowest one; its size is uncertain by as much again."""
    if _is(deployment.rank_deviation, 0.0):
        return known(0.0 * own.mean_s)
    share = deployment.rank_deviation * expected_maximum(deployment.parallelism.dp)
    return _uncertain(own.mean_s * share, RANK_SOURCE, 0.5)


def _uncertain(seconds: Array, source: str, deviation: Array) -> Estimate:
    return Estimate(seconds, {source: seconds * deviation}, {})


def _model_of(kind: str, models: Mapping[str, OperatorModel]) -> OperatorModel:
    if kind not in models and DEFAULT not in models:
        raise ValueError(f"models: none for operator class {kind!r} and no {DEFAULT!r} (known: {', '.join(models)})")
    return models[kind] if kind in models else models[DEFAULT]


def _name(batch: Batch) -> str:
    if batch.prefill and batch.decode:
        return "mixed"
    return "prefill" if batch.prefill else "decode"


def _is(value: Array, number: float) -> bool:
    """Whether a plain number equals `number`; arrays, whose elements may differ, never do."""
    return isinstance(value, (int, float)) and value == number
