"""The result every kernel model returns."""

from enum import IntEnum
from typing import NamedTuple

from workloads.numeric import Array, namespace


class Bound(IntEnum):
    """What limits a kernel: the largest of its terms.

    COMPUTE: matrix or vector rate. MEMORY: DRAM. CACHE: L2. LOAD_PORT: what one core can load. NETWORK: links. LAUNCH: starting the
    kernel (and its quantise prologue). LATENCY: dependent steps of one block or wave, with no resource saturated.
    """

    NONE = 0
    COMPUTE = 1
    MEMORY = 2
    CACHE = 3
    LOAD_PORT = 4
    NETWORK = 5
    LAUNCH = 6
    LATENCY = 7


class Reason(IntEnum):
    """Why a point has no time (NaN); OK where it has one."""

    OK = 0
    DOES_NOT_FIT = 1
    NOT_DIVISIBLE = 2
    UNSUPPORTED_DTYPE = 3
    UNSUPPORTED_OPERATOR = 4
    NO_LINK = 5


REASON_SENTENCE: dict[Reason, str] = {
    Reason.OK: "answered",
    Reason.DOES_NOT_FIT: "does not fit in the memory it needs",
    Reason.NOT_DIVISIBLE: "a dimension is not divisible by its degree of parallelism",
    Reason.UNSUPPORTED_DTYPE: "the chip has no rate for this number format",
    Reason.UNSUPPORTED_OPERATOR: "the model does not cover this operator",
    Reason.NO_LINK: "the chip has no link of the needed scope",
}


class KernelTime(NamedTuple):
    """Time of a kernel, in seconds, with what it is made of. Every field is an array of the broadcast shape.

    `total_s` includes `launch_s`; `compute_s`, `memory_s` and `network_s` are the times each resource alone would take (they
    overlap, so they do not add up to the total). `flops`, `bytes`: work and far-memory traffic the times were derived from.
    `bound`: a `Bound` code. `reason`: a `Reason` code; where it is not OK the times are NaN.
    """

    total_s: Array
    compute_s: Array
    memory_s: Array
    network_s: Array
    launch_s: Array
    flops: Array
    bytes: Array
    bound: Array
    reason: Array

    def scaled(self, count: Array) -> "KernelTime":
        """`count` repetitions in a row: times, work and traffic multiplied; bound and reason kept."""
        fields = {name: value * count for name, value in self._asdict().items() if name not in ("bound", "reason")}
        return self._replace(**fields)


def kernel_time(
    *,
    compute_s: Array,
    memory_s: Array,
    network_s: Array = 0.0,
    launch_s: Array = 0.0,
    flops: Array = 0.0,
    bytes: Array = 0.0,
    busy_s: Array | None = None,
    bound: Array | None = None,
    reason: Array = Reason.OK,
) -> KernelTime:
    """Assemble a `KernelTime`: total = busy + launch, where busy defaults to max(compute, memory, network).

    Arguments broadcast. Where `reason` is not OK every time is NaN. `bound` defaults to the largest of the four terms.
    """
    xp = namespace(compute_s, memory_s, network_s, launch_s, flops, bytes, busy_s, reason)
    arrays = xp.broadcast_arrays(
        *(xp.asarray(a, dtype=float) for a in (compute_s, memory_s, network_s, launch_s, flops, bytes)),
        xp.asarray(reason, dtype=int),
    )
    compute_s, memory_s, network_s, launch_s, flops, bytes, reason = arrays
    peak = xp.maximum(xp.maximum(compute_s, memory_s), network_s)
    busy = peak if busy_s is None else busy_s + 0.0 * peak
    if bound is None:
        codes = (Bound.COMPUTE, Bound.MEMORY, Bound.NETWORK)
        bound = xp.select([compute_s >= peak, memory_s >= peak], [codes[0].value, codes[1].value], codes[2].value)
        bound = xp.where(launch_s > busy, Bound.LAUNCH.value, bound)
    answered = reason == Reason.OK.value
    nan = xp.where(answered, 0.0, xp.nan)
    bound = xp.where(answered, bound, Bound.NONE.value)
    return KernelTime(
        busy + launch_s + nan,
        compute_s + nan,
        memory_s + nan,
        network_s + nan,
        launch_s + nan,
        flops,
        bytes,
        bound,
        reason,
    )


def faster(first: KernelTime, second: KernelTime) -> KernelTime:
    """The faster of two kernels, point by point, with its breakdown; where one has no answer, the other. Broadcasts."""
    xp = namespace(first, second)
    worse = xp.asarray(first.total_s) > xp.asarray(second.total_s)
    take = worse | (xp.isnan(xp.asarray(first.total_s)) & ~xp.isnan(xp.asarray(second.total_s)))
    return KernelTime(*(xp.where(take, b, a) for a, b in zip(first, second)))
