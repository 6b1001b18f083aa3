"""The oracle of the closed forms: runs a small loop nest step by step, with real sets of words in every buffer, and
counts.

It knows nothing of products and sums over loops. At each step of the temporal loops it works out, by running the
inner loops, which words each instance of each level touches; a buffer keeps what it holds while one dimension of its
tensor moves on, and starts afresh when a loop over its tensor restarts. Cost: steps x instances x words, so a few
thousand MACs at most.
"""

from collections import defaultdict
from itertools import product
from typing import NamedTuple

import numpy as np

from dataflow.architecture import Architecture
from dataflow.counts import Counts, TensorCounts
from dataflow.mapping import Mapping, check_names
from dataflow.problem import Problem, Tensor

Box = frozenset[tuple[int, ...]]


class _Loop(NamedTuple):
    level: int
    dim: str
    bound: int
    stride: int
    spatial: bool


def walk(problem: Problem, architecture: Architecture, mapping: Mapping) -> Counts:
    """The counts of `dataflow.counts` for a single mapping, by execution. Ragged factors: per instance = mean over
    instances."""
    check_names(mapping, problem, architecture)
    return LoopWalk(problem, architecture, mapping).run()


class LoopWalk:
    """The loops of one mapping, unrolled: indices, instances, and the words that each touches."""

    def __init__(self, problem: Problem, architecture: Architecture, mapping: Mapping):
        self.problem, self.architecture, self.mapping = problem, architecture, mapping
        self.depth = len(mapping.levels)
        self.size = {d: int(problem.sizes[d]) for d in problem.dimensions}
        self.loops = self._loops()
        self.temporal = [loop for loop in self.loops if not loop.spatial]
        self.cache: dict[tuple, Box] = {}

    def _loops(self) -> list[_Loop]:
        """Every loop, outermost first; strides count in elements of the dimension."""
        found = []
        left = {d: int(np.prod(self.mapping.factors()[..., i])) for i, d in enumerate(self.mapping.dimensions)}
        for level in range(self.depth):
            columns = list(enumerate(self.mapping.dimensions))
            position = np.asarray(self.mapping.position)[level]
            ordered = sorted(columns, key=lambda column: position[column[0]])
            nest = [(d, self.mapping.temporal[level][i], False) for i, d in ordered]
            nest += [(d, self.mapping.spatial_x[level][i], True) for i, d in columns]
            nest += [(d, self.mapping.spatial_y[level][i], True) for i, d in columns]
            for dim, bound, spatial in nest:
                left[dim] //= int(bound)
                found.append(_Loop(level, dim, int(bound), left[dim], spatial))
        return found

    def run(self) -> Counts:
        flows = [flow for tensor in self.problem.tensors for flow in self._flows(tensor)]
        steps, previous = 0, None
        for index in product(*(range(loop.bound) for loop in self.temporal)):
            start = self.offsets(self.temporal, index)
            if any(start[d] >= self.size[d] for d in start):
                continue
            steps += 1
            for flow in flows:
                flow.step(start, self.moved(previous, index, flow.window))
            previous = index
        words: dict[str, dict[str, TensorCounts]] = {name: {} for name in self.mapping.levels}
        for tensor in self.problem.tensors:
            kept = [i for i in range(self.depth) if tensor.name in self.mapping.keeps[i]]
            for level in kept:
                words[self.mapping.levels[level]][tensor.name] = self._collect(tensor, level, flows)
        return Counts(words, float(steps), float(np.prod(list(self.size.values()))), float(self._used(self.depth)))

    def _flows(self, tensor: Tensor) -> list["_Flow"]:
        """For each level that keeps the tensor: what it holds, and what it sends down."""
        kept = [i for i in range(self.depth) if tensor.name in self.mapping.keeps[i]]
        flows = []
        for level, child in zip(kept, [*kept[1:], self.depth]):
            storage = self.architecture.levels[level]
            merge = storage.spatial_reduction if tensor.output else storage.multicast
            wires = child > level + 1 and not any(s.stores for s in self.architecture.levels[level + 1 : child])
            window = level + 1 if wires else child
            held = window < self.depth or self.architecture.compute.holds_operands
            flows.append(_Flow(self, tensor, level, level, True, False))
            flows.append(_Flow(self, tensor, level, window, held, merge))
        return flows

    def _collect(self, tensor: Tensor, level: int, flows: list["_Flow"]) -> TensorCounts:
        own, down = (f for f in flows if f.tensor is tensor and f.owner == level)
        top = next(i for i, names in enumerate(self.mapping.keeps) if tensor.name in names)
        used = self._used(level)
        tile = max(len(box) for box in own.largest.values())
        filled = 0.0 if level == top else own.words / used
        if not tensor.output:
            return TensorCounts(float(tile), float(used), down.words / used, filled, 0.0, 0.0)
        held = sum(len(seen) for seen in own.seen.values()) / used
        fills = 0.0 if level == top else filled - held
        return TensorCounts(float(tile), float(used), down.words / used - held, fills, down.words / used, held)

    def moved(self, previous: tuple | None, index: tuple, level: int) -> tuple[str, frozenset[str]] | None:
        """The dimension whose loop moved on in this step, and all whose loops outside `level` moved on or started over;
        ("", nothing) for a step inside `level`, None for the very first one."""
        if previous is None:
            return None
        changed = [loop for loop, now, then in zip(self.temporal, index, previous) if now != then]
        if changed[0].level >= level:
            return "", frozenset()
        return changed[0].dim, frozenset(loop.dim for loop in changed if loop.level < level)

    def instances(self, level: int) -> list[tuple[int, ...]]:
        """Spatial indices of the instances of a level."""
        return list(product(*(range(loop.bound) for loop in self.loops if loop.spatial and loop.level < level)))

    def _used(self, level: int) -> int:
        """Instances that ever hold data: those that do at the first step."""
        spread = [loop for loop in self.loops if loop.spatial and loop.level < level]
        offsets = (self.offsets(spread, index) for index in self.instances(level))
        return sum(all(o[d] < self.size[d] for d in o) for o in offsets)

    def offsets(self, loops: list[_Loop], index: tuple[int, ...]) -> dict[str, int]:
        start = dict.fromkeys(self.size, 0)
        for loop, i in zip(loops, index):
            start[loop.dim] += i * loop.stride
        return start

    def box(self, tensor: Tensor, level: int, start: dict[str, int]) -> Box:
        """Words touched by the loops of `level` and further in from `start`: the box around them, empty past the
        end."""
        key = (tensor.name, level, *(start[d] for d in sorted(start)))
        if key not in self.cache:
            touched = {d: self._touched(d, level, start[d]) for d in start}
            ranges = []
            for rank in tensor.ranks:
                steps = [[int(self.problem.coefficient(c)) * i for i in touched[d]] for d, c in rank]
                places = [sum(parts) for parts in product(*steps)]
                ranges.append(range(min(places), max(places) + 1) if places else range(0))
            self.cache[key] = frozenset(product(*ranges)) if all(touched.values()) else frozenset()
        return self.cache[key]

    def _touched(self, dim: str, level: int, start: int) -> list[int]:
        inner = [loop for loop in self.loops if loop.level >= level and loop.dim == dim]
        found = {
            start + sum(i * loop.stride for i, loop in zip(index, inner))
            for index in product(*(range(loop.bound) for loop in inner))
        }
        return sorted(i for i in found if i < self.size[dim])


