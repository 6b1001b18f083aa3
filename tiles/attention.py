"""Time of attention on a GPU: kernel selection, then the decode or the prefill model with that kernel's constants.

One query per sequence runs a decode kernel. Up to `FEW_QUERIES` queries over a prefix (speculative decoding, last
chunk) run whichever of the two is faster, since dispatchers pack the queries into the rows of a decode tile.
Everything else runs a prefill kernel.
"""

from typing import Any

import numpy as np
from jax.core import Tracer

from hardware.accelerator import Accelerator
from roofline.kernel_time import Bound, KernelTime, Reason, kernel_time
from roofline.relax import Rounding, exact
from tiles.attention_constants import AttentionConstants
from tiles.attention_decode import AttentionTerms, decode_terms
from tiles.attention_kernels import select
from tiles.attention_memory import joined
from tiles.attention_prefill import OVERLAP, prefill_terms
from workloads.dtypes import RATE_FORMAT, canonical_dtype
from workloads.numeric import Array, namespace
from workloads.operators import Attention

#: Most queries per sequence that a decode kernel takes together.
FEW_QUERIES = 16.0


def matrix_peak(chip: Accelerator, dtype: str) -> Array:
    """Peak of the matrix unit in the format `dtype` computes at, FLOP/s; NaN if the chip has none."""
    name = canonical_dtype(dtype)
    rates = chip.matrix_flops_per_s
    for candidate in (name, RATE_FORMAT.get(name, name), {"bf16": "fp16", "fp16": "bf16"}.get(name, name)):
        if candidate in rates:
            return rates[candidate]
    return float("nan")


def decode_attention_time(
    op: Attention, chip: Accelerator, constants: AttentionConstants, *, rounding: Rounding = exact
) -> KernelTime:
    """Time of `op` as a decode kernel, [...]; see `attention_time`."""
    _, k = select(constants.decode, op, chip.cores)
    terms = decode_terms(op, chip, k, matrix_peak(chip, op.dtype), rounding=rounding)
    return _assembled(op, chip, terms, k.overlap)


def prefill_attention_time(
    op: Attention, chip: Accelerator, constants: AttentionConstants, *, rounding: Rounding = exact
) -> KernelTime:
    """Time of `op` as a prefill kernel, [...], single queries included unless the stack sends them to decode."""
    _, k = select(constants.prefill, op, chip.cores)
    terms = prefill_terms(op, chip, k, matrix_peak(chip, op.dtype), rounding=rounding)
    prefill = _assembled(op, chip, terms, OVERLAP)
    single = _where_queries(op, lambda q: q <= 1.0)
    if single is False or not any(np.any(np.asarray(x.constants.decodes_single) > 0.0) for x in constants.prefill):
        return prefill
    xp = namespace(op, chip, prefill)
    decode = decode_attention_time(op, chip, constants, rounding=rounding)
    sent = xp.asarray(single) & (xp.asarray(k.decodes_single) > 0.5)
    return KernelTime(*(xp.where(sent, d, p) for d, p in zip(decode, prefill)))


def attention_time(
    op: Attention, chip: Accelerator, constants: AttentionConstants, *, rounding: Rounding = exact
) -> KernelTime:
    """Time of attention `op` on `chip` with the kernels of `constants` (see `attention_constants`), [...].

    Arguments broadcast. Includes: launch from a captured graph, the cache write and rotary embedding that the stack
    runs with prefill attention, reduction over splits. Excludes: projections, host overhead, communication. `bytes`
    is what crosses the memory pins: less than the compulsory traffic where the cache was left in L2 by an earlier use.
    Never below the roofline of work and of the bytes that are not resident. NaN with a reason for a format the chip
    lacks.
    """
    single = _where_queries(op, lambda q: q <= 1.0)
    if single is True:
        return decode_attention_time(op, chip, constants, rounding=rounding)
    few = _where_queries(op, lambda q: q <= FEW_QUERIES)
    if few is False:
        return prefill_attention_time(op, chip, constants, rounding=rounding)
    decode = decode_attention_time(op, chip, constants, rounding=rounding)
    prefill = prefill_attention_time(op, chip, constants, rounding=rounding)
    xp = namespace(op, chip, decode, prefill)
    continues = xp.asarray(op.kv_tokens) > xp.asarray(op.query_tokens)
    faster = xp.asarray(few) & continues & (decode.total_s < prefill.total_s)
    sent = xp.asarray(single) | faster
    return KernelTime(*(xp.where(sent, d, p) for d, p in zip(decode, prefill)))


