"""Several systolic arrays (or chiplets) on one layer: the spatial extents split over a grid of equal arrays.

Array (i, j) of a `grid_rows` x `grid_cols` grid gets ceil(S_r / grid_rows) x ceil(S_c / grid_cols) of the spatial
extents of `systolic` and all of T. Arrays in one grid row share the operand that enters from the left, arrays in one
grid column the one from the top. Weight- and input-stationary split k over the grid's rows: their partial sums are
added across the grid. Source: Samajdar et al. (see `systolic`), section "scale-out"; link model: bandwidth and hops of
a mesh.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import numpy as np

from dataflow.systolic import Systolic, SystolicArray, systolic
from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace
from workloads.operators.operator import static


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Grid:
    """`rows` x `cols` arrays. `link_words_per_cycle`: into (and out of) each array; `hop_cycles`: latency of one hop of
    the mesh.

    `multicast`: operands shared by a grid row or column cross the DRAM interface once (else once for each array).
    `shared_dram`: the array's `words_per_cycle` is that of the whole package, divided among the streams that need it.
    """

    rows: Array = 1
    cols: Array = 1
    link_words_per_cycle: Array = float("inf")
    hop_cycles: Array = 0.0
    multicast: bool = static(True)
    shared_dram: bool = static(True)


class ScaleOut(NamedTuple):
    """`total_cycles` = max(one array, links) + hops; traffic in words over the package; `array`: one (the largest)
    array's share.

    `dram_words` includes the repetition of shared operands where the grid has no multicast; `reduction_words`: partial
    sums exchanged between arrays.
    """

    total_cycles: Array
    link_cycles: Array
    hop_cycles: Array
    utilisation: Array
    dram_words: Array
    link_words: Array
    reduction_words: Array
    array: Systolic


def scale_out(
    m: Array, n: Array, k: Array, array: SystolicArray, grid: Grid, *, rounding: Rounding = exact
) -> ScaleOut:
    """An m x n x k product on `grid.rows` x `grid.cols` copies of `array`; arguments broadcast."""
    xp = namespace(m, n, k, array, grid)
    m, n, k, rows, cols = (1.0 * xp.asarray(x) for x in (m, n, k, grid.rows, grid.cols))
    if array.dataflow == "os":
        share = (rounding.ceil(m / rows), rounding.ceil(n / cols), k)
    elif array.dataflow == "ws":
        share = (m, rounding.ceil(n / cols), rounding.ceil(k / rows))
    else:
        share = (rounding.ceil(m / cols), n, rounding.ceil(k / rows))
    arrays = rows * cols
    # Streams that cross the package's DRAM interface: left-hand operands once per grid row, top operands once per grid
    # column.
    ifmap_streams, filter_streams = (rows, cols)
    if array.dataflow == "ws":
        filter_streams = arrays
    if array.dataflow == "is":
        ifmap_streams, filter_streams = arrays, rows
    if not grid.multicast:
        ifmap_streams, filter_streams = arrays, arrays
    bandwidth = 1.0 * xp.asarray(array.words_per_cycle)
    if grid.shared_dram:
        bandwidth = xp.where(xp.isfinite(bandwidth), bandwidth / xp.maximum(ifmap_streams, filter_streams), bandwidth)
    one = systolic(*share, replace(array, words_per_cycle=bandwidth), rounding=rounding)
    reduction = (rows - 1.0) * m * n if array.dataflow != "os" else 0.0 * m * n
    dram = (
        one.dram_ifmap_reads * ifmap_streams
        + one.dram_filter_reads * filter_streams
        + one.dram_ofmap_writes * arrays
        - reduction
    )
    link = one.dram_ifmap_reads + one.dram_filter_reads + one.dram_ofmap_writes
    link_cycles = xp.where(xp.isfinite(xp.asarray(grid.link_words_per_cycle)), link / grid.link_words_per_cycle, 0.0)
    hops = 1.0 * xp.asarray(grid.hop_cycles) * (rows + cols - 2.0)
    total = rounding.maximum(one.total_cycles, link_cycles) + hops
    useful = m * n * k / (total * arrays * array.rows * array.cols)
    return ScaleOut(total, link_cycles, hops, useful, dram, link * arrays, reduction, one)


def best_grid(m: float, n: float, k: float, array: SystolicArray, arrays: int, **grid: Array) -> tuple[Grid, ScaleOut]:
    """The factorisation rows x cols = `arrays` with the fewest cycles (ties: less DRAM traffic), and its cost."""
    if isinstance(arrays, bool) or not isinstance(arrays, int | np.integer) or arrays < 1:
        raise ValueError(f"arrays: {arrays!r}, expected a positive integer")
    rows = np.array([r for r in range(1, int(arrays) + 1) if arrays % r == 0])
    options = scale_out(m, n, k, array, Grid(rows=rows, cols=arrays // rows, **grid))
    best = int(np.lexsort((options.dram_words, options.total_cycles))[0])
    chosen = Grid(rows=int(rows[best]), cols=int(arrays // rows[best]), **grid)
    return chosen, scale_out(m, n, k, array, chosen)
