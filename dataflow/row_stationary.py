"""Row-stationary processing time (the Eyeriss chip): passes over a grid of processing elements fed by a shared buffer.

An element convolves one filter row with one input row; a column of R elements adds up one output row; `e` columns make
`e` output rows; the array holds r channels and t groups of filters of such sets, and each element interleaves p filters
and q channels. One pass therefore covers n images, p t filters, q r channels and e output rows, and the layer takes

    passes = ceil(N / n) ceil(M / (p t)) ceil(C / (q r)) ceil(E / e),
    cycles of a pass = max(n p q S F + filter words / filter rate + fill, buffer words / rate).

Buffer words of a pass: its input rows, and partial sums read and written; filters come over a bus of their own. Traffic
is averaged over passes: the last strip, filter group or channel group may be smaller. Source: Chen et al., "Eyeriss",
JSSC 2017 (mapping parameters e, p, q, r, t, n of its table III).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax

from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class RowStationaryChip:
    """`buffer_words_per_cycle`: shared buffer, all streams together; `filter_words_per_cycle`: filter bus;
    `fill_cycles`: start and drain of a pass (fitted to five AlexNet layers; the rest is from the paper)."""

    rows: Array = 12
    cols: Array = 14
    clock_hz: Array = 200e6
    buffer_words_per_cycle: Array = 7.5
    filter_words_per_cycle: Array = 4.0
    fill_cycles: Array = 450.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class RowStationaryMapping:
    """Output rows `e`, interleaved filters `p` and channels `q`, sets over channels `r` and filters `t`, images `n` of
    a pass.
    """

    e: Array
    p: Array
    q: Array
    r: Array
    t: Array
    n: Array = 1


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class RowStationaryLayer:
    """A convolution: `batch`, `filters` and `channels` of one group, `groups`, output `height` and `width`, `kernel`
    (square), `stride`."""

    batch: Array
    filters: Array
    channels: Array
    height: Array
    width: Array
    kernel: Array
    stride: Array = 1
    groups: Array = 1


class RowStationary(NamedTuple):
    """`time_s`: processing time (DRAM excluded); `active_elements`: elements in use; cycles of one pass; buffer
    traffic in words.
    """

    time_s: Array
    passes: Array
    active_elements: Array
    compute_cycles: Array
    buffer_cycles: Array
    load_cycles: Array
    buffer_words: Array


def row_stationary(
    layer: RowStationaryLayer,
    mapping: RowStationaryMapping,
    chip: RowStationaryChip | None = None,
    rounding: Rounding = exact,
) -> RowStationary:
    """Processing time of a layer; arguments broadcast. NaN where the mapping needs more elements than the chip has."""
    chip = chip or RowStationaryChip()
    xp = namespace(layer, mapping, chip)
    filters, channels = mapping.p * mapping.t, mapping.q * mapping.r
    batch, height = 1.0 * xp.asarray(layer.batch), 1.0 * xp.asarray(layer.height)
    image_passes, strips = rounding.ceil(batch / mapping.n), rounding.ceil(height / mapping.e)
    filter_passes = rounding.ceil(1.0 * xp.asarray(layer.filters) / filters)
    channel_passes = rounding.ceil(1.0 * xp.asarray(layer.channels) / channels)
    passes = image_passes * filter_passes * channel_passes * strips * layer.groups
    images, rows = batch / image_passes, height / strips
    rows_in, columns_in = ((x - 1.0) * layer.stride + layer.kernel for x in (rows, 1.0 * xp.asarray(layer.width)))
    inputs = images * layer.channels / channel_passes * rows_in * columns_in
    sums = images * layer.filters / filter_passes * rows * layer.width
    words = inputs + 2.0 * sums
    interleaved = rounding.minimum(1.0 * xp.asarray(mapping.q), layer.channels)
    compute = images * mapping.p * interleaved * layer.kernel * layer.width
    buffer = words / chip.buffer_words_per_cycle
    load = filters * channels * layer.kernel**2.0 / chip.filter_words_per_cycle + chip.fill_cycles
    active = layer.kernel * mapping.e * mapping.r * mapping.t
    fits = active <= 1.0 * xp.asarray(chip.rows) * chip.cols
    time = passes * rounding.maximum(compute + load, buffer) / chip.clock_hz
    return RowStationary(time + xp.where(fits, 0.0, xp.nan), passes, active, compute, buffer, load, words * passes)
