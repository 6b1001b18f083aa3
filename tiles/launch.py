"""What starting kernels costs: alone, in an eager stream, from a captured graph, or with programmatic overlap.

    alone    : dispatch + start + kernel                         one operation between two events, the host on its critical path
    eager    : the host issues kernel i at i dispatch; the device starts it then or when the previous one is done
               end = max over j of [(j + 1) dispatch + sum of (kernel_i + gap) for i >= j]
    graph    : start + sum (kernel_i + gap)                      no host between kernels
    overlap  : as graph, but the next kernel's start-up hides behind the tail of the previous one: gap (1 - hidden)

Limits: long kernels -> eager is graph plus one dispatch; short kernels -> n dispatch. Hand check: 100 kernels of 2 us, dispatch
6 us, gap 1 us: eager 100 * 6 + 3 = 603 us, graph 3 * 100 + start.
"""

from typing import NamedTuple

from hardware.accelerator import Accelerator
from workloads.numeric import Array, namespace

MODES = ("eager", "graph", "overlap")


class LaunchCosts(NamedTuple):
    """Seconds: host `dispatch_s` of one eager operator, device `start_s` of a stream or graph, `gap_s` between two kernels;
    `hidden`: share of the gap that programmatic overlap hides. Defaults: PyTorch on a current server, fitted eager floors."""

    dispatch_s: Array = 6.0e-6
    start_s: Array = 4.0e-6
    gap_s: Array = 1.0e-6
    hidden: Array = 0.7


def launch_costs(chip: Accelerator) -> LaunchCosts:
    """`LaunchCosts` with the chip's launch latency as the start of a stream where the catalogue has one."""
    xp = namespace(chip.launch_latency_s)
    known = xp.isfinite(xp.asarray(chip.launch_latency_s, dtype=float))
    default = LaunchCosts()
    return default._replace(start_s=xp.where(known, chip.launch_latency_s, default.start_s))


def launch_overhead_s(kernels: Array, costs: LaunchCosts, mode: str = "graph") -> Array:
    """Added to the kernels' own times by launching `kernels` long-running kernels in `mode`, [...] (host never in the way)."""
    _checked(mode)
    gap = costs.gap_s * (1.0 - costs.hidden) if mode == "overlap" else costs.gap_s
    first = costs.dispatch_s + costs.start_s if mode == "eager" else costs.start_s
    return first + kernels * gap


def stream_time_s(kernel_s: Array, costs: LaunchCosts, mode: str = "eager") -> Array:
    """Time from the first issue to the end of the last of `kernel_s` [..., n] (device seconds, in order) in `mode`, [...]."""
    _checked(mode)
    xp = namespace(kernel_s, costs)
    kernel_s = xp.asarray(kernel_s)
    gap = costs.gap_s * (1.0 - costs.hidden) if mode == "overlap" else costs.gap_s
    busy = kernel_s + gap
    if mode != "eager":
        return costs.start_s + xp.sum(busy, axis=-1)
    remaining = xp.flip(xp.cumsum(xp.flip(busy, axis=-1), axis=-1), axis=-1)
    issued = (xp.arange(kernel_s.shape[-1]) + 1.0) * costs.dispatch_s
    return costs.start_s + xp.max(issued + remaining, axis=-1)


def repeated_stream_time_s(kernel_s: Array, counts: Array, costs: LaunchCosts) -> Array:
    """Eager time of a long repetition of layers: kernels of `kernel_s` [..., k], each `counts` [..., k] times, well mixed.

    The queue is deep, so only sums matter: the longer of all dispatches and all device times.
    """
    xp = namespace(kernel_s, counts, costs)
    device = xp.sum(counts * (kernel_s + costs.gap_s), axis=-1)
    host = costs.dispatch_s * xp.sum(counts + 0.0 * kernel_s, axis=-1)
    return costs.start_s + costs.dispatch_s + xp.maximum(device, host)


def _checked(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"mode: unknown launch mode {mode!r} (known: {', '.join(MODES)})")
