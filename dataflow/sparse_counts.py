"""Expected traffic of a sparse run: what is accessed, gated and skipped, of data and of metadata, in closed form.

All follows from the dense counts, by linearity of expectation. Of the words that a level exchanges for a tensor,

- a compressed format leaves only the stored share (`compressed_format.occupancy`),
- an optimisation leaves those whose leaders' tiles hold a nonzero. The *leader tile* of an access is what the leader
  contributes while the target's tile stays where it was read into: the target's child tile, the loops that do not step it, and
  the instances that one read serves together. P(useful) = product over leaders of 1 - P(leader tile empty).

A tile that was not read is not filled further in, so an optimisation also acts on all inner levels of its target; tiles of one
leader nest, so the smallest decides. A MAC takes place if no operand was gated, skipped or left out of a compressed format.

Includes: traffic in expectation over the nonzeros' places, tensors independent of each other. Excludes: imbalance between
instances (cycles are those of the mean instance), partial sums that turn sparse; the first-read elision of partial sums is
thinned like every other read. Ragged factors: leader tiles are taken as full. Source: Wu et al., "Sparseloop", MICRO 2022.
"""

from typing import NamedTuple

from dataflow.architecture import Architecture
from dataflow.compressed_format import Occupancy, occupancy, rank_extents
from dataflow.counts import Counts, counts
from dataflow.mapping import Mapping
from dataflow.nest import Nest
from dataflow.problem import Problem, Tensor
from dataflow.sparsity import Sparsity
from workloads.numeric import Array, namespace


class Accesses(NamedTuple):
    """Expected accesses of one kind, [...] each: carried out, gated (idle), skipped (not even idle)."""

    actual: Array
    gated: Array
    skipped: Array


class SparseTensorCounts(NamedTuple):
    """Traffic of a tensor at a level per instance; data in words, metadata in bits. See `TensorCounts` for the kinds."""

    instances: Array
    reads: Accesses
    fills: Accesses
    updates: Accesses
    metadata_read_bits: Accesses
    metadata_fill_bits: Accesses
    metadata_update_bits: Accesses
    occupancy: Occupancy


class SparseCounts(NamedTuple):
    """`words[level][tensor]`, MACs, cycles in which compute issues (gated MACs included or not as the sparsity says), and the
    counts without any sparsity."""

    words: dict[str, dict[str, SparseTensorCounts]]
    macs: Accesses
    compute_cycles: Array
    dense: Counts


def sparse_counts(
    problem: Problem, architecture: Architecture, mapping: Mapping, sparsity: Sparsity, whole: bool = False
) -> SparseCounts:
    """Expected accesses of a mapping. `whole`: rounded to whole words as Timeloop prints them (up; reads of partial sums down)."""
    dense = counts(problem, architecture, mapping)
    nest = Nest(problem, mapping)
    xp = namespace(problem, architecture, mapping, sparsity)
    leads = _Leads(nest, architecture, mapping, sparsity)
    words: dict[str, dict[str, SparseTensorCounts]] = {name: {} for name in mapping.levels}
    for tensor in problem.tensors:
        kept = leads.kept(tensor.name)
        for n, level in enumerate(kept):
            name = mapping.levels[level]
            found = dense.words[name][tensor.name]
            held = occupancy(
                nest, tensor, level, sparsity.ranks(name, tensor.name), sparsity.density(tensor.name), mapping.levels
            )
            down = leads.shares(tensor, level)
            up = leads.shares(tensor, kept[n - 1]) if n > 0 else (1.0, 1.0)
            stored = held.data_words / held.tile_words if held.ranks else 1.0
            bits = held.metadata_bits / held.tile_words
            acted = tensor.output and leads.act_on(tensor, level)
            flows = (("reads", found.reads, down), ("fills", found.fills, up), ("updates", found.updates, down))
            reads, fills, updates = (
                _split(xp, count * stored, shares, whole, acted and kind == "reads") for kind, count, shares in flows
            )
            bit_reads, bit_fills, bit_updates = (
                _split(xp, count * bits, shares, False, False) for _, count, shares in flows
            )
            words[name][tensor.name] = SparseTensorCounts(
                found.instances, reads, fills, updates, bit_reads, bit_fills, bit_updates, held
            )
    possible, done = leads.macs()
    macs = _split(xp, dense.macs, (possible, done), whole, False)
    busy = possible if sparsity.gated_mac_takes_cycle or sparsity.compute == "gating" else done
    cycles = dense.compute_cycles * busy
    return SparseCounts(words, macs, xp.ceil(cycles - _SLACK * cycles) if whole else cycles, dense)


_SLACK = 1e-12


def _split(xp, total: Array, shares: tuple[Array, Array], whole: bool, down: bool) -> Accesses:
    """`total` accesses split by the shares that are not skipped, and that are carried out."""
    possible, done = shares
    actual, skipped = total * done, total * (1.0 - possible)
    gated = total * (possible - done)
    if not whole:
        return Accesses(actual, gated, skipped)
    if down:
        actual = xp.floor(actual * (1.0 + _SLACK))
        gated, skipped = xp.ceil(gated * (1.0 - _SLACK)), xp.ceil(skipped * (1.0 - _SLACK))
    else:
        actual = xp.ceil(actual * (1.0 - _SLACK))
        gated, skipped = xp.floor(gated * (1.0 + _SLACK)), xp.floor(skipped * (1.0 + _SLACK))
    return Accesses(actual, gated, skipped)