def explain_attention(
    op: Attention, chip: Accelerator, constants: AttentionConstants, *, phase: str = "", rounding: Rounding = exact
) -> dict[str, Any]:
    """Breakdown of one `op` (scalars): kernel chosen, splits, blocks, waves, bound, bytes and where the time goes.

    `phase`: "decode" or "prefill" to force one; empty is decode for a single query. Keys carry their units.
    """
    decode = phase == "decode" or (not phase and float(np.max(np.asarray(op.query_tokens))) <= 1.0)
    kernels = constants.decode if decode else constants.prefill
    chosen: Any = select(kernels, op, chip.cores)  # type: ignore[type-var]
    index, k = chosen
    peak = matrix_peak(chip, op.dtype)
    if decode:
        terms, time = decode_terms(op, chip, k, peak, rounding=rounding), decode_attention_time(op, chip, constants)
    else:
        terms, time = prefill_terms(op, chip, k, peak, rounding=rounding), prefill_attention_time(op, chip, constants)
    numbers = {name: float(np.asarray(value)) for name, value in terms._asdict().items()}
    return {
        "kernel": kernels[int(np.asarray(index))].name,
        "family": f"{constants.architecture} {constants.stack}",
        "calibration": constants.calibration,
        "phase": "decode" if decode else "prefill",
        "total_s": float(np.asarray(time.total_s)),
        "bound": Bound(int(np.asarray(time.bound))).name.lower(),
        "below_dram_bound": bool(float(np.asarray(time.total_s)) < op.bytes / chip.dram.bandwidth_bytes_per_s),
        **numbers,
    }


def _assembled(op: Attention, chip: Accelerator, t: AttentionTerms, overlap: Array) -> KernelTime:
    xp = namespace(t, overlap)
    busy = joined(t.core_s, t.memory_s, overlap) + t.combine_s + t.extra_s
    busy = xp.maximum(busy, t.floor_s)
    answered = xp.isfinite(t.compute_s)
    cache_bound = t.resident > 0.5
    memory_code = xp.where(cache_bound, Bound.CACHE.value, Bound.MEMORY.value)
    core_code = xp.where(t.compute_s > 0.5 * t.core_s, Bound.COMPUTE.value, Bound.LOAD_PORT.value)
    bound = xp.where(t.memory_s >= t.core_s, memory_code, core_code)
    return kernel_time(
        compute_s=xp.where(answered, t.core_s, 0.0),
        memory_s=xp.where(answered, t.memory_s, 0.0),
        launch_s=t.launch_s,
        flops=op.flops,
        bytes=t.dram_bytes,
        busy_s=xp.where(answered, busy, 0.0),
        bound=xp.where(t.launch_s > busy, Bound.LAUNCH.value, bound),
        reason=xp.where(answered, Reason.OK.value, Reason.UNSUPPORTED_DTYPE.value),
    )


def _where_queries(op: Attention, test: Any) -> Any:
    """`test` of the queries per sequence: True or False if it holds for all or for none, else a boolean array."""
    if isinstance(op.query_tokens, Tracer):
        return test(op.query_tokens)
    found = np.asarray(test(np.asarray(op.query_tokens)))
    return True if found.all() else False if not found.any() else found
