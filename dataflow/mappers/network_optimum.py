"""The optimum of a whole network's design over the split template, with a proof of how near it is.

All splits and orders of every layer are enumerated. A mapping stays only if, with every other layer at its own
cheapest and fastest, the design could still beat a known one. The rest is combined (see `candidates`), which gives an
upper bound; boxes of capacities (energies of the smallest corner, room of the largest) give the lower one.
"""

import heapq
from typing import NamedTuple

import numpy as np
from numba import njit

from dataflow.gemmini import C, K
from dataflow.mappers.budget import check_counts, check_numbers
from dataflow.mappers.candidates import Candidates, Combination, costs
from dataflow.mappers.compiled_traffic import COLUMNS, split_traffic
from dataflow.mappers.network_design import EDGE_LIMIT, OUTER_ORDERS, Design, Network, check_network, split_table

_COMPARED = 5


class Optimum(NamedTuple):
    """The best design found, its energy-delay product, a lower bound of any design's, mappings enumerated and kept."""

    design: Design
    energy_delay: float
    lower_bound: float
    enumerated: int
    kept: int


def network_optimum(
    network: Network, known: float, *, gap: float = 1e-3, boxes: int = 2000, block: int = 400_000
) -> Optimum:
    """The optimum within a factor 1 + `gap` (or as near as `boxes` boxes prove), given the energy-delay product
    `known` of any design. ValueError if no design is that cheap."""
    check_network(network)
    check_counts(boxes=boxes)
    check_numbers(gap=gap)
    check_numbers(True, known=known)
    block = max(int(block), len(OUTER_ORDERS))
    pool = Candidates(network, split_table(network, EDGE_LIMIT))
    layers = len(network.counts)
    least = np.full((2, layers), np.inf)
    for at in range(layers):
        for words, _ in _enumerated(pool, at, block):
            least[:, at] = np.minimum(least[:, at], [c.min() for c in _own_costs(pool, at, words)])
    rest = least.sum(axis=1, keepdims=True) - least
    codes: list[np.ndarray] = []
    for at in range(layers):
        mine = []
        for words, code in _enumerated(pool, at, block):
            energy, cycles = _own_costs(pool, at, words)
            mine.append(code[(energy + rest[0, at]) * (cycles + rest[1, at]) <= known * (1 + 1e-9)])
        codes.append(np.concatenate(mine))
    kept = [len(c) for c in codes]
    if not all(kept):
        raise ValueError(f"known: {known:g}, expected the energy-delay product of a design; every one costs more")
    pool.add(np.repeat(np.arange(layers), kept), np.concatenate(codes))
    enumerated = int(np.prod(pool.table.number, axis=1).sum()) * len(OUTER_ORDERS)
    best, bound = _boxes(pool, gap, boxes)
    return Optimum(pool.design(best.picks), best.energy_delay, bound, enumerated, sum(kept))


def _boxes(pool: Candidates, gap: float, boxes: int) -> tuple[Combination, float]:
    """Branch and bound over the logarithms of the two capacities."""
    names = ("accumulator_words", "scratchpad_words")
    # Below the largest of the layers' smallest needs nothing fits.
    low = np.log2([np.max(np.nanmin(pool.words[n], axis=1)) for n in names])
    high = np.log2([np.nanmax(pool.words[n]) for n in names])
    best: Combination | None = None
    heap: list[tuple[float, int, np.ndarray, np.ndarray]] = []
    number = 0

    def push(low, high):
        nonlocal best, number
        price = best.energy_joules / best.cycles if best else 1e-9
        (found,) = pool.combine(2.0 ** high[None], EDGE_LIMIT, price)
        if best is None or found.energy_delay < best.energy_delay:
            best = found
        number += 1
        bound = _least_product(*costs(pool.words, pool.network, 2.0**high, EDGE_LIMIT, energies_of=2.0**low))
        heapq.heappush(heap, (bound, number, low, high))

    push(low, high)
    assert best is not None
    while number < boxes and heap[0][0] * (1 + gap) < best.energy_delay:
        _, _, low, high = heapq.heappop(heap)
        axis = int(np.argmax((high - low) * [0.3, 1.0]))
        middle = (low + high) / 2
        push(low, np.where(np.arange(2) == axis, middle, high))
        push(np.where(np.arange(2) == axis, middle, low), high)
        if number % 50 < 2:
            best = pool.best([best], EDGE_LIMIT)
    return best, min(heap[0][0], best.energy_delay)


