"""The oracle of the sparse counts: runs a small loop nest on tensors with actual zeros and counts what is useful.

For every access it collects, step by step, the words of the leaders that meet the target's tile while that tile stays in place,
and looks them up in masks. It knows no densities and no probabilities; the expected counts are the mean over many masks (or over
all masks there are). Cost: steps x instances x masks.
"""

from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Mapping as MappingOf
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np

from dataflow.architecture import Architecture
from dataflow.mapping import Mapping
from dataflow.problem import Problem, Tensor
from dataflow.sparse_counts import Accesses
from dataflow.sparsity import Optimisation, Sparsity
from dataflow.walker import LoopWalk

Instance = tuple[int, ...]


class SparseWalk(NamedTuple):
    """Accesses of all instances of a level together, and MACs: means over the masks. `served[level][tensor]`: words
    exchanged with the level below; `filled`: words of an operand written from above."""

    served: dict[str, dict[str, Accesses]]
    filled: dict[str, dict[str, Accesses]]
    macs: Accesses


class _Acting(NamedTuple):
    """An optimisation at the level where it acts: residence of the target's tile at each step, and what is useful when."""

    act: Optimisation
    level: int
    residence: list[int]
    useful: dict[tuple[int, Instance], np.ndarray]


def walk_sparse(
    problem: Problem,
    architecture: Architecture,
    mapping: Mapping,
    sparsity: Sparsity,
    masks: MappingOf[str, np.ndarray],
) -> SparseWalk:
    """Executes one mapping with whole factors. `masks[tensor]` [samples, ranks]: where it is nonzero; default everywhere.

    Where a level's format stores no zeros of a tensor, only its nonzero words are counted.
    """
    return _Run(LoopWalk(problem, architecture, mapping), sparsity, masks).run()


