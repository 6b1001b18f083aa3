"""A weight-stationary systolic generator (Gemmini) in closed form: cycles and energy of mapped layers, vectorised.

Four levels: 0 registers (weights), 1 accumulators (outputs, one column per filter), 2 scratchpad (weights and inputs),
3 DRAM. Spatial factors only on C (rows, below the accumulators) and K (columns, below the scratchpad). A mapping is
arrays, so millions of mappings, all layers of a network or all starts of a search are one call; the same source is
differentiated in relaxed search.

Traffic of tensor t into level l: its tile times the bounds of all outer loops except those that lie inside its
innermost relevant loop; inputs keep the halo between neighbouring tiles. Hardware and energies: Hong et al., "DOSA",
MICRO 2023.
"""

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

import jax
import numpy as np

from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace, stop_gradient

#: Order of the dimension axis: filter, output, channels, filters, batch.
DIMENSIONS = ("R", "S", "P", "Q", "C", "K", "N")
R, S, P, Q, C, K, N = range(7)
REGISTERS, ACCUMULATORS, SCRATCHPAD, DRAM = range(4)
LEVELS = ("registers", "accumulators", "scratchpad", "dram")
_RELEVANT = {"weights": (R, S, C, K), "inputs": (R, S, P, Q, C, N), "outputs": (P, Q, K, N)}
_MASK = {name: np.isin(np.arange(7), dims) for name, dims in _RELEVANT.items()}

_CONSTANTS = tomllib.loads(files("dataflow").joinpath("constants/gemmini.toml").read_text())
ENERGY, RATE, GEOMETRY = (_CONSTANTS[key] for key in ("energy_picojoules", "words_per_cycle", "geometry"))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Layer:
    """Layers as loop bounds: `sizes` [..., 7] in the order of `DIMENSIONS`; `stride_p` moves P against R, `stride_q` Q
    against S.
    """

    sizes: Array
    stride_p: Array = 1.0
    stride_q: Array = 1.0

    @property
    def macs(self) -> Array:
        """Multiply-accumulates, [...]."""
        return _product(namespace(self.sizes).asarray(self.sizes))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Mapping:
    """`temporal` [..., 4, 7]: bounds per level (0 registers ... 3 DRAM) and dimension; `spatial_c`, `spatial_k` [...]:
    unrolled.

    `order` [..., 4, 7]: place of each loop within its level, 0 outermost. Per dimension, all factors multiply to the
    layer's size.
    """

    temporal: Array
    spatial_c: Array
    spatial_k: Array
    order: Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Hardware:
    """`edge`: rows = columns of the array; `accumulator_words`: of one column; `scratchpad_words`: of the whole
    scratchpad.
    """

    edge: Array
    accumulator_words: Array
    scratchpad_words: Array

    @property
    def accumulator_bytes(self) -> Array:
        """All columns together, [...]."""
        return self.edge * self.accumulator_words * GEOMETRY["accumulator_word_bytes"]

    @property
    def scratchpad_bytes(self) -> Array:
        """Size of the scratchpad, [...]."""
        return self.scratchpad_words * GEOMETRY["scratchpad_word_bytes"]


class Traffic(NamedTuple):
    """Words moved, [...]: accesses per level and what enters the scratchpad and the accumulators; independent of the
    hardware.
    """

    registers: Array
    accumulators: Array
    scratchpad: Array
    dram: Array
    dram_blocks_words: Array
    weight_fills: Array
    input_fills: Array
    output_fills: Array
    accumulator_words: Array
    scratchpad_words: Array
    edge: Array


class Cost(NamedTuple):
    """`cycles`, `energy_joules` and their product, [...]; NaN where the mapping does not fit. `fits`: which points do.

    `compute_cycles`, ...: what each resource alone would take; the largest is the bound. Includes: all word accesses
    and multiply-accumulates. Excludes: leakage, instruction overhead (see `gemmini_overhead`), the drain of the last
    outputs.
    """

    cycles: Array
    energy_joules: Array
    energy_delay: Array
    fits: Array
    utilisation: Array
    compute_cycles: Array
    accumulator_cycles: Array
    scratchpad_cycles: Array
    dram_cycles: Array
    traffic: Traffic


def inner_tile(mapping: Mapping, level: int) -> Array:
    """Extent of each dimension inside one tile of `level`, spatial factors below included, [..., 7]."""
    xp = namespace(mapping)
    temporal = xp.asarray(mapping.temporal)
    extent = temporal[..., 0, :]
    for below in range(1, level + 1):
        extent = extent * temporal[..., below, :]
    one = np.ones(7)
    if level >= ACCUMULATORS:
        extent = extent * xp.where(np.arange(7) == C, xp.asarray(mapping.spatial_c)[..., None], one)
    if level >= SCRATCHPAD:
        extent = extent * xp.where(np.arange(7) == K, xp.asarray(mapping.spatial_k)[..., None], one)
    return extent


