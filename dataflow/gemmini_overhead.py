"""Gemmini's RTL beside its loop nest: what the register-transfer simulation spends that the loop nest does not see.

Timeloop's cycles (see `gemmini`) miss three things, each with a few physical constants:

- a weight block that meets fewer than `least_rows` input rows waits for its successor to be loaded: compute / soft
  saturation;
- DRAM is read by requests of at most 64 bytes of one row: a tile of K = 16 filters costs a request per weight row of 16
  bytes;
- computation and transfers overlap only in part, and every tile and every layer has a start.

    cycles = max(compute, dma) + exposed min(compute, dma) + tile_latency tiles + layer_latency.

Fitted to published FireSim runs of a 16 x 16 Gemmini; figures and split stand in `constants/gemmini_overhead.toml`.
"""

import tomllib
from dataclasses import dataclass
from importlib.resources import files

import jax

from dataflow.gemmini import DRAM, SCRATCHPAD, C, K, Layer, Mapping, P, Traffic, inner_tile, traffic
from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace

#: Bytes of one DRAM request, and rows of one compute instruction.
REQUEST_BYTES, BLOCK_ROWS = 64.0, 16.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Overhead:
    """Cycles of a DRAM request per tensor, the share of the shorter of compute and transfer that is not hidden,
    latencies in cycles per outermost tile and per layer, and the fewest input rows that keep a weight block busy."""

    input_request_cycles: Array
    weight_request_cycles: Array
    output_request_cycles: Array
    exposed: Array
    tile_latency_cycles: Array
    layer_latency_cycles: Array
    least_rows: Array


def default_overhead() -> Overhead:
    """The shipped constants."""
    table = tomllib.loads(files("dataflow").joinpath("constants/gemmini_overhead.toml").read_text())
    return Overhead(**table["overhead"])


def rtl_cycles(
    layer: Layer,
    mapping: Mapping,
    overhead: Overhead | None = None,
    words: Traffic | None = None,
    rounding: Rounding = exact,
) -> Array:
    """Cycles of the register-transfer simulation, [...]. Arguments broadcast; never less than the array needs."""
    xp = namespace(layer, mapping, overhead)
    constants = overhead or default_overhead()
    words = traffic(layer, mapping, rounding=rounding) if words is None else words
    tile = inner_tile(mapping, SCRATCHPAD)
    tiles = xp.asarray(mapping.temporal)[..., DRAM, 0]
    for d in range(1, 7):
        tiles = tiles * xp.asarray(mapping.temporal)[..., DRAM, d]
    # Input rows of one compute instruction: a stretch of one output row.
    rows = tile[..., P] / rounding.ceil(tile[..., P] / BLOCK_ROWS)
    slowdown = (1.0 + (constants.least_rows / rows) ** 4.0) ** 0.25
    compute = layer.macs / (xp.asarray(mapping.spatial_c) * mapping.spatial_k) * slowdown
    inputs, filters = tile[..., C], tile[..., K]
    dma = constants.input_request_cycles * words.input_fills / inputs * rounding.ceil(inputs / REQUEST_BYTES)
    dma = dma + constants.weight_request_cycles * words.weight_fills / filters * rounding.ceil(filters / REQUEST_BYTES)
    dma = dma + constants.output_request_cycles * words.output_fills / filters * rounding.ceil(filters / REQUEST_BYTES)
    longer, shorter = rounding.maximum(compute, dma), rounding.minimum(compute, dma)
    start = constants.tile_latency_cycles * tiles + constants.layer_latency_cycles
    return longer + constants.exposed * shorter + start
