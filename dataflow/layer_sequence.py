"""A model as a list of layers with counts, run one after the other; neighbouring layers may be fused.

Fusing layer i with i + 1 keeps the intermediate tensor on chip: the producer's outputs are not written to the outer
memory, the consumer's inputs not read from it. It needs the intermediate of one fused tile (by default the whole
tensor) beside the on-chip working sets of both layers. Which neighbours are fused is chosen to save the most traffic (a
layer takes part in chains of any length); what the choice saved is part of the result.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """One layer as a mapping left it, `count` times in a row.

    `compute_cycles`: what all but the outer memory take; `input_words`, `output_words`: its traffic with the outer
    memory that fusion could spare; `other_words`: the rest (weights, revisits). `working_words`: on-chip words in use
    while it runs; `intermediate_words`: on-chip words of its output while it waits for the next layer (default:
    `output_words`). `on_chip_joules`: energy without the outer memory.
    """

    name: str
    compute_cycles: float
    input_words: float
    output_words: float
    other_words: float = 0.0
    working_words: float = 0.0
    intermediate_words: float | None = None
    on_chip_joules: float = 0.0
    count: float = 1.0


@dataclass(frozen=True, kw_only=True)
class OuterMemory:
    """`words_per_cycle` and `joules_per_word` of the memory outside; `capacity_words` of the chip, shared by working
    sets and kept intermediates."""

    words_per_cycle: float
    joules_per_word: float
    capacity_words: float


class SequenceCost(NamedTuple):
    """Sums over the sequence (counts included), and per layer: `cycles`, `energy_joules`, `outer_words`; `fused`
    [layers]: whether the layer's output stays on chip; `reason` [layers]: why not, in a sentence, "" where it does.

    `saved_words`, `saved_cycles`, `saved_joules`: against the same sequence without fusion.
    """

    cycles: float
    energy_joules: float
    outer_words: float
    saved_cycles: float
    saved_joules: float
    saved_words: float
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
        for name in ("compute_cycles", "input_words", "output_words", "other_words", "working_words", "on_chip_joules"):
            if not getattr(layer, name) >= 0.0:
                raise ValueError(f"layers[{i}].{name}: {getattr(layer, name)!r}, expected a non-negative number")
        if not layer.count >= 1.0:
            raise ValueError(f"layers[{i}].count: {layer.count!r}, expected at least 1")
    reasons = [_why_not(layers, memory, i, fuse) for i in range(len(layers))]
    kept = _choose(layers, memory, reasons)
    alone = _cost(layers, memory, np.zeros(len(layers), dtype=bool))
    together = _cost(layers, memory, kept)
    for i in range(len(layers)):
        if not reasons[i] and not kept[i]:
            reasons[i] = f"the intermediates of its neighbours leave no room for {_held(layers[i]):g} words"
    sums = [float(x.sum()) for x in together]
    saved = [float(a.sum()) - b for a, b in zip(alone, sums)]
    return SequenceCost(
        sums[0], sums[1], sums[2], saved[0], saved[1], saved[2], *together, fused=kept, reason=tuple(reasons)
    )


def _held(layer: LayerCost) -> float:
    return layer.output_words if layer.intermediate_words is None else layer.intermediate_words


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
    for which in (layers[i], layers[i + 1]):
        need = held + which.working_words
        if need > memory.capacity_words:
            beside = f"intermediate of {held:g} words beside the {which.working_words:g} of {which.name}"
            return f"{beside}: {need:g} words, {memory.capacity_words:g} available"
    return ""


def _choose(layers: Sequence[LayerCost], memory: OuterMemory, reasons: Sequence[str]) -> np.ndarray:
    """Which outputs stay: most words saved, such that at every layer the kept input, kept output and working set fit
    (dynamic programming over "is the previous output kept")."""
    best: dict[bool, tuple[float, list[bool]]] = {False: (0.0, [])}
    for i, layer in enumerate(layers):
        grown: dict[bool, tuple[float, list[bool]]] = {}
        for before, (saved, path) in best.items():
            for keep in (False, True) if not reasons[i] else (False,):
                need = (_held(layers[i - 1]) if before else 0.0) + (_held(layer) if keep else 0.0) + layer.working_words
                if before and keep and need > memory.capacity_words:
                    continue
                gain = saved + (layer.output_words + layers[i + 1].input_words if keep else 0.0)
                if keep not in grown or gain > grown[keep][0]:
                    grown[keep] = (gain, [*path, keep])
        best = grown
    return np.array(max(best.values(), key=lambda item: item[0])[1])


def _cost(
    layers: Sequence[LayerCost], memory: OuterMemory, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    field = {
        name: np.array([float(getattr(layer, name)) for layer in layers])
        for name in ("compute_cycles", "input_words", "output_words", "other_words", "on_chip_joules", "count")
    }
    arrives = np.concatenate([[False], kept[:-1]])
    words = (
        field["other_words"] + np.where(arrives, 0.0, field["input_words"]) + np.where(kept, 0.0, field["output_words"])
    )
    cycles = np.maximum(field["compute_cycles"], words / memory.words_per_cycle)
    joules = field["on_chip_joules"] + words * memory.joules_per_word
    return cycles * field["count"], joules * field["count"], words * field["count"]
