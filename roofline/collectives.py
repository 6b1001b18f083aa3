"""Time of a collective or a transfer on a chip: the fitted protocol lines where its platform is known, its datasheet
otherwise.

Three grades, visible in `CollectiveEstimate.calibration`:

- "fitted": the platform's own constants of the library family;
- "transferred": the dimensionless constants of its link class, times its own link bandwidth and small-message latency;
- "datasheet": alpha-beta from the link alone, the fastest of the flat algorithms (in-switch reduction where the link
has it).
"""

from typing import NamedTuple

from hardware.accelerator import Accelerator, Link
from roofline.collectives_algorithms import best_algorithm_time_s, check_op, wire_fraction
from roofline.collectives_constants import SWITCHED_LINK_BYTES_PER_S, platform_constants
from roofline.collectives_protocols import protocol_time_s
from roofline.kernel_time import Bound, KernelTime, Reason, kernel_time
from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace
from workloads.operators import Collective, Transfer

#: Time of the smallest message between two devices, library call included, where the chip's entry gives no link
#: latency (assumed:
#: 5-6 us on Hopper, 8-10 us on Ampere and Blackwell in the measured collectives; scale-out links several times that).
SMALL_MESSAGE_LATENCY_S = {"Hopper": 5.5e-6, "Ampere": 9e-6, "Blackwell": 9e-6, "Blackwell Ultra": 9e-6, "Ada": 6e-6}
DEFAULT_LATENCY_S = 9e-6
SCALE_OUT_LATENCY_S = 20e-6
#: Step latency of an algorithm, from the library's latency between two devices, which is launch plus one or two steps
#: (assumed).
STEP_SHARE = 0.25


class CollectiveEstimate(NamedTuple):
    """Seconds of a collective, [...], and where its constants come from: "fitted", "transferred" or "datasheet"."""

    total_s: Array
    calibration: str


def collective_time(
    op: Collective, chip: Accelerator, *, library: str = "nccl", rounding: Rounding = exact
) -> KernelTime:
    """Time of `op` on `chip`, as measured by the library's own benchmark: launch and synchronisation are inside
    `network_s`.

    `op.scope` chooses the chip's scale-up or scale-out link; without one, NaN with `Reason.NO_LINK`. `library` names
    the family of
    constants ("nccl", "oneccl", "TRTLLM", "vLLM_custom_graph", ...). Excludes: contention with other traffic, overlap
    with compute.
    """
    link = _link(chip, op.scope)
    name = chip.name if op.scope == "scale_up" else f"{chip.name}/scale_out"
    estimate = library_time(
        op.op,
        op.payload_bytes,
        op.ranks,
        link,
        platform=name,
        library=library,
        latency_s=_latency_s(chip, op.scope),
        rounding=rounding,
    )
    return _network(op, link, estimate.total_s)


def collective_calibration(op: Collective, chip: Accelerator, *, library: str = "nccl") -> str:
    """Which grade of constants `collective_time` uses for `op` on `chip`: "fitted", "transferred" or "datasheet"."""
    link = _link(chip, op.scope)
    name = chip.name if op.scope == "scale_up" else f"{chip.name}/scale_out"
    return library_time(op.op, 1.0, 2.0, link, platform=name, library=library).calibration


