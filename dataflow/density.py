"""How the nonzeros of a tensor lie: the chance that a tile holds none, its mean and its largest number of nonzeros.

Every model answers for a tile given by its extent along each rank of the tensor, in words of a tensor of extents `whole`:

- `mean(whole)`: share of nonzeros;
- `empty(tile, whole)`: probability, over the tiles of the tensor, that a tile holds no nonzero;
- `worst(tile, whole)`: an upper bound of the nonzeros of a tile.

Uniform: n = density N nonzeros anywhere among N words, so P(empty) = C(N - s, n) / C(N, n) for a tile of s words.
Evenly spread: each tile of s words holds floor(s density) or the next integer, so P(empty) = max(0, 1 - s density).
n:m: n nonzeros anywhere in each block of m words along one rank. Banded and measured tensors are counted, over tiles that
start at multiples of their extents. Source: Wu et al., "Sparseloop", MICRO 2022 (statistical density models).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import numpy as np
from scipy.special import betaln

from workloads.numeric import Array, namespace

#: Extents along the ranks of a tensor.
Extents = Sequence[Array]
_WHOLE = 1e-9  # a product such as 96 * 0.25 that misses an integer by less counts as that integer


class Density(Protocol):
    """What every density model answers (see the module)."""

    def mean(self, whole: Extents) -> Array:
        """Share of nonzeros of the tensor, [...]."""
        ...

    def empty(self, tile: Extents, whole: Extents) -> Array:
        """Probability that a tile holds no nonzero, [...]."""
        ...

    def worst(self, tile: Extents, whole: Extents) -> Array:
        """Most nonzeros that a tile can hold, words, [...]."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Uniform:
    """A fixed number of nonzeros, `density` times the words, at random places (hypergeometric)."""

    density: Array = 1.0

    def mean(self, whole: Extents) -> Array:
        """See `Density`."""
        return self.density

    def empty(self, tile: Extents, whole: Extents) -> Array:
        """C(N - s, n) / C(N, n); n need not be whole (the binomials are continued by the gamma function)."""
        words = words_of(whole)
        return _none_drawn(words, self.density * words, words_of(tile))

    def worst(self, tile: Extents, whole: Extents) -> Array:
        """The tile full, or all nonzeros of the tensor."""
        xp = namespace(self.density, tile, whole)
        return xp.minimum(words_of(tile), _whole_up(xp, self.density * words_of(whole)))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class EvenlySpread:
    """Nonzeros as even as integers allow: any tile holds its share, rounded down or up ("fixed structured")."""

    density: Array = 1.0

    def mean(self, whole: Extents) -> Array:
        """See `Density`."""
        return self.density

    def empty(self, tile: Extents, whole: Extents) -> Array:
        """max(0, 1 - s density)."""
        return namespace(self.density, tile).maximum(1.0 - self.density * words_of(tile), 0.0)

    def worst(self, tile: Extents, whole: Extents) -> Array:
        """The share, rounded up."""
        return _whole_up(namespace(self.density, tile), self.density * words_of(tile))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Structured:
    """n:m sparsity: every aligned block of `m` words along the rank `rank` holds exactly `n` nonzeros, at random places.

    Tiles start at a block's start, or divide it; another tile is treated as the former.
    """

    n: Array
    m: Array
    rank: int = field(default=-1, metadata={"static": True})

    def mean(self, whole: Extents) -> Array:
        """n / m."""
        return self.n / self.m

    def empty(self, tile: Extents, whole: Extents) -> Array:
        """A tile as long as a block is never empty; a shorter one is where all the parts of blocks that it cuts are."""
        xp = namespace(self.n, self.m, tile)
        along = tile[self.rank]
        part = _none_drawn(self.m, self.n, xp.minimum(along, self.m))
        return part ** (words_of(tile) / along)

    def worst(self, tile: Extents, whole: Extents) -> Array:
        """n for each block, and what a last part of one may hold."""
        xp = namespace(self.n, self.m, tile)
        along = tile[self.rank]
        blocks = xp.floor(along / self.m)
        return words_of(tile) / along * (blocks * self.n + xp.minimum(self.n, along - blocks * self.m))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Banded:
    """Nonzero where |row - column| <= `half_width`, in a tensor whose ranks `ranks` have the extents `shape`."""

    half_width: Array
    shape: tuple[int, int] = field(metadata={"static": True})
    ranks: tuple[int, int] = field(default=(0, 1), metadata={"static": True})

    def mean(self, whole: Extents) -> Array:
        """Words in the band over all words."""
        return self._touched(1.0, 1.0)

    def empty(self, tile: Extents, whole: Extents) -> Array:
        """Share of the tiles that the band misses, counted row by row."""
        return 1.0 - self._touched(tile[self.ranks[0]], tile[self.ranks[1]])

    def worst(self, tile: Extents, whole: Extents) -> Array:
        """At most the band's width in each row of a tile, and in each column."""
        xp = namespace(self.half_width, tile)
        rows, columns, width = tile[self.ranks[0]], tile[self.ranks[1]], 2.0 * self.half_width + 1.0
        most = xp.minimum(rows * xp.minimum(columns, width), columns * xp.minimum(rows, width))
        return words_of(tile) / (rows * columns) * most

    def _touched(self, rows: Array, columns: Array) -> Array:
        xp = namespace(self.half_width, rows, columns)
        a, b, w = (xp.asarray(v, dtype=float)[..., None] for v in (rows, columns, self.half_width))
        top = xp.floor(xp.arange(float(self.shape[0])) / a) * a
        bottom = xp.minimum(top + a, float(self.shape[0])) - 1.0
        across = xp.ceil(self.shape[1] / b)
        first = xp.maximum(xp.ceil((top - w + 1.0) / b) - 1.0, 0.0)
        last = xp.minimum(xp.floor((bottom + w) / b), across - 1.0)
        return xp.mean(xp.maximum(last - first + 1.0, 0.0) / across, axis=-1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Measured:
    """An actual tensor: `sums[i, j, ...]` counts the nonzeros before (i, j, ...) along every rank (see `measured`)."""

    sums: Array

    def mean(self, whole: Extents) -> Array:
        """Nonzeros over words."""
        words = float(np.prod([n - 1 for n in self.sums.shape]))
        return self.sums[(-1,) * self.sums.ndim] / words

    def empty(self, tile: Extents, whole: Extents) -> Array:
        """Share of the tiles without a nonzero."""
        xp, held = self._held(tile)
        return xp.mean(1.0 * (held == 0), axis=tuple(range(-self.sums.ndim, 0)))

    def worst(self, tile: Extents, whole: Extents) -> Array:
        """Most nonzeros of any tile."""
        xp, held = self._held(tile)
        return xp.max(held, axis=tuple(range(-self.sums.ndim, 0)))

    def _held(self, tile: Extents) -> tuple[Any, Array]:
        """Nonzeros of the tile around each word of the tensor, [..., ranks]."""
        xp, ranks = namespace(self.sums, tile), self.sums.ndim
        starts, ends = [], []
        for r in range(ranks):
            length = self.sums.shape[r] - 1
            extent = xp.asarray(tile[r], dtype=float)[(..., *(None,) * ranks)]
            word = xp.arange(float(length)).reshape([-1 if k == r else 1 for k in range(ranks)])
            start = xp.floor(word / extent) * extent
            starts.append(start.astype(int))
            ends.append(xp.minimum(start + extent, float(length)).astype(int))
        held: Array = 0.0
        for corner in range(2**ranks):
            picked = [(starts if corner >> r & 1 else ends)[r] for r in range(ranks)]
            held = held + (-1.0) ** corner.bit_count() * xp.asarray(self.sums)[tuple(picked)]
        return xp, held


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Histogram:
    """Occupancies measured at some tile sizes: `tile_words` [k] increasing, `empty_share` and `most` [k] at each of them.

    Between two sizes the share of empty tiles is interpolated over ln(words), as is the largest occupancy.
    """

    density: Array
    tile_words: Array
    empty_share: Array
    most: Array

    def mean(self, whole: Extents) -> Array:
        """See `Density`."""
        return self.density

    def empty(self, tile: Extents, whole: Extents) -> Array:
        """Interpolated, and 1 - density for a single word."""
        xp = namespace(self, tile)
        one = xp.asarray([0.0]), xp.asarray([1.0]) * (1.0 - self.density)
        sizes = xp.concatenate([one[0], xp.log(xp.asarray(self.tile_words) * 1.0)])
        return xp.interp(xp.log(words_of(tile) * 1.0), sizes, xp.concatenate([one[1], xp.asarray(self.empty_share)]))

    def worst(self, tile: Extents, whole: Extents) -> Array:
        """Interpolated, at least 1, at most the tile."""
        xp = namespace(self, tile)
        sizes = xp.concatenate([xp.asarray([0.0]), xp.log(xp.asarray(self.tile_words) * 1.0)])
        most = xp.concatenate([xp.asarray([1.0]), xp.asarray(self.most) * 1.0])
        return xp.minimum(xp.interp(xp.log(words_of(tile) * 1.0), sizes, most), words_of(tile))


def measured(mask: Array) -> Measured:
    """The density model of an actual tensor: `mask` [ranks] is nonzero where the tensor is."""
    try:
        values = np.asarray(mask)
    except ValueError:  # rows of unequal lengths
        values = np.asarray("ragged")
    if values.dtype.kind not in "biuf" or np.any(np.isnan(values)):
        raise ValueError(f"density.mask: {repr(mask)[:60]}, expected an array of numbers, nonzero where the tensor is")
    held = values != 0
    if held.ndim == 0 or held.size == 0:
        raise ValueError(f"density.mask: shape {held.shape}, expected the tensor, a rank per axis")
    sums = np.zeros([n + 1 for n in held.shape])
    sums[(slice(1, None),) * held.ndim] = held
    for axis in range(held.ndim):
        sums = np.cumsum(sums, axis=axis)
    return Measured(sums)


def histogram(occupancies: Mapping[int, Sequence[int]]) -> Histogram:
    """The density model from histograms: `{tile words: [tiles with 0 nonzeros, with 1, ...]}`, any number of tile sizes."""
    if not isinstance(occupancies, Mapping) or not occupancies:
        raise ValueError(
            f"density.occupancies: {occupancies!r}, expected {{tile words: [tiles with 0, 1, ... nonzeros]}}"
        )
    for words in occupancies:
        if isinstance(words, bool) or not isinstance(words, int | np.integer) or words < 1:
            raise ValueError(f"density.occupancies: {words!r}, expected a positive integer, the words of a tile")
    means, empty, most = [], [], []
    for words in sorted(occupancies):
        try:
            tiles = np.asarray(occupancies[words], dtype=float)
        except (TypeError, ValueError):
            tiles = np.zeros(0)
        counted = tiles.ndim == 1 and 0 < len(tiles) <= words + 1 and bool(np.all((tiles >= 0) & np.isfinite(tiles)))
        if not counted or tiles.sum() == 0:
            raise ValueError(f"density.occupancies.{words}: {occupancies[words]!r}, expected up to {words + 1} counts")
        means.append(float(np.sum(tiles * np.arange(len(tiles))) / tiles.sum() / words))
        empty.append(float(tiles[0] / tiles.sum()))
        most.append(float(np.max(np.nonzero(tiles)[0])))
    sizes = np.asarray(sorted(occupancies), dtype=float)
    return Histogram(float(np.mean(means)), sizes, np.asarray(empty), np.asarray(most))


def words_of(extents: Extents) -> Array:
    """Product of the extents, [...]."""
    total: Array = 1.0
    for extent in extents:
        total = total * extent
    return total


def _none_drawn(words: Array, nonzeros: Array, drawn: Array) -> Array:
    """Probability that `drawn` of `words` words hold none of the `nonzeros`: B(N - s + 1, s) / B(N - n - s + 1, s)."""
    xp = namespace(words, nonzeros, drawn)
    log_beta = betaln if xp is np else jax.scipy.special.betaln
    room = words - nonzeros - drawn
    possible = room > -1.0 + _WHOLE
    inside = xp.where(possible, room, 0.0) + 1.0
    chance = xp.exp(log_beta(xp.maximum(words - drawn, 0.0) + 1.0, drawn * 1.0) - log_beta(inside, drawn * 1.0))
    chance = xp.where(drawn == 1.0, 1.0 - nonzeros / words, xp.minimum(chance, 1.0))
    return xp.where(possible, chance, 0.0)


def _whole_up(xp: Any, value: Array) -> Array:
    return xp.ceil(value - _WHOLE * xp.maximum(value, 1.0))
