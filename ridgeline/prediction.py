"""One question, one answer: prefill and decode of a model on a chip, with what bounds them and whether it fits.

    prefill   one pass over all prompts of the batch (encoders and image networks: one forward pass, and nothing else)
    decode    output_tokens - 1 further passes, one token per request each, averaged over the growing context
    request   prefill_s + (output_tokens - 1) * decode_s

Times are those of `roofline.phase_time`: every operator as the estimator predicts it, one after the other, and one batch at
a time through all pipeline stages. Queueing, host time, chunking, micro-batches and overlap are not included.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import hardware
import workloads
from composition import Estimate
from hardware import Accelerator
from ridgeline.kernel_estimators import kernel_estimator, kernel_source
from ridgeline.prediction_error import UNBOUNDED, phase_intervals
from ridgeline.prediction_notes import prediction_notes
from ridgeline.uncalibrated_error import uncalibrated_intervals
from roofline import Estimator, PhaseTime, Reason, phase_time
from tiles import is_gpu, read_calibrated
from workloads import Batch, OperatorTable, Parallelism, TransformerModel
from workloads.dtypes import canonical_dtype
from workloads.numeric import Array, namespace

#: Decode contexts evaluated for the mean step; a time that is piecewise linear in context needs no more.
_CONTEXT_SAMPLES = 16

#: Beyond these, products of sizes leave the range in which they are exact.
_MOST, _MOST_DEVICES = 10**9, 2**20


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase of a prediction. `time_s`: [...] seconds of one pass; `table` and `times`: its operators (decode: with a
    leading axis over sampled contexts)."""

    name: str
    time_s: Array
    table: OperatorTable
    times: PhaseTime


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Answer of `predict`. Arrays have the broadcast shape of its arguments; NaN where `reason` is not `Reason.OK`.

    `prefill_s`: one pass over all prompts (models that generate nothing: the forward pass). `decode_s`: mean time of one decode
    pass, the time per output token (0 without generation). `request_s`: both. `..._interval_s`: (low, high) of a calibrated 90 %
    interval, None where times are bounds; `..._estimate`: a phase with its error by source; `basis`: how the least certain
    constants were obtained. `requests_per_s`, `output_tokens_per_s`: of the whole deployment.
    `needed_bytes`, `capacity_bytes` per device at the end of decode; `fits`. `estimator`: what predicted the
    kernels, `kernels` itself as a function.
    `notes`: what a reader must know.
    """

    model: Any
    chip: Accelerator
    parallelism: Parallelism
    batch: Array
    input_tokens: Array
    output_tokens: Array
    phases: tuple[Phase, ...]
    prefill_s: Array
    decode_s: Array
    request_s: Array
    prefill_interval_s: tuple[Array, Array] | None
    decode_interval_s: tuple[Array, Array] | None
    request_interval_s: tuple[Array, Array] | None
    prefill_estimate: Estimate | None
    decode_estimate: Estimate | None
    basis: str
    requests_per_s: Array
    output_tokens_per_s: Array
    output_tokens_per_s_per_device: Array
    memory: Any
    needed_bytes: Array
    capacity_bytes: Array
    fits: Array
    reason: Array
    estimator: str
    kernels: Estimator
    notes: tuple[str, ...]

    @property
    def kind(self) -> str:
        """`basis` in the words of validation reports: fitted, few-shot, transferred or datasheet."""
        return {"same generation": "transferred", "other generation": "transferred", "bound": "datasheet"}.get(
            self.basis, self.basis
        )

    def require_answer(self) -> "Prediction":
        """Self if every point was answered, else `ValueError` that says why not (the first unanswered point)."""
        reasons = np.ravel(np.asarray(self.reason))
        failed = np.flatnonzero(reasons != Reason.OK)
        if failed.size:
            raise ValueError(_why_not(self, int(failed[0]), Reason(int(reasons[failed[0]]))))
        return self

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(str(self))

    def __str__(self) -> str:
        from ridgeline.report import prediction_text

        return prediction_text(self)


def predict(
    model: Any,
    *,
    on: str | Path | dict | Accelerator,
    tp: Array = 1,
    pp: Array = 1,
    ep: Array = 1,
    dp: Array = 1,
    dtype: str | None = None,
    kv_dtype: str = "",
    batch: Array = 1,
    input_tokens: Array = 1024,
    output_tokens: Array = 256,
    estimator: str = "tiles",
    stack: str | None = None,
    constants: str | Path | None = None,
) -> Prediction:
    """Predict prefill and decode of `model` (name, folder, `config.json`, or a model object) on chip `on`.

    `batch` requests in flight over the whole deployment of tp x pp x dp devices, each with `input_tokens` of prompt and
    `output_tokens` to generate. `dtype` replaces the weights' format ("fp8"), `kv_dtype` the cache's. Numeric arguments may be
    arrays and broadcast: a sweep is one call.

    `estimator`: "tiles" (kernels as `stack`, one of `tiles.STACKS`, schedules them; systolic arrays and near memory where the
    chip has them) or "roofline" (bounds).
    `stack` defaults to that of `constants`, else "vllm". `constants`: a file written by `ridgeline calibrate`, whose sets come
    before the shipped ones; refused where they would not be used (bounds).

    Raises `ValueError` for unknown names and for sizes that are not positive. A point that cannot be computed (a degree that
    does not divide, memory that does not suffice, a format the chip has no rate for) is NaN, with its `reason`; see
    `Prediction.require_answer`.
    """
    spec = workloads.load(model)
    if dtype is not None:
        if isinstance(dtype, str) or not hasattr(dtype, "weight_dtype"):
            try:
                canonical_dtype(dtype)
            except ValueError as error:
                raise ValueError(f"dtype: {error}") from None
        spec = spec.with_quantisation(dtype)
    chip = hardware.load(on)
    calibrated = None
    if constants is not None:
        calibrated = read_calibrated(constants)
        if estimator == "roofline" or not is_gpu(chip):
            why = "the roofline estimator" if estimator == "roofline" else f"{chip.name}, which is no GPU,"
            raise ValueError(f"constants: {why} uses no fitted constants; leave {str(constants)!r} out")
    if stack is None:
        stack = calibrated.stack if calibrated is not None and calibrated.stack else "vllm"
    kernels = kernel_estimator(estimator, stack, calibrated)
    sizes = {"batch": batch, "input_tokens": input_tokens, "output_tokens": output_tokens}
    if kv_dtype:
        try:
            canonical_dtype(kv_dtype)
        except ValueError as error:
            raise ValueError(f"kv_dtype: {error}") from None
    sizes |= {"tp": tp, "pp": pp, "ep": ep, "dp": dp}
    sizes = {name: _checked_size(name, value) for name, value in sizes.items()}
    # Operators have a leading axis of their own: all configuration axes, the chip's too, must stand behind it.
    rank = max(np.ndim(value) for value in (*sizes.values(), *hardware.numeric_paths(chip).values()))
    sizes = {name: value if np.ndim(value) == rank else _at_rank(value, rank) for name, value in sizes.items()}
    batch, input_tokens, output_tokens, tp, pp, ep, dp = sizes.values()
    parallelism = Parallelism(
        tp=tp, pp=pp, ep=ep, dp=dp, tp_scope=_scope(chip, tp), ep_scope=_scope(chip, ep), pp_scope=_scope(chip, tp * pp)
    )
    xp = namespace(batch, input_tokens, output_tokens, tp, pp, ep, dp)
    steps = xp.asarray(output_tokens) - 1.0
    if isinstance(spec, TransformerModel) and spec.causal:
        middles = (np.arange(_CONTEXT_SAMPLES) + 0.5).reshape((_CONTEXT_SAMPLES,) + (1,) * rank) / _CONTEXT_SAMPLES
        contexts = input_tokens + xp.maximum(middles * steps - 0.5, 0.0)
        decode_table = spec.phase(Batch.decode_of(batch, contexts), parallelism, kv_dtype=kv_dtype)
        phases = (
            _phase(
                "prefill",
                spec.phase(Batch.prefill_of(batch, input_tokens), parallelism, kv_dtype=kv_dtype),
                chip,
                kernels,
            ),
            _phase("decode", decode_table, chip, kernels, mean_axis=True),
        )
        memory = spec.memory(Batch.decode_of(batch, input_tokens + steps), parallelism, kv_dtype=kv_dtype)
        widest = spec.memory(Batch.prefill_of(batch, input_tokens), parallelism, kv_dtype=kv_dtype).activation_bytes
        memory = memory._replace(activation_bytes=xp.maximum(xp.asarray(memory.activation_bytes), xp.asarray(widest)))
    elif isinstance(spec, TransformerModel):
        whole = Batch.prefill_of(batch, input_tokens)
        phases = (_phase("forward", spec.phase(whole, parallelism, kv_dtype=kv_dtype), chip, kernels),)
        memory = spec.memory(whole, parallelism, kv_dtype=kv_dtype)
    else:
        if np.any(np.asarray(parallelism.devices) != 1):
            raise ValueError(f"tp, pp, dp: {spec.name} is modelled on one device; expected 1")
        phases = (_phase("forward", spec.forward(batch), chip, kernels),)
        memory = spec.memory(batch)

    capacity = chip.dram.capacity_bytes
    needed = memory.total_bytes
    fits = xp.asarray(needed <= capacity)
    reason = xp.where(fits, Reason.OK.value, Reason.DOES_NOT_FIT.value)
    for phase in phases:
        for code in (Reason.NO_LINK, Reason.UNSUPPORTED_DTYPE):
            reason = xp.where(_any_with(phase, code), code.value, reason)
        divisible = xp.asarray(phase.table.divisible)
        reason = xp.where(divisible, reason, Reason.NOT_DIVISIBLE.value)
    mask = xp.where(reason == Reason.OK.value, 0.0, xp.nan)
    generates = len(phases) == 2
    prefill_s = phases[0].time_s + mask
    decode_s = phases[1].time_s + mask if generates else 0.0 * mask
    request_s = prefill_s + (steps * decode_s if generates else 0.0)
    tokens_per_s = batch * xp.asarray(output_tokens) / request_s if generates else xp.nan * mask
    modelled = estimator == "tiles" and is_gpu(chip)
    intervals, estimates, basis = phase_intervals(phases, chip, stack, steps, mask) if modelled else UNBOUNDED
    if estimator == "tiles" and chip.systolic is not None:
        intervals, estimates, basis = uncalibrated_intervals(phases, chip, steps, mask)
    return Prediction(
        model=spec,
        chip=chip,
        parallelism=parallelism,
        batch=batch,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        phases=phases,
        prefill_s=prefill_s,
        decode_s=decode_s,
        request_s=request_s,
        prefill_interval_s=intervals[0],
        decode_interval_s=intervals[1],
        request_interval_s=intervals[2],
        prefill_estimate=estimates[0],
        decode_estimate=estimates[1],
        basis=basis,
        requests_per_s=batch / request_s,
        output_tokens_per_s=tokens_per_s,
        output_tokens_per_s_per_device=tokens_per_s / parallelism.devices,
        memory=memory,
        needed_bytes=needed,
        capacity_bytes=capacity,
        fits=fits,
        reason=reason,
        estimator=kernel_source(estimator, chip, stack),
        kernels=kernels,
        notes=prediction_notes(spec, chip, parallelism, input_tokens, output_tokens, estimator, stack, calibrated),
    )


def _scope(chip: Accelerator, ranks: Array) -> str:
    """The network that groups of `ranks` devices use: beyond one node, where every point is beyond it, the scale-out one."""
    known = np.isfinite(np.asarray(chip.devices_per_node, dtype=float))
    beyond = np.all(np.asarray(ranks) > np.where(known, chip.devices_per_node, np.inf))
    return "scale_out" if beyond else "scale_up"


def _phase(
    name: str, table: OperatorTable, chip: Accelerator, estimator: Estimator, *, mean_axis: bool = False
) -> Phase:
    times = phase_time(table, chip, estimator=estimator)
    xp = namespace(times.total_s)
    one_pass = xp.mean(times.total_s, axis=0) if mean_axis else times.total_s
    return Phase(name=name, time_s=one_pass, table=table, times=times)


def _any_with(phase: Phase, code: Reason) -> Any:
    """Whether any operator has `code`, per point; leading axes are operators and, for decode, contexts."""
    leading = 2 if phase.name == "decode" else 1
    found = False
    for group in phase.times.groups:
        hit = np.asarray(group.one.reason) == code
        found = found | np.any(hit, axis=tuple(range(min(leading, hit.ndim))))
    return found


def _at_rank(value: Array, rank: int) -> Array:
    array = namespace(value).asarray(value)
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def _checked_size(name: str, value: Array) -> Array:
    """`value` as a whole Python number, or as an array of floats, whose products do not wrap around."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name}: {str(value)[:60]} is not an array of numbers") from None
    most = _MOST_DEVICES if name in ("tp", "pp", "ep", "dp") else _MOST
    if isinstance(value, int) and not isinstance(value, bool) and not 1 <= value <= most:
        shown = str(value) if abs(value) < 10**30 else f"{'-' if value < 0 else ''}10^30 and beyond"
        raise ValueError(f"{name}: {shown}; expected at least 1" + (f" and at most {most:,}" if value > most else ""))
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name}: {repr(value)[:60]} is not a number")
    if array.size == 0:
        raise ValueError(f"{name}: no values; expected at least one number")
    if not np.all(np.isfinite(array) & (array >= 1)):
        raise ValueError(f"{name}: {np.ravel(array)[np.argmin(np.ravel(array))]:g}; expected at least 1")
    if np.any(array.astype(float) > most):
        raise ValueError(f"{name}: {np.max(array):g}; expected at most {most:,}")
    if namespace(value) is not np:
        return value
    return array.astype(float) if array.ndim else array.item()


