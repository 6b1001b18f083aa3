"""Gradient search of all layers' mappings and the hardware together.

Every split is relaxed: the factors of a dimension of size n are n^share with shares = softmax(logits) over (spatial,
inner, outer), so that they always multiply to n and never fall below one. Adam descends on ln EDP of several starts at
once. Until the last rounding each start designs for buffers of at least its own two capacities (spread evenly over the
plane), so that the starts do not all fall into one hardware; then the hardware is the smallest that fits. At each
rounding every split goes to the whole ones near it, orders are chosen anew, and the descent goes on from there.

The rounded mappings of all starts are candidates, layer by layer: `improve` combines them and looks at their
neighbours. Method of the descent: Hong et al., "DOSA", MICRO 2023; the exact model scores all rounded designs.
"""

import itertools
import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dataflow.gemmini import C, Hardware, K, smallest_hardware, traffic
from dataflow.mappers.budget import check_counts, check_numbers
from dataflow.mappers.candidates import Candidates
from dataflow.mappers.neighbours import improve
from dataflow.mappers.network_design import (
    EDGE_LIMIT,
    OUTER_ORDERS,
    SPATIAL,
    Design,
    Network,
    SplitTable,
    check_network,
    mapping_of,
    network_arrays,
    padded,
    score,
    score_of_traffic,
    split_table,
)
from roofline.relax import Rounding, smooth
from workloads.numeric import Array

#: Where a softmax share counts as none: unavailable slots (spatial factors of R, S, P, Q, N).
_CLOSED = np.where(np.isin(np.arange(7), (C, K))[:, None] | (np.arange(3) != SPATIAL), 0.0, -1e9)
_BETA1, _BETA2 = 0.9, 0.999
#: Smallest and largest capacities that starts are spread over (words of an accumulator column, of the scratchpad).
_CAPACITIES = np.array([(64.0, 46_000.0), (4096.0, 524_000.0)])
_R2 = np.array([0.7548776662466927, 0.5698402909980532])
#: How many whole splits near the relaxed one are looked at per dimension (R, S, P, Q, C, K, N).
_NEAREST = (1, 1, 2, 2, 3, 3, 1)


class GradientResult(NamedTuple):
    """The best design, its exact energy-delay product, the same before `improve`, evaluations of the whole network,
    seconds.

    `history` [roundings, starts]: exact score of each rounding. `samples`: gradient steps x starts, plus all mappings
    that roundings and improvement looked at, in units of whole networks.
    """

    design: Design
    energy_delay: float
    rounded: float
    samples: float
    seconds: float
    history: np.ndarray


def gradient_search(
    network: Network,
    *,
    starts: int = 7,
    steps: int = 100,
    roundings: int = 3,
    learning_rate: float = 0.1,
    samples: float = 10_500.0,
    patience: int = 6,
    edge_limit: int = EDGE_LIMIT,
    seed: int = 0,
) -> GradientResult:
    """Search; `steps` per rounding, what is left of `samples` goes to the improvement of the rounded mappings, which
    ends early after `patience` rounds without gain. Same seed, same result. ValueError for a budget of nothing.
    """
    check_network(network)
    check_counts(starts=starts, steps=steps, roundings=roundings, edge_limit=edge_limit)
    check_counts(0, patience=patience, seed=seed)
    check_numbers(True, learning_rate=learning_rate, samples=samples)
    began = time.perf_counter()
    whole, network = network, padded(network)
    table = split_table(network, edge_limit)
    layers, real = len(network.counts), len(whole.counts)
    pool = Candidates(whole, split_table(whole, edge_limit))
    rng = np.random.default_rng(seed)
    log_sizes = jnp.log(jnp.asarray(network.sizes))
    logits = jnp.asarray(rng.normal(0.0, 1.5, (starts, layers, 7, 3)))
    orders = rng.integers(0, len(OUTER_ORDERS), (starts, layers))
    history, used = [], 0.0
    for i in range(roundings):
        least = _spread_capacities(rng, starts) if i < roundings - 1 else np.ones((starts, 2))
        logits = _adam(network_arrays(network), log_sizes, logits, orders, steps, learning_rate, edge_limit, least)
        places = near_splits(table, np.asarray(relaxed_splits(log_sizes, logits)))
        rows = np.arange(layers)[:, None]
        splits = table.choices[rows, np.arange(7), places[0]]
        orders = choose_orders(network, splits, orders)
        history.append(np.asarray(_score(network_arrays(network), jnp.asarray(splits), jnp.asarray(orders))))
        used += starts * (steps + len(OUTER_ORDERS))
        every = pool.encode(places[..., :real, :], np.broadcast_to(orders, places.shape[:-1])[..., :real])
        pool.add(np.broadcast_to(np.arange(real), every.shape).reshape(-1), every.reshape(-1))
        logits = jnp.asarray(logits_of(np.log(network.sizes), splits))
    evaluations = int((samples - used) * real) - pool.evaluated
    best = improve(pool, edge=edge_limit, evaluations=evaluations, patience=patience)
    design = pool.design(best.picks)
    value = float(score(whole, design).energy_delay)
    used += pool.evaluated / real
    seconds = time.perf_counter() - began
    return GradientResult(design, value, float(np.min(history)), used, seconds, np.stack(history))


