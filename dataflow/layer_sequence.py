"""A model as a list of layers with counts, run one after the other; neighbouring layers may be fused.

Fusing layer i with i + 1 keeps the intermediate tensor on chip: the producer's outputs are not written to the outer
memory, the consumer's inputs not read from it. It needs the intermediate of one fused tile (by default the whole
tensor) beside the on-chip working sets of both layers. Which neighbours are fused is chosen to save the most traffic (a
layer takes part in chains of any length); what the choice saved is part of the result. A sweep over memories and costs is
one call with arrays: the choice is made point by point, by dynamic programming over "is the previous output kept".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dataflow.layer_mapping import LayerRun
from dataflow.nest import Nest
from dataflow.presets import roles
from workloads.numeric import Array


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One layer as a mapping left it, `count` times in a row. Numbers may be arrays (that broadcast over a sweep).

    `compute_cycles`: what all but the outer memory take; `input_words`, `output_words`: its traffic with the outer
    memory that fusion could spare; `other_words`: the rest (weights, revisits). `working_words`: on-chip words in use
    while it runs; `intermediate_words`: on-chip words of its output while it waits for the next layer (default:
    `output_words`). `on_chip_joules`: energy without the outer memory (NaN: unknown).
    """

    name: str
    compute_cycles: Array
    input_words: Array
    output_words: Array
    other_words: Array = 0.0
    working_words: Array = 0.0
    intermediate_words: Array | None = None
    on_chip_joules: Array = 0.0
    count: Array = 1.0


@dataclass(frozen=True, kw_only=True)
class OuterMemory:
    """`words_per_cycle` and `joules_per_word` of the memory outside; `capacity_words` of the chip, shared by working
    sets and kept intermediates. Numbers may be arrays."""

    words_per_cycle: Array
    joules_per_word: Array
    capacity_words: Array


class SequenceCost(NamedTuple):
    """Sums over the sequence (counts included), [...], and per layer, [..., layers]: `layer_cycles`, `layer_joules`,
    `layer_words` (outer memory), `fused`: whether the layer's output stays on chip. `reason` [layers]: why not, in a
    sentence, "" where it does; empty for a sweep.

    `saved_words`, `saved_cycles`, `saved_joules`: against the same sequence without fusion.
    """

    cycles: Array
    energy_joules: Array
    outer_words: Array
    saved_cycles: Array
    saved_joules: Array
    saved_words: Array
    layer_cycles: np.ndarray
    layer_joules: np.ndarray
    layer_words: np.ndarray
    fused: np.ndarray
    reason: tuple[str, ...]

    def to_frame(self, names: Sequence[str]):
        """One line per layer."""
        import pandas as pd

        columns = {"cycles": self.layer_cycles, "energy_joules": self.layer_joules, "outer_words": self.layer_words}
        return pd.DataFrame({"layer": list(names)} | columns | {"fused": self.fused, "reason": list(self.reason)})


def run_sequence(layers: Sequence[LayerCost], memory: OuterMemory, *, fuse: bool = True) -> SequenceCost:
    """Cost of `layers` in order. Time of a layer = max(compute, outer words / bandwidth); no overlap between layers.

    Raises ValueError naming the layer for a negative number or a count below one.
    """
    if not layers:
        raise ValueError("layers: empty, expected at least one layer")
    for i, layer in enumerate(layers):
        for name in _FIELDS[:-1]:
            values = np.asarray(getattr(layer, name))
            unknown_joules = np.isnan(values) & (name == "on_chip_joules")
            if not np.all((values >= 0.0) | unknown_joules):
                raise ValueError(f"layers[{i}].{name}: {getattr(layer, name)!r}, expected a non-negative number")
        if not np.all(np.asarray(layer.count) >= 1.0):
            raise ValueError(f"layers[{i}].count: {layer.count!r}, expected at least 1")
    shape = np.broadcast_shapes(
        *(np.shape(getattr(layer, name)) for layer in layers for name in _FIELDS),
        *(np.shape(_held(layer)) for layer in layers),
        *(np.shape(x) for x in (memory.words_per_cycle, memory.joules_per_word, memory.capacity_words)),
    )
    table = {
        name: np.stack([np.broadcast_to(np.asarray(getattr(layer, name), float), shape) for layer in layers])
        for name in _FIELDS
    }
    held = np.stack([np.broadcast_to(np.asarray(_held(layer), float), shape) for layer in layers])
    plain = [layer.intermediate_words is None for layer in layers]
    capacity = np.broadcast_to(np.asarray(memory.capacity_words, float), shape)
    able = _able(table, held, plain, capacity) & fuse
    kept = _choose(table, held, able, capacity)
    alone, together = (_cost(table, memory, which) for which in (np.zeros_like(kept), kept))
    sums = [x.sum(axis=0)[()] for x in together]
    saved = [x.sum(axis=0)[()] - whole for x, whole in zip(alone, sums)]
    reasons = () if shape else _reasons(layers, memory, able, kept, fuse)
    each = [np.moveaxis(x, 0, -1) for x in (*together, kept)]
    return SequenceCost(*sums, *saved, *each, reason=reasons)