def traffic(
    layer: Layer, mapping: Mapping, *, halo: bool = True, moving_above: float = 1.0, rounding: Rounding = exact
) -> Traffic:
    """Word counts of `mapping` on `layer`; arguments broadcast over the leading axes.

    `halo=False` forgets that neighbouring input tiles overlap (cheaper, never fewer words). `moving_above`: bounds up
    to it do not count as a loop; 1 for whole factors, a little more for relaxed ones.
    """
    xp = namespace(layer, mapping)
    spatial_c, spatial_k = xp.asarray(mapping.spatial_c), xp.asarray(mapping.spatial_k)
    tiles = [inner_tile(mapping, level) for level in (REGISTERS, ACCUMULATORS, SCRATCHPAD)]
    macs = layer.macs
    out = _words(xp, xp.asarray(layer.sizes), "outputs", layer)

    weight_tile, input_tile = (_words(xp, tiles[SCRATCHPAD], name, layer) for name in ("weights", "inputs"))
    output_tile = _words(xp, tiles[ACCUMULATORS], "outputs", layer)
    weight_fills = weight_tile * _repeats(xp, mapping, "weights", SCRATCHPAD, moving_above)
    if halo:
        input_fills = _halo_fills(xp, layer, mapping, tiles[SCRATCHPAD], input_tile, moving_above)
    else:
        input_fills = input_tile * _repeats(xp, mapping, "inputs", SCRATCHPAD, moving_above)
    output_fills = output_tile * spatial_k * _repeats(xp, mapping, "outputs", ACCUMULATORS, moving_above)
    register_fills = _words(xp, tiles[REGISTERS], "weights", layer) * spatial_c * spatial_k
    register_fills = register_fills * _repeats(xp, mapping, "weights", REGISTERS, moving_above)

    revisits = output_fills - out
    block = GEOMETRY["dram_block_words"]
    moved = (weight_fills, input_fills, output_fills, revisits)
    return Traffic(
        registers=macs + register_fills,
        accumulators=2.0 * macs / spatial_c + revisits,
        scratchpad=weight_fills + input_fills + register_fills + macs / spatial_k,
        dram=weight_fills + input_fills + output_fills + revisits,
        dram_blocks_words=sum(rounding.round_up(words, block) for words in moved),
        weight_fills=weight_fills,
        input_fills=input_fills,
        output_fills=output_fills,
        accumulator_words=output_tile + 0.0 * spatial_k,
        scratchpad_words=weight_tile + input_tile,
        edge=rounding.maximum(spatial_c, spatial_k),
    )


def cost(layer: Layer, mapping: Mapping, hardware: Hardware, *, halo: bool = True, rounding: Rounding = exact) -> Cost:
    """Cycles and energy of `mapping` on `layer` and `hardware`; arguments broadcast over the leading axes."""
    return cost_of_traffic(
        layer, mapping, traffic(layer, mapping, halo=halo, rounding=rounding), hardware, rounding=rounding
    )


def cost_of_traffic(
    layer: Layer, mapping: Mapping, words: Traffic, hardware: Hardware, *, rounding: Rounding = exact
) -> Cost:
    """`cost` where the traffic is already known."""
    xp = namespace(layer, mapping, words, hardware)
    macs, edge = layer.macs, xp.asarray(hardware.edge)
    compute = macs / (xp.asarray(mapping.spatial_c) * mapping.spatial_k)
    accumulator = words.accumulators / (RATE["accumulator_column"] * mapping.spatial_k)
    scratchpad = words.scratchpad / (RATE["scratchpad_row"] * edge)
    dram = words.dram / RATE["dram"]
    cycles = rounding.ceil(rounding.maximum(compute, accumulator, scratchpad, dram))
    kib = 1024.0
    column_kib = hardware.accumulator_words * GEOMETRY["accumulator_word_bytes"] / kib
    accumulator_energy = ENERGY["accumulator_access"] + ENERGY["accumulator_access_per_kib"] * column_kib
    scratchpad_energy = (
        ENERGY["scratchpad_access"] + ENERGY["scratchpad_access_per_kib"] * hardware.scratchpad_bytes / kib
    )
    energy = 1e-12 * (
        ENERGY["multiply_accumulate"] * macs
        + ENERGY["register_access"] * words.registers
        + accumulator_energy * words.accumulators
        + scratchpad_energy * words.scratchpad
        + ENERGY["dram_access"] * words.dram_blocks_words
    )
    fits = (words.edge <= edge) & (words.accumulator_words <= hardware.accumulator_words)
    fits = fits & (words.scratchpad_words <= hardware.scratchpad_words)
    nan = xp.where(fits, 0.0, xp.nan)
    return Cost(
        cycles + nan,
        energy + nan,
        cycles * energy + nan,
        fits,
        macs / (cycles * edge * edge),
        compute,
        accumulator,
        scratchpad,
        dram,
        words,
    )


