"""Cycles of data-centric directives (MAESTRO): clusters within clusters, each step of one as long as the whole of the next.

At a cluster level the units work on tiles; loops over tiles run outermost first. When a loop moves on, the tensors that depend on
its dimension are sent anew (all others are taken to be in place, even where inner loops start over), only the new columns where
the innermost loop of a tensor slides. With V such words over the network's bandwidth B_n, and T the cycles of the level inside,

    T_level = ceil(V_first / B_n) + sum over steps of max(T, ceil(V_step / B_n), floor(V_tile / B_off) at the outermost level)

and T of a unit without clusters is its MACs. Weights and inputs count, one word to many units once, but the overlap of the windows
of neighbouring units twice; off-chip, the whole tile of all units is charged at every step; outputs are free. Derived from the
tool's own results: cycles and words sent of all 49 layers recorded are met exactly. One layer per call, in plain numbers: it
walks the distinct tiles of each level, which differ in number from layer to layer.
Source of the directives and of the recursion: Kwon et al., MICRO 2019.
"""

from functools import cache
from itertools import product
from math import ceil, prod
from typing import NamedTuple

from dataflow.problem import unknown

#: Output rows and columns; the window of an input along them has the extent of R and S.
_WINDOW = {"P": "R", "Q": "S"}


class ClusterLoop(NamedTuple):
    """A dimension at a cluster level: indices of a tile (along P and Q: outputs), and of the step to the next tile."""

    dimension: str
    size: int
    offset: int
    spatial: bool = False


class ClusterLevel(NamedTuple):
    """Loops outermost first; dimensions not listed are taken whole. `units`: how many share the tiles of the spatial loop."""

    loops: tuple[ClusterLoop, ...]
    units: int


class ClusterCost(NamedTuple):
    """Cycles of a layer, words sent from the shared buffer by tensor, and units of the outermost level in use at most."""

    cycles: int
    sent_words: dict[str, int]
    macs: int


class _Place(NamedTuple):
    """A loop with its tile at hand: number of tiles (spatial: of folds) and (repeats, tile extent, units in use) of each sort."""

    loop: ClusterLoop
    steps: int
    sorts: tuple[tuple[int, int, int], ...]


