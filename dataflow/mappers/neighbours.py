"""Improving a set of candidates layer by layer: the best few on the hardware of the moment, and on somewhat smaller
and larger ones, are replaced in one dimension's split or in their order; everything looked at joins the set.

Steps that pay only together with a change of the hardware, or with one in another layer, are found because the
combination chooses among all candidates anew.
"""

import numpy as np

from dataflow.mappers.budget import check_counts
from dataflow.mappers.candidates import Candidates, Combination
from dataflow.mappers.network_design import SPATIAL

#: Factors of the two capacities (accumulators, scratchpad), beside those of the best design, at which candidates are
#: ranked ...
_NEAR = np.array([(1, 1), (1, 2), (1, 0.5), (2, 1), (0.5, 1), (2, 2), (0.5, 0.5), (1, 1.4), (1, 0.7)])
#: ... and capacities of any design, in words.
_GRID = np.stack(np.meshgrid(2.0 ** np.arange(6.0, 13.0), 2.0 ** np.arange(15.0, 20.0, 0.5)), -1).reshape(-1, 2)
_NEAR_KEPT, _FAR_KEPT = 48, 8


def improve(pool: Candidates, *, edge: float, evaluations: int, patience: int = 6, beam: int = 4) -> Combination:
    """Expand the best candidates of each layer (`beam` at the best design's capacities, one at the others) until
    `evaluations` mappings have been looked at, nothing is left, or `patience` rounds have gained nothing. Where no
    single change is left to look at, two splits change at once.
    """
    check_counts(beam=beam)
    check_counts(0, patience=patience)
    if not pool.evaluated:
        raise ValueError("pool: no candidates, expected at least one mapping of each layer")
    limit = pool.evaluated + evaluations
    best = _survey(pool, None, edge)
    done: dict[bool, set[tuple[int, int]]] = {False: set(), True: set()}
    pairs, idle = False, 0
    while pool.evaluated < limit and idle < patience:
        ranked = _pruned(pool, best, edge)
        chosen = _unexpanded(pool, ranked, done[pairs], 1 if pairs else beam)
        if not chosen:
            if pairs:
                break
            pairs = True
            continue
        where, new = (_pairs if pairs else _singles)(pool, *np.array(chosen).T)
        room = limit - pool.evaluated
        pool.add(where[:room], new[:room])
        _pruned(pool, best, edge)
        found = _survey(pool, best, edge)
        gained = found.energy_delay < best.energy_delay * (1 - 1e-9)
        pairs, idle = pairs and not gained, 0 if gained else idle + 1
        best = found
    return best


def _survey(pool: Candidates, best: Combination | None, edge: float) -> Combination:
    """The best combination: pattern searches from the best so far and from the best capacities of the grid."""
    found = pool.combine(_GRID, edge, best.price if best else 1e-9)
    if best is not None:
        near = np.array([[best.accumulator_words, best.scratchpad_words]])
        found += pool.combine(near, edge, best.price)
    found = sorted(found, key=lambda c: c.energy_delay)[:3]
    return pool.best(found, edge)


def _pruned(pool: Candidates, best: Combination, edge: float) -> list[np.ndarray]:
    """Keep the best of each layer at each of the capacities; return their rows in order, each [layers, kept]."""
    near = _NEAR * [best.accumulator_words, best.scratchpad_words]
    wanted, keep = [], np.zeros(pool.codes.shape, dtype=bool)
    values = pool.values(np.concatenate([near, _GRID]), edge, best.price)
    for n, value in enumerate(values):
        kept = min(_NEAR_KEPT if n < len(near) else _FAR_KEPT, value.shape[1])
        rows = np.argpartition(value, kept - 1, axis=1)[:, :kept]
        rows = np.take_along_axis(rows, np.argsort(np.take_along_axis(value, rows, axis=1), axis=1), axis=1)
        np.put_along_axis(keep, rows, True, axis=1)
        wanted.append(np.take_along_axis(pool.codes, rows, axis=1))
    pool.keep(keep & (pool.codes >= 0))
    return wanted


def _unexpanded(pool: Candidates, ranked: list[np.ndarray], done: set[tuple[int, int]], beam: int) -> list:
    """The best candidates (layer, code) of each layer and probe that are not in `done`, which they join."""
    found = []
    for at in range(len(pool.codes)):
        for probe, row in enumerate(ranked):
            for code in row[at, : beam if probe == 0 else 1].tolist():
                if code >= 0 and (at, code) not in done:
                    done.add((at, code))
                    found.append((at, code))
    return found


def _singles(pool: Candidates, layer: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All mappings that differ in one dimension's split, or in the order."""
    index, orders = pool.decode(layer, code)
    digits = np.concatenate([index, orders[:, None]], axis=1)
    where, found = [], []
    for d in range(8):
        many = pool.radix[layer, d]
        rows = np.repeat(np.arange(len(code)), many)
        value = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
        found.append(code[rows] + (value - digits[rows, d]) * pool.place[layer[rows], d])
        where.append(layer[rows])
    return np.concatenate(where), np.concatenate(found)


def _pairs(pool: Candidates, layer: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All mappings that differ in two dimensions' splits, their spatial factors as they are or the largest."""
    index, _ = pool.decode(layer, code)
    where, found = [], []
    for at, own, digits in zip(layer, code, index, strict=True):
        moves = []
        for d in range(7):
            table = pool.table.choices[at, d, : pool.table.number[at, d]]
            spatial = table[:, SPATIAL]
            same = np.flatnonzero((spatial == spatial[digits[d]]) | (spatial == spatial.max()))
            moves.append((same[same != digits[d]] - digits[d]) * pool.place[at, d])
        for d, first in enumerate(moves):
            for second in moves[d + 1 :]:
                found.append((own + first[:, None] + second).reshape(-1))
                where.append(np.full(len(found[-1]), at))
    return np.concatenate(where), np.concatenate(found)
