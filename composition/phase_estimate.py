"""The time of one pass with its error and its parts: what the levels above kernels are made of."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from composition.estimate import Estimate
from workloads.numeric import Array, namespace
from workloads.operators.operator import static


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class OperatorTimes:
    """Operators of one kind: `one_s` [operators, ...] seconds of one run, `count` runs in the whole pass (all pipeline stages),
    `private` relative deviation of each shape. `model` names the estimator."""

    one_s: Array
    count: Array
    private: Array
    kind: str = static("")
    names: tuple[str, ...] = static(())
    layers: tuple[str, ...] = static(())
    model: str = static("")
    part: str = static("")

    @property
    def total_s(self) -> Array:
        """All runs, [operators, ...]; 0 where an operator does not run."""
        xp = namespace(self.one_s, self.count)
        return xp.where(self.count > 0, self.one_s * self.count, 0.0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class PhaseEstimate:
    """One pass (prefill, decode step or mixed iteration) of a deployment, seconds, [...]; NaN where a degree does not divide.

    `time`: the pass as an `Estimate`. `terms` add up to `time.mean_s`:

        matrix, attention, memory-bound   busy kernels of one stage, all micro-batches
        communication                     collectives of one stage
        pipeline                          sends between stages, and waiting while the pipeline fills
        hidden                            minus what overlap hides (compute and communication, fused attention, host)
        launch, host, synchronisation     between kernels; see `composition.inter_kernel`
        waiting                           for the slowest data-parallel rank

    `operators`: what the pass was built from, per device and for all stages and micro-batches. `phase`: its name.
    A pytree: compiled functions may return it. Excludes queueing and the scheduler's choice of the batch.
    """

    time: Estimate
    terms: dict[str, Array]
    operators: tuple[OperatorTimes, ...]
    phase: str = static("")

    @property
    def mean_s(self) -> Array:
        """Expected seconds of the pass, [...]."""
        return self.time.mean_s

    @property
    def provenance(self) -> dict[str, str]:
        """Operator kind -> name of the estimator that predicted it."""
        return {group.kind: group.model for group in self.operators}

    def layers_s(self) -> dict[str, Array]:
        """Kernel and collective seconds by where they run ("0-79", "embedding", "head", "stages", "all" for norms), [...]."""
        return self._by("layers")

    def operators_s(self) -> dict[str, Array]:
        """Kernel and collective seconds by operator name, [...]."""
        return self._by("names")

    def to_frame(self) -> Any:
        """A pandas frame (scalar estimates): a row per operator with its runs, seconds and deviation, and a row per term."""
        import pandas as pd

        rows = []
        for group in self.operators:
            for index, (name, layers) in enumerate(zip(group.names, group.layers)):
                one, count, private = (_scalar(x, index) for x in (group.one_s, group.count, group.private))
                rows.append((name, group.kind, layers, count, one, one * count, private, group.model))
        for name, seconds in self.terms.items():
            rows.append((name, "term", "", 1.0, _scalar(seconds), _scalar(seconds), np.nan, ""))
        columns = ["name", "kind", "layers", "count", "one_s", "total_s", "private", "estimator"]
        return pd.DataFrame(rows, columns=columns)

    def _by(self, field: str) -> dict[str, Array]:
        seconds: dict[str, Array] = {}
        for group in self.operators:
            for index, label in enumerate(getattr(group, field)):
                seconds[label] = seconds.get(label, 0.0) + group.total_s[index]
        return seconds


def _scalar(value: Array, index: int | None = None) -> float:
    """The only number of `value` (of its row `index`)."""
    row = np.asarray(value)
    if index is not None and row.ndim:
        row = row[index if row.shape[0] > 1 else 0]
    if row.size != 1:
        raise ValueError(f"to_frame: {row.size} configurations; expected one")
    return float(row.reshape(()))
