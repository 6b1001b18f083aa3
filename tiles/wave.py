"""Waves: how a grid of equal tiles lands on the cores of a chip."""

from typing import NamedTuple

from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace


class Wave(NamedTuple):
    """How a grid of equal tiles lands on a chip.

    `tiles`: tiles in the grid; `waves`: passes over the chip as they cost time; `tail_fill`: busy fraction of the
    last pass.
    """

    tiles: Array
    waves: Array
    tail_fill: Array


def wave(tiles: Array, slots: Array, balance: Array = 0.0, *, rounding: Rounding = exact) -> Wave:
    """`tiles` equal tiles on `slots` cores (cores times resident tiles per core), [...].

    waves = (1 - balance) ceil(tiles / slots) + balance max(tiles / slots, 1). `balance` = 0 is a plain grid or a static
    persistent kernel: a last wave that is 10 % full costs a whole one. `balance` = 1 is a stream-K kernel, or a
    library that always finds a tile whose waves come out even: only the first wave is indivisible. Arguments broadcast.
    """
    passes = tiles / slots
    # A grid that does not fill the chip takes one wave, however few its tiles are: there is no slope below one.
    filled = namespace(passes).maximum(passes, 1.0)
    whole = rounding.ceil(filled)
    balanced = rounding.maximum(passes, 1.0) if rounding.mode == "smooth" else filled
    return Wave(tiles, whole + balance * (balanced - whole), tiles / (whole * slots))
