"""Mappings and hardware together, as a problem of `explore.search`: the mappers of `dataflow` with the accounting of every search.

A design is a mapping of each layer of a network and the smallest array and buffers that hold them all; it has no place in a space
of a dozen numbers, so the mapper that knows its structure does the search. A derivative of the whole network counts as
`GRADIENT_COST` evaluations of it, a layer's mapping as the share of the network that one layer is.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dataflow.gemmini_mapping_text import write_mappings
from dataflow.mappers import Network, gradient_search, random_network_search, score, score_mappings
from dataflow.mappers.network_design import OUTER_ORDERS, Design, check_network, describe
from explore import SearchResult
from explore.search_result import GRADIENT_COST
from hardware.paths import unknown

METHODS = ("gradient", "random")
#: Starts and roundings of the gradient search, its most steps between roundings, and the share of a budget that the descent takes.
_STARTS, _ROUNDINGS, _STEPS, _DESCENT = 7, 3, 100, 0.5
#: Whole mappings near a relaxed one that a rounding looks at, at most.
_LOOKED_AT = 36
#: Random mappings per layer of one random chip.
_PER_CHIP = 1000


@dataclass(frozen=True, kw_only=True)
class MappingProblem:
    """`network` on an accelerator of Gemmini's kind (`dataflow.gemmini`): mappings, array edge and buffers of least `energy_delay`.

    `explore.search(MappingProblem(network=...), method="gradient")` descends all mappings at once (`dataflow.mappers`), "random"
    draws chips and mappings. Designs have columns edge, accumulator_words, scratchpad_words, energy_joules, cycles,
    energy_delay (joule cycles), and mappings as text, one line per layer.
    """

    network: Network
    name: str = "mappings and hardware"
    minimise: tuple[str, ...] = ("energy_delay",)
    maximise: tuple[str, ...] = ()
    constraints: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        check_network(self.network)

    @property
    def objectives(self) -> tuple[str, ...]:
        """The one metric that is minimised."""
        return self.minimise

    def searched(self, method: str, budget: int, seed: int) -> SearchResult:
        """Search for at most `budget` evaluations of the network; `ValueError` for an unknown method and a budget too small for
        one descent."""
        if method not in METHODS:
            raise unknown("method: unknown search", method, METHODS)
        return (self._descended if method == "gradient" else self._drawn)(budget, seed)

    def _descended(self, budget: int, seed: int) -> SearchResult:
        descents = _STARTS * _ROUNDINGS
        least = int(descents * (len(OUTER_ORDERS) + _LOOKED_AT) / (1.0 - _DESCENT))
        if budget < least:
            raise ValueError(
                f"budget: {budget!r}; expected at least {least} evaluations, for mappings that are rounded"
            )
        steps = min(_STEPS, int(_DESCENT * budget / (GRADIENT_COST * descents)))
        gradients = descents * steps
        # The mapper counts a derivative as one sample.
        samples = budget - (GRADIENT_COST - 1) * gradients
        found = gradient_search(
            self.network, starts=_STARTS, roundings=_ROUNDINGS, steps=steps, samples=samples, seed=seed
        )
        best = np.minimum.accumulate(np.min(found.history, axis=1))
        evaluations = int(np.ceil(found.samples)) - gradients
        spent = evaluations + GRADIENT_COST * gradients
        history = pd.DataFrame(
            {
                "evaluations": [*(GRADIENT_COST * _STARTS * steps * np.arange(1, len(best) + 1)), spent],
                "seconds": [*np.full(len(best), np.nan), found.seconds],
                "best": [*best, found.energy_delay],
            }
        )
        return self._result("gradient", found.design, history, evaluations, gradients, found.seconds)

    def _drawn(self, budget: int, seed: int) -> SearchResult:
        chips = max(1, budget // _PER_CHIP)
        found = random_network_search(self.network, hardware=chips, mappings=budget // chips, draws=1, seed=seed)
        evaluations = int(np.ceil(found.samples))
        history = pd.DataFrame(
            {"evaluations": [float(evaluations)], "seconds": [found.seconds], "best": [found.energy_delay]}
        )
        return self._result("random", found.design, history, evaluations, 0, found.seconds)

    def _result(
        self, method: str, design: Any, history: pd.DataFrame, evaluations: int, gradients: int, seconds: float
    ) -> SearchResult:
        rounded = isinstance(design, Design)
        scored = score(self.network, design) if rounded else score_mappings(self.network, design)
        chip = {
            field.name: float(getattr(scored.hardware, field.name)) for field in dataclasses.fields(scored.hardware)
        }
        costs = {name: float(getattr(scored, name)) for name in ("energy_joules", "cycles", "energy_delay")}
        lines = describe(self.network, design) if rounded else write_mappings(design)
        designs = pd.DataFrame([{**chip, **costs, "mappings": "\n".join(lines)}])
        problem: Any = self  # what a result asks of its problem, this one has
        return SearchResult(
            problem=problem, method=method, designs=designs, history=history, evaluations=evaluations, gradients=gradients,
            seconds=seconds,
        )  # fmt: skip
