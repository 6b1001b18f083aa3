"""Millions of GEMMs at once: the same model as `gemm_time`, looping over candidates instead of an axis for them.

Rows go through in blocks that stay in the core's own cache while a compiled loop over tiles keeps the running minimum:
memory is that of the rows, and the arithmetic is vector code over a block. The splits of one tile are evaluated together,
so that the compiler works out what they share once. One call runs on one core of a CPU; calls on several threads run side
by side.
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

#: Rows per block: a few dozen float64 columns of it fit in the 1 MB that a core has to itself.
BLOCK_ROWS = 2048


def swept_gemm_time(op: Gemm, chip: Accelerator, constants: GemmConstants) -> KernelTime:
    """`gemm_time(op, chip, constants)` in exact mode for many GEMMs, [...]: the candidate is chosen by a compiled loop and
    evaluated once more, so the derivative costs little and is that of `gemm_time`.

    The loop compares in float32 and only the winner's time is computed in float64: of candidates equal to 1e-6 either may win.
    `constants` hold scalars; the chip's numbers may be arrays that broadcast with the op's. Outside JAX it is `gemm_time` itself.
    """
    peak = matrix_rate(chip, op.dtype)
    if peak is None or namespace(op, chip) is not jnp:
        return gemm_time(op, chip, constants)
    fixed, leaves = jax.tree_util.tree_structure(chip), jax.tree_util.tree_leaves(chip)
    shape = jnp.broadcast_shapes(*(jnp.shape(x) for x in (op.m, op.n, op.k, op.batch, *leaves)))

    def inert(x: Array) -> Array:
        return jnp.broadcast_to(jax.lax.stop_gradient(jnp.asarray(x, float)), shape).reshape(-1)

    columns = [inert(x) for x in (op.m, op.n, op.k, op.batch, jnp.inf)]
    numbers = [inert(leaf) if jnp.ndim(leaf) else jax.lax.stop_gradient(leaf) for leaf in leaves]
    still = jax.tree_util.tree_unflatten(fixed, numbers)
    _, index = _best(op, columns, still, constants, jnp.float32)
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
    best, _ = _best(op, columns, chip, constants)
    m, n, k, batch, copies = columns
    setting = gemm_setting(replace(op, m=m, n=n, k=k, batch=batch), chip, constants, peak, copies)
    return best + constants.launch_s + setting.quantise_s


def _best(
    op: Gemm, columns: list[Array], chip: Accelerator, constants: GemmConstants, precision: Any = float
) -> tuple[Array, Array]:
    """Least time over the candidates without launch, and the candidate that has it, for m, n, k, batch, copies [rows]; the
    chip's numbers are [rows] too, or scalars."""
    rows = columns[0].shape[0]
    size = min(BLOCK_ROWS, max(rows, 1))
    blocks = -(-rows // size)
    fixed, leaves = jax.tree_util.tree_structure(chip), jax.tree_util.tree_leaves(chip)
    varying = [i for i, leaf in enumerate(leaves) if jnp.ndim(leaf)]
    columns = [*columns, *(leaves[i] for i in varying)]
    padded = [jnp.pad(column, (0, blocks * size - rows), mode="edge") for column in columns]
    groups = _by_splits(family(constants.candidates), precision)

    def block_best(block: tuple[Array, ...]) -> tuple[Array, Array]:
        m, n, k, batch, copies, *own = block
        here = dict(zip(varying, own))
        one = jax.tree_util.tree_unflatten(fixed, [here.get(i, leaf) for i, leaf in enumerate(leaves)])
        setting = gemm_setting(
            replace(op, m=m, n=n, k=k, batch=batch), one, constants, matrix_rate(one, op.dtype), copies
        )
        numbers = {name: jnp.asarray(v, precision) for name, v in setting._asdict().items() if name not in STATIC}
        setting = setting._replace(**numbers)

        best = (jnp.full(size, jnp.inf, precision), jnp.zeros(size, jnp.int32))
        for splits, tiles, numbers in groups:

            def keep_smaller(
                best: tuple[Array, Array], item: tuple[Candidates, Array], splits: tuple[float, ...] = splits
            ) -> tuple[Any, None]:
                tile, number = item
                for position, split in enumerate(splits):
                    terms = candidate_terms(setting, tile._replace(split=split), constants, exact)
                    total = terms.total_s.astype(best[0].dtype)
                    better = total < best[0]
                    best = jnp.where(better, total, best[0]), jnp.where(better, number[position], best[1])
                return best, None

            best, _ = jax.lax.scan(keep_smaller, best, (tiles, numbers))
        return best

    stacked = tuple(column.reshape(blocks, size) for column in padded)
    best, index = jax.lax.map(block_best, stacked)
    return best.reshape(-1)[:rows], index.reshape(-1)[:rows]


def _by_splits(candidates: Candidates, precision: Any) -> list[tuple[tuple[float, ...], Candidates, Array]]:
    """The tiles of a family as arrays, grouped by the split factors they are offered with, and the candidate's number in the
    family, [tiles, splits]."""
    splits: dict[tuple[float, ...], list[tuple[float, int]]] = {}
    for number, (tile_m, tile_n, split, *rest) in enumerate(zip(*candidates)):
        splits.setdefault((tile_m, tile_n, *rest), []).append((float(split), number))
    tiles: dict[tuple[float, ...], list[tuple]] = {}
    for tile, offered in splits.items():
        tiles.setdefault(tuple(split for split, _ in offered), []).append((tile, [number for _, number in offered]))
    groups = []
    for factors, rows in tiles.items():
        tile_m, tile_n, *rest = (jnp.asarray(column, precision) for column in zip(*(tile for tile, _ in rows)))
        numbers = jnp.asarray([number for _, number in rows], jnp.int32)
        groups.append((factors, Candidates(tile_m, tile_n, jnp.ones(len(rows), precision), *rest), numbers))
    return groups
