"""Objectives that sweeps and searches can name: metrics of a kernel, or of a model on a deployment, as functions of subjects.

An objective is called with subjects (arrays over points) and a `Rounding`, and returns metrics [points]; it is traceable by
JAX. Points that cannot be are NaN, with the code of `roofline.Reason` in the metric `reason`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from composition import Deployment, Estimate, operator_models, request_time
from explore import Ownership, hourly_cost, usd_per_million_tokens
from hardware import Accelerator
from ridgeline.kernel_estimators import ESTIMATORS, chip_estimator
from ridgeline.serve_cost import accelerator_usd
from roofline import REASON_SENTENCE, Estimator, Reason, operator_bound, phase_time
from roofline.relax import Rounding, exact
from tiles import is_gpu
from workloads import Batch, Parallelism, TransformerModel
from workloads.numeric import Array, namespace

#: Words for the codes of the metric `reason`.
REASONS = {reason.value: REASON_SENTENCE[reason] for reason in Reason if reason is not Reason.OK}

#: Numbers of a deployment and its load, with the values they have where nothing is said.
DEPLOYMENT = {"batch": 1, "input_tokens": 1024, "output_tokens": 256, "tp": 1, "pp": 1, "ep": 1, "dp": 1}


def estimator_for(name: str, chip: Accelerator, stack: str, rounding: Rounding) -> Estimator:
    """The estimator `name` for many points at once; chips without a kernel model of their own get their bound."""
    if name not in ESTIMATORS:
        raise ValueError(f"estimator: {name!r}; expected one of {', '.join(ESTIMATORS)}")
    if name == "roofline" or not (is_gpu(chip) or chip.systolic or chip.near_memory):
        return operator_bound
    return chip_estimator(stack, rounding=rounding, sweep=rounding.mode == "exact")


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
    """A model on a deployment. Subjects: `chip`, `batch` (requests in flight), `input_tokens`, `output_tokens` and the degrees
    `tp`, `pp`, `ep`, `dp`.

    Metrics: prefill_s, decode_s (mean step), request_s; output_tokens_per_s and per device; devices; memory_use, the share of
    memory needed (the constraint `memory_use <= 1` is what "fits" means; it is not applied otherwise); usd_per_hour of all
    devices on `terms` of ownership and usd_per_million_tokens (output tokens), NaN where no price is known; reason. With
    `errors`, also the `quantile` of each time over the kernels' errors (`decode_p95_s`), and rates and cost at it
    (`output_tokens_per_s_p95`, `usd_per_million_tokens_p95`). Static batching, no queueing.
    """

    model: TransformerModel
    estimator: str = "tiles"
    stack: str = "vllm"
    kv_dtype: str = ""
    errors: bool = False
    quantile: float = 0.95
    terms: Ownership | None = None

    def __post_init__(self) -> None:
        if not 0.5 < self.quantile < 1.0:
            raise ValueError(f"quantile: {self.quantile!r}; expected more than 0.5 and less than 1")

    def at_quantile(self, quantile: float) -> "ModelObjective":
        """The same with the metrics at `quantile` of the times."""
        return replace(self, errors=True, quantile=quantile)

    @property
    def suffix(self) -> str:
        """What names of metrics at the quantile end in: p95."""
        return f"p{100.0 * self.quantile:g}"

    def __call__(self, subjects: Mapping[str, Any], rounding: Rounding = exact) -> dict[str, Array]:
        chip = subjects["chip"]
        batch, prompt, output = (subjects[name] for name in ("batch", "input_tokens", "output_tokens"))
        degrees = Parallelism(**{name: subjects[name] for name in ("tp", "pp", "ep", "dp")})
        kernels = estimator_for(self.estimator, chip, self.stack, rounding)
        times = self._with_errors if self.errors else self._times
        metrics = times(chip, degrees, batch, prompt, output, kernels)
        request_s = metrics["request_s"]
        xp = namespace(request_s)
        memory = self.model.memory(Batch.decode_of(batch, prompt + output - 1.0), degrees, kv_dtype=self.kv_dtype)
        hourly = hourly_cost(accelerator_usd(chip)[0], chip.peak_watts, self.terms).total_usd * degrees.devices
        for suffix in ("", f"_{self.suffix}") if self.errors else ("",):
            rate = batch * output / metrics[f"request{suffix}_s"]
            metrics |= {
                f"output_tokens_per_s{suffix}": rate,
                f"output_tokens_per_s_per_device{suffix}": rate / degrees.devices,
                f"usd_per_million_tokens{suffix}": usd_per_million_tokens(hourly, rate, self.terms),
            }
        return metrics | {
            "devices": degrees.devices + 0.0 * request_s,
            "usd_per_hour": hourly + 0.0 * request_s,
            "memory_use": memory.total_bytes / chip.dram.capacity_bytes,
            "reason": xp.where(xp.isfinite(request_s), Reason.OK.value, Reason.NOT_DIVISIBLE.value),
        }

    def _times(
        self, chip: Accelerator, degrees: Parallelism, batch: Array, prompt: Array, output: Array, kernels: Estimator
    ) -> dict[str, Array]:
        table = self.model.phase(Batch.prefill_of(batch, prompt), degrees, kv_dtype=self.kv_dtype)
        prefill_s = phase_time(table, chip, estimator=kernels).total_s
        contexts = prompt + 0.5 * (output - 1.0)  # times are very nearly linear in the context
        table = self.model.phase(Batch.decode_of(batch, contexts), degrees, kv_dtype=self.kv_dtype)
        decode_s = phase_time(table, chip, estimator=kernels).total_s
        return {"prefill_s": prefill_s, "decode_s": decode_s, "request_s": prefill_s + (output - 1.0) * decode_s}

    def _with_errors(
        self, chip: Accelerator, degrees: Parallelism, batch: Array, prompt: Array, output: Array, kernels: Estimator
    ) -> dict[str, Array]:
        basis = "datasheet" if kernels is operator_bound else "fitted"
        found = request_time(
            self.model,
            chip,
            Deployment(parallelism=degrees, kv_dtype=self.kv_dtype),
            batch=batch,
            input_tokens=prompt,
            output_tokens=output,
            models=operator_models(kernels, name=self.estimator, basis=basis),
        )
        metrics: dict[str, Array] = {}
        for name, time in (("prefill", found.prefill.time), ("decode", found.decode.time), ("request", found.request)):
            metrics[f"{name}_s"] = time.mean_s
            metrics[f"{name}_{self.suffix}_s"] = self._upper(time)
        return metrics

    def _upper(self, time: Estimate) -> Array:
        return time.interval(2.0 * self.quantile - 1.0)[1]
