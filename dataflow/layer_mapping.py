"""A mapping from a dataflow's rule: which dimensions spread over the array, what fills the buffers, how loops nest.

Spatial factors come first (each role in turn takes what is left of the fanout, evenly cut), then every level from the
innermost grows its tile along its `fill` roles as far as it and the levels above hold it; the outermost level takes the
rest. Factors are ragged, so any size maps. The rule is tried with its roles in several orders and the best result by an
exact evaluation is kept; a search over all mappings is what `dataflow.mappers` is for.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dataflow.architecture import Architecture
from dataflow.evaluation import Evaluation, evaluate, explain
from dataflow.mapping import Mapping, default_keeps
from dataflow.presets import DataflowRule, LevelRule, Preset, Roles, preset, roles
from dataflow.problem import Problem, unknown

OBJECTIVES = ("edp", "latency", "energy")
#: Multiply-accumulates of the largest layer, up to which float64 counts are exact.
MOST_MACS = 2**53
#: Orders of a rule's roles that are tried by default.
MOST_VARIANTS = 64


class LayerRun(NamedTuple):
    """A layer on an accelerator: what ran, how, and what it cost. `considered`: mappings evaluated."""

    problem: Problem
    architecture: Architecture
    mapping: Mapping
    evaluation: Evaluation
    dataflow: str
    considered: int


def run_layer(
    problem: Problem,
    on: str | Preset,
    *,
    dataflow: str | None = None,
    objective: str = "edp",
    mapping: Mapping | None = None,
    variants: int = MOST_VARIANTS,
) -> LayerRun:
    """Run one layer (sizes are plain integers) on a preset with its default dataflow, or with the one named.

    `objective`: what the best order of the rule's roles is judged by, "edp" (where energies are unknown: as "latency"),
    "latency" (ties: energy) or "energy".
    `variants`: how many orders are tried. `mapping` replaces the rule. Raises ValueError where nothing fits, naming
    level, tensor and words, and beyond 2^53 multiply-accumulates, up to which counts are exact.
    """
    if not isinstance(variants, int | np.integer) or isinstance(variants, bool) or variants < 1:
        raise ValueError(f"variants: {variants!r}, expected a positive integer")
    _check_size(problem)
    chosen = preset(on) if isinstance(on, str) else on
    if objective not in OBJECTIVES:
        raise ValueError(unknown("objective", objective, OBJECTIVES))
    if objective == "energy" and chosen.architecture.energy_note:
        raise ValueError(f"{chosen.name}: objective 'energy', but {chosen.architecture.energy_note}")
    rule, made = chosen.dataflow(dataflow), chosen.architecture_for(problem)
    if mapping is not None:
        found = evaluate(problem, made, mapping)
        if not np.isfinite(found.cycles):
            raise ValueError(f"{chosen.name}: {explain(problem, made, mapping)}")
        return LayerRun(problem, made, mapping, found, "given", 1)
    batch = _mappings(problem, made, list(_variants(rule, variants)), roles(problem))
    all_found = evaluate(problem, made, batch)
    cycles, joules = (np.broadcast_to(x, batch.shape) for x in (all_found.cycles, all_found.energy_joules))
    keys = {"edp": (cycles, cycles * joules), "latency": (joules, cycles), "energy": (cycles, joules)}[objective]
    best = int(np.lexsort(keys)[0])
    if not np.isfinite(cycles[best]):
        raise ValueError(f"{chosen.name}, {rule.name}: {explain(problem, made, batch[0])}")
    one = batch[best]
    return LayerRun(problem, made, one, evaluate(problem, made, one), rule.name, batch.shape[0])


def _check_size(problem: Problem) -> None:
    macs = 1.0
    for dim, size in problem.sizes.items():
        if np.ndim(size):
            raise ValueError(f"problem.sizes.{dim}: {np.size(size)} values, expected one layer at a time")
        macs *= float(np.asarray(size))
    if macs > MOST_MACS:
        sizes = ", ".join(f"{dim} {int(np.asarray(size))}" for dim, size in problem.sizes.items())
        raise ValueError(f"problem.sizes: {sizes} make {macs:.3g} multiply-accumulates, expected at most 2^53")


def rule_mapping(problem: Problem, architecture: Architecture, rule: DataflowRule) -> Mapping:
    """The mapping that a rule gives with its roles in the order in which they are written."""
    return _mappings(problem, architecture, [rule.levels], roles(problem))[0]


def _variants(rule: DataflowRule, most: int) -> Iterator[dict[str, LevelRule]]:
    """The rule with its lists of roles rotated (short ones permuted), the written order first, evenly thinned out."""
    options = []
    for name, level in rule.levels.items():
        lists = [_orders(part) for part in (level.x, level.y, level.fill)]
        options.append([(name, LevelRule(x, y, fill, level.order)) for x, y, fill in itertools.product(*lists)])
    number = int(np.prod([len(choices) for choices in options]))
    step = max(1, -(-number // most))
    # A step that shares no factor with the number of choices visits every choice of every list.
    while np.gcd(step, number) > 1 and step > 1:
        step += 1
    for place in range(min(number, most)):
        index, levels = (place * step) % number, {}
        for choices in options:
            index, this = divmod(index, len(choices))
            levels[choices[this][0]] = choices[this][1]
        yield levels


def _orders(part: tuple[str, ...]) -> list[tuple[str, ...]]:
    if len(part) <= 3:
        return list(itertools.permutations(part))
    return [part[i:] + part[:i] for i in range(len(part))]


def _mappings(problem: Problem, made: Architecture, rules: list[dict[str, LevelRule]], known: Roles) -> Mapping:
    """The mappings of many variants of a rule as one batch; ragged, so that factors may exceed a size."""
    dims = problem.dimensions
    place = {d: i for i, d in enumerate(dims)}
    temporal, x, y, position = (np.ones((len(rules), len(made.levels), len(dims))) for _ in range(4))
    for v, rule in enumerate(rules):
        bounds, spread = _bounds(problem, made, rule, known)
        default = next((r.order for r in rule.values() if r.order), ROLE_ORDER)
        for i, level in enumerate(made.levels):
            temporal[v, i] = [bounds[i][d] for d in dims]
            for d, factor, axis in spread[i]:
                (x if axis == "X" else y)[v, i, place[d]] = factor
            nested = [*_dimensions(rule.get(level.name, LevelRule()).order or default, known)]
            nested = [d for d in dims if d not in nested] + nested
            position[v, i] = [nested.index(d) for d in dims]
    keeps = default_keeps(problem, made)
    return Mapping(temporal, position, x, y, dims, made.level_names, keeps, ragged=True)


def _bounds(problem: Problem, made: Architecture, rule: dict[str, LevelRule], known: Roles):
    """Temporal bounds per level and dimension, and the spatial loops (dimension, factor, axis) below each level."""
    sizes = {d: int(problem.sizes[d]) for d in problem.dimensions}
    spread = dict.fromkeys(sizes, 1)
    spatial: list[list[tuple[str, int, str]]] = []
    for level in made.levels:
        here: list[tuple[str, int, str]] = []
        own = rule.get(level.name, LevelRule())
        for axis, wanted, fanout in (("X", own.x, level.fanout_x), ("Y", own.y, level.fanout_y)):
            left = int(np.max(fanout))
            for d in _dimensions(wanted, known):
                factor = _even(-(-sizes[d] // spread[d]), left)
                if factor > 1:
                    here.append((d, factor, axis))
                    spread[d] *= factor
                    left //= factor
        spatial.append(here)
    bounds = [dict.fromkeys(sizes, 1) for _ in made.levels]
    room = _Room(problem, made, sizes)
    inside = dict(spread)
    for i in reversed(range(1, len(made.levels))):
        for d in _dimensions(rule.get(made.levels[i].name, LevelRule()).fill, known):
            rest = -(-sizes[d] // inside[d])
            if rest > 1:
                bounds[i][d] = room.largest(bounds, spatial, i, d, rest)
                inside[d] *= bounds[i][d]
    for d in sizes:
        bounds[0][d] = -(-sizes[d] // inside[d])
    return bounds, spatial


#: Nesting where a rule has none.
ROLE_ORDER = ("groups", "batch", "filters", "rows", "cols", "channels", "kernel_rows", "kernel_cols")


def _dimensions(wanted: tuple[str, ...], known: Roles) -> Iterator[str]:
    for role in wanted:
        yield from known.dimensions[role]


def _even(size: int, most: int) -> int:
    """The smallest factor that needs as few passes as the largest one up to `most`."""
    if size < 1 or most < 2:
        return 1
    passes = -(-size // min(size, most))
    return -(-size // passes)


class _Room:
    """What every level can hold, in plain numbers: for a level, words available and the ranks of its tensors."""

    def __init__(self, problem: Problem, made: Architecture, sizes: dict[str, int]):
        self.sizes = sizes
        self.levels = []
        for level, kept in zip(made.levels, default_keeps(problem, made), strict=True):
            ranks = [
                [[(d, float(problem.coefficient(value))) for d, value in rank] for rank in tensor.ranks]
                for tensor in problem.tensors
                if tensor.name in kept
            ]
            self.levels.append((float(np.max(level.capacity_words)) / float(np.max(level.buffers)), ranks))

    def largest(self, bounds, spatial, level: int, dim: str, rest: int) -> int:
        """The largest even cut of `rest` that this level and all above it hold."""

        def holds(factor: int) -> bool:
            bounds[level][dim] = factor
            return self._holds(bounds, spatial, level)

        # Tiles grow with their factors, so the largest factor that fits is found by halving; the even cut into as many
        # passes is not above it.
        low, high = 1, rest
        if holds(rest):
            return rest
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if holds(middle) else (low, middle)
        passes = -(-rest // low)
        return -(-rest // passes)

    def _holds(self, bounds, spatial, lowest: int) -> bool:
        tile = dict.fromkeys(self.sizes, 1)
        for i in reversed(range(1, len(bounds))):
            for d, factor in bounds[i].items():
                tile[d] *= factor
            for d, factor, _ in spatial[i]:
                tile[d] *= factor
            if i > lowest:
                continue
            available, tensors = self.levels[i]
            needed = 0.0
            for ranks in tensors:
                words = 1.0
                for rank in ranks:
                    extent = 1.0
                    for d, coefficient in rank:
                        extent += coefficient * (min(tile[d], self.sizes[d]) - 1)
                    words *= extent
                needed += words
            if needed > available:
                return False
        return True