def library_time(
    op: str,
    payload_bytes: Array,
    ranks: Array,
    link: Link,
    *,
    platform: str = "",
    library: str = "nccl",
    latency_s: Array = DEFAULT_LATENCY_S,
    tables: dict | None = None,
    rounding: Rounding = exact,
) -> CollectiveEstimate:
    """`op` of `payload_bytes` (nccl-tests convention) over `ranks` devices joined by `link`, as `library` would carry
    it out.

    `platform` names the fitted system; `latency_s`, the time of its smallest message between two devices, is used
    where its constants are
    transferred or absent. `tables` replaces the shipped constants (leave-one-out studies). Arguments broadcast.
    """
    check_op(op)
    bandwidth = link.bandwidth_bytes_per_s
    xp = namespace(bandwidth)
    traffic = payload_bytes * wire_fraction(op, ranks)

    def of_class(nominal: float) -> CollectiveEstimate:
        constants = platform_constants(library, platform, op, bandwidth_bytes_per_s=nominal, tables=tables)
        if constants is None:
            total_s = datasheet_time_s(op, payload_bytes, ranks, link, latency_s=latency_s, rounding=rounding)
            return CollectiveEstimate(total_s, "datasheet")
        # A chip whose link was changed keeps its fitted efficiencies: they are relative to the link it now has.
        scale = constants.latency_s if constants.calibration == "fitted" else latency_s
        total_s = protocol_time_s(constants.lines, payload_bytes, traffic, ranks, bandwidth, scale, rounding=rounding)
        return CollectiveEstimate(total_s, constants.calibration)

    if _is_plain(bandwidth):
        slow = xp.asarray(bandwidth) < SWITCHED_LINK_BYTES_PER_S
        if slow.all() or not slow.any():
            return of_class(float(xp.min(bandwidth)))
    switched = of_class(float("nan"))
    if switched.calibration != "transferred":
        return switched
    # Each link takes the constants of its own class: a sweep may cross from one to the other.
    host_bridge = of_class(0.0)
    slow = xp.asarray(bandwidth) < SWITCHED_LINK_BYTES_PER_S
    return CollectiveEstimate(xp.where(slow, host_bridge.total_s, switched.total_s), switched.calibration)


def datasheet_time_s(
    op: str, payload_bytes: Array, ranks: Array, link: Link, *, latency_s: Array, rounding: Rounding = exact
) -> Array:
    """Uncalibrated: launch and first step `latency_s`, then the fastest flat algorithm at the link's nominal rate,
    [...] seconds.
    """
    algorithms = ("ring", "tree", "halving_doubling", "direct") if link.topology != "ring" else ("ring",)
    if link.in_switch_reduction:
        algorithms = (*algorithms, "in_switch")
    step_s = STEP_SHARE * latency_s
    moving = best_algorithm_time_s(
        op, payload_bytes, ranks, link.bandwidth_bytes_per_s, step_s, algorithms=algorithms, rounding=rounding
    )
    return moving + namespace(ranks).where(namespace(ranks).asarray(ranks) > 1, (1.0 - STEP_SHARE) * latency_s, 0.0)


def transfer_time(op: Transfer, chip: Accelerator, *, rounding: Rounding = exact) -> KernelTime:
    """Time of a copy over one link: latency + bytes / bandwidth. NaN with `Reason.NO_LINK` where the chip has no such
    link.
    """
    link = _link(chip, op.scope)
    latency_s = _latency_s(chip, op.scope)
    return _network(op, link, latency_s + op.payload_bytes / link.bandwidth_bytes_per_s)


def _network(op: Collective | Transfer, link: Link, total_s: Array) -> KernelTime:
    xp = namespace(total_s, link.bandwidth_bytes_per_s)
    known = xp.isfinite(xp.asarray(1.0 * link.bandwidth_bytes_per_s)) | (xp.asarray(total_s) == 0.0)
    return kernel_time(
        compute_s=0.0,
        memory_s=0.0,
        network_s=xp.where(known, total_s, 0.0),
        flops=op.flops,
        bytes=op.bytes,
        bound=xp.where(xp.asarray(total_s) > 0.0, Bound.NETWORK.value, Bound.NONE.value),
        reason=xp.where(known, Reason.OK.value, Reason.NO_LINK.value),
    )


def _link(chip: Accelerator, scope: str) -> Link:
    if scope not in ("scale_up", "scale_out"):
        raise ValueError(f"scope: {scope!r} is unknown (known: scale_up, scale_out)")
    return chip.scale_up if scope == "scale_up" else chip.scale_out


def _latency_s(chip: Accelerator, scope: str) -> Array:
    link = _link(chip, scope)
    xp = namespace(link.latency_s)
    usual = (
        SMALL_MESSAGE_LATENCY_S.get(chip.architecture, DEFAULT_LATENCY_S)
        if scope == "scale_up"
        else SCALE_OUT_LATENCY_S
    )
    given = xp.asarray(1.0 * link.latency_s)
    return xp.where(xp.isfinite(given), given, usual)


def _is_plain(value: Array) -> bool:
    return namespace(value).__name__ == "numpy"
