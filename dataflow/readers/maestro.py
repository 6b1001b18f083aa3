"""MAESTRO's directives as nested clusters (`dataflow.cluster_cost`), and as a problem, architecture and mapping of our own."""

from math import ceil
from typing import NamedTuple

from dataflow.architecture import Architecture, Storage, architecture
from dataflow.cluster_cost import ClusterCost, ClusterLevel, ClusterLoop, cluster_cost
from dataflow.mapping import Loop, Mapping, mapping
from dataflow.problem import Problem, contraction
from dataflow.readers.maestro_text import ClusterHardware, DirectiveLayer

_OUTPUT = {"Y": "P", "X": "Q", "Y'": "P", "X'": "Q"}
_KERNEL = {"Y": "R", "X": "S"}


class MaestroInputs(NamedTuple):
    """A layer in our own terms: levels "DRAM", "L2", one for each further cluster level, and "L1" in the processing elements."""

    problem: Problem
    architecture: Architecture
    mapping: Mapping


def directive_cost(layer: DirectiveLayer, hardware: ClusterHardware) -> ClusterCost:
    """Cycles and words sent, as MAESTRO counts them."""
    return cluster_cost(
        layer.sizes,
        cluster_levels(layer, hardware),
        hardware.noc_words_per_cycle,
        hardware.offchip_words_per_cycle,
        layer.stride_y,
        layer.stride_x,
        layer.kind == "DSCONV",
    )


def cluster_levels(layer: DirectiveLayer, hardware: ClusterHardware) -> tuple[ClusterLevel, ...]:
    """The cluster levels of a layer, windows over inputs (Y, X) turned into tiles of outputs (P, Q)."""
    units, left = [], hardware.processing_elements
    for i in range(len(layer.cluster_sizes) + 1):
        inner = 1
        for size in layer.cluster_sizes[i:]:
            inner *= size
        outside = left // inner
        if i == 0 and outside < 1:
            raise ValueError(f"layers.{layer.name}.Dataflow: clusters of {inner} units, expected at most {left}")
        units.append(outside if i == 0 else layer.cluster_sizes[i - 1])
    levels = []
    now = dict(layer.sizes)
    for i, directives in enumerate(layer.clusters):
        path = f"layers.{layer.name}.Dataflow.cluster {i}"
        tile = dict(now)
        for directive in directives:
            if directive.dimension in tile:
                tile[directive.dimension] = min(directive.size, tile[directive.dimension])
        loops = []
        for directive in directives:
            dim, size = directive.dimension, directive.size
            if dim in _KERNEL:
                stride = layer.stride_y if dim == "Y" else layer.stride_x
                size = max((size - tile[_KERNEL[dim]]) // stride + 1, 1)
            dim = _OUTPUT.get(dim, dim)
            if any(loop.dimension == dim for loop in loops):
                raise ValueError(f"{path}: two directives over '{directive.dimension}', expected one")
            loops.append(ClusterLoop(dim, size, directive.offset, directive.spatial))
            tile[dim] = min(size, now[dim])
        wide = [loop.dimension for loop in loops if loop.spatial and now[loop.dimension] > loop.size]
        if len(wide) > 1:
            raise ValueError(f"{path}: {' and '.join(wide)} both spatial over several tiles, expected one of them")
        levels.append(ClusterLevel(tuple(loops), units[i]))
        now = tile
    return tuple(levels)


def loop_nest(layer: DirectiveLayer, hardware: ClusterHardware) -> MaestroInputs:
    """The directives as loops: tiles of a level become temporal loops and spatial factors, what is left runs in the elements.

    The temporal loops of the outermost level run at "DRAM", so that "L2" holds what its units work on at a time; a cluster holds
    the tile it works on, too (MAESTRO sends nothing twice into one). Sizes that do not divide make the mapping ragged. Raises
    ValueError for a tile that steps by less or more than its size.
    """
    depthwise = layer.kind == "DSCONV"
    expression = (
        "Outputs[N,C,P,Q] += Weights[C,R,S] * Inputs[N,C,y*P+R,x*Q+S]"
        if depthwise
        else "Outputs[N,K,P,Q] += Weights[K,C,R,S] * Inputs[N,C,y*P+R,x*Q+S]"
    )
    sizes = {dim: size for dim, size in layer.sizes.items() if not (depthwise and dim == "K")}
    work = contraction(expression, sizes, {"y": layer.stride_y, "x": layer.stride_x})
    levels = cluster_levels(layer, hardware)
    names = ["DRAM", "L2", *(f"cluster {i}" for i in range(1, len(levels))), "L1"]
    loops: dict[str, list[Loop]] = {name: [] for name in names}
    now = dict(sizes)
    for i, (name, level) in enumerate(zip(names[1:], levels)):
        for loop in level.loops:
            if loop.dimension not in now:
                continue
            extent = now[loop.dimension]
            size = min(loop.size, extent)
            if extent > size and loop.offset != size:
                path = f"layers.{layer.name}.Dataflow.{loop.dimension}"
                raise ValueError(f"{path}: tiles of {size} that step by {loop.offset}, expected steps of {size}")
            tiles = ceil(extent / size)
            wide = min(tiles, level.units) if loop.spatial else 1
            loops[name if i else "DRAM"].append(Loop(loop.dimension, ceil(tiles / wide)))
            loops[name].append(Loop(loop.dimension, wide, "X"))
            now[loop.dimension] = size
    loops["L1"] = [Loop(dim, size) for dim, size in now.items()]
    words = {"L2": hardware.l2_words, "L1": hardware.l1_words}
    bandwidth = {"DRAM": hardware.offchip_words_per_cycle, "L2": hardware.noc_words_per_cycle}
    storage = [
        Storage(
            name=name,
            capacity_words=words.get(name, float("inf")),
            fanout_x=float(levels[i - 1].units) if 0 < i <= len(levels) else 1.0,
            read_words_per_cycle=bandwidth.get(name, float("inf")),
        )
        for i, name in enumerate(names)
    ]
    chip = architecture(storage, name="clusters")
    bounds = {dim: 1 for dim in sizes}
    for found in loops.values():
        for loop in found:
            bounds[loop.dimension] *= loop.bound
    return MaestroInputs(work, chip, mapping(work, chip, loops, None, bounds != sizes))
