"""Random search and simulated annealing over whole-network designs: the references that gradient search is measured
against.

Both return rounded designs scored by the same exact model and the same smallest-hardware rule as `gradient`.
"""

import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dataflow.gemmini import (
    ACCUMULATORS,
    DRAM,
    REGISTERS,
    SCRATCHPAD,
    C,
    Hardware,
    K,
    Layer,
    Mapping,
    N,
    P,
    Q,
    R,
    S,
    Traffic,
    cost_of_traffic,
    inner_tile,
    traffic,
)
from dataflow.mappers.budget import check_counts, check_numbers
from dataflow.mappers.network_design import (
    EDGE_LIMIT,
    OUTER_ORDERS,
    Design,
    Network,
    check_network,
    mapping_of,
    network_arrays,
    score_mappings,
    score_of_traffic,
    split_table,
)

#: Ranges of random hardware, powers of two: array edge, words of an accumulator column, words of the scratchpad.
EDGE_POWERS, ACCUMULATOR_POWERS, SCRATCHPAD_POWERS = (2, 7), (4, 14), (10, 21)


class SamplingResult(NamedTuple):
    """The best design, its exact energy-delay product, layer mappings looked at per layer of the network, seconds."""

    design: Design | Mapping
    energy_delay: float
    samples: float
    seconds: float


def random_network_search(
    network: Network, *, hardware: int = 10, mappings: int = 1000, draws: int = 20, shrink: bool = True, seed: int = 0
) -> SamplingResult:
    """For each of `hardware` random chips the best of `mappings` random valid ones per layer (by the layer's own EDP).

    Uniform over the template's whole space: every split of every dimension over registers (P, Q, N), accumulators,
    array (C, K) and DRAM, every loop order. What does not fit is drawn again, up to `draws` x `mappings` times (`draws`
    = 1: misfits are part of the budget); a layer that then has none gives the chip up. With `shrink` the chip shrinks
    to what the chosen mappings need. If all chips are given up, more are drawn until one holds all layers.
    """
    check_network(network)
    check_counts(hardware=hardware, mappings=mappings, draws=draws)
    check_counts(0, seed=seed)
    began = time.perf_counter()
    rng = np.random.default_rng(seed)
    best: tuple[float, Mapping] | None = None
    looked, tried = 0.0, 0
    tables = [[_all_splits(int(size), d) for d, size in enumerate(sizes)] for sizes in network.sizes]
    while tried < hardware or (best is None and tried < 50 * hardware):
        tried += 1
        ranges = (EDGE_POWERS, ACCUMULATOR_POWERS, SCRATCHPAD_POWERS)
        powers = [int(rng.integers(low, high + 1)) for low, high in ranges]
        chip = Hardware(edge=2.0 ** powers[0], accumulator_words=2.0 ** powers[1], scratchpad_words=2.0 ** powers[2])
        picked: list[Mapping] = []
        for at, table in enumerate(tables):
            layer = Layer(sizes=network.sizes[at], stride_p=network.strides[at, 0], stride_q=network.strides[at, 1])
            found = _best_random_mapping(layer, table, chip, mappings, draws, rng)
            looked += mappings / len(network.counts)  # misfits that were drawn again not counted
            if found is None:
                break
            picked.append(found)
        if len(picked) < len(network.counts):
            continue
        design = jax.tree_util.tree_map(lambda *leaves: np.stack(leaves), *picked)
        value = float(np.asarray(score_mappings(network, design, None if shrink else chip).energy_delay))
        if best is None or value < best[0]:
            best = value, design
    if best is None:
        raise ValueError(f"random search: none of {tried} random chips holds all layers; raise draws or mappings")
    return SamplingResult(best[1], best[0], looked, time.perf_counter() - began)


#: Where the factors of a dimension may go: (level, spatial).
_SLOTS = {
    d: ((ACCUMULATORS, False), (DRAM, False))
    + (((REGISTERS, False),) if d in (P, Q, N) else ())
    + (((ACCUMULATORS, True),) if d in (C, K) else ())
    for d in range(7)
}


