"""Matrix-vector work inside memory: banks multiply what they hold with vectors handed over to them.

`stored` bytes lie evenly on the banks of every channel, all banks work in step, each vector streams all of it once:

    rows       = ceil(stored of a channel / (banks row))               rows a bank opens
    streaming  = vectors rows (activate + command + row / bank bandwidth)
    hand-over  = 2 handover + (vectors in + results out) / handover rate
    total      = kernel + streaming + hand-over

Attention: keys and values of each (sequence, key/value head) lie in one channel, ceil(pairs / channels) of them on the fullest;
each of its grouped queries is a vector, queries and outputs cross over, softmax stays with the memory. Products: weights are
stored, each row of A is a vector. Limits: bank bandwidth x banks x channels = the channel's own, everything else 0: the time of
reading once per vector at channel bandwidth; an infinite hand-over: infinite. Left out: refresh, host traffic to the same
banks meanwhile, uneven lengths of the sequences, capacity.
"""

from dataclasses import replace

import numpy as np

from dataflow.systolic import whole
from hardware.accelerator import Accelerator, NearMemory
from roofline.kernel_time import Bound, KernelTime, Reason, faster, kernel_time
from roofline.phase import Estimator
from roofline.relax import Rounding, exact
from workloads.dtypes import element_bytes, weight_element_bytes
from workloads.numeric import Array, namespace
from workloads.operators import Attention, Elementwise, Gemm, Operator


def near_memory_time(
    op: Operator, chip: Accelerator, rounding: Rounding = exact, *, handover: bool = True
) -> KernelTime:
    """Seconds of `op` in the chip's `near_memory`, [...], with the hand-over both ways unless `handover` is False.

    Attention (forward), the cache's write, products; NaN with UNSUPPORTED_OPERATOR for all others. Errors: `ValueError` for a chip
    without such memory.
    """
    memory = chip.near_memory
    if memory is None:
        raise ValueError(f"{chip.name or 'chip'}.near_memory: missing; expected channels, banks and rows")
    if not handover:
        memory = replace(memory, handover_s=0.0, handover_bytes_per_s=np.inf)
    if isinstance(op, Elementwise) and op.name == "kv_write":  # through the channel, whoever computed it
        written_s = op.bytes / 2.0 / chip.dram.bandwidth_bytes_per_s
        return kernel_time(compute_s=0.0, memory_s=written_s, flops=op.flops, bytes=op.bytes / 2.0)
    if isinstance(op, Attention) and not op.backward:
        return _attention(op, chip, memory, rounding)
    if isinstance(op, Gemm):
        stored = 1.0 * op.n * op.k * weight_element_bytes(op.weight_dtype or op.dtype)
        rows = whole(op.batch * stored / (memory.channels * memory.banks * memory.row_bytes), rounding)
        inputs, outputs = op.reads["a"], op.writes["out"]
        return _time(op, chip, memory, op.m * rows, op.batch * stored * op.m, inputs + outputs)
    zero = 0.0 * op.flops
    return kernel_time(compute_s=zero, memory_s=zero, reason=Reason.UNSUPPORTED_OPERATOR)


def near_memory_estimator(
    host: Estimator, kinds: tuple[str, ...] = ("attention",), *, rounding: Rounding = exact
) -> Estimator:
    """`host`, with operators of `kinds` in the chip's near memory wherever that is faster; `host` itself on chips without."""

    def time(op: Operator, chip: Accelerator) -> KernelTime:
        own = host(op, chip)
        if chip.near_memory is None or op.kind not in kinds:
            return own
        return faster(own, near_memory_time(op, chip, rounding))

    return time


def _attention(op: Attention, chip: Accelerator, memory: NearMemory, rounding: Rounding) -> KernelTime:
    size = element_bytes(op.kv_dtype or op.dtype)
    held = op.keys_read * size
    in_channel = whole(op.sequences * op.kv_heads / memory.channels, rounding)
    bank_row = memory.banks * memory.row_bytes
    rows = whole(held * op.head_dim / bank_row, rounding)
    width = op.head_dim
    if not op.scores_only:
        rows = rows + whole(held * op.values_dim / bank_row, rounding)
        width = width + op.values_dim
    vectors = op.query_tokens * op.heads / op.kv_heads
    crossing = op.reads["q"] + sum(op.writes.values())
    streamed = vectors * op.sequences * op.kv_heads * held * width
    return _time(op, chip, memory, vectors * in_channel * rows, streamed, crossing)


def _time(
    op: Operator, chip: Accelerator, memory: NearMemory, rows: Array, streamed: Array, crossing: Array
) -> KernelTime:
    """`rows` opened by a bank one after the other, `streamed` bytes over all of them, `crossing` bytes handed over."""
    xp = namespace(rows, crossing, memory, chip)

    def known(value: Array, otherwise: Array) -> Array:
        return xp.where(xp.isnan(xp.asarray(1.0 * value)), otherwise, value)

    row_s = memory.activate_s + known(memory.command_s, 0.0) + memory.row_bytes / memory.bank_bandwidth_bytes_per_s
    rate = known(memory.handover_bytes_per_s, chip.dram.bandwidth_bytes_per_s)
    hand_s = 2.0 * known(memory.handover_s, 0.0) + crossing / rate
    start_s = known(memory.kernel_s, 0.0) + 0.0 * rows
    return kernel_time(
        compute_s=0.0,
        memory_s=rows * row_s,
        network_s=hand_s,
        launch_s=start_s,
        flops=op.flops,
        bytes=streamed,
        busy_s=rows * row_s + hand_s,
        bound=xp.where(hand_s > rows * row_s, Bound.NETWORK.value, Bound.MEMORY.value),
    )
