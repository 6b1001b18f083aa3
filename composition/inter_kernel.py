"""What an iteration spends between kernels: launches, the host's scheduler, sampling, synchronisation.

    launch   graph: start + gap x kernels             captured; kernel estimates of captured graphs hold their own gap
             eager: start + dispatch + max(device, dispatch x kernels) - device
    host     iteration + sequence x sequences         scheduling, input preparation, sampling, detokenising
    sync     one wait for the device's result

Host time that runs while the device works on the iteration before is hidden by `host_overlap` of it (asynchronous scheduling).
"""

import math
from typing import NamedTuple

from composition.argument_checks import check_number
from workloads.numeric import Array, namespace

LAUNCH_MODES = ("graph", "eager")


class EngineOverheads(NamedTuple):
    """Seconds an engine adds to the kernels of an iteration; every field may be an array, `launch` is static.

    `dispatch_s`: host time of one eager operator; `start_s`: first launch of a stream or graph; `gap_s`: idle device time
    between two kernels beyond what their estimates hold. `iteration_s`: host per iteration; `sequence_s`: host per sequence
    sampled; `synchronisation_s`: waiting for the result; `host_overlap`: share of host time behind the device.
    `deviation`: relative standard deviation of the overheads (shared by all of them).
    Defaults: launches as in PyTorch on a current server; host time 0, because it is the engine's and not the chip's (vLLM 0.19 took
    2 ms per iteration beside its kernels in three measured runs of 300 requests).
    """

    launch: str = "graph"
    dispatch_s: Array = 6.0e-6
    start_s: Array = 4.0e-6
    gap_s: Array = 0.0
    iteration_s: Array = 0.0
    sequence_s: Array = 0.0
    synchronisation_s: Array = 0.0
    host_overlap: Array = 0.0
    deviation: Array = 0.3

    def check(self) -> None:
        """`ValueError` naming the first field that is out of range."""
        if self.launch not in LAUNCH_MODES:
            raise ValueError(f"overheads.launch: unknown mode {self.launch!r} (known: {', '.join(LAUNCH_MODES)})")
        for name in self._fields[1:]:
            most = 1.0 if name == "host_overlap" else math.inf
            check_number(f"overheads.{name}", getattr(self, name), least=0.0, most=most)


def launch_s(kernels: Array, device_s: Array, overheads: EngineOverheads) -> Array:
    """Seconds that launching `kernels` kernels adds to `device_s` of busy device, [...]."""
    if overheads.launch == "graph":
        return overheads.start_s + overheads.gap_s * kernels + 0.0 * device_s
    xp = namespace(kernels, device_s, overheads.dispatch_s)
    busy = device_s + overheads.gap_s * kernels
    return overheads.start_s + overheads.dispatch_s + xp.maximum(busy, overheads.dispatch_s * kernels) - device_s


def host_s(sequences: Array, overheads: EngineOverheads) -> Array:
    """Host seconds of one iteration that samples for `sequences` sequences, hidden part included, [...]."""
    return overheads.iteration_s + overheads.sequence_s * sequences