def cluster_cost(
    sizes: dict[str, int],
    levels: tuple[ClusterLevel, ...],
    noc_words_per_cycle: float = float("inf"),
    offchip_words_per_cycle: float = float("inf"),
    stride_y: int = 1,
    stride_x: int = 1,
    depthwise: bool = False,
) -> ClusterCost:
    """Cost of one convolution over N, K, C, R, S, P, Q (`sizes`) on nested clusters, outermost first.

    Raises ValueError for an unknown dimension, and for sizes or units that are not positive.
    """
    _check(sizes, levels)
    relevant = {"weights": "CRS" if depthwise else "KCRS", "inputs": "NCRSPQ"}

    def words(tensor: str, tile: dict[str, int], shared: str, units: int) -> int:
        unit = prod(tile[d] for d in relevant[tensor])
        if tensor == "inputs":
            rows, columns = (tile["P"] - 1) * stride_y + tile["R"], (tile["Q"] - 1) * stride_x + tile["S"]
            unit = tile["N"] * tile["C"] * rows * columns
        return unit * (units if shared in relevant[tensor] else 1)

    @cache
    def cost(level: int, extents: tuple[int, ...]) -> tuple[int, tuple[int, int]]:
        """Cycles, and words sent of weights and of inputs, of a unit of the level outside with a tile of these extents."""
        whole = dict(zip(sizes, extents))
        if level == len(levels):
            return prod(extents), (0, 0)
        places = [_placed(loop, whole[loop.dimension], levels[level].units) for loop in levels[level].loops]
        shared = next((p.loop.dimension for p in places if p.loop.spatial and p.sorts[0][2] > 1), "none")

        def state(chosen) -> tuple[dict[str, int], int]:
            tile, units = dict(whole), 1
            for place, (_, extent, used) in zip(places, chosen):
                tile[place.loop.dimension] = extent
                units = max(units, used)
            return tile, units

        cycles, sent = 0, [0, 0]
        first = [place.sorts[0] for place in places]
        for moving in range(-1, len(places)):
            if moving >= 0 and places[moving].steps == 1:
                continue
            choices = [place.sorts for place in places[: max(moving, 0)]]
            if moving >= 0:
                repeats, *rest = places[moving].sorts[0]
                later = [(repeats - 1, *rest), *places[moving].sorts[1:]]
                choices.append(tuple(sort for sort in later if sort[0] > 0))
            for chosen in product(*choices):
                tile, units = state([*chosen, *first[len(chosen) :]])
                times = prod(sort[0] for sort in chosen)
                new = [
                    _new_words(
                        words, tensor, relevant[tensor], tile, shared, units, places, moving, (stride_y, stride_x)
                    )
                    for tensor in relevant
                ]
                inner = cost(level + 1, tuple(tile.values()))[0]
                send = ceil(sum(new) / noc_words_per_cycle)
                step = inner + send if moving < 0 else max(inner, send)
                if level == 0:
                    held = sum(words(tensor, tile, shared, units) for tensor in relevant)
                    step = max(step, int(held // offchip_words_per_cycle))
                cycles += times * step
                sent = [total + times * count for total, count in zip(sent, new)]
        return cycles, (sent[0], sent[1])

    cycles, sent = cost(0, tuple(sizes.values()))
    return ClusterCost(cycles, dict(zip(relevant, sent)), prod(sizes.values()))


def _placed(loop: ClusterLoop, extent: int, units: int) -> _Place:
    size = min(loop.size, extent)
    tiles = 1 if extent <= size else ceil((extent - size) / loop.offset) + 1
    if loop.spatial:
        folds = ceil(tiles / units)
        last = tiles - (folds - 1) * units
        if folds == 1 or last == units:
            return _Place(loop, folds, ((folds, size, min(units, tiles)),))
        return _Place(loop, folds, ((folds - 1, size, units), (1, size, last)))
    last = extent - (tiles - 1) * loop.offset
    if tiles == 1 or last == size:
        return _Place(loop, tiles, ((tiles, size, 1),))
    return _Place(loop, tiles, ((tiles - 1, size, 1), (1, last, 1)))


def _new_words(words, tensor, relevant, tile, shared, units, places, moving, strides) -> int:
    """Words of a tensor that are sent when a loop moves on (-1: at the very first step)."""
    if moving < 0:
        return words(tensor, tile, shared, units)
    loop = places[moving].loop
    if loop.dimension not in relevant:
        return 0
    restarts = any(place.steps > 1 and place.loop.dimension in relevant for place in places[moving + 1 :])
    if loop.dimension in _WINDOW and not loop.spatial and not restarts:
        kernel, stride = _WINDOW[loop.dimension], strides["PQ".index(loop.dimension)]
        window = (tile[loop.dimension] - 1) * stride + tile[kernel]
        fresh = min(window, loop.offset * stride)
        return words(tensor, tile, shared, units) * fresh // window
    return words(tensor, tile, shared, units)


def _check(sizes: dict[str, int], levels: tuple[ClusterLevel, ...]) -> None:
    for dim in "NKCRSPQ":
        if dim not in sizes:
            raise ValueError(f"sizes.{dim}: missing, expected a positive integer")
    for dim, size in sizes.items():
        if dim not in "NKCRSPQ":
            raise ValueError(unknown("dimension", dim, "NKCRSPQ", "sizes"))
        if size < 1 or size != int(size):
            raise ValueError(f"sizes.{dim}: {size!r}, expected a positive integer")
    for i, level in enumerate(levels):
        if level.units < 1:
            raise ValueError(f"levels[{i}].units: {level.units!r}, expected a positive integer")
        for loop in level.loops:
            if loop.dimension not in sizes:
                raise ValueError(unknown("dimension", loop.dimension, sizes, f"levels[{i}].loops"))
            if loop.size < 1 or loop.offset < 1:
                raise ValueError(
                    f"levels[{i}].loops.{loop.dimension}: {tuple(loop)}, expected positive sizes and offsets"
                )
