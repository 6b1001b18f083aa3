"""Kernels of a chip whose matrix unit is a systolic array: any operator of a model to its time.

    products     max(cycles / clock, bytes / bandwidth)                      `blocked_product`, cores as arrays
    attention    per sequence and key/value head: Q K^T of (queries x grouped heads, keys, head), P V of (..., value, keys);
                 max(both on the arrays, softmax on the vector unit, compulsory bytes / bandwidth), scores stay on chip
    all others   roofline of the same chip: max(work / vector rate, bytes / bandwidth)
    collectives  alpha-beta from the chip's link (no library's fitted constants)

Limits: a large square product approaches 2 rows cols cores clock; no time is below the chip's roofline. Left out, and covered only
by the error of an uncalibrated kernel (`composition.kernel_errors("datasheet")`): refills of DRAM rows, contention of arrays for
scratchpads, instruction issue, scheduling between operators; causal masks count the pairs attended, as if no tile were cut.
"""

import numpy as np

from dataflow.blocked_product import ElementBytes, best_product, blocked_product
from dataflow.systolic import SystolicArray
from hardware.accelerator import Accelerator, SystolicUnit
from roofline.bound import peak_flops_per_s, roofline_time
from roofline.collectives import collective_time, transfer_time
from roofline.kernel_time import KernelTime, Reason, kernel_time
from roofline.relax import Rounding, exact
from workloads.dtypes import element_bytes, weight_element_bytes
from workloads.numeric import Array, namespace
from workloads.operators import Attention, Collective, Conv2d, Gemm, GroupedGemm, Operator, Transfer

#: Operations of one softmax element: maximum, subtract, exponential, sum, divide.
SOFTMAX_FLOPS = 5.0
#: Flash attention's gradient over its forward work (see `Attention`).
BACKWARD = 2.5


def systolic_time(op: Operator, chip: Accelerator, rounding: Rounding = exact) -> KernelTime:
    """Seconds of `op` on a chip with `systolic`, [...]; an estimator (operator, chip) -> `KernelTime` like all others.

    Numbers of operator and chip may be arrays or JAX tracers. A format without a matrix rate is NaN, UNSUPPORTED_DTYPE.
    Errors: `ValueError` for a chip without a systolic array.
    """
    if chip.systolic is None:
        raise ValueError(f"{chip.name or 'chip'}.systolic: missing; expected rows and cols of its arrays")
    if isinstance(op, Collective):
        return collective_time(op, chip, library="datasheet", rounding=rounding)
    if isinstance(op, Transfer):
        return transfer_time(op, chip)
    if isinstance(op, Attention):
        return _attention(op, chip, chip.systolic, rounding)
    if isinstance(op, Gemm):
        element = ElementBytes(
            element_bytes(op.dtype), weight_element_bytes(op.weight_dtype or op.dtype),
            element_bytes(op.out_dtype or op.dtype),
        )  # fmt: skip
        array_s, moved = _product(op.m, op.n, op.k, op.batch, chip, chip.systolic, element, rounding)
        return _time(op, chip, array_s, moved, rounding)
    if isinstance(op, GroupedGemm):
        xp = namespace(op.active_experts)
        hit = xp.maximum(op.active_experts, 1e-9)
        element = ElementBytes(
            element_bytes(op.dtype), weight_element_bytes(op.weight_dtype or op.dtype),
            element_bytes(op.out_dtype or op.dtype),
        )  # fmt: skip
        array_s, moved = _product(op.rows / hit, op.n, op.k, hit, chip, chip.systolic, element, rounding)
        return _time(op, chip, array_s, moved, rounding)
    if isinstance(op, Conv2d):  # an implicit product: pixels x filters x (channels of a group x kernel)
        size, depth = element_bytes(op.dtype), op.channels / op.groups * op.kernel_h * op.kernel_w
        pixels = op.batch * op.out_height * op.out_width
        element = ElementBytes(size, size, size)
        array_s, _ = _product(pixels, op.filters / op.groups, depth, op.groups, chip, chip.systolic, element, rounding)
        return _time(op, chip, array_s, op.bytes, rounding)
    return roofline_time(op, chip, rounding=rounding)


def _product(
    m: Array, n: Array, k: Array, batch: Array, chip: Accelerator, unit: SystolicUnit, element: ElementBytes,
    rounding: Rounding,
) -> tuple[Array, Array]:  # fmt: skip
    """Seconds of the arrays and bytes moved, [...]."""
    xp = namespace(chip)
    on_chip = xp.asarray(1.0 * chip.on_chip_bytes_per_core) * chip.cores / 3.0
    how = {
        "batch": batch,
        "arrays": chip.cores,
        "scratchpad_bytes": xp.where(xp.isnan(on_chip), np.inf, on_chip),
        "element": element,
        "rounding": rounding,
    }
    if unit.dataflow == "any":
        array = SystolicArray(rows=unit.rows, cols=unit.cols)
        rate = chip.dram.bandwidth_bytes_per_s
        return best_product(m, n, k, array, cycle_s=1.0 / chip.clock_hz, bytes_per_s=rate, **how)
    found = blocked_product(m, n, k, SystolicArray(rows=unit.rows, cols=unit.cols, dataflow=unit.dataflow), **how)
    return found.cycles / chip.clock_hz, found.bytes


def _attention(op: Attention, chip: Accelerator, unit: SystolicUnit, rounding: Rounding) -> KernelTime:
    queries = op.query_tokens * op.heads / op.kv_heads
    keys = op.pairs / (op.sequences * op.query_tokens)
    size = element_bytes(op.dtype)
    element = ElementBytes(size, size, size)
    shape = (op.sequences * op.kv_heads, chip, unit, element, rounding)
    array_s, _ = _product(queries, keys, op.head_dim, *shape)
    scores = op.pairs * op.heads
    vector = peak_flops_per_s(chip, "vector", "fp32")
    vector_s = 0.0 * scores
    if not op.scores_only:
        array_s = array_s + _product(queries, op.values_dim, keys, *shape)[0]
        vector_s = SOFTMAX_FLOPS * scores / (np.inf if vector is None else vector)
    work = BACKWARD if op.backward else 1.0
    return _time(op, chip, work * rounding.maximum(array_s, vector_s), op.bytes, rounding)


def _time(op: Operator, chip: Accelerator, compute_s: Array, moved: Array, rounding: Rounding) -> KernelTime:
    """The slower of arrays and memory; never below the chip's own peak or the operator's compulsory bytes."""
    peak = peak_flops_per_s(chip, "matrix", op.dtype)
    xp = namespace(compute_s, moved, chip)
    compute_s = xp.maximum(compute_s, op.flops / (1.0 if peak is None else peak))
    moved = xp.maximum(moved, op.bytes)
    memory_s = moved / chip.dram.bandwidth_bytes_per_s
    return kernel_time(
        compute_s=compute_s,
        memory_s=memory_s,
        launch_s=xp.nan_to_num(xp.asarray(1.0 * chip.launch_latency_s)),
        flops=op.flops,
        bytes=moved,
        busy_s=rounding.maximum(compute_s, memory_s) if rounding.mode == "smooth" else None,
        reason=Reason.OK if peak is not None else Reason.UNSUPPORTED_DTYPE,
    )
