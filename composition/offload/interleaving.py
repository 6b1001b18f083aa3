"""Two half batches on the devices of a group: while one attends in memory, the other multiplies on the arrays.

Both halves A and B walk the same chain. Links in a row on one device are a *run* of s seconds; every device takes A's run,
then B's, then the next it is given. With m the move before run r, f the time at which its device is free,

    A: a = max(a + m, f) + s,  f = a;      B: b = max(b + m, f) + s,  f = b;      total = b after the way home

Bounds: at least either half alone, and 2 x the busiest device; at most one half after the other, which it is where nothing moves.
Source: sub-batch interleaving, Heo et al., "NeuPIMs", ASPLOS 2024. Left out: contention of the two halves' moves for the link, and
of the devices for a memory they share (banks that compute cannot be read by the host).
"""

import numpy as np

from workloads.numeric import Array


def interleaved_time(seconds: Array, moved_s: Array, device: Array, devices: int) -> np.ndarray:
    """Seconds until both halves are done, [...].

    `seconds` [links, ...]: of each link of a half batch where it runs; `moved_s` [links + 1, ...]: of the move before it, and of
    the way home; `device` [links, ...]: index below `devices`.
    """
    seconds, moved_s, device = np.asarray(seconds, float), np.asarray(moved_s, float), np.asarray(device)
    shape = seconds.shape[1:]
    free = np.zeros((devices, *shape))
    first, second = np.zeros(shape), np.zeros(shape)
    run, move, where = seconds[0], moved_s[0], device[0]
    for link in range(1, len(seconds) + 1):
        last = link == len(seconds)
        ends = np.ones(shape, dtype=bool) if last else device[link] != where
        if np.any(ends):
            at = np.take_along_axis(free, where[None], axis=0)[0]
            one = np.maximum(first + move, at) + run
            two = np.maximum(second + move, one) + run
            first, second = np.where(ends, one, first), np.where(ends, two, second)
            np.put_along_axis(free, where[None], np.where(ends, two, at)[None], axis=0)
        if last:
            break
        run = np.where(ends, seconds[link], run + seconds[link])
        move = np.where(ends, moved_s[link], move)
        where = device[link]
    return second + moved_s[-1]