class _Flow:
    """Words of a tensor that enter the tiles of level `window`, counted for each instance of level `owner`.

    `held`: tiles persist between steps; `merge`: equal words that go to several instances in one step count once.
    """

    def __init__(self, walk: LoopWalk, tensor: Tensor, owner: int, window: int, held: bool, merge: bool):
        self.walk, self.tensor, self.owner, self.window, self.held, self.merge = (
            walk,
            tensor,
            owner,
            window,
            held,
            merge,
        )
        self.spread = [loop for loop in walk.loops if loop.spatial and loop.level < window]
        self.above = sum(loop.level < owner for loop in self.spread)
        self.instances = walk.instances(window)
        self.now: dict[tuple, Box] = {}
        self.largest: dict[tuple, Box] = {}
        self.seen: dict[tuple, set] = defaultdict(set)
        self.words = 0

    def step(self, start: dict[str, int], moved: tuple[str, frozenset[str]] | None) -> None:
        advanced, dims = ("", frozenset()) if moved is None else moved
        relevant = dims & self.tensor.dimensions
        if moved is not None and not relevant and self.held:
            return
        sent: dict[tuple, list[Box]] = defaultdict(list)
        for instance in self.instances:
            shift = self.walk.offsets(self.spread, instance)
            box = self.walk.box(self.tensor, self.window, {d: start[d] + shift[d] for d in start})
            if not box:
                continue
            slides = self.held and relevant == {advanced}
            new = box - self.now.get(instance, frozenset()) if slides else box
            self.now[instance] = box
            self.seen[instance] |= box
            self.largest[instance] = max(self.largest.get(instance, box), box, key=len)
            sent[instance[: self.above]].append(new)
        for boxes in sent.values():
            self.words += sum(len(box) for box in (set(boxes) if self.merge else boxes))
