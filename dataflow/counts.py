"""Words read, filled and updated at each level for each tensor, in closed form (see `nest` for the sums)."""

from typing import NamedTuple

from dataflow.architecture import Architecture
from dataflow.mapping import Mapping, check_names
from dataflow.nest import Nest
from dataflow.problem import Problem, Tensor
from workloads.numeric import Array


class TensorCounts(NamedTuple):
    """Traffic of one tensor at one level, words, all [...]. Per instance = mean over the instances that take part.

    `reads`: words read to serve the level below (drains to the level above are part of its `updates`, not counted
    here); `fills`: words written from the level above; `updates`: partial sums written from below.
    """

    tile_words: Array
    instances: Array
    reads: Array
    fills: Array
    updates: Array
    partition_words: Array


class Counts(NamedTuple):
    """`words[level][tensor]`, the cycles in which compute issues (no stalls), MACs, and the compute units that take
    part."""

    words: dict[str, dict[str, TensorCounts]]
    compute_cycles: Array
    macs: Array
    compute_units: Array


def counts(problem: Problem, architecture: Architecture, mapping: Mapping) -> Counts:
    """All access counts of a mapping; problem sizes, hardware and mapping broadcast, names are static.

    Includes: halo reuse between sliding tiles, multicast to children that need the same tile at the same step,
    reduction of partial sums over space, elision of the first read of a partial sum. Excludes: reuse between
    neighbouring children, rounding to blocks. An operand is read from its innermost level once per MAC (there is no
    register at the multiplier unless a level models one).
    """
    check_names(mapping, problem, architecture)
    nest = Nest(problem, mapping)
    depth = nest.depth
    used = [_instances(nest, i) for i in range(depth + 1)]
    words: dict[str, dict[str, TensorCounts]] = {name: {} for name in mapping.levels}
    for tensor in problem.tensors:
        kept = [i for i in range(depth) if tensor.name in mapping.keeps[i]]
        below = [*kept[1:], depth]
        for n, (level, child) in enumerate(zip(kept, below)):
            storage = architecture.levels[level]
            merge = storage.spatial_reduction if tensor.output else storage.multicast
            wires = child > level + 1 and not any(between.stores for between in architecture.levels[level + 1 : child])
            window = level + 1 if wires else child
            fed = window < depth or architecture.compute.holds_operands
            served = _served(nest, tensor, level, window, merge, fed)
            served = served / used[level] if nest.ragged else served
            held = _partition(nest, tensor, level, used[level]) if tensor.output else 0.0
            filled: Array = 0.0
            if n > 0:
                filled = _filled(nest, tensor, level)
                filled = filled / used[level] if nest.ragged else filled
            if tensor.output:
                reads, fills, updates = served - held, filled - (held if n > 0 else 0.0), served
            else:
                reads, fills, updates = served, filled, 0.0
            tile = nest.tile_words(tensor, level)
            words[mapping.levels[level]][tensor.name] = TensorCounts(tile, used[level], reads, fills, updates, held)
    cycles: Array = 1.0
    for d in nest.dims:
        cycles = cycles * nest.passes(d, depth, lambda i: True, lambda i: False)
    return Counts(words, cycles, problem.macs, used[depth])


def _instances(nest: Nest, level: int) -> Array:
    """Instances of a level that ever hold data."""
    total: Array = 1.0
    for d in nest.dims:
        total = total * nest.passes(d, level, lambda i: False, lambda i: True)
    return total


def _filled(nest: Nest, tensor: Tensor, level: int) -> Array:
    """Words fetched into one instance of a level (ragged: into all of them)."""
    return nest.fetched(tensor, level, lambda d, i: nest.ragged)


def _served(nest: Nest, tensor: Tensor, level: int, window: int, merge: bool, fed: bool) -> Array:
    """Words that one instance of a level (ragged: all of them) exchanges with the tiles of level `window`.

    `merge`: equal tiles are sent (or reduced) once; `fed`: tiles are held between steps (else each MAC takes its
    word anew).
    """

    def apart(d: str, i: int) -> bool:
        return (i >= level and (not merge or d in tensor.dimensions)) or (i < level and nest.ragged)

    if fed:
        total = nest.fetched(tensor, window, apart)
    else:
        total = 1.0
        for d in nest.dims:
            total = total * nest.passes(d, window, lambda i: True, lambda i, d=d: apart(d, i))
    return total * nest.merged(tensor, window, level, apart) if merge else total


def _partition(nest: Nest, tensor: Tensor, level: int, used: Array) -> Array:
    """Distinct words of a tensor that one instance of a level ever holds."""
    extents, count, copies = {}, {}, 1.0
    for d in nest.dims:
        if d in tensor.dimensions:
            if nest.ragged:
                extents[d], count[d] = nest.problem.sizes[d] * 1.0, 1.0
            else:
                extents[d] = nest.passes(d, level, lambda i: True, lambda i: False) * nest.full[level][d]
                count[d] = 1.0
        elif nest.ragged:
            copies = copies * nest.passes(d, level, lambda i: False, lambda i: True)
    total = nest.words(tensor, extents, count)
    return total * copies / used if nest.ragged else total
