"""Candidate mappings of every layer of a network with their traffic known, and the best way to combine them.

On given hardware the layers of a network do not depend on each other: for every price of a cycle in joules each takes
its own cheapest candidate, and the price at which energy / cycles reproduces itself gives the smallest product of
sums. So the best design made of a set of candidates is a search over two capacities only, and candidates found by
different starts or on the way to other designs are combined at no further evaluation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dataflow.gemmini import Hardware, Layer, Mapping, Traffic, cost_of_traffic
from dataflow.mappers.compiled_traffic import COLUMNS, coded_traffic
from dataflow.mappers.network_design import OUTER_ORDERS, Design, Network, SplitTable, network_arrays
from workloads.numeric import Array, namespace

#: Factors of the capacities that a pattern search tries, as powers of two of its step.
_MOVES = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1)])
_PRICE_STEPS = 4
#: Candidates of a layer in one compiled call: few shapes, since each is compiled once.
_WIDTH = 1024


class Combination(NamedTuple):
    """A design made of candidates: `picks` [layers] (row of the candidates' arrays), energy x cycles, both sums, and
    the two capacities it needs."""

    picks: np.ndarray
    energy_delay: float
    energy_joules: float
    cycles: float
    accumulator_words: float
    scratchpad_words: float

    @property
    def price(self) -> float:
        """Joules that a cycle is worth at this design."""
        return self.energy_joules / self.cycles


class Candidates:
    """Mappings looked at, per layer as a number (`code`: place of each dimension's split in the table, and the order).

    Arrays are [layers, width], rows of a layer beyond its candidates masked. `evaluated`: distinct mappings looked at.
    """

    def __init__(self, network: Network, table: SplitTable):
        self.network, self.table = network, table
        layers = len(network.counts)
        radix = np.concatenate([table.number, np.full((layers, 1), len(OUTER_ORDERS))], axis=1).astype(np.int64)
        self.radix = radix
        self.place = np.concatenate([np.ones((layers, 1), np.int64), np.cumprod(radix, axis=1)[:, :-1]], axis=1)
        self._seen: list[np.ndarray] = [np.empty(0, np.int64) for _ in range(layers)]
        self.codes = np.full((layers, 0), -1, dtype=np.int64)
        self.words: dict[str, np.ndarray] = {}
        self.evaluated = 0
        self._ready: dict[str, np.ndarray] | None = None

    def encode(self, index: np.ndarray, orders: np.ndarray) -> np.ndarray:
        """Codes [..., layers] of places of splits [..., layers, 7] and orders [..., layers]."""
        return np.sum(np.concatenate([index, orders[..., None]], axis=-1) * self.place, axis=-1)

    def decode(self, layer: np.ndarray, code: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places of splits [n, 7] and orders [n] of codes [n] of layers [n]."""
        digits = code[:, None] // self.place[layer] % self.radix[layer]
        return digits[:, :7], digits[:, 7]

    def design(self, picks: np.ndarray) -> Design:
        """The design that takes row `picks` [layers] of each layer."""
        layers = np.arange(len(picks))
        index, orders = self.decode(layers, self.codes[layers, picks])
        return Design(self.table.choices[layers[:, None], np.arange(7), index], orders)

    def add(self, layer: np.ndarray, code: np.ndarray) -> int:
        """Evaluate mappings [n] that are new, and keep them; returns how many were."""
        fresh_layer, fresh_code = [], []
        for at in range(len(self._seen)):
            mine = np.unique(code[layer == at])
            mine = mine[~np.isin(mine, self._seen[at], assume_unique=True)]
            self._seen[at] = np.union1d(self._seen[at], mine)
            fresh_layer.append(np.full(len(mine), at))
            fresh_code.append(mine)
        layer, code = np.concatenate(fresh_layer), np.concatenate(fresh_code)
        words = self._traffic(layer, code)
        widest = max(len(c) for c in fresh_code)
        rows = np.concatenate([np.arange(len(c)) for c in fresh_code])
        codes = np.full((len(self._seen), widest), -1, dtype=np.int64)
        codes[layer, rows] = code
        self.codes = np.concatenate([self.codes, codes], axis=1)
        for name, value in words.items():
            new = np.full(codes.shape, np.nan)
            new[layer, rows] = value
            self.words[name] = np.concatenate([self.words[name], new], axis=1) if name in self.words else new
        self.evaluated += len(code)
        self._ready = None
        return len(code)

    def combine(self, sizes: np.ndarray, edge: float, price: float) -> list[Combination]:
        """The best combination on each of the hardware `sizes` [n, 2] (words of accumulators and scratchpad), shrunk
        to what its mappings need; `price` of a cycle to begin with.
        """
        words, arrays = self._padded(), network_arrays(self.network)
        found = []
        for some, number in _eights(sizes):
            result = _combined(words, *arrays, some, float(edge), float(price))
            picks, energy, cycles, need = (np.asarray(x)[:number] for x in result)
            product = np.where(np.isfinite(energy), energy * cycles, np.inf)
            rows = zip(picks, product.tolist(), energy.tolist(), cycles.tolist(), *need.T.tolist(), strict=True)
            found += [Combination(*row) for row in rows]
        return found

    def values(self, sizes: np.ndarray, edge: float, price: float) -> np.ndarray:
        """Energy + price x cycles of all candidates on hardware `sizes` [n, 2]: [n, layers, width], inf: no fit."""
        words, arrays = self._padded(), network_arrays(self.network)
        columns = []
        for first in range(0, words["edge"].shape[1], _WIDTH):
            part = {name: value[:, first : first + _WIDTH] for name, value in words.items()}
            rows = [_values(part, *arrays, some, float(edge), float(price))[:n] for some, n in _eights(sizes)]
            columns.append(np.concatenate([np.asarray(x) for x in rows]))
        return np.concatenate(columns, axis=-1)[..., : self.codes.shape[1]]

    def best(self, starts: list[Combination], edge: float, finest: float = 0.03) -> Combination:
        """The best that a pattern search over the two capacities reaches from any of `starts`."""
        return min((self._pattern_search(start, edge, finest) for start in starts), key=lambda c: c.energy_delay)

    def _pattern_search(self, best: Combination, edge: float, finest: float) -> Combination:
        step = 1.0
        while step > finest:
            at = np.array([best.accumulator_words, best.scratchpad_words])
            found = self.combine(at * 2.0 ** (step * _MOVES), edge, best.price)
            found = min(found, key=lambda c: c.energy_delay)
            if found.energy_delay < best.energy_delay * (1 - 1e-12):
                best = found
            else:
                step /= 2.0
        return best

    def _padded(self) -> dict[str, np.ndarray]:
        if self._ready is None:
            width = _WIDTH
            while width < self.codes.shape[1]:
                width *= 4
            more = ((0, 0), (0, width - self.codes.shape[1]))
            self._ready = {name: np.pad(value, more, constant_values=np.nan) for name, value in self.words.items()}
        return self._ready

    def keep(self, rows: np.ndarray) -> None:
        """Forget all candidates but those of mask `rows` [layers, width] (they still count as evaluated)."""
        width = max(int(rows.sum(axis=1).max()), 1)
        order = np.argsort(~rows, axis=1, kind="stable")[:, :width]
        valid = np.take_along_axis(rows, order, axis=1)
        self._ready = None
        self.codes = np.where(valid, np.take_along_axis(self.codes, order, axis=1), -1)
        self.words = {n: np.where(valid, np.take_along_axis(v, order, axis=1), np.nan) for n, v in self.words.items()}

    def _traffic(self, layer: np.ndarray, code: np.ndarray) -> dict[str, np.ndarray]:
        rows = np.empty((len(code), len(COLUMNS)))
        coded_traffic(layer, code, self.radix, self.network.sizes, self.network.strides, self.table.choices, rows)
        found = dict(zip(COLUMNS, rows.T, strict=True))
        return found | {"edge": np.maximum(found["spatial_c"], found["spatial_k"])}


def _eights(sizes: np.ndarray):
    """Blocks of eight rows, the last one filled up, with the number that counts: one shape to compile."""
    for first in range(0, len(sizes), 8):
        some = sizes[first : first + 8]
        yield np.concatenate([some, np.repeat(some[:1], 8 - len(some), axis=0)]), len(some)


def costs(words: dict[str, Array], network: Network, sizes: Array, edge: Array, energies_of: Array | None = None):
    """Energy and cycles [layers, width], x counts, of candidates on hardware of `sizes` (two capacities); inf: no fit.

    `energies_of`: sizes whose energies per access count, where they are not those that must fit.
    """
    xp = namespace(words, sizes)
    none = xp.zeros_like(words["edge"])
    known = Traffic(**(dict.fromkeys(Traffic._fields, none) | {n: words[n] for n in words if n in Traffic._fields}))
    layer = Layer(sizes=network.sizes[:, None], stride_p=network.strides[:, :1], stride_q=network.strides[:, 1:])
    mapping = Mapping(temporal=1.0, spatial_c=words["spatial_c"], spatial_k=words["spatial_k"], order=0)
    held = sizes if energies_of is None else energies_of
    chip = Hardware(edge=edge, accumulator_words=held[0], scratchpad_words=held[1])
    unlimited = known._replace(accumulator_words=none, scratchpad_words=none)
    found = cost_of_traffic(layer, mapping, unlimited, chip)
    fits = (words["accumulator_words"] <= sizes[0]) & (words["scratchpad_words"] <= sizes[1]) & found.fits
    counts = network.counts[:, None]
    return xp.where(fits, found.energy_joules * counts, xp.inf), xp.where(fits, found.cycles * counts, xp.inf)


@jax.jit
def _values(words, sizes, strides, counts, capacities, edge, price):
    def one(capacity):
        energy, cycles = costs(words, Network(sizes, strides, counts), capacity, edge)
        return energy + price * cycles

    return jax.lax.map(one, capacities)


@jax.jit
def _combined(words, sizes, strides, counts, capacities, edge, price):
    network = Network(sizes, strides, counts)
    rows = jnp.arange(sizes.shape[0])

    def one(capacity):
        energy, cycles = costs(words, network, capacity, edge)
        worth = price
        for _ in range(_PRICE_STEPS):
            picks = jnp.argmin(energy + worth * cycles, axis=1)
            worth = jnp.sum(energy[rows, picks]) / jnp.sum(cycles[rows, picks])
            worth = jnp.where(jnp.isfinite(worth), worth, price)
        picked = {name: value[rows, picks][:, None] for name, value in words.items()}
        need = [jnp.max(picked[name]) for name in ("accumulator_words", "scratchpad_words", "edge")]
        exact = costs(picked, network, jnp.stack(need[:2]), need[2])
        feasible = jnp.all(jnp.isfinite(energy[rows, picks]))
        total = [jnp.where(feasible, jnp.sum(x), jnp.inf) for x in exact]
        return picks, *total, jnp.stack(need[:2])

    return jax.lax.map(one, capacities)
