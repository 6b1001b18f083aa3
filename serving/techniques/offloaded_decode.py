"""The decode step of a group of unlike devices as a law of a pool: operators placed anew for every batch.

T(n) is the least time of a step of n sequences over all placements of operator classes on the devices, moves included, in one piece
or (`side_by_side`) as two half batches at once, see `composition.offload`. Limit: one device, or an infinite hand-over: the step of
the home device. Excludes what `composition.offload` excludes, above all the capacity of the devices.
"""

from collections.abc import Sequence

from composition import Deployment
from composition.argument_checks import check_number
from composition.offload import Device, HandOver, best_class_placement, phase_chain
from serving.stages.step_law import StepLaw, reachable_law
from workloads import Batch, TransformerModel


def offloaded_decode_law(
    model: TransformerModel,
    devices: Sequence[Device],
    handover: HandOver,
    context_tokens: float,
    *,
    deployment: Deployment | None = None,
    side_by_side: bool = True,
    knots: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256),
) -> StepLaw:
    """`StepLaw` of decode steps behind `context_tokens` per sequence; the first of `devices` is home. Seconds at `knots`, linear
    between; about a tenth of a second to make per knot."""
    check_number("context_tokens", context_tokens, least=0.0)
    seconds = []
    for sequences in knots:
        batch = Batch.decode_of(sequences, context_tokens)
        chain = phase_chain(model, batch, devices, deployment)
        pieces = side_by_side and sequences > 1 and len(devices) > 1
        half = phase_chain(model, batch.scaled(0.5), devices, deployment) if pieces else None
        seconds.append(best_class_placement(chain, handover, half=half).total_s)
    return reachable_law(knots, seconds)