class _Run:
    def __init__(self, walk: LoopWalk, sparsity: Sparsity, masks: MappingOf[str, np.ndarray]):
        self.walk, self.sparsity, self.masks = walk, sparsity, masks
        self.samples = max([len(mask) for mask in masks.values()], default=1)
        self.steps = list(product(*(range(loop.bound) for loop in walk.temporal)))
        self.starts = [walk.offsets(walk.temporal, index) for index in self.steps]
        self.tensors = {t.name: t for t in walk.problem.tensors}
        self.acting = [found for act in sparsity.optimisations if (found := self._act(act)) is not None]

    def run(self) -> SparseWalk:
        levels = self.walk.mapping.levels
        served: dict[str, dict[str, Accesses]] = {name: {} for name in levels}
        filled: dict[str, dict[str, Accesses]] = {name: {} for name in levels}
        for tensor in self.walk.problem.tensors:
            kept = self._kept(tensor.name)
            for n, level in enumerate(kept):
                served[levels[level]][tensor.name] = self._exchanged(tensor, level, levels[level], True)
                if n > 0 and not tensor.output:
                    filled[levels[level]][tensor.name] = self._exchanged(tensor, kept[n - 1], levels[level], False)
        return SparseWalk(served, filled, self._macs())

    def _kept(self, tensor: str) -> list[int]:
        return [i for i in range(self.walk.depth) if tensor in self.walk.mapping.keeps[i]]

    def _flow(self, tensor: Tensor, level: int) -> tuple[int, bool, bool]:
        """The level whose tiles are exchanged, whether they stay between steps, whether equal ones are sent once."""
        child = next((i for i in self._kept(tensor.name) if i > level), self.walk.depth)
        storage = self.walk.architecture.levels[level]
        merge = storage.spatial_reduction if tensor.output else storage.multicast
        return child, child < self.walk.depth or self.walk.architecture.compute.holds_operands, merge

    def _act(self, act: Optimisation) -> _Acting | None:
        named = self.walk.mapping.levels.index(act.level)
        kept, here = self._kept(act.target), self.walk.mapping.keeps[named]
        outer = [level for level in kept if level < named and any(leader in here for leader in act.leaders)]
        if named not in kept and not outer:
            return None
        level, target = named if named in kept else outer[-1], self.tensors[act.target]
        child, _, _ = self._flow(target, level)
        spread = self._spread(child)
        residence = self._residence(target, level)
        met: dict[tuple[int, Instance], dict[str, set]] = defaultdict(lambda: defaultdict(set))
        outside = [k for k, loop in enumerate(self.walk.temporal) if loop.level < child]
        for index, number in zip(self.steps, residence):
            start = self.walk.offsets([self.walk.temporal[k] for k in outside], tuple(index[k] for k in outside))
            for instance in self.walk.instances(child):
                shift = self.walk.offsets(spread, instance)
                place = {d: start[d] + shift[d] for d in start}
                for leader in act.leaders:
                    words = self.walk.box(self.tensors[leader], child, place)
                    met[number, self._served_together(target, level, instance)][leader] |= words
        useful = {
            key: np.logical_and.reduce([self._nonzero(leader, words).any(axis=0) for leader, words in by.items()])
            for key, by in met.items()
        }
        return _Acting(act, level, residence, useful)

    def _residence(self, tensor: Tensor, level: int) -> list[int]:
        """The number of the residence, at each step, of the tiles that a level exchanges: it goes up when they change."""
        child, held, _ = self._flow(tensor, level)
        if not held:
            return list(range(len(self.steps)))
        moving = [
            k for k, loop in enumerate(self.walk.temporal) if loop.level < child and loop.dim in tensor.dimensions
        ]
        places = [tuple(index[k] for k in moving) for index in self.steps]
        return list(np.cumsum([0, *(a != b for a, b in pairwise(places))]))

    def _spread(self, level: int) -> list:
        return [loop for loop in self.walk.loops if loop.spatial and loop.level < level]

    def _served_together(self, tensor: Tensor, level: int, instance: Instance) -> Instance:
        """What tells apart the instances that one access does not serve together."""
        child, _, merge = self._flow(tensor, level)
        return tuple(
            i
            for i, loop in zip(instance, self._spread(child))
            if loop.level < level or not merge or loop.dim in tensor.dimensions
        )

    def _nonzero(self, tensor: str, words: Iterable[tuple[int, ...]]) -> np.ndarray:
        """For each word, in which samples it is nonzero, [words, samples]."""
        words, mask = sorted(words), self.masks.get(tensor)
        if mask is None:
            return np.ones((len(words), self.samples), dtype=bool)
        rows = [np.broadcast_to(mask[(slice(None), *word)] != 0, self.samples) for word in words]
        return np.array(rows, dtype=bool).reshape(len(rows), self.samples)

    def _shares(self, targets, level: int, step: int, instance: Instance) -> tuple[np.ndarray, np.ndarray]:
        """In which samples an access of `targets`, served at a level, is not skipped, and is carried out."""
        possible = np.ones(self.samples, dtype=bool)
        done = possible.copy()
        for act, at, residence, useful in self.acting:
            if act.target in targets and at <= level:
                fine = useful[residence[step], self._served_together(self.tensors[act.target], at, instance)]
                done = done & fine
                if act.action == "skipping":
                    possible = possible & fine
        return possible, done

    def _exchanged(self, tensor: Tensor, level: int, stored_at: str, leaving: bool) -> Accesses:
        """Words that a level exchanges with the next that keeps the tensor: as they leave it, or as they arrive."""
        child, held, merge = self._flow(tensor, level)
        spread, sums = self._spread(child), np.zeros(3)
        compressed = self.sparsity.stores_no_zeros(stored_at, tensor.name)
        now: dict[Instance, frozenset] = {}
        previous = None
        for step, (index, start) in enumerate(zip(self.steps, self.starts)):
            moved = self.walk.moved(previous, index, child)
            previous = index
            relevant = None if moved is None else moved[1] & tensor.dimensions
            if held and moved is not None and not relevant:
                continue
            sent: dict[Instance, tuple[frozenset, Instance]] = {}
            for instance in self.walk.instances(child):
                shift = self.walk.offsets(spread, instance)
                box = self.walk.box(tensor, child, {d: start[d] + shift[d] for d in start})
                slides = held and moved is not None and relevant == {moved[0]}
                new = box - now.get(instance, frozenset()) if slides else box
                now[instance] = box
                once = merge and leaving
                sent[self._served_together(tensor, level, instance) if once else instance] = (new, instance)
            for words, instance in sent.values():
                possible, done = self._shares((tensor.name,), level, step, instance)
                count = self._nonzero(tensor.name, words).sum(axis=0) if compressed else len(words)
                sums += [np.mean(count * done), np.mean(count * (possible & ~done)), np.mean(count * ~possible)]
        return Accesses(*sums)

    def _macs(self) -> Accesses:
        inputs, depth = [t.name for t in self.walk.problem.inputs], self.walk.depth
        spread, sums = self._spread(depth), np.zeros(3)
        for step, start in enumerate(self.starts):
            for instance in self.walk.instances(depth):
                shift = self.walk.offsets(spread, instance)
                place = {d: start[d] + shift[d] for d in start}
                possible, done = self._shares(inputs, depth, step, instance)
                for name in inputs:
                    nonzero = self._nonzero(name, self.walk.box(self.tensors[name], depth, place)).any(axis=0)
                    innermost = self.walk.mapping.levels[self._kept(name)[-1]]
                    if self.sparsity.stores_no_zeros(innermost, name) or self.sparsity.compute == "skipping":
                        possible, done = possible & nonzero, done & nonzero
                    if self.sparsity.compute == "gating":
                        done = done & nonzero
                sums += [np.mean(done), np.mean(possible & ~done), np.mean(~possible)]
        return Accesses(*sums)
