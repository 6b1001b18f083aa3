"""Time of a training step from its operator table: microbatches through a pipeline, then gradients and the optimiser.

    stage      S = (compute + tensor-parallel and expert communication of one microbatch) / pp
    pipeline   (m + (pp - 1) / v) S + sends          1F1B for v = 1, interleaved with v model chunks per device otherwise
    gradients  G after the last microbatch; a share `gradient_overlap` of it hides behind the last backward pass (at most its
    time)
    step       pipeline + exposed G + optimiser, times 1 + s E[max of n deviates] where n ranks wait for each other whose times
               vary by s

Sources: Narayanan et al., "Efficient large-scale language model training", SC 2021, section 2.2 (bubble (pp - 1) / (v m));
Korthikanti et al., "Reducing activation recomputation", MLSys 2023; `composition.straggler`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from composition.argument_checks import check_number
from composition.straggler import expected_maximum
from hardware import Accelerator
from roofline import KernelTime, operator_bound
from workloads import Collective, OperatorTable, Parallelism
from workloads.numeric import Array, namespace

#: Name parts of the operators that run once per step, not once per microbatch.
_GRADIENTS = ("gradient_", "weight_all_gather")
_OPTIMISERS = ("_adamw", "_sgd", "_momentum")


class TrainingTime(NamedTuple):
    """Seconds of a step, [...], and the terms that add up to `total_s`.

    `kernels_s`: compute and memory operators of all microbatches on one stage; `communication_s`: tensor, sequence and expert
    parallel collectives; `sends_s`: pipeline transfers; `bubble_s`: idle pipeline; `gradients_s`: exposed gradient reduction
    and weight gathering; `optimiser_s`; `straggler_s`. `kind_s`: kernels by operator kind.
    """

    total_s: Array
    kernels_s: Array
    communication_s: Array
    sends_s: Array
    bubble_s: Array
    gradients_s: Array
    optimiser_s: Array
    straggler_s: Array
    kind_s: dict[str, Array]


def training_time(
    table: OperatorTable,
    chip: Accelerator,
    parallelism: Parallelism,
    *,
    microbatches: Array,
    estimator: Callable[[Any, Accelerator], KernelTime] = operator_bound,
    matrix_efficiency: Array = 1.0,
    interleave: Array = 1,
    gradient_overlap: Array = 0.0,
    rank_deviation: Array = 0.0,
    context_parallel: Array = 1,
) -> TrainingTime:
    """Step time of `table` (from `model.training_step` with the same `microbatches` and `parallelism`) on `chip`.

    `estimator` predicts each operator; `matrix_efficiency` divides the time of matrix products (1: the estimator's own).
    `interleave`: model chunks per device, v. `rank_deviation`: relative deviation between the dp x `context_parallel` ranks that
    wait for each other. Arguments broadcast. NaN where a degree does not divide.
    Excludes: data loading, checkpoints, validation; overlap of tensor-parallel collectives with compute.
    """
    for name, value in (
        ("microbatches", microbatches),
        ("interleave", interleave),
        ("context_parallel", context_parallel),
    ):
        check_number(name, value, least=1.0)
    check_number("matrix_efficiency", matrix_efficiency, least=0.0, above=True)
    check_number("gradient_overlap", gradient_overlap, least=0.0, most=1.0)
    check_number("rank_deviation", rank_deviation, least=0.0)
    xp = namespace(table, parallelism, microbatches, matrix_efficiency, interleave)
    kind_s: dict[str, Array] = {}
    sums = {"communication": 0.0, "sends": 0.0, "gradients": 0.0, "optimiser": 0.0}
    for group in table:
        seconds = estimator(group.operator, chip).total_s * group.count
        if group.kind in ("gemm", "grouped_gemm"):
            seconds = seconds / matrix_efficiency
        for index, name in enumerate(group.names):
            part = _part(name, group.kind)
            if part == "kernels":
                kind_s[group.kind] = kind_s.get(group.kind, 0.0) + seconds[index]
            else:
                sums[part] = sums[part] + seconds[index]
    pp, m = parallelism.pp, microbatches
    kind_s = {kind: seconds / pp for kind, seconds in kind_s.items()}
    kernels = sum(kind_s.values(), start=0.0)
    communication, gradients, optimiser = (sums[k] / pp for k in ("communication", "gradients", "optimiser"))
    # The table counts pp - 1 sends per microbatch and direction over all stages; a stage does one each way, v times.
    # Tensor-parallel ranks hold the same activations and send 1 / tp each (under sequence parallelism the table has divided
    # already).
    copies = 1.0 if parallelism.sequence_parallel else parallelism.tp
    sends = sums["sends"] / pp * interleave / copies
    bubble = (kernels + communication + sends) * (pp - 1.0) / (interleave * m)
    backward = 2.0 / 3.0 * (kernels + communication) / m
    exposed = gradients - xp.minimum(gradient_overlap * gradients, backward)
    before = kernels + communication + sends + bubble + exposed + optimiser
    straggler = before * rank_deviation * expected_maximum(parallelism.dp * context_parallel)
    mask = xp.where(xp.asarray(table.divisible), 0.0, xp.nan)
    return TrainingTime(
        before + straggler + mask, kernels, communication, sends, bubble, exposed, optimiser, straggler, kind_s
    )


def zero3_time(
    table: OperatorTable,
    chip: Accelerator,
    parallelism: Parallelism,
    *,
    weight_bytes: Array,
    microbatches: Array,
    estimator: Callable[[Any, Accelerator], KernelTime] = operator_bound,
    matrix_efficiency: Array = 1.0,
    gathers: Array = 2.0,
    overlap: Array = 1.0,
    rank_deviation: Array = 0.0,
) -> TrainingTime:
    """Step time where weights are sharded over dp and gathered when needed (ZeRO stage 3, fully sharded data parallelism).

    Each microbatch gathers all `weight_bytes` `gathers` times (forward, backward, and once more where layers are recomputed
    and too large to be kept) and scatters as many bytes of gradients over the scale-out link. `overlap`: share of the shorter of
    kernels and communication that hides behind the longer. `table`: of a step with `distributed_optimiser`; its own gradient
    collectives are replaced. Source: Rajbhandari et al., "ZeRO", SC 2020, section 7 (3 x the parameters per step and microbatch).
    """
    check_number("weight_bytes", weight_bytes, least=0.0)
    check_number("gathers", gathers, least=0.0)
    check_number("overlap", overlap, least=0.0, most=1.0)
    check_number("rank_deviation", rank_deviation, least=0.0)
    xp = namespace(table, parallelism, microbatches)
    local = training_time(
        table, chip, parallelism, microbatches=microbatches, estimator=estimator, matrix_efficiency=matrix_efficiency
    )
    ranks, scope = parallelism.dp, parallelism.dp_scope
    gather = Collective(payload_bytes=weight_bytes, ranks=ranks, op="all_gather", scope=scope)
    scatter = Collective(payload_bytes=weight_bytes, ranks=ranks, op="reduce_scatter", scope=scope)
    moved = microbatches * (gathers * estimator(gather, chip).total_s + estimator(scatter, chip).total_s)
    exposed = moved - overlap * xp.minimum(moved, local.kernels_s)
    before = local.kernels_s + local.communication_s + exposed + local.optimiser_s
    straggler = before * rank_deviation * expected_maximum(ranks)
    return local._replace(total_s=before + straggler, gradients_s=exposed, straggler_s=straggler)


def _part(name: str, kind: str) -> str:
    if any(mark in name for mark in _GRADIENTS):
        return "gradients"
    if any(name.endswith(mark) for mark in _OPTIMISERS):
        return "optimiser"
    if name.startswith("pipeline_send_recv"):
        return "sends"
    return "communication" if kind == "collective" else "kernels"
