"""Where each operator of a chain runs: the cheapest placement found exactly, for every link of the chain or for every class.

With t_i(d) the seconds of link i on device d and h_i(a, b) those of moving its input from a to b (0 for a = b),

    best_0(d) = h_0(home, d) + t_0(d),    best_i(d) = min_a [best_{i-1}(a) + h_i(a, d)] + t_i(d),
    total     = min_d [best(d) + h(d, home)]                                  dynamic programming (Viterbi), exact

`rounding` smooth puts p-norm minima in its place: differentiable in every time and hand-over, never above the exact total and at
least devices^(-temperature (links + 1)) of it (use small temperatures on long chains). Limits: an infinite hand-over or one device:
the plain sum on `home`.
"""

from itertools import product
from typing import NamedTuple

import jax
import numpy as np

from composition.argument_checks import check_number
from composition.offload.interleaving import interleaved_time
from composition.offload.operator_chain import Chain
from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace

#: Placements by class that are tried at most: devices ^ classes.
MOST_PLACEMENTS = 65_536


class HandOver(NamedTuple):
    """A move between two devices: `latency_s` + bytes / `bytes_per_s`; numbers, or [devices, devices] by (from, to)."""

    latency_s: Array = 0.0
    bytes_per_s: Array = float("inf")

    def seconds(self, bytes_: Array, devices: int) -> Array:
        """Seconds of moving `bytes_` [...] from each device to each, [..., devices, devices]; 0 to itself."""
        check_number("handover.latency_s", np.where(np.isinf(self.latency_s), 0.0, self.latency_s), least=0.0)
        xp = namespace(bytes_, self)
        moving = self.latency_s + xp.asarray(bytes_)[..., None, None] / xp.asarray(self.bytes_per_s)
        return xp.where(np.eye(devices, dtype=bool), 0.0, moving)


class Placement(NamedTuple):
    """`total_s`: the pass from home to home; `device` [links]: index of where each runs; `device_s` [devices]: busy seconds;
    `handover_s` and `moves`: of all moves."""

    total_s: float
    device: np.ndarray
    device_s: np.ndarray
    handover_s: float
    moves: int


class ClassPlacement(NamedTuple):
    """`device`: name of the device of each class; `total_s` of the pass; `plain_s`: everything on the home device; `placements`
    tried, `seconds` of each."""

    device: dict[str, str]
    total_s: float
    plain_s: float
    placements: tuple[tuple[str, ...], ...]
    seconds: np.ndarray


def placement_time(
    seconds: Array, inflow_bytes: Array, handover: HandOver, *, home: int = 0, rounding: Rounding = exact
) -> Array:
    """Least seconds of the chain, [...]: `seconds` [links, devices], `inflow_bytes` [links], both with [...] behind the links where
    they vary (`seconds` [links, ..., devices]). The result returns to `home` with as many bytes as came in first."""
    xp = namespace(seconds, inflow_bytes, handover, rounding.temperature)
    seconds = xp.asarray(seconds)
    devices = seconds.shape[-1]
    moves = handover.seconds(inflow_bytes, devices)
    moves = moves + 0.0 * xp.where(xp.isfinite(seconds), seconds, 0.0)[..., None]
    best = moves[0][..., home, :] + seconds[0]

    def step(best: Array, link: tuple[Array, Array]) -> tuple[Array, None]:
        time_s, move_s = link
        return rounding.min_over(best[..., :, None] + move_s, axis=-2) + time_s, None

    if xp is np:
        for link in zip(seconds[1:], moves[1:]):
            best, _ = step(best, link)
    else:
        best, _ = jax.lax.scan(step, best, (seconds[1:], moves[1:]))
    return rounding.min_over(best + moves[0][..., :, home], axis=-1)


def best_placement(chain: Chain, handover: HandOver, *, home: str | None = None) -> Placement:
    """The cheapest device of every link of `chain`; the pass begins and ends on `home` (default: the first device)."""
    at = _index(chain, home)
    moves = np.asarray(handover.seconds(chain.inflow_bytes, len(chain.devices)))
    best = moves[0][at] + chain.seconds[0]
    came = []
    for time_s, move_s in zip(chain.seconds[1:], moves[1:]):
        options = best[:, None] + move_s
        came.append(np.argmin(options, axis=0))
        best = np.min(options, axis=0) + time_s
    ends = best + moves[0][:, at]
    device = [int(np.argmin(ends))]
    for origin in reversed(came):
        device.append(int(origin[device[-1]]))
    return _described(chain, moves, np.array(device[::-1]), at)


def placed_time(chain: Chain, device: Array, handover: HandOver, *, home: str | None = None) -> Placement:
    """The chain with every link on the device of index `device` [links], one after the other."""
    moves = np.asarray(handover.seconds(chain.inflow_bytes, len(chain.devices)))
    return _described(chain, moves, np.asarray(device), _index(chain, home))


def best_class_placement(
    chain: Chain, handover: HandOver, *, half: Chain | None = None, home: str | None = None
) -> ClassPlacement:
    """The cheapest device of every operator class, all placements tried: devices ^ classes (classes in the chain's own order).

    `half`: the chain of half the batch; then two halves run side by side (`interleaved_time`) wherever that is faster
    than the whole batch in one piece. `ValueError` for too many placements.
    """
    names = tuple(dict.fromkeys(chain.classes))
    count = len(chain.devices) ** len(names)
    if count > MOST_PLACEMENTS:
        raise ValueError(f"chain: {len(chain.devices)} devices ^ {len(names)} classes; at most {MOST_PLACEMENTS}")
    at = _index(chain, home)
    tried = np.array(list(product(range(len(chain.devices)), repeat=len(names))))  # [placements, classes]
    of_link = np.array([names.index(kind) for kind in chain.classes])
    device = tried[:, of_link].T  # [links, placements]

    def whole(part: Chain) -> tuple[np.ndarray, np.ndarray]:
        moves = np.asarray(handover.seconds(part.inflow_bytes, len(part.devices)))
        before = np.concatenate([np.full((1, count), at), device[:-1]])
        rows = np.arange(len(device))[:, None]
        move_s = moves[rows, before, device]
        return part.seconds[rows, device], np.concatenate([move_s, moves[0][device[-1], at][None]])

    own, moved = whole(chain)
    seconds = own.sum(axis=0) + moved.sum(axis=0)
    if half is not None:
        own, moved = whole(half)
        seconds = np.minimum(seconds, interleaved_time(own, moved, device, len(chain.devices)))
    best = int(np.argmin(seconds))
    plain = int(np.flatnonzero(np.all(tried == at, axis=1))[0])
    labels = tuple(tuple(chain.devices[d] for d in row) for row in tried)
    return ClassPlacement(dict(zip(names, labels[best])), float(seconds[best]), float(seconds[plain]), labels, seconds)


def _index(chain: Chain, home: str | None) -> int:
    if home is not None and home not in chain.devices:
        raise ValueError(f"home: {home!r} is no device of the chain (known: {', '.join(chain.devices)})")
    return chain.devices.index(home) if home is not None else 0


def _described(chain: Chain, moves: np.ndarray, device: np.ndarray, home: int) -> Placement:
    links = np.arange(len(device))
    before = np.concatenate([[home], device[:-1]])
    moved = moves[links, before, device].sum() + moves[0][device[-1], home]
    own = chain.seconds[links, device]
    busy = np.array([own[device == d].sum() for d in range(len(chain.devices))])
    changes = int(np.sum(before != device)) + int(device[-1] != home)
    return Placement(float(own.sum() + moved), device, busy, float(moved), changes)
