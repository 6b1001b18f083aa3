"""Gradient search of all layers' mappings and the hardware together.

Every split is relaxed: the factors of a dimension of size n are n^share with shares = softmax(logits) over (spatial,
inner, outer), so that they always multiply to n and never fall below one. Adam descends on ln EDP of several starts at
once, the hardware being the smallest that fits the relaxed mappings. At each rounding every split goes to the nearest
whole one, loop orders are chosen anew, and the descent goes on from there; the best rounded designs are then improved
dimension by dimension (`descend`). Method: Hong et al., "DOSA", MICRO 2023; the exact model scores all rounded designs.
"""

import time
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dataflow.gemmini import C, K, traffic
from dataflow.mappers.coordinate_descent import choose_orders, descend
from dataflow.mappers.network_design import (
    EDGE_LIMIT,
    SPATIAL,
    Design,
    Network,
    SplitTable,
    mapping_of,
    network_arrays,
    padded,
    score,
    score_of_traffic,
    split_table,
)
from dataflow.mappers.network_sampling import refine
from roofline.relax import Rounding, smooth
from workloads.numeric import Array

#: Where a softmax share counts as none: unavailable slots (spatial factors of R, S, P, Q, N).
_CLOSED = np.where(np.isin(np.arange(7), (C, K))[:, None] | (np.arange(3) != SPATIAL), 0.0, -1e9)
_BETA1, _BETA2 = 0.9, 0.999


class GradientResult(NamedTuple):
    """The best design, its exact energy-delay product, every start's one, evaluations of the whole network, seconds.

    `history` [roundings, starts]: exact score of each rounding. `samples`: gradient steps x starts, plus all candidates
    that rounding and descent looked at, in units of whole networks.
    """

    design: Design
    energy_delay: float
    of_starts: np.ndarray
    samples: float
    seconds: float
    history: np.ndarray


def gradient_search(
    network: Network,
    *,
    starts: int = 7,
    steps: int = 200,
    roundings: int = 3,
    learning_rate: float = 0.1,
    sweeps: int = 3,
    finalists: int = 7,
    refinement: float = 1500.0,
    edge_limit: int = EDGE_LIMIT,
    seed: int = 0,
) -> GradientResult:
    """Search; `steps` per rounding, the best `finalists` starts get `sweeps` of coordinate descent.

    `refinement`: samples of a last, cold annealing from the finalists. Same seed, same result.
    """
    began = time.perf_counter()
    whole, network = network, padded(network)
    table = split_table(network, edge_limit)
    layers, real = len(network.counts), len(whole.counts)
    log_sizes = jnp.log(jnp.asarray(network.sizes))
    keys = jax.random.split(jax.random.PRNGKey(seed), 2)
    logits = jax.random.normal(keys[0], (starts, layers, 7, 3)) * 1.5
    orders = jax.random.randint(keys[1], (starts, layers), 0, 18)
    history, samples = [], 0.0
    best: Design | None = None
    best_score = np.full(starts, np.inf)
    for _ in range(roundings):
        logits = _adam(network_arrays(network), log_sizes, logits, orders, steps, learning_rate, edge_limit)
        splits = nearest_splits(table, np.asarray(relaxed_splits(log_sizes, logits)))
        orders, tried = choose_orders(network, splits, np.asarray(orders))
        found = Design(splits, orders)
        scores = np.asarray(_score(network_arrays(network), jnp.asarray(splits), jnp.asarray(orders)))
        samples += starts * (steps + tried + 1)
        history.append(scores)
        better = scores < best_score
        best_score = np.where(better, scores, best_score)
        best = found if best is None else _where(better, found, best)
        logits = jnp.asarray(logits_of(np.log(network.sizes), splits))
        orders = jnp.asarray(orders)
    assert best is not None
    last = np.argsort(best_score)[:finalists]
    polished, scores, tried = descend(network, table, Design(best.splits[last], best.orders[last]), sweeps)
    samples += tried
    if refinement > 0:
        polished, looked = refine(network, polished, samples=refinement, layers=real, seed=seed)
        polished, scores, tried = descend(network, table, polished, 1)
        samples += looked + tried
    best_score[last[: len(scores)]] = scores
    winner = int(np.argmin(scores))
    design = Design(polished.splits[winner, :real], polished.orders[winner, :real])
    return GradientResult(
        design, float(scores[winner]), best_score, float(samples), time.perf_counter() - began, np.stack(history)
    )


def relaxed_splits(log_sizes: Array, logits: Array) -> Array:
    """Real-valued factors [..., layers, 7, 3] that multiply to the sizes."""
    return jnp.exp(log_sizes[..., None] * jax.nn.softmax(logits + _CLOSED, axis=-1))


def logits_of(log_sizes: np.ndarray, splits: np.ndarray, least: float = 0.02) -> np.ndarray:
    """Logits whose relaxed splits are near `splits` (shares below `least` are raised to it, so that they can still
    grow).
    """
    share = np.log(splits) / np.maximum(log_sizes, 1e-9)[..., None]
    return np.log(np.maximum(np.where(log_sizes[..., None] > 0.0, share, 1.0 / 3.0), least))


def nearest_splits(table: SplitTable, relaxed: np.ndarray) -> np.ndarray:
    """For each relaxed split [..., layers, 7, 3] the whole one nearest in the logarithm."""
    distance = np.sum((np.log(table.choices) - np.log(relaxed)[..., None, :]) ** 2, axis=-1)
    index = np.argmin(distance, axis=-1)
    choices = np.broadcast_to(table.choices, (*relaxed.shape[:-1], *table.choices.shape[2:]))
    return np.take_along_axis(choices, index[..., None, None], axis=-2)[..., 0, :]


def loss(
    arrays: tuple[Array, Array, Array], splits: Array, orders: Array, edge_limit: int, rounding: Rounding
) -> Array:
    """ln EDP of relaxed designs [...], with a penalty on spatial factors beyond the edge limit."""
    network = Network(*arrays)  # type: ignore[arg-type]
    words = traffic(network.layer, mapping_of(splits, orders), moving_above=1.2, rounding=rounding)
    result = score_of_traffic(network, splits, words, rounding=rounding)
    over = jnp.maximum(jnp.log(splits[..., SPATIAL] / edge_limit), 0.0)
    return jnp.log(result.energy_delay) + jnp.sum(over**2, axis=(-1, -2))


@partial(jax.jit, static_argnames=("steps", "edge_limit"))
def _adam(arrays, log_sizes, logits, orders, steps: int, learning_rate: float, edge_limit: int):
    rounding = smooth(0.1)

    def total(z):
        return jnp.sum(loss(arrays, relaxed_splits(log_sizes, z), orders, edge_limit, rounding))

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


def _where(better: np.ndarray, new: Design, old: Design) -> Design:
    return Design(
        np.where(better[:, None, None, None], new.splits, old.splits), np.where(better[:, None], new.orders, old.orders)
    )