def _least_product(energy: np.ndarray, cycles: np.ndarray) -> float:
    """A lower bound of (sum of energy)(sum of cycles) over all choices of one candidate per layer.

    Each price p gives a line, E + p C >= m(p); the product, quasi-concave, is least at a corner of what the lines
    leave.
    """
    if not np.all(np.isfinite(energy).any(axis=1)):
        return np.inf
    lines = [(1.0, 0.0, energy.min(axis=1).sum()), (0.0, 1.0, cycles.min(axis=1).sum())]
    rows = np.arange(len(energy))
    price = lines[0][2] / lines[1][2]
    for p in _around(energy, cycles, rows, price):
        lines.append((1.0, p, (energy + p * cycles).min(axis=1).sum()))
    corners = []
    for i, (a, b, m) in enumerate(lines):
        for c, d, n in lines[i + 1 :]:
            det = a * d - b * c
            if det != 0.0:
                corners.append(((m * d - b * n) / det, (a * n - c * m) / det))
    values = [
        e * t for e, t in corners if all(a * e + b * t >= m * (1 - 1e-9) for a, b, m in lines) and e > 0 and t > 0
    ]
    return min(values)


def _around(energy, cycles, rows, price):
    for _ in range(6):
        picks = np.argmin(energy + price * cycles, axis=1)
        price = energy[rows, picks].sum() / cycles[rows, picks].sum()
    return price * np.array([0.7, 0.85, 0.95, 1.0, 1.05, 1.2, 1.4])


def _own_costs(pool: Candidates, at: int, words: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Energy and cycles of candidates [n] of one layer, each on the least buffers that hold it."""
    net = pool.network
    one = Network(net.sizes[[at]], net.strides[[at]], net.counts[[at]])
    sizes = np.stack([words["accumulator_words"], words["scratchpad_words"]])[:, None]
    energy, cycles = costs({name: value[None] for name, value in words.items()}, one, sizes, EDGE_LIMIT)
    return energy[0], cycles[0]


def _enumerated(pool: Candidates, at: int, block: int):
    """Blocks of all mappings of a layer but the orders that another order of the same splits dominates."""
    number = pool.table.number[at].astype(np.int64)
    net = pool.network
    total, first = int(np.prod(number)), 0
    rows, codes = np.empty((block, len(COLUMNS))), np.empty(block, dtype=np.int64)
    while first < total:
        first, found = _block(first, total, number, net.sizes[at], net.strides[at], pool.table.choices[at], rows, codes)
        words: dict[str, np.ndarray] = dict(zip(COLUMNS, rows[:found].T.copy(), strict=True))
        words["edge"] = np.maximum(words["spatial_c"], words["spatial_k"])
        yield words, codes[:found].copy()


@njit(cache=True)
def _block(first, total, number, size, stride, choices, rows, codes):
    orders = len(OUTER_ORDERS)
    inner, outer = np.empty(7), np.empty(7)
    some = np.empty((orders, rows.shape[1]))
    found = 0
    while first < total and found + orders <= len(codes):
        rest = first
        spatial_c, spatial_k = 1.0, 1.0
        for d in range(7):
            row = choices[d, rest % number[d]]
            rest //= number[d]
            inner[d], outer[d] = row[1], row[2]
            if d == C:
                spatial_c = row[0]
            elif d == K:
                spatial_k = row[0]
        for order in range(orders):
            split_traffic(size, stride[0], stride[1], spatial_c, spatial_k, inner, outer, order, some[order])
        for a in range(orders):
            beaten = False
            for b in range(orders):
                if a == b:
                    continue
                no_worse, better = True, False
                for i in range(_COMPARED):
                    if some[b, i] > some[a, i]:
                        no_worse = False
                        break
                    if some[b, i] < some[a, i]:
                        better = True
                if no_worse and (better or b < a):
                    beaten = True
                    break
            if not beaten:
                rows[found] = some[a]
                codes[found] = first + total * a
                found += 1
        first += 1
    return first, found