def layer_cost(run: LayerRun, name: str = "layer", count: Array = 1.0) -> LayerCost:
    """A mapped layer as an entry of a sequence: traffic of the outermost level, time and energy of all others.

    Words that a bigger chip would not move again (inputs fetched twice, partial sums) count as `other_words`; fusion
    spares one pass over the inputs and one over the outputs. The working set is what the level below the outermost
    holds, its copies included. The intermediate counts in words of the outputs.
    """
    found, problem = run.evaluation, run.problem
    outer = run.mapping.levels[0]
    words = {t: float((w.reads + w.fills + w.updates) * w.instances) for t, w in found.counts.words[outer].items()}
    whole = Nest(problem, run.mapping)
    output = problem.output.name
    sizes = {t.name: float(whole.tile_words(t, 0)) for t in problem.tensors}
    moving = roles(problem).tensors["Inputs"]
    inputs, outputs = min(sizes[moving], words[moving]), min(sizes[output], words[output])
    level = run.architecture.levels[1]
    kept = [t for t in problem.tensors if t.name in run.mapping.keeps[1]]
    busy = [float(v) for key, v in found.level_cycles.items() if key != outer]
    outer_joules = sum(float(x) for x in found.energy.levels[outer].values())
    return LayerCost(
        name=name,
        compute_cycles=max([float(found.counts.compute_cycles), *busy]),
        input_words=inputs,
        output_words=outputs,
        other_words=sum(words.values()) - inputs - outputs,
        working_words=sum(float(whole.tile_words(t, 1)) for t in kept) * float(np.max(level.buffers)),
        on_chip_joules=float(found.energy_joules) - outer_joules,
        count=count,
    )


def outer_memory(run: LayerRun) -> OuterMemory:
    """The outermost level of a layer's accelerator, and the capacity of the level below it."""
    outer, inner = run.architecture.levels[:2]
    rate = np.minimum(outer.shared_words_per_cycle, outer.read_words_per_cycle)
    return OuterMemory(
        words_per_cycle=rate,
        joules_per_word=outer.read_joules / outer.block_words,
        capacity_words=inner.capacity_words * run.architecture.instances(1),
    )


_FIELDS = ("compute_cycles", "input_words", "output_words", "other_words", "working_words", "on_chip_joules", "count")


def _held(layer: LayerCost) -> Array:
    return layer.output_words if layer.intermediate_words is None else layer.intermediate_words


def _able(table: dict[str, np.ndarray], held: np.ndarray, plain: list[bool], capacity: np.ndarray) -> np.ndarray:
    """[layers, ...]: whether the output of a layer could stay, looked at alone."""
    able = np.zeros(held.shape, dtype=bool)
    for i in range(len(held) - 1):
        single = (table["count"][i] == 1.0) & (table["count"][i + 1] == 1.0)
        chain = np.full(held[i].shape, not plain[i]) | (table["output_words"][i] <= table["input_words"][i + 1])
        fits = held[i] + np.maximum(table["working_words"][i], table["working_words"][i + 1]) <= capacity
        able[i] = single & chain & fits
    return able


def _reasons(
    layers: Sequence[LayerCost], memory: OuterMemory, able: np.ndarray, kept: np.ndarray, fuse: bool
) -> tuple[str, ...]:
    found = []
    for i in range(len(layers)):
        if able[i]:
            crowded = f"the intermediates of its neighbours leave no room for {_held(layers[i]):g} words"
            found.append("" if kept[i] else crowded)
        else:
            found.append(_why_not(layers, memory, i, fuse))
    return tuple(found)


def _why_not(layers: Sequence[LayerCost], memory: OuterMemory, i: int, fuse: bool) -> str:
    if not fuse:
        return "fusion is off"
    if i + 1 == len(layers):
        return "last layer: its output leaves the chip"
    if layers[i].count != 1.0 or layers[i + 1].count != 1.0:
        return "a repeated layer is followed by itself, list its repetitions to fuse them"
    if layers[i].intermediate_words is None and layers[i].output_words > layers[i + 1].input_words:
        return "the next layer reads less than this one writes: not a plain chain"
    held = _held(layers[i])
    which = max(layers[i : i + 2], key=lambda layer: layer.working_words)
    beside = f"intermediate of {held:g} words beside the {which.working_words:g} of {which.name}"
    return f"{beside}: {held + which.working_words:g} words, {memory.capacity_words:g} available"


def _choose(table: dict[str, np.ndarray], held: np.ndarray, able: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """[layers, ...] which outputs stay: most words saved, such that at every layer the kept input, kept output and
    working set fit. `best[b]`: words saved so far where the last output is (not) kept; `came[i, b]`: from which state.
    """
    number = len(held)
    best = [np.zeros(held.shape[1:]), np.full(held.shape[1:], -np.inf)]
    came = np.zeros((number, 2, *held.shape[1:]), dtype=bool)
    for i in range(number):
        follows = table["input_words"][i + 1] if i + 1 < number else 0.0
        gain = table["output_words"][i] + follows
        both = held[i] + table["working_words"][i] + (held[i - 1] if i else 0.0) <= capacity
        grown = []
        for keep in (False, True):
            from_none, from_kept = best
            if keep:
                from_none = np.where(able[i], from_none + gain, -np.inf)
                from_kept = np.where(able[i] & both, from_kept + gain, -np.inf)
            came[i, int(keep)] = from_kept > from_none
            grown.append(np.maximum(from_none, from_kept))
        best = grown
    kept = np.zeros(held.shape, dtype=bool)
    state = best[1] > best[0]
    for i in reversed(range(number)):
        kept[i] = state
        state = np.where(state, came[i, 1], came[i, 0])
    return kept


def _cost(
    table: dict[str, np.ndarray], memory: OuterMemory, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    arrives = np.concatenate([np.zeros_like(kept[:1]), kept[:-1]])
    words = (
        table["other_words"] + np.where(arrives, 0.0, table["input_words"]) + np.where(kept, 0.0, table["output_words"])
    )
    cycles = np.maximum(table["compute_cycles"], words / memory.words_per_cycle)
    joules = table["on_chip_joules"] + words * memory.joules_per_word
    return cycles * table["count"], joules * table["count"], words * table["count"]
