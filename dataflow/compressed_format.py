"""Compressed tensors: what a tile of one takes up, data and metadata, under a format for each rank of its tree of fibres.

A format lists its ranks from the root to the leaves. A fibre of a rank has a fixed number of coordinates, each of which leads to
a fibre of the next rank (at the last rank: to a value). Kinds, and what one fibre stores:

- "U" uncompressed: nothing; every coordinate is present, empty or not;
- "B" bitmask: a bit for each coordinate;
- "CP" coordinate/payload: the coordinate of each child that is not empty;
- "RLE" run lengths: the run of empty children before each child that is not empty (and a placeholder for each run that
  outgrows `longest_run`);
- "UOP" uncompressed offset pairs (CSR's row pointers): coordinates + 1 offsets.

Below every kind but "U" an empty child stores nothing. A child that is not empty has no empty ancestor, so the expected number
of entries of a rank is its number of coordinates in the whole tile times the chance that a child holds a nonzero: exact for any
density model, by linearity. CSR is ("UOP", "CP"), a coordinate list one flattened "CP", block sparsity ("CP", "U").
Source: Wu et al., "Sparseloop", MICRO 2022; Chou et al., "Format abstraction for sparse tensor algebra", OOPSLA 2018.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from dataflow.density import Density, words_of
from dataflow.nest import Nest
from dataflow.problem import Tensor, unknown
from workloads.numeric import Array, namespace

#: Names of the rank formats, and the longer names that are read as them.
KINDS = ("U", "B", "CP", "RLE", "UOP")
_ALIASES = {
    "uncompressed": "U",
    "bitmask": "B",
    "coordinate": "CP",
    "coordinate payload": "CP",
    "run length": "RLE",
    "offset pair": "UOP",
    "uncompressed offset pair": "UOP",
}
#: Formats of whole tensors under their common names; the number of ranks is that of the tensor, or flattened.
_NAMED = {
    "CSR": ("UOP", "CP"),
    "CSC": ("UOP", "CP"),
    "COO": ("CP",),
    "bitmask": ("B",),
    "RLC": ("RLE",),
    "CSB": ("UOP", "CP", "U"),
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RankFormat:
    """One rank of a tree of fibres.

    - `dimensions`: those whose coordinates it spans, down to single elements; None: the tensor's next rank (the last
      rank of a format: all that is left, flattened).
    - `down_to`: a level; the rank spans every dimension, down to the tiles of that level, instead.
    - `bits`: of an entry (a coordinate, a run length, an offset); None: the fewest that hold the largest.
    - `longest_run`: of "RLE", the most empty children that one entry counts (2^bits - 1 in hardware); None: any number.
    """

    bits: Array | None = None
    longest_run: Array | None = None
    kind: str = field(default="U", metadata={"static": True})
    dimensions: tuple[str, ...] | None = field(default=None, metadata={"static": True})
    down_to: str | None = field(default=None, metadata={"static": True})


class RankEntries(NamedTuple):
    """One rank of a tile: coordinates of its fibres together, and the entries and bits that are stored (expected, worst)."""

    kind: str
    coordinates: Array
    entries: Array
    bits: Array
    worst_bits: Array


class Occupancy(NamedTuple):
    """What a tile takes up, all [...]: `data_words` are values, metadata is in bits; `worst_...` are upper bounds."""

    tile_words: Array
    data_words: Array
    metadata_bits: Array
    worst_data_words: Array
    worst_metadata_bits: Array
    ranks: tuple[RankEntries, ...]


def rank_format(kind: str, path: str = "format", **values) -> RankFormat:
    """A checked `RankFormat`; long names of the kinds are understood. ValueError naming the nearest known kind."""
    for key in values:
        if key not in (known := ("bits", "longest_run", "dimensions", "down_to")):
            raise ValueError(unknown("field", key, known, path))
    short = _ALIASES.get(kind.lower().replace("_", " "), kind.upper()) if isinstance(kind, str) else kind
    if short not in KINDS:
        raise ValueError(unknown("rank format", kind, [*KINDS, *_ALIASES], path))
    for key in ("bits", "longest_run"):
        value = values.get(key)
        if value is not None and not isinstance(value, jax.Array) and not _positive(value):
            raise ValueError(f"{path}.{key}: {value!r}, expected a positive number")
    if values.get("longest_run") is not None and short != "RLE":
        raise ValueError(f"{path}.longest_run: given for '{short}', expected for 'RLE' only")
    return RankFormat(kind=short, **values)


def _positive(value: Any) -> bool:
    return isinstance(value, int | float | np.ndarray | np.generic) and bool(
        np.all((np.asarray(value) > 0) & np.isfinite(value))
    )


def tensor_format(ranks, path: str = "format") -> tuple[RankFormat, ...]:
    """The ranks of a format, root first: from its common name ("CSR", "COO", "bitmask", "RLC", "CSB"), or a list of kinds."""
    if isinstance(ranks, str):
        names = {name.lower(): kinds for name, kinds in _NAMED.items()}
        kinds = names.get(ranks.lower(), (ranks,))
        if ranks.lower() not in names and ranks.upper() not in KINDS and ranks.lower() not in _ALIASES:
            raise ValueError(unknown("format", ranks, [*_NAMED, *KINDS], path))
        ranks = kinds
    if not isinstance(ranks, Iterable):
        raise ValueError(f"{path}: {ranks!r}, expected the name of a format or a list of rank formats")
    found = tuple(r if isinstance(r, RankFormat) else rank_format(r, f"{path}.ranks[{i}]") for i, r in enumerate(ranks))
    if not found:
        raise ValueError(f"{path}.ranks: empty, expected at least one rank format of {', '.join(KINDS)}")
    return found


def compresses(ranks: tuple[RankFormat, ...]) -> bool:
    """Whether a format leaves out empty children anywhere (all ranks uncompressed: a plain tensor)."""
    return any(rank.kind != "U" for rank in ranks)


def compresses_values(ranks: tuple[RankFormat, ...]) -> bool:
    """Whether a format stores no zero at all: its last rank is compressed."""
    return bool(ranks) and ranks[-1].kind != "U"


def occupancy(
    nest: Nest, tensor: Tensor, level: int, ranks: tuple[RankFormat, ...], density: Density, levels: tuple[str, ...]
) -> Occupancy:
    """What the tile of a tensor at a level takes up; no ranks: uncompressed. `levels`: names of the levels, outermost first."""
    extents = {d: nest.extent(d, level) for d in tensor.dimensions}
    whole = rank_extents(nest, tensor, nest.problem.sizes)
    tile = nest.tile_words(tensor, level)
    xp = namespace(extents, density, nest.problem, ranks)
    if not compresses(ranks):
        return Occupancy(tile, tile, 0.0, tile, 0.0, ())
    most = density.worst(rank_extents(nest, tensor, extents), whole)
    found: list[RankEntries] = []
    coordinates: Array = 1.0
    present = worst_present = share = 1.0
    data, worst_data = tile, tile
    for rank, bottom in zip(ranks, _bottoms(nest, tensor, extents, ranks, levels)):
        fibres, worst_fibres = present, worst_present
        shape = _coordinates(nest, tensor, extents, bottom)
        coordinates, extents = coordinates * shape, bottom
        if rank.kind != "U":
            child = rank_extents(nest, tensor, bottom)
            share = 1.0 - density.empty(child, whole)
            data = tile * share
            worst_data = xp.minimum(tile, most * words_of(child))
        dense = all(entry.kind == "U" for entry in found) and rank.kind == "U"
        present = coordinates * share
        worst_present = coordinates if dense else xp.minimum(coordinates, most)
        spare = _placeholders(xp, rank, shape, coordinates, present, share)
        entries, bits = _stored(xp, rank, shape, fibres, present + spare, most)
        worst_spare = 0.0 if rank.longest_run is None else coordinates / (rank.longest_run + 1.0)
        _, worst_bits = _stored(xp, rank, shape, worst_fibres, worst_present + worst_spare, most)
        found.append(RankEntries(rank.kind, coordinates, entries, bits, worst_bits))
    metadata, worst = sum(rank.bits for rank in found), sum(rank.worst_bits for rank in found)
    return Occupancy(tile, data, metadata, worst_data, worst, tuple(found))


def rank_extents(nest: Nest, tensor: Tensor, extents) -> list[Array]:
    """Extent of a tile along each rank of the tensor, in words, from its extents along the dimensions."""
    one = dict.fromkeys(extents, 1.0)
    return [nest.rank_words(rank, extents, one) * 1.0 for rank in tensor.ranks] or [1.0]


def check_format(tensor: Tensor, ranks: tuple[RankFormat, ...], levels: tuple[str, ...], path: str) -> None:
    """ValueError for a rank that names an unknown dimension or level, or for more ranks than the tensor has."""
    plain = [rank for rank in ranks if rank.dimensions is None and rank.down_to is None]
    if len(plain) > max(len(tensor.ranks), 1):
        raise ValueError(
            f"{path}.ranks: {len(plain)} ranks, expected at most {len(tensor.ranks)}, the ranks of {tensor.name}"
        )
    for r, rank in enumerate(ranks):
        for dim in rank.dimensions or ():
            if dim not in tensor.dimensions:
                raise ValueError(unknown("dimension", dim, sorted(tensor.dimensions), f"{path}.ranks[{r}].dimensions"))
        if rank.down_to is not None and rank.down_to not in levels:
            raise ValueError(unknown("level", rank.down_to, levels, f"{path}.ranks[{r}].down_to"))


def _bottoms(nest, tensor, extents, ranks, levels) -> list[dict[str, Array]]:
    """Extents of the children of each rank, by dimension."""
    found, now, left = [], dict(extents), list(tensor.ranks)
    for r, rank in enumerate(ranks):
        if r == len(ranks) - 1:
            now = dict.fromkeys(now, 1.0)
        elif rank.down_to is not None:
            inner = levels.index(rank.down_to)
            now = {d: namespace(v, nest.full[inner][d]).minimum(v, nest.full[inner][d]) for d, v in now.items()}
        else:
            spanned = rank.dimensions if rank.dimensions is not None else [d for d, _ in left.pop(0)]
            now = {d: 1.0 if d in spanned else v for d, v in now.items()}
        found.append(now)
    return found


def _coordinates(nest: Nest, tensor: Tensor, top, bottom) -> Array:
    """Coordinates of a fibre: places of a child in its parent; over single elements these are words, halo counted once."""
    total: Array = 1.0
    for rank in tensor.ranks:
        below = nest.rank_words(rank, bottom, dict.fromkeys(bottom, 1.0))
        xp = namespace(top, bottom, below)
        places: Array = 1.0
        for d, coefficient in rank:
            step = xp.where(below == 1.0, nest.problem.coefficient(coefficient), 1.0)
            places = places + step * (top[d] / bottom[d] - 1.0)
        total = total * places
    return total


def _stored(xp, rank: RankFormat, shape, fibres, listed, most) -> tuple[Array, Array]:
    """Entries of a rank and their bits, in a tile with `fibres` of the rank and `listed` children in them."""
    if rank.kind == "U":
        return 0.0 * listed, 0.0 * listed
    if rank.kind == "B":
        return fibres * shape, fibres * shape * (1.0 if rank.bits is None else rank.bits)
    if rank.kind == "UOP":
        bits = _bits_for(xp, most + 1.0) if rank.bits is None else rank.bits
        return fibres * (shape + 1.0), fibres * (shape + 1.0) * bits
    bits = _bits_for(xp, shape) if rank.bits is None else rank.bits
    return listed * 1.0, listed * bits


def _placeholders(xp, rank: RankFormat, shape, coordinates, present, share) -> Array:
    """Expected entries that only carry on a run of empty children longer than one entry counts; they bring no value.

    Runs are taken as geometric: each child that is not empty ends one, and a run of z needs floor(z / (longest + 1)) of them.
    """
    if rank.longest_run is None:
        return 0.0
    reach = rank.longest_run + 1.0
    again = xp.minimum(xp.clip(1.0 - share, 0.0, 1.0) ** reach, 1.0 - 1e-12)
    most = xp.maximum(coordinates - present, 0.0) / reach
    return xp.where(reach < shape, xp.minimum(present * again / (1.0 - again), most), 0.0)


def _bits_for(xp, values: Array) -> Array:
    """Fewest bits that tell `values` things apart, at least one."""
    return xp.maximum(xp.ceil(xp.log2(xp.maximum(values, 1.0)) - 1e-9), 1.0)
