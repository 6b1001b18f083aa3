"""Improving whole-number designs one coordinate at a time: one dimension's split, or one layer's loop order.

Every alternative of the coordinate is scored exactly, the hardware growing or shrinking with it, and the best one is
kept; a sweep visits every dimension and the order of every layer. It ends in a design that no single change improves.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dataflow.gemmini import Layer, Traffic, traffic
from dataflow.mappers.network_design import (
    OUTER_ORDERS,
    Design,
    Network,
    SplitTable,
    mapping_of,
    network_arrays,
    score_of_traffic,
)

_ORDERS = np.arange(len(OUTER_ORDERS))


def choose_orders(network: Network, splits: np.ndarray, orders: np.ndarray) -> tuple[np.ndarray, int]:
    """The best outer order of each layer of designs [starts, layers], and how many networks' worth of mappings were
    looked at.

    Orders do not change what fits; each layer takes the one with the smallest share in the gradient of ln EDP.
    """
    arrays = network_arrays(network)
    best = _best_orders(arrays, jnp.asarray(splits), jnp.asarray(orders))
    return np.asarray(best), len(_ORDERS)


def descend(network: Network, table: SplitTable, designs: Design, sweeps: int) -> tuple[Design, np.ndarray, float]:
    """`sweeps` over all coordinates of designs [n, layers]; returns the designs, their scores and the networks looked
    at.
    """
    arrays = network_arrays(network)
    splits, orders = jnp.asarray(designs.splits), jnp.asarray(designs.orders)
    layers = len(network.counts)
    scores = None
    for _ in range(sweeps):
        splits, orders, scores = _sweep(arrays, jnp.asarray(table.choices), splits, orders)
    assert scores is not None
    looked = sweeps * len(designs.splits) * (float(table.number.sum()) / layers + len(_ORDERS))
    return Design(np.asarray(splits), np.asarray(orders)), np.asarray(scores), looked


@jax.jit
def _best_orders(arrays, splits, orders):
    network = Network(*arrays)
    words = traffic(network.layer, mapping_of(splits, orders))
    now = score_of_traffic(network, splits, words)
    options = jnp.moveaxis(jnp.broadcast_to(_ORDERS, (*orders.shape, len(_ORDERS))), -1, 0)
    many = jnp.broadcast_to(splits, (len(_ORDERS), *splits.shape))
    each = score_of_traffic(network, many, traffic(network.layer, mapping_of(many, options)), now.hardware)
    share = each.layer_energy_joules / now.energy_joules[:, None] + each.layer_cycles / now.cycles[:, None]
    return jnp.argmin(share, axis=0)


@jax.jit
def _sweep(arrays, choices, splits, orders):
    network = Network(*arrays)
    layers = splits.shape[1]
    words = traffic(network.layer, mapping_of(splits, orders))

    def alternatives(splits, orders, words, layer, options, option_orders):
        """Score designs [n] with layer `layer` replaced by each option [n, most]; returns index of the best and its
        traffic.
        """
        one = Layer(sizes=network.sizes[layer], stride_p=network.strides[layer, 0], stride_q=network.strides[layer, 1])
        new = traffic(one, mapping_of(options, option_orders))
        here = jnp.arange(layers) == layer
        merged = Traffic(*(jnp.where(here, b[..., None], a[:, None, :]) for a, b in zip(words, new)))
        all_splits = jnp.where(here[:, None, None], options[:, :, None], splits[:, None])
        scores = score_of_traffic(network, all_splits, merged).energy_delay
        pick = jnp.argmin(scores, axis=1)
        rows = jnp.arange(splits.shape[0])
        kept = Traffic(*(jnp.where(here, b[rows, pick][:, None], a) for a, b in zip(words, new)))
        return pick, kept, scores[rows, pick]

    def visit(carry, at):
        splits, orders, words = carry
        layer, dimension = at
        rows = jnp.arange(splits.shape[0])
        # A split of one dimension ...
        table = choices[layer, dimension]
        options = jnp.repeat(splits[:, layer][:, None], table.shape[0], axis=1)
        options = options.at[:, :, dimension].set(table)
        repeated = jnp.repeat(orders[:, layer][:, None], table.shape[0], axis=1)
        pick, words, _ = alternatives(splits, orders, words, layer, options, repeated)
        splits = splits.at[:, layer].set(options[rows, pick])
        # ... and, after the last dimension, the order.
        all_orders = jnp.broadcast_to(_ORDERS, (splits.shape[0], len(_ORDERS)))
        same = jnp.repeat(splits[:, layer][:, None], len(_ORDERS), axis=1)
        pick, words, scores = alternatives(splits, orders, words, layer, same, all_orders)
        orders = orders.at[:, layer].set(all_orders[rows, pick])
        return (splits, orders, words), scores

    layer_index, dimension_index = jnp.meshgrid(jnp.arange(layers), jnp.arange(6), indexing="ij")
    places = (layer_index.reshape(-1), dimension_index.reshape(-1))
    (splits, orders, words), scores = jax.lax.scan(visit, (splits, orders, words), places)
    return splits, orders, scores[-1]
