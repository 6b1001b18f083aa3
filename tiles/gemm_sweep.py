"""Millions of GEMMs at once: the same model as `gemm_time`, seconds only, looping over candidates instead of an axis
for them.

Rows go through in blocks that stay in the nearest cache while a compiled loop keeps the running minimum over the
candidates: memory is that of the rows, and the arithmetic is vector code over a block.
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

#: Rows per block: a dozen float64 columns of it fit in a 256 kB cache.
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
    candidates = Candidates(*(jnp.asarray(field) for field in family(constants.candidates)))

    def block_seconds(block: tuple[Array, ...]) -> Array:
        m, n, k, batch, copies = block
        setting = gemm_setting(replace(op, m=m, n=n, k=k, batch=batch), chip, constants, peak, copies)

        def keep_smaller(best: Array, candidate: Candidates) -> tuple[Array, None]:
            return jnp.minimum(best, candidate_terms(setting, candidate, constants, exact).total_s), None

        best, _ = jax.lax.scan(keep_smaller, jnp.full(BLOCK_ROWS, jnp.inf), candidates)
        return best + constants.launch_s + setting.quantise_s

    stacked = tuple(column.reshape(blocks, BLOCK_ROWS) for column in padded)
    return jax.lax.map(block_seconds, stacked).reshape(-1)[:rows]