class _Leads:
    """Which leader tiles decide on which accesses."""

    def __init__(self, nest: Nest, architecture: Architecture, mapping: Mapping, sparsity: Sparsity):
        self.nest, self.architecture, self.mapping, self.sparsity = nest, architecture, mapping, sparsity
        self.xp = namespace(nest.problem, mapping, sparsity)
        self.tensors = {t.name: t for t in nest.problem.tensors}
        self.acting = [(act, level) for act in sparsity.optimisations if (level := self._level(act)) is not None]

    def kept(self, tensor: str) -> list[int]:
        """Levels that keep a tensor, outermost first."""
        return [i for i in range(self.nest.depth) if tensor in self.mapping.keeps[i]]

    def _level(self, act) -> int | None:
        """The level at which an optimisation acts, None for none."""
        named = self.mapping.levels.index(act.level)
        keeps = self.mapping.keeps[named]
        if act.target in keeps:
            return named
        outer = [i for i in self.kept(act.target) if i < named]
        return outer[-1] if outer and any(leader in keeps for leader in act.leaders) else None

    def act_on(self, tensor: Tensor, level: int) -> bool:
        """Whether any optimisation acts on what a level serves for a tensor."""
        return any(act.target == tensor.name and at <= level for act, at in self.acting)

    def shares(self, tensor: Tensor, level: int) -> tuple[Array, Array]:
        """Of the accesses that a level serves for a tensor: the share not skipped, and the share carried out."""
        return self._useful(
            self._tiles([act for act in self.acting if act[0].target == tensor.name and act[1] <= level])
        )

    def macs(self) -> tuple[Array, Array]:
        """As `shares`, of the MACs."""
        inputs = [t.name for t in self.nest.problem.inputs]
        tiles = self._tiles([act for act in self.acting if act[0].target in inputs])
        one = dict.fromkeys(self.nest.dims, 1.0)
        for name in inputs:
            innermost = self.mapping.levels[self.kept(name)[-1]]
            if self.sparsity.stores_no_zeros(innermost, name):
                tiles["skipping"][name] = one
            if self.sparsity.compute:
                tiles[self.sparsity.compute][name] = one
        return self._useful(tiles)

    def _tiles(self, acts) -> dict[str, dict[str, dict[str, Array]]]:
        """For each action and leader, the extents of the smallest leader tile."""
        found: dict[str, dict[str, dict[str, Array]]] = {"gating": {}, "skipping": {}}
        for act, level in acts:
            tile = self._tile(self.tensors[act.target], level)
            for leader in act.leaders:
                held = found[act.action].get(leader, tile)
                found[act.action][leader] = {d: self.xp.minimum(held[d], tile[d]) for d in tile}
        return found

    def _useful(self, tiles) -> tuple[Array, Array]:
        possible: Array = 1.0
        done: Array = 1.0
        for name, tensor in self.tensors.items():
            skip, gate = tiles["skipping"].get(name), tiles["gating"].get(name)
            if skip is not None:
                possible = possible * self._nonempty(tensor, skip)
            if skip is not None or gate is not None:
                both = [tile for tile in (skip, gate) if tile is not None]
                smallest = {d: self.xp.minimum(both[0][d], both[-1][d]) for d in both[0]}
                done = done * self._nonempty(tensor, smallest)
        return possible, done

    def _nonempty(self, leader: Tensor, tile: dict[str, Array]) -> Array:
        extents = {d: tile[d] for d in leader.dimensions}
        whole = rank_extents(self.nest, leader, self.nest.problem.sizes)
        return 1.0 - self.sparsity.density(leader.name).empty(rank_extents(self.nest, leader, extents), whole)

    def _tile(self, target: Tensor, level: int) -> dict[str, Array]:
        """Extents of the indices for which one access of the target, served by a level, stays useful."""
        nest, kept = self.nest, self.kept(target.name)
        storage = self.architecture.levels[level]
        inner = [i for i in kept if i > level]
        child = inner[0] if inner else nest.depth
        merge = storage.spatial_reduction if target.output else storage.multicast
        wires = child > level + 1 and not any(s.stores for s in self.architecture.levels[level + 1 : child])
        window = level + 1 if wires else child
        held = window < nest.depth or self.architecture.compute.holds_operands
        last = nest.innermost(target.dimensions, window)
        found = {}
        for d in nest.dims:
            extent = nest.extent(d, window) if window < nest.depth else 1.0
            for i in range(window):
                if held:
                    extent = extent * self.xp.where(nest.order[i][d] > last, nest.temporal[i][d], 1.0)
                if merge and i >= level and d not in target.dimensions:
                    extent = extent * nest.spatial[i][d]
            found[d] = self.xp.minimum(extent, nest.problem.sizes[d])
        return found