def _all_splits(size: int, dimension: int) -> np.ndarray:
    """Every split of `size` over the dimension's slots, [n, slots]."""
    rows = [(size,)]
    for _ in range(len(_SLOTS[dimension]) - 1):
        rows = [(*row[:-1], f, row[-1] // f) for row in rows for f in range(1, row[-1] + 1) if row[-1] % f == 0]
    return np.array(rows, dtype=float)


def _best_random_mapping(layer: Layer, table, chip: Hardware, mappings: int, draws: int, rng) -> Mapping | None:
    kept: list[Mapping] = []
    missing = mappings
    for _ in range(draws):
        temporal, spatial = np.ones((mappings, 4, 7)), np.ones((mappings, 7))
        for d, rows in enumerate(table):
            pick = rows[rng.integers(0, len(rows), mappings)]
            for slot, (level, unrolled) in enumerate(_SLOTS[d]):
                target = spatial[:, d] if unrolled else temporal[:, level, d]
                target *= pick[:, slot]
        order = rng.random((mappings, 4, 7)).argsort(axis=-1)
        some = Mapping(temporal=temporal, spatial_c=spatial[:, C], spatial_k=spatial[:, K], order=order)
        inner, whole = inner_tile(some, ACCUMULATORS), inner_tile(some, SCRATCHPAD)
        outputs = inner[:, P] * inner[:, Q] * inner[:, K] * inner[:, N]
        weights = whole[:, R] * whole[:, S] * whole[:, C] * whole[:, K]
        rows_in = (whole[:, P] - 1) * layer.stride_p + whole[:, R]
        inputs = rows_in * ((whole[:, Q] - 1) * layer.stride_q + whole[:, S]) * whole[:, C] * whole[:, N]
        fits = (spatial.max(axis=-1) <= chip.edge) & (outputs <= chip.accumulator_words)
        fits &= weights + inputs <= chip.scratchpad_words
        chosen = np.flatnonzero(fits)[:missing]
        kept.append(jax.tree_util.tree_map(lambda x, rows=chosen: x[rows], some))
        missing -= len(chosen)
        if missing <= 0:
            break
    valid = jax.tree_util.tree_map(lambda *leaves: np.concatenate(leaves), *kept)
    if not len(valid.spatial_c):
        return None
    each = cost_of_traffic(layer, valid, traffic(layer, valid), chip)
    winner = int(np.nanargmin(each.energy_delay))
    return jax.tree_util.tree_map(lambda x: x[winner], valid)


def anneal_network(
    network: Network,
    *,
    seconds: float,
    chains: int = 32,
    hot: float = 0.3,
    cold: float = 1e-3,
    block: int = 500,
    seed: int = 0,
) -> SamplingResult:
    """Simulated annealing of `chains` designs for `seconds` of wall time (compilation not counted).

    A step changes one split or the order of one layer; the hardware follows. Metropolis on ln EDP with a geometric
    temperature from `hot` to `cold` over the time. Chains start from random designs; `cold = hot = 0` is hill climbing.
    """
    check_network(network)
    check_counts(chains=chains, block=block)
    check_counts(0, seed=seed)
    check_numbers(True, seconds=seconds)
    check_numbers(hot=hot, cold=cold)
    table = split_table(network, EDGE_LIMIT)
    arrays, choices, number = network_arrays(network), jnp.asarray(table.choices), jnp.asarray(table.number)
    rng = np.random.default_rng(seed)
    pick = (rng.random((chains, *table.number.shape)) * table.number).astype(int)
    splits = jnp.asarray(np.take_along_axis(table.choices[None], pick[..., None, None], axis=3)[..., 0, :])
    orders = jnp.asarray(rng.integers(0, len(OUTER_ORDERS), pick.shape[:2]))
    state = _start(arrays, splits, orders)
    key = jax.random.PRNGKey(seed)
    run = partial(_anneal, arrays, choices, number, block=block)
    jax.block_until_ready(run(state, key, jnp.full(block, hot)))
    began, steps = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        key, now = jax.random.split(key)
        share = min(spent / seconds, 1.0)
        temperature = hot * (cold / hot) ** share if hot > 0 else 0.0
        state = jax.block_until_ready(run(state, now, jnp.full(block, temperature)))
        steps += block
    best = np.asarray(state[5])
    winner = int(np.argmin(best))
    design = Design(np.asarray(state[6])[winner], np.asarray(state[7])[winner])
    looked = steps * chains / len(network.counts)
    return SamplingResult(design, float(np.exp(best[winner])), looked, time.perf_counter() - began)


@jax.jit
def _start(arrays, splits, orders):
    network = Network(*arrays)
    words = traffic(network.layer, mapping_of(splits, orders))
    value = jnp.log(score_of_traffic(network, splits, words).energy_delay)
    return splits, orders, words, value, value, value, splits, orders


@partial(jax.jit, static_argnames=("block",))
def _anneal(arrays, choices, number, state, key, temperatures, block: int):
    network = Network(*arrays)
    layers = number.shape[0]
    chains = state[1].shape[0]
    rows = jnp.arange(chains)

    def step(state, inputs):
        splits, orders, words, value, _, best, best_splits, best_orders = state
        key, temperature = inputs
        keys = jax.random.split(key, 5)
        at = jax.random.randint(keys[0], (chains,), 0, layers)
        gene = jax.random.randint(keys[1], (chains,), 0, 7)  # 0..5: a dimension's split (N is skipped); 6: the order
        dimension = jnp.minimum(gene, 5)
        draw = jax.random.uniform(keys[2], (chains,))
        index = jnp.floor(draw * number[at, dimension]).astype(int)
        changed = jnp.where((gene < 6)[:, None], choices[at, dimension, index], splits[rows, at, dimension])
        mine = splits[rows, at].at[rows, dimension].set(changed)
        order = jnp.where(gene == 6, jax.random.randint(keys[3], (chains,), 0, len(OUTER_ORDERS)), orders[rows, at])
        one = Layer(sizes=network.sizes[at], stride_p=network.strides[at, 0], stride_q=network.strides[at, 1])
        fresh = traffic(one, mapping_of(mine, order))
        new_splits, new_orders = splits.at[rows, at].set(mine), orders.at[rows, at].set(order)
        new_words = Traffic(*(old.at[rows, at].set(new) for old, new in zip(words, fresh)))
        proposed = jnp.log(score_of_traffic(network, new_splits, new_words).energy_delay)
        take = jnp.log(jax.random.uniform(keys[4], (chains,))) * temperature < value - proposed
        splits = jnp.where(take[:, None, None, None], new_splits, splits)
        orders = jnp.where(take[:, None], new_orders, orders)
        words = Traffic(*(jnp.where(take[:, None], new, old) for old, new in zip(words, new_words)))
        value = jnp.where(take, proposed, value)
        better = value < best
        best_splits = jnp.where(better[:, None, None, None], splits, best_splits)
        best_orders = jnp.where(better[:, None], orders, best_orders)
        return (splits, orders, words, value, value, jnp.minimum(best, value), best_splits, best_orders), None

    state, _ = jax.lax.scan(step, state, (jax.random.split(key, block), temperatures))
    return state
