"""Millions of GEMMs at once: the same model as `gemm_time`, seconds only, looping over candidates instead of an axis
for them.

Rows go through in blocks that stay in the core's own cache while a compiled loop over tiles keeps the running minimum:
memory is that of the rows, and the arithmetic is vector code over a block. The splits of one tile are evaluated together,
so that the compiler works out what they share once. One call runs on one core of a CPU; calls on several threads run side
by side.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from hardware.accelerator import Accelerator
from roofline.relax import exact
from tiles.candidates import Candidates, family
from tiles.gemm import candidate_terms, gemm_setting
from tiles.gemm_constants import GemmConstants, matrix_rate
from workloads.numeric import Array
from workloads.operators import Gemm

#: Rows per block: a few dozen float64 columns of it fit in the 1 MB that a core has to itself.
BLOCK_ROWS = 2048


def gemm_seconds(
    op: Gemm, chip: Accelerator, constants: GemmConstants, *, weight_copies: Array = float("inf")
) -> Array:
    """`gemm_time(op, chip, constants).total_s` for dimensions that are vectors [rows] (or scalars), exact mode. [rows]

    `chip` and `constants` hold scalars. Traceable by JAX (compile it with `jax.jit`). NaN where the chip has no rate
    for the number format.
    """
    columns = jnp.broadcast_arrays(*(jnp.asarray(x, float) for x in (op.m, op.n, op.k, op.batch, weight_copies)))
    columns = [jnp.atleast_1d(column) for column in columns]
    peak = matrix_rate(chip, op.dtype)
    rows = columns[0].shape[0]
    if peak is None:
        return jnp.full(rows, jnp.nan)
    blocks = -(-rows // BLOCK_ROWS)
    padded = [jnp.pad(column, (0, blocks * BLOCK_ROWS - rows), mode="edge") for column in columns]
    groups = _by_splits(family(constants.candidates))

    def block_seconds(block: tuple[Array, ...]) -> Array:
        m, n, k, batch, copies = block
        setting = gemm_setting(replace(op, m=m, n=n, k=k, batch=batch), chip, constants, peak, copies)

        best = jnp.full(BLOCK_ROWS, jnp.inf)
        for splits, tiles in groups.items():

            def keep_smaller(best: Array, tile: Candidates, splits=splits) -> tuple[Array, None]:
                for split in splits:
                    one = tile._replace(split=split)
                    best = jnp.minimum(best, candidate_terms(setting, one, constants, exact).total_s)
                return best, None

            best, _ = jax.lax.scan(keep_smaller, best, tiles)
        return best + constants.launch_s + setting.quantise_s

    stacked = tuple(column.reshape(blocks, BLOCK_ROWS) for column in padded)
    return jax.lax.map(block_seconds, stacked).reshape(-1)[:rows]


def _by_splits(candidates: Candidates) -> dict[tuple[float, ...], Candidates]:
    """The tiles of a family as arrays, grouped by the split factors they are offered with."""
    splits: dict[tuple[float, ...], list[float]] = {}
    for tile_m, tile_n, split, *rest in zip(*candidates):
        splits.setdefault((tile_m, tile_n, *rest), []).append(float(split))
    tiles: dict[tuple[float, ...], list[tuple[float, ...]]] = {}
    for tile, factors in splits.items():
        tiles.setdefault(tuple(factors), []).append(tile)
    groups = {}
    for factors, rows in tiles.items():
        tile_m, tile_n, *rest = (jnp.asarray(column) for column in zip(*rows))
        groups[factors] = Candidates(tile_m, tile_n, jnp.ones(len(rows)), *rest)
    return groups