def smallest_hardware(words: Traffic, axis: int | None = -1, rounding: Rounding = exact) -> Hardware:
    """The smallest hardware that holds all mappings along `axis` (None: each mapping its own)."""
    if axis is None:
        return Hardware(
            edge=words.edge, accumulator_words=words.accumulator_words, scratchpad_words=words.scratchpad_words
        )
    largest = [rounding.max_over(x, axis=axis) for x in (words.edge, words.accumulator_words, words.scratchpad_words)]
    return Hardware(edge=largest[0], accumulator_words=largest[1], scratchpad_words=largest[2])


def binding_constraint(layer: Layer, mapping: Mapping, hardware: Hardware | None = None) -> str:
    """Why one mapping is not valid, in one line; "" if it is."""
    product = np.asarray(inner_tile(mapping, DRAM), dtype=float)
    for d, name in enumerate(DIMENSIONS):
        size = float(np.asarray(layer.sizes)[..., d])
        if product[..., d] != size:
            return f"mapping.{name}: factors multiply to {product[..., d]:g}, the layer's size is {size:g}"
    if hardware is None:
        return ""
    words = traffic(layer, mapping)
    for field, label in (
        ("edge", "spatial factors"),
        ("accumulator_words", "output tile of one accumulator column"),
        ("scratchpad_words", "weight and input tiles"),
    ):
        need, have = float(getattr(words, field)), float(getattr(hardware, field))
        if need > have:
            return f"hardware.{field}: {label} need {need:g} words, {have:g} available"
    return ""


def _product(values: Array) -> Array:
    """Product over the dimension axis as plain multiplications: exact, and cheap to differentiate and to compile."""
    total = values[..., 0]
    for d in range(1, 7):
        total = total * values[..., d]
    return total


def _words(xp, extent: Array, tensor: str, layer: Layer) -> Array:
    """Words of a tensor's tile of the given extents, [...]."""
    if tensor == "inputs":
        rows, columns = _input_extent(extent, layer)
        return rows * columns * extent[..., C] * extent[..., N]
    words = 1.0
    for d in _RELEVANT[tensor]:
        words = words * extent[..., d]
    return words


def _input_extent(extent: Array, layer: Layer) -> tuple[Array, Array]:
    along_p = (extent[..., P] - 1.0) * layer.stride_p + extent[..., R]
    return along_p, (extent[..., Q] - 1.0) * layer.stride_q + extent[..., S]


def _repeats(xp, mapping: Mapping, tensor: str, level: int, moving_above: float) -> Array:
    """How often a tile of `level` is filled: all outer loops but those inside the innermost relevant one, [...]."""
    temporal, order = xp.asarray(mapping.temporal), xp.asarray(mapping.order)
    total, relevant_inside = 1.0, False
    for outer in range(level + 1, 4):
        bounds, place = temporal[..., outer, :], order[..., outer, :]
        moving = _MASK[tensor] & (stop_gradient(bounds) > moving_above)
        innermost = xp.max(xp.where(moving, place, -1), axis=-1, keepdims=True)
        counted = (place <= innermost) | xp.asarray(relevant_inside)[..., None]
        total = total * _product(xp.where(counted, bounds, 1.0))
        relevant_inside = xp.asarray(relevant_inside) | xp.any(moving, axis=-1)
    return total


def _halo_fills(xp, layer: Layer, mapping: Mapping, tile: Array, words: Array, moving_above: float) -> Array:
    """Input words that enter the scratchpad: a step forward along one dimension alone brings only what the last tile
    lacked.
    """
    bounds, place = xp.asarray(mapping.temporal)[..., DRAM, :], xp.asarray(mapping.order)[..., DRAM, :]
    relevant = _MASK["inputs"]
    moving = relevant & (stop_gradient(bounds) > moving_above)
    before = place[..., None, :] < place[..., :, None]  # [..., loop, other]: the other loop lies outside
    outside = _product(xp.where(before, bounds[..., None, :], 1.0))
    inside = xp.any(moving[..., None, :] & (place[..., None, :] > place[..., :, None]), axis=-1)
    along_p, along_q = _input_extent(tile, layer)
    rest = tile[..., C] * tile[..., N]
    zero = 0.0 * words
    kept = xp.stack(
        xp.broadcast_arrays(
            xp.maximum(along_p - tile[..., R], 0.0) * along_q * rest,
            xp.maximum(along_q - tile[..., S], 0.0) * along_p * rest,
            xp.maximum(along_p - tile[..., P] * layer.stride_p, 0.0) * along_q * rest,
            xp.maximum(along_q - tile[..., Q] * layer.stride_q, 0.0) * along_p * rest,
            zero,
            zero,
            zero,
        ),
        axis=-1,
    )
    step = xp.where(inside, words[..., None], xp.where(relevant, words[..., None] - kept, 0.0))
    return words + xp.sum(outside * (bounds - 1.0) * step, axis=-1)
