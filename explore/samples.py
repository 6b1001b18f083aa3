"""Which points of a space are visited, as a numbered sequence: any range of numbers can be produced on its own.

    grid      every combination of the parameters' grid values
    random    independent and uniform
    sobol     a scrambled Sobol sequence (low discrepancy; best with 2^m points)
    latin     Latin hypercube: every parameter's values stratified into as many strata as there are points

A sweep can so be cut into chunks that are done in any order, by anyone, with the same points.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import qmc

from explore.space import Columns, Space
from hardware.paths import unknown

METHODS = ("grid", "random", "sobol", "latin")
#: Points per block of random numbers; a range is cut from whole blocks, so that chunks of any size see the same points.
_DRAWN = 2**14
#: Points per block of the Sobol sequence that differ in their low bits only.
_BLOCK = 4096
#: A Latin hypercube needs a permutation of all points per parameter.
MOST_LATIN = 2**22
#: Bits of a coordinate of the Sobol sequence (and of the number of its points).
_BITS = 32


@dataclass(frozen=True)
class Samples:
    """`count` points of `space` by `method` ("grid": all of them) from `seed`."""

    space: Space
    method: str
    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        _check_method(self.method)
        if not 1 <= self.count <= 2**53:
            raise ValueError(f"samples: {self.count!r} points; expected 1 to 2^53")
        if self.method == "grid" and self.count != self.space.grid_points:
            raise ValueError(
                f"samples: a grid has all its {self.space.grid_points} points, not {self.count}; "
                "expected another method (sobol, random, latin) with a count"
            )
        if self.method == "latin" and self.count > MOST_LATIN:
            raise ValueError(f"samples: {self.count} points of a Latin hypercube; at most {MOST_LATIN}, or take sobol")
        if self.method == "sobol" and self.count > 2**_BITS:
            raise ValueError(f"samples: {self.count} points of a Sobol sequence; at most 2^{_BITS}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"samples: seed {self.seed!r}; expected a whole number of at least 0")

    def columns(self, start: int, stop: int) -> Columns:
        """Values of the points numbered [start, stop)."""
        if not 0 <= start <= stop <= self.count:
            raise ValueError(f"samples: points [{start}, {stop}) of {self.count}")
        if self.method == "grid":
            return self.space.of_grid(start, stop)
        return self.space.of_unit(self.unit(start, stop))

    def unit(self, start: int, stop: int) -> np.ndarray:
        """Positions [points, parameters] in the unit cube (not for grids)."""
        width = len(self.space.names)
        if self.method == "sobol":
            return _sobol(start, stop, width, self.count, self.seed)
        if self.method == "latin":
            strata = _strata(self.count, width, self.seed)[start:stop]
            return (strata + self._random(start, stop, width)) / self.count
        return self._random(start, stop, width)

    def _random(self, start: int, stop: int, width: int) -> np.ndarray:
        first, last = start // _DRAWN, -(-stop // _DRAWN)
        found = np.empty(((last - first) * _DRAWN, width))
        for block, part in zip(range(first, last), np.split(found, last - first) if last > first else ()):
            np.random.Generator(np.random.SFC64([self.seed, block])).random(out=part)
        return found[start - first * _DRAWN : stop - first * _DRAWN]


def _sobol(start: int, stop: int, width: int, count: int, seed: int) -> np.ndarray:
    """Points [start, stop): point i is the exclusive or of the direction numbers at the bits of i's Gray code."""
    directions, shift = _directions(width, max(count, 2), seed)
    index = np.arange(start, stop, dtype=np.int64)
    gray = index ^ (index >> 1)
    low = gray & (_BLOCK - 1)
    bits = _BLOCK.bit_length() - 1
    table = np.zeros((_BLOCK, width), dtype=np.int64)
    for bit in range(min(bits, len(directions))):
        table[1 << bit : 2 << bit] = table[: 1 << bit] ^ directions[bit]
    blocks = np.arange(start // _BLOCK, -(-stop // _BLOCK), dtype=np.int64)
    above = np.broadcast_to(shift, (len(blocks), width)).copy()
    for bit in range(bits, len(directions)):  # the same for a whole block
        above ^= np.where(((blocks ^ (blocks >> 1)) >> (bit - bits) & 1)[:, None], directions[bit], 0)
    return (table[low] ^ above[index // _BLOCK - blocks[0]]) * 2.0**-_BITS


@lru_cache(maxsize=4)
def _directions(width: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scrambled direction numbers [bits, parameters] and the shift [parameters], read off the points 0, 1, 2, 4, ..."""
    engine = qmc.Sobol(width, scramble=True, bits=_BITS, rng=np.random.default_rng(seed))
    depth = int(count - 1).bit_length()
    points, at = [], 0
    for index in (0, *(1 << bit for bit in range(depth))):
        if index > at:
            engine.fast_forward(index - at)
        points.append((engine.random(1)[0] * 2.0**_BITS).astype(np.int64))
        at = index + 1
    shift = points[0]
    directions = np.zeros((depth, width), dtype=np.int64)
    for bit in range(depth):  # the Gray code of 2^bit has bits `bit` and `bit - 1`
        directions[bit] = points[bit + 1] ^ shift ^ (directions[bit - 1] if bit else 0)
    return directions, shift


@lru_cache(maxsize=2)
def _strata(count: int, width: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.stack([generator.permutation(count) for _ in range(width)], axis=-1)


def samples(space: Space, method: str = "grid", count: int | None = None, seed: int = 0) -> Samples:
    """`count` points of `space`; a grid takes all of its points."""
    if method == "grid":
        return Samples(space, method, space.grid_points if count is None else count, seed)
    _check_method(method)
    if count is None:
        raise ValueError(f"samples: how many points by {method!r}? expected a count")
    return Samples(space, method, int(count), seed)


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise unknown("samples: unknown method", method, METHODS)
