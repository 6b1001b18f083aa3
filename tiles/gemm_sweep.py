"""Millions of GEMMs at once: the same model as `gemm_time`, looping over candidates instead of an axis for them.

Rows go through in blocks that stay in the nearest cache while a compiled loop keeps the running minimum over the
candidates: memory is that of the rows, and the arithmetic is vector code over a block.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from hardware.accelerator import Accelerator
from roofline.kernel_time import KernelTime
from roofline.relax import exact
from tiles.candidates import Candidates, family
from tiles.gemm import STATIC, assembled, candidate_terms, gemm_setting, gemm_time
from tiles.gemm_constants import GemmConstants, matrix_rate
from workloads.numeric import Array, namespace
from workloads.operators import Gemm

#: Rows per block: a dozen columns of it fit in the caches of one core. Candidates per pass of the loop, which the compiler fuses.
BLOCK_ROWS, UNROLL = 8192, 4


def swept_gemm_time(op: Gemm, chip: Accelerator, constants: GemmConstants) -> KernelTime:
    """`gemm_time(op, chip, constants)` in exact mode for many GEMMs, [...]: the candidate is chosen by a compiled loop and
    evaluated once more, so the derivative costs little and is that of `gemm_time`.

    The loop compares in float32 and only the winner's time is computed in float64: of candidates equal to 1e-6 either may win.
    `constants` and the chip's rates hold scalars. Outside JAX it is `gemm_time` itself.
    """
    peak = matrix_rate(chip, op.dtype)
    if peak is None or namespace(op, chip) is not jnp:
        return gemm_time(op, chip, constants)
    shape = jnp.broadcast_shapes(*(jnp.shape(x) for x in (op.m, op.n, op.k, op.batch)))
    columns = [jnp.broadcast_to(jnp.asarray(x, float), shape).reshape(-1) for x in (op.m, op.n, op.k, op.batch)]
    fixed, leaves = jax.tree_util.tree_structure(chip), jax.tree_util.tree_leaves(chip)
    still = jax.tree_util.tree_unflatten(fixed, [jax.lax.stop_gradient(leaf) for leaf in leaves])
    inert = [jax.lax.stop_gradient(column) for column in columns]
    copies = jnp.full_like(inert[0], jnp.inf)
    _, index = _best(op, [*inert, copies], still, constants, jax.lax.stop_gradient(peak), jnp.float32)
    setting = gemm_setting(op, chip, constants, peak, jnp.inf)
    chosen = family(constants.candidates).at(index.reshape(shape), jnp)
    terms = candidate_terms(setting, chosen, constants, exact)
    return assembled(setting, constants, terms, terms.total_s)


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
    best, _ = _best(op, columns, chip, constants, peak)
    m, n, k, batch, copies = columns
    setting = gemm_setting(replace(op, m=m, n=n, k=k, batch=batch), chip, constants, peak, copies)
    return best + constants.launch_s + setting.quantise_s


def _best(
    op: Gemm, columns: list[Array], chip: Accelerator, constants: GemmConstants, peak: Array, precision: Any = float
) -> tuple[Array, Array]:
    """Least time over the candidates without launch, and the candidate that has it, for m, n, k, batch, copies [rows]."""
    rows = columns[0].shape[0]
    size = min(BLOCK_ROWS, max(rows, 1))
    blocks = -(-rows // size)
    padded = [jnp.pad(column, (0, blocks * size - rows), mode="edge") for column in columns]
    candidates = Candidates(*(jnp.asarray(field, precision) for field in family(constants.candidates)))

    def block_best(block: tuple[Array, ...]) -> tuple[Array, Array]:
        m, n, k, batch, copies = block
        setting = gemm_setting(replace(op, m=m, n=n, k=k, batch=batch), chip, constants, peak, copies)
        numbers = {name: jnp.asarray(v, precision) for name, v in setting._asdict().items() if name not in STATIC}
        setting = setting._replace(**numbers)

        def keep_smaller(best: tuple[Array, Array], numbered: tuple[Array, Candidates]) -> tuple[Any, None]:
            number, candidate = numbered
            total = candidate_terms(setting, candidate, constants, exact).total_s
            better = total < best[0]
            return (jnp.where(better, total, best[0]), jnp.where(better, number, best[1])), None

        start = (jnp.full(size, jnp.inf, precision), jnp.zeros(size, jnp.int32))
        return jax.lax.scan(
            keep_smaller, start, (jnp.arange(candidates.count, dtype=jnp.int32), candidates), unroll=UNROLL
        )[0]

    stacked = tuple(column.reshape(blocks, size) for column in padded)
    best, index = jax.lax.map(block_best, stacked)
    return best.reshape(-1)[:rows], index.reshape(-1)[:rows]