def _first(value: Array, index: int, shape: tuple[int, ...]) -> float:
    return float(np.ravel(np.broadcast_to(np.asarray(value, dtype=float), shape))[index])


def _why_not(prediction: Prediction, index: int, reason: Reason) -> str:
    shape = np.shape(prediction.reason)
    degrees = prediction.parallelism
    tp, pp, ep, dp = (int(_first(getattr(degrees, name), index, shape)) for name in ("tp", "pp", "ep", "dp"))
    model, chip = prediction.model.name, prediction.chip.name
    if reason == Reason.DOES_NOT_FIT:
        needed, capacity = (_first(v, index, shape) for v in (prediction.needed_bytes, prediction.capacity_bytes))
        return (
            f"{model} does not fit: {needed / 1e9:,.1f} GB per device needed, {chip} has {capacity / 1e9:,.1f} GB "
            f"(tp {tp}, pp {pp}, batch {_first(prediction.batch, index, shape):g}); raise tp or pp, or lower "
            "batch, tokens or dtype"
        )
    if reason == Reason.NOT_DIVISIBLE:
        return f"{model} cannot be split by tp {tp}, pp {pp}, ep {ep}, dp {dp}: it has {_divisors(prediction.model)}"
    if reason == Reason.NO_LINK:
        return (
            f"{chip} has no link bandwidth for tp {tp}, pp {pp}, ep {ep}, dp {dp}; expected scale_up.bandwidth (and "
            "scale_out.bandwidth across nodes) in the chip file, or one device"
        )
    formats = sorted(prediction.chip.matrix_flops_per_s)
    return (
        f"{chip} has no rate for a number format {model} needs (it has {', '.join(formats)}); choose another with dtype"
    )


def _divisors(model: Any) -> str:
    """The sizes that degrees of parallelism must divide, named."""
    sizes: dict[str, set[int]] = {"layers": {model.layer_count}}
    for group in model.layers:
        for part in (group.attention, group.feed_forward):
            for name in ("heads", "kv_heads", "key_heads", "value_heads", "experts", "width"):
                if hasattr(part, name):
                    sizes.setdefault(name, set()).add(getattr(part, name))
    return ", ".join(f"{name} {'/'.join(str(v) for v in sorted(values))}" for name, values in sizes.items())
