"""Objectives that sweeps and searches can name: metrics of a kernel, or of a model on a deployment, as functions of subjects.

An objective is called with subjects (arrays over points) and a `Rounding`, and returns metrics [points]; it is traceable by JAX.
Points that cannot be are NaN, with the code of `roofline.Reason` in the metric `reason`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from composition import Deployment, operator_models, request_time
from hardware import Accelerator
from ridgeline.prediction import ESTIMATORS
from roofline import REASON_SENTENCE, Estimator, Reason, operator_bound
from roofline.relax import Rounding, exact
from tiles import is_gpu, tile_estimator
from workloads import Batch, Parallelism, TransformerModel
from workloads.numeric import Array, namespace

#: Words for the codes of the metric `reason`.
REASONS = {reason.value: REASON_SENTENCE[reason] for reason in Reason if reason is not Reason.OK}


def estimator_for(name: str, chip: Accelerator, stack: str, rounding: Rounding) -> Estimator:
    """The estimator `name` for many points at once; chips that are no GPUs get their bound."""
    if name not in ESTIMATORS:
        raise ValueError(f"estimator: {name!r}; expected one of {', '.join(ESTIMATORS)}")
    if name == "roofline" or not is_gpu(chip):
        return operator_bound
    return tile_estimator(stack, rounding=rounding, sweep=rounding.mode == "exact")


@dataclass(frozen=True, kw_only=True)
class KernelObjective:
    """Time of one operator. Subjects: `chip` and `op`, an operator of `workloads` (paths such as `op.m`).

    Metrics: time_s, flops_per_s (achieved), bytes_per_s, reason.
    """

    estimator: str = "tiles"
    stack: str = "vllm"

    def __call__(self, subjects: Mapping[str, Any], rounding: Rounding = exact) -> dict[str, Array]:
        chip, op = subjects["chip"], subjects["op"]
        time = estimator_for(self.estimator, chip, self.stack, rounding)(
            op, chip.anonymous() if not chip.name else chip
        )
        return {
            "time_s": time.total_s, "flops_per_s": time.flops / time.total_s, "bytes_per_s": time.bytes / time.total_s,
            "reason": time.reason,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ModelObjective:
    """A model on a deployment. Subjects: `chip`, `batch` (requests in flight), `input_tokens`, `output_tokens`, `tp`, `pp`, `ep`, `dp`.

    Metrics: prefill_s, decode_s (mean step), request_s; their `..._p95_s` (95 % of predictions' errors below); output_tokens_per_s and per
    device; devices; memory_use, the share of memory needed (a constraint `memory_use <= 1` is what "fits" means; it is not applied
    otherwise); reason. Static batching: no queueing.
    """

    model: TransformerModel
    estimator: str = "tiles"
    stack: str = "vllm"
    kv_dtype: str = ""
    scope: str = "scale_up"

    def __call__(self, subjects: Mapping[str, Any], rounding: Rounding = exact) -> dict[str, Array]:
        chip = subjects["chip"]
        batch, prompt, output = (subjects[name] for name in ("batch", "input_tokens", "output_tokens"))
        tp, pp, ep, dp = (subjects[name] for name in ("tp", "pp", "ep", "dp"))
        degrees = Parallelism(tp=tp, pp=pp, ep=ep, dp=dp, tp_scope=self.scope, ep_scope=self.scope)
        deployment = Deployment(parallelism=degrees, kv_dtype=self.kv_dtype)
        kernels = estimator_for(self.estimator, chip, self.stack, rounding)
        basis = "datasheet" if kernels is operator_bound else "fitted"
        models = operator_models(kernels, name=self.estimator, basis=basis)
        found = request_time(
            self.model, chip, deployment, batch=batch, input_tokens=prompt, output_tokens=output, models=models
        )
        xp = namespace(batch, prompt, output, degrees, chip)
        memory = self.model.memory(Batch.decode_of(batch, prompt + output - 1.0), degrees, kv_dtype=self.kv_dtype)
        devices = degrees.devices
        metrics: dict[str, Array] = {}
        for name, time in (("prefill", found.prefill.time), ("decode", found.decode.time), ("request", found.request)):
            metrics[f"{name}_s"] = time.mean_s
            metrics[f"{name}_p95_s"] = time.mean_s * xp.exp(1.645 * time.relative_deviation)
        rate = found.output_tokens_per_s
        known = xp.isfinite(found.request.mean_s)
        return metrics | {
            "output_tokens_per_s": rate, "output_tokens_per_s_per_device": rate / devices, "devices": devices + 0.0 * rate,
            "memory_use": memory.total_bytes / chip.dram.capacity_bytes,
            "reason": xp.where(known, Reason.OK.value, Reason.NOT_DIVISIBLE.value),
        }  # fmt: skip
