"""Local search in the unit cube: several designs at once, each trying many small moves and keeping the best.

A move changes one parameter, or two against each other (what a budget that binds asks for), or a few at random; steps grow
after success and halve after failure. Whole numbers move by at least one, options to any other.
"""

import numpy as np

from explore.parameters import Parameter
from explore.search_result import Archive

#: Step of the unit cube at which a design counts as settled.
SMALLEST_STEP = 1e-5


def local_search(
    archive: Archive,
    unit: np.ndarray,
    *,
    budget: int,
    generator: np.random.Generator,
    step: float = 0.1,
    moves: int = 48,
) -> None:
    """Improve the designs at `unit` [designs, parameters] with `moves` trials each per round, for at most `budget` evaluations
    or until all are settled. The archive remembers the outcome."""
    parameters = list(archive.problem.space.parameters.values())
    now = unit.copy()
    merits = archive.evaluate(now)
    steps = np.full(len(now), step)
    spent = len(now)
    while spent + len(now) * moves <= budget and np.any(steps > SMALLEST_STEP):
        alive = np.flatnonzero(steps > SMALLEST_STEP)
        trials = np.stack([_moves(now[i], steps[i], parameters, moves, generator) for i in alive])
        found = archive.evaluate(trials.reshape(-1, trials.shape[-1])).reshape(len(alive), moves)
        spent += found.size
        best = np.argmin(found, axis=1)
        for row, i in enumerate(alive):
            if found[row, best[row]] < merits[i]:
                now[i], merits[i] = trials[row, best[row]], found[row, best[row]]
                steps[i] = min(2.0 * steps[i], 0.3)
            else:
                steps[i] *= 0.5


def _moves(
    at: np.ndarray, step: float, parameters: list[Parameter], moves: int, generator: np.random.Generator
) -> np.ndarray:
    """Neighbours [moves, parameters] of one design."""
    width = len(at)
    change = np.zeros((moves, width))
    size = np.array([max(step, _least(p)) for p in parameters])
    one = np.arange(moves)
    first = generator.integers(0, width, moves)
    scale = generator.normal(size=moves) * np.where(generator.random(moves) < 0.5, 1.0, 0.2)
    change[one, first] = scale * size[first]
    paired = generator.random(moves) < 0.6
    second = generator.integers(0, width, moves)
    pair = one[paired & (second != first)]
    change[pair, second[pair]] = generator.normal(size=len(pair)) * size[second[pair]]
    wide = one[generator.random(moves) < 0.25]
    change[wide] += 0.3 * step * generator.normal(size=(len(wide), width))
    moved = at + change
    for i, p in enumerate(parameters):
        if p.kind == "categorical":
            switched = change[:, i] != 0.0
            stays = generator.random(moves) < 0.7
            moved[:, i] = np.where(switched & ~stays, generator.random(moves), at[i])
    return np.clip(moved, 0.0, 1.0)


def _least(p: Parameter) -> float:
    """The step that changes a whole number."""
    return 1.2 / (p.high - p.low + 1.0) if p.kind == "integer" and not p.log else 0.0