def _spread_capacities(rng: np.random.Generator, number: int) -> np.ndarray:
    """Words of accumulators and scratchpad [number, 2], log-evenly spread (Roberts' R2 sequence from a random start)."""
    low, high = np.log2(_CAPACITIES)
    return 2.0 ** (low + (rng.random(2) + np.arange(number)[:, None] * _R2) % 1.0 * (high - low))


def near_splits(table: SplitTable, relaxed: np.ndarray) -> np.ndarray:
    """Places [m, ..., layers, 7] of whole splits near relaxed ones [..., layers, 7, 3] in the logarithm: first the
    nearest of every dimension, then all combinations of the `_NEAREST` ones.
    """
    distance = np.sum((np.log(table.choices) - np.log(relaxed)[..., None, :]) ** 2, axis=-1)
    distance = np.where(np.arange(distance.shape[-1]) < table.number[..., None], distance, np.inf)
    nearest = np.argsort(distance, axis=-1, kind="stable")
    found = []
    for ranks in itertools.product(*map(range, _NEAREST)):
        rank = np.broadcast_to(np.minimum(ranks, table.number - 1), relaxed.shape[:-1])
        found.append(np.take_along_axis(nearest, rank[..., None], axis=-1)[..., 0])
    return np.stack(found)


def choose_orders(network: Network, splits: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """The best outer order of each layer of designs [starts, layers].

    Orders do not change what fits; each layer takes the one with the smallest share in the gradient of ln EDP.
    """
    return np.asarray(_best_orders(network_arrays(network), jnp.asarray(splits), jnp.asarray(orders)))


def relaxed_splits(log_sizes: Array, logits: Array) -> Array:
    """Real-valued factors [..., layers, 7, 3] that multiply to the sizes."""
    return jnp.exp(log_sizes[..., None] * jax.nn.softmax(logits + _CLOSED, axis=-1))


def logits_of(log_sizes: np.ndarray, splits: np.ndarray, least: float = 0.02) -> np.ndarray:
    """Logits whose relaxed splits are near `splits` (shares below `least` are raised to it, so that they can still
    grow).
    """
    share = np.log(splits) / np.maximum(log_sizes, 1e-9)[..., None]
    return np.log(np.maximum(np.where(log_sizes[..., None] > 0.0, share, 1.0 / 3.0), least))


def loss(
    arrays: tuple[Array, Array, Array],
    splits: Array,
    orders: Array,
    edge_limit: int,
    rounding: Rounding,
    least_sizes: Array,
) -> Array:
    """ln EDP of relaxed designs [starts] on hardware of at least `least_sizes` [starts, 2], with a penalty on spatial
    factors beyond the edge limit."""
    network = Network(*arrays)  # type: ignore[arg-type]
    words = traffic(network.layer, mapping_of(splits, orders), moving_above=1.2, rounding=rounding)
    least = smallest_hardware(words, rounding=rounding)
    chip = Hardware(
        edge=least.edge,
        accumulator_words=jnp.maximum(least.accumulator_words, least_sizes[:, 0]),
        scratchpad_words=jnp.maximum(least.scratchpad_words, least_sizes[:, 1]),
    )
    result = score_of_traffic(network, splits, words, chip, rounding=rounding)
    over = jnp.maximum(jnp.log(splits[..., SPATIAL] / edge_limit), 0.0)
    return jnp.log(result.energy_delay) + jnp.sum(over**2, axis=(-1, -2))


@partial(jax.jit, static_argnames=("steps", "edge_limit"))
def _adam(arrays, log_sizes, logits, orders, steps: int, learning_rate: float, edge_limit: int, least_sizes):
    rounding = smooth(0.1)

    def total(z):
        return jnp.sum(loss(arrays, relaxed_splits(log_sizes, z), orders, edge_limit, rounding, least_sizes))

    slope = jax.grad(total)

    def step(carry, i):
        z, first, second = carry
        g = jnp.nan_to_num(slope(z))
        first = _BETA1 * first + (1.0 - _BETA1) * g
        second = _BETA2 * second + (1.0 - _BETA2) * g * g
        unbiased = first / (1.0 - _BETA1 ** (i + 1.0)), second / (1.0 - _BETA2 ** (i + 1.0))
        rate = learning_rate * (0.1 + 0.9 * 0.5 * (1.0 + jnp.cos(jnp.pi * i / steps)))
        return (z - rate * unbiased[0] / (jnp.sqrt(unbiased[1]) + 1e-8), first, second), None

    zero = jnp.zeros_like(logits)
    (logits, _, _), _ = jax.lax.scan(step, (logits, zero, zero), jnp.arange(steps, dtype=float))
    return logits


@jax.jit
def _score(arrays, splits, orders):
    return score(Network(*arrays), Design(splits, orders)).energy_delay


@jax.jit
def _best_orders(arrays, splits, orders):
    network = Network(*arrays)
    every = np.arange(len(OUTER_ORDERS))
    words = traffic(network.layer, mapping_of(splits, orders))
    now = score_of_traffic(network, splits, words)
    options = jnp.moveaxis(jnp.broadcast_to(every, (*orders.shape, len(every))), -1, 0)
    many = jnp.broadcast_to(splits, (len(every), *splits.shape))
    each = score_of_traffic(network, many, traffic(network.layer, mapping_of(many, options)), now.hardware)
    share = each.layer_energy_joules / now.energy_joules[:, None] + each.layer_cycles / now.cycles[:, None]
    return jnp.argmin(share, axis=0)
