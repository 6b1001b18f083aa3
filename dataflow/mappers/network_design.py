"""One hardware for all layers of a network: what a design is, what it costs, where it may lie.

A design gives every layer a tiling and a loop order; the hardware is the smallest that holds them all. Its score is

    EDP = (sum of energy x count) (sum of cycles x count),        joule cycles,

over the layers of the network. Per layer and dimension a *split* = (spatial, inner, outer) factors: outer loops run at
DRAM, inner ones at the accumulators, spatial ones (C and K only) on the array. Inner loops that do not touch weights
run innermost, which is never worse in this template. Posed as in: Hong et al., "DOSA", MICRO 2023.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dataflow.gemmini import (
    DIMENSIONS,
    C,
    Hardware,
    K,
    Layer,
    Mapping,
    Traffic,
    cost_of_traffic,
    smallest_hardware,
    traffic,
)
from dataflow.gemmini_mapping_text import write_mappings
from roofline.relax import Rounding, exact
from workloads.numeric import Array

SPATIAL, INNER, OUTER = range(3)
#: Largest edge of the array that a search may choose.
EDGE_LIMIT = 128
#: Inner order: filter, channels and filters outside, output positions (which reuse the weights) inside.
INNER_ORDER = np.array([DIMENSIONS.index(name) for name in "RSCKQPN"]).argsort()
#: Outer orders, outermost first: each choice of the innermost two groups of {R S C}, {P Q N}, {K} and of the sliding
#: dimension.
OUTER_ORDERS = np.stack(
    [
        np.array([DIMENSIONS.index(name) for name in text]).argsort()
        for text in (
            *("RSCNPQK", "RSCNQPK", "NPQRSCK", "NQPRSCK", "CSRNPQK", "NPQCRSK"),
            *("KRSCNPQ", "KRSCNQP", "RSCKNPQ", "RSCKNQP", "KCSRNPQ", "CKRSNPQ"),
            *("KNPQRSC", "NPQKRSC", "KNPQCRS", "KNPQCSR", "NPQKCRS", "NPQKCSR"),
        )
    ]
)


@dataclass(frozen=True)
class Network:
    """Layers of a network: `sizes` [layers, 7] in the order of `gemmini.DIMENSIONS`, `strides` [layers, 2] (along P and
    Q), `counts` [layers] repetitions, `names`."""

    sizes: np.ndarray
    strides: np.ndarray
    counts: np.ndarray
    names: tuple[str, ...] = ()

    @property
    def layer(self) -> Layer:
        """All layers as one pytree with a leading axis."""
        return Layer(sizes=self.sizes, stride_p=self.strides[:, 0], stride_q=self.strides[:, 1])


def check_network(network: Network) -> None:
    """ValueError naming the field unless there are layers, of positive whole sizes, strides and repetitions."""
    layers = np.shape(network.counts)
    if len(layers) != 1 or not layers[0]:
        raise ValueError(f"network.counts: shape {layers}, expected a number for each of at least one layer")
    for name, value, shape in (
        ("sizes", network.sizes, (*layers, 7)),
        ("strides", network.strides, (*layers, 2)),
        ("counts", network.counts, layers),
    ):
        numbers = np.asarray(value)
        if numbers.shape != shape:
            raise ValueError(f"network.{name}: shape {numbers.shape}, expected {shape}")
        if numbers.dtype.kind not in "iuf" or not np.all(np.isfinite(numbers) & (numbers >= 1)):
            raise ValueError(f"network.{name}: {numbers.ravel()[:4].tolist()}, expected finite numbers from 1 on")
        if name != "counts" and np.any(numbers != np.floor(numbers)):
            raise ValueError(f"network.{name}: fractions, expected whole numbers")


def network_arrays(network: Network) -> tuple[Array, Array, Array]:
    """The numbers of a network, for compiled functions (one compilation per number of layers)."""
    return jnp.asarray(network.sizes), jnp.asarray(network.strides), jnp.asarray(network.counts)


def padded(network: Network, multiple: int = 8) -> Network:
    """The network with single-element layers of count 0 appended, so that compiled searches serve several networks."""
    more = -len(network.counts) % multiple
    return Network(
        np.concatenate([network.sizes, np.ones((more, 7))]),
        np.concatenate([network.strides, np.ones((more, 2))]),
        np.concatenate([network.counts, np.zeros(more)]),
        network.names,
    )


class Design(NamedTuple):
    """`splits` [..., layers, 7, 3] factors, `orders` [..., layers] index into `OUTER_ORDERS`."""

    splits: Array
    orders: Array


class Score(NamedTuple):
    """`energy_joules`, `cycles`: sums over layers and counts; `energy_delay` their product; per-layer costs and the
    hardware.
    """

    energy_delay: Array
    energy_joules: Array
    cycles: Array
    layer_energy_joules: Array
    layer_cycles: Array
    hardware: Hardware


def mapping_of(splits: Array, orders: Array) -> Mapping:
    """The mapping of `splits` [..., 7, 3] with outer orders `orders` [...]."""
    xp = jnp if isinstance(splits, jax.Array) or isinstance(orders, jax.Array) else np
    ones = xp.ones_like(splits[..., 0])
    temporal = xp.stack([ones, splits[..., INNER], ones, splits[..., OUTER]], axis=-2)
    outer = xp.asarray(OUTER_ORDERS)[orders]
    fixed = xp.broadcast_to(xp.asarray(INNER_ORDER), outer.shape)
    order = xp.stack([fixed, fixed, fixed, outer], axis=-2)
    return Mapping(temporal=temporal, spatial_c=splits[..., C, SPATIAL], spatial_k=splits[..., K, SPATIAL], order=order)


def score_of_traffic(
    network: Network, splits: Array, words: Traffic, hardware: Hardware | None = None, rounding: Rounding = exact
) -> Score:
    """Score designs whose traffic [..., layers] is known; `hardware` None: the smallest that fits."""
    mapping = Mapping(temporal=1.0, spatial_c=splits[..., C, SPATIAL], spatial_k=splits[..., K, SPATIAL], order=0)
    return _score_of_traffic(network, mapping, words, hardware, rounding)


def score_mappings(network: Network, mapping: Mapping, hardware: Hardware | None = None) -> Score:
    """The exact score of arbitrary mappings of the template [..., layers], restricted to no search space; on
    `hardware`, or on the smallest that fits."""
    return _score_of_traffic(network, mapping, traffic(network.layer, mapping), hardware, exact)


def _score_of_traffic(
    network: Network, mapping: Mapping, words: Traffic, hardware: Hardware | None, rounding: Rounding
) -> Score:
    chosen = smallest_hardware(words, axis=-1, rounding=rounding) if hardware is None else hardware
    wide = jax.tree_util.tree_map(lambda x: jnp.asarray(x)[..., None], chosen)
    each = cost_of_traffic(network.layer, mapping, words, wide, rounding=rounding)
    energy = jnp.sum(each.energy_joules * network.counts, axis=-1)
    cycles = jnp.sum(each.cycles * network.counts, axis=-1)
    return Score(energy * cycles, energy, cycles, each.energy_joules, each.cycles, chosen)


def score(network: Network, design: Design, rounding: Rounding = exact) -> Score:
    """The exact score of designs (leading axes: several designs)."""
    words = traffic(network.layer, mapping_of(design.splits, design.orders), rounding=rounding)
    return score_of_traffic(network, design.splits, words, rounding=rounding)


def splits_of(size: int, spatial: bool, edge_limit: int = EDGE_LIMIT) -> np.ndarray:
    """All (spatial, inner, outer) factors of `size`, [n, 3]; spatial is 1 unless allowed."""
    divisors = [d for d in range(1, int(size) + 1) if size % d == 0]
    rows = [
        (s, inner, size // s // inner)
        for s in (divisors if spatial else [1])
        if s <= edge_limit
        for inner in divisors
        if (size // s) % inner == 0
    ]
    return np.array(rows, dtype=float)


class SplitTable(NamedTuple):
    """`choices` [layers, 7, most, 3] (padded with the first row) and `number` [layers, 7] of them."""

    choices: np.ndarray
    number: np.ndarray


def split_table(network: Network, edge_limit: int = EDGE_LIMIT) -> SplitTable:
    """Every split of every dimension of every layer."""
    rows = [[splits_of(int(size), d in (C, K), edge_limit) for d, size in enumerate(sizes)] for sizes in network.sizes]
    number = np.array([[len(r) for r in row] for row in rows])
    most = int(number.max())
    choices = np.stack([np.stack([r[np.minimum(np.arange(most), len(r) - 1)] for r in row]) for row in rows])
    return SplitTable(choices, number)


def describe(network: Network, design: Design) -> list[str]:
    """The mappings of one design as text, one per layer."""
    return write_mappings(mapping_of(np.asarray(design.splits), np.asarray(design.orders)))
