"""Gemmini's RTL beside its loop nest: what the register-transfer simulation spends that the loop nest does not see.

Timeloop's cycles (see `gemmini`) miss four things, each with one or two physical constants:

- a weight block that meets fewer than `least_rows` input rows waits for its successor to be loaded: compute / soft
  saturation;
- memory is accessed by requests of at most 64 bytes of one row: a tile of K = 16 filters costs a request per weight row
  of 16 bytes. Weights are requested anew for every outermost tile, also where the loop nest would keep them;
- a request beyond the last-level cache, or of less than one bus beat, waits for DRAM (`far_cycles`): each one where the
  tile takes a part of every weight row, every fourth where rows follow each other;
- tiles are double-buffered, so transfers hide behind computation but for a share `exposed` of the shorter of the two, and
  for all of it where there is a single tile.

    cycles = max(compute, dma) + (exposed + (1 - exposed) / tiles) min(compute, dma).

Fitted to published FireSim runs of a 16 x 16 Gemmini; figures and split stand in `constants/gemmini_overhead.toml`.
"""

import tomllib
from dataclasses import dataclass
from importlib.resources import files

import jax

from dataflow.gemmini import DRAM, SCRATCHPAD, C, K, Layer, Mapping, P, R, S, Traffic, inner_tile, traffic
from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace

#: Bytes of one request, of one bus beat; rows of one compute instruction; requests of consecutive rows per DRAM access.
REQUEST_BYTES, BEAT_BYTES, BLOCK_ROWS, REQUESTS_PER_ACCESS = 64.0, 16.0, 16.0, 4.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Overhead:
    """Cycles of a request per tensor and further ones of a request that waits for DRAM, the share of the shorter of
    compute and transfer that is not hidden, the fewest input rows that keep a weight block busy, and the size of the
    last-level cache (chosen among three sizes, not fitted)."""

    input_request_cycles: Array
    weight_request_cycles: Array
    output_request_cycles: Array
    far_cycles: Array
    exposed: Array
    least_rows: Array
    last_level_cache_bytes: Array = 2.0**20


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
    sizes = xp.asarray(layer.sizes)
    weight_bytes = sizes[..., R] * sizes[..., S] * sizes[..., C] * sizes[..., K]
    beyond = 1.0 / (1.0 + (constants.last_level_cache_bytes / weight_bytes) ** 2.0)
    far_weights = beyond * xp.where(filters < sizes[..., K], 1.0, 1.0 / REQUESTS_PER_ACCESS)
    per_row, per_row_in = rounding.ceil(filters / REQUEST_BYTES), rounding.ceil(inputs / REQUEST_BYTES)
    far_inputs, far_outputs = (xp.where(x < BEAT_BYTES, 1.0, 0.0) for x in (inputs, filters))
    far = constants.far_cycles
    weight_rows = tiles * tile[..., R] * tile[..., S] * inputs
    dma = (constants.input_request_cycles + far * far_inputs) * words.input_fills / inputs * per_row_in
    dma = dma + (constants.weight_request_cycles + far * far_weights) * weight_rows * per_row
    dma = dma + (constants.output_request_cycles + far * far_outputs) * words.output_fills / filters * per_row
    longer, shorter = rounding.maximum(compute, dma), rounding.minimum(compute, dma)
    return longer + (constants.exposed + (1.0 - constants.exposed) / tiles) * shorter
