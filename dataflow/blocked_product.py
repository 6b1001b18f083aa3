"""A matrix product of any size on systolic arrays with finite scratchpads: cycles of the arrays, bytes of the memory outside.

One of three dataflows, with (S_r, S_c, T) as in `systolic`; `b` blocks of the streamed extent, so that partial sums find room:

    cycles = ceil(batch b ceil(S_r / rows) ceil(S_c / cols) / arrays) (f rows + cols + T / b - 2)
    os: b = 1;    ws, is: b = ceil(T / (accumulators / cols)) where the contraction has several folds, else 1

    bytes, os:    min over both loop orders of  A x (1 if A fits else col folds) + B x (1 if one fold of B fits else row folds)
    bytes, ws:    A x (1 if a block of A fits else col folds) + B x (1 if B fits else b);    is: the same with A and B exchanged
    + the output once

"Fits" means in the visible half of its scratchpad. Limits: unlimited scratchpads: the cycles of `systolic` and compulsory bytes;
m, n, k to infinity: rows x cols products per cycle and array. Not searched: blockings of more than one extent (`dataflow.mappers`
does). Not modelled: overlap of a fold's fill with its predecessor's drain, contention of arrays for a scratchpad.
"""

from dataclasses import replace
from typing import NamedTuple

from dataflow.systolic import DATAFLOWS, VISIBLE_SHARE, SystolicArray, folds, whole
from roofline.relax import Rounding, exact
from workloads.numeric import Array, namespace


class ElementBytes(NamedTuple):
    """Bytes of an element of A [m, k], B [k, n], the output and a partial sum."""

    a: Array = 2.0
    b: Array = 2.0
    out: Array = 2.0
    partial: Array = 4.0


#: Elements where nothing else is said.
USUAL_ELEMENT = ElementBytes()


class BlockedProduct(NamedTuple):
    """`cycles` until the last array is done; `bytes` between scratchpads and the memory outside; `blocks` of the streamed extent,
    [...]."""

    cycles: Array
    bytes: Array
    blocks: Array


def blocked_product(
    m: Array,
    n: Array,
    k: Array,
    array: SystolicArray,
    *,
    batch: Array = 1.0,
    arrays: Array = 1.0,
    scratchpad_bytes: Array = float("inf"),
    element: ElementBytes = USUAL_ELEMENT,
    rounding: Rounding = exact,
) -> BlockedProduct:
    """`batch` products of m x n x k on `arrays` copies of `array`, which share folds evenly; arguments broadcast.

    `scratchpad_bytes`: each of the three scratchpads (of all arrays together); the array's own `*_words` and
    `words_per_cycle` are not looked at.
    """
    xp = namespace(m, n, k, array, batch, arrays, scratchpad_bytes, element)
    m, n, k, size = (1.0 * xp.asarray(x) for x in (m, n, k, scratchpad_bytes))
    half = VISIBLE_SHARE * size
    a, b, out = m * k * element.a, n * k * element.b, m * n * element.out
    if array.dataflow == "os":
        row_folds, col_folds, fold_cycles = folds(m, n, k, array, rounding=rounding)
        blocks = 1.0 + 0.0 * row_folds
        first = a * _passes(a, half, col_folds) + b * _passes(k * array.cols * element.b, half, row_folds)
        second = b * _passes(b, half, row_folds) + a * _passes(k * array.rows * element.a, half, col_folds)
        moved = rounding.minimum(first, second)
    else:
        streamed, stays = (a, b) if array.dataflow == "ws" else (b, a)
        extent = m if array.dataflow == "ws" else n
        finite = xp.isfinite(half)
        room = xp.maximum(xp.where(finite, half, 1.0) / (element.partial * array.cols), 1.0)
        several = xp.asarray(k) > array.rows
        blocks = xp.where(finite & several, whole(extent / room, rounding), 1.0)
        block = (m / blocks, n, k) if array.dataflow == "ws" else (m, n / blocks, k)
        row_folds, col_folds, fold_cycles = folds(*block, array, rounding=rounding)
        moved = streamed * _passes(streamed / blocks, half, col_folds) + stays * _passes(stays, half, blocks)
    runs = whole(batch * blocks * row_folds * col_folds / arrays, rounding)
    return BlockedProduct(runs * fold_cycles, batch * (moved + out), blocks)


def best_product(
    m: Array, n: Array, k: Array, array: SystolicArray, *, cycle_s: Array, bytes_per_s: Array, **how
) -> tuple[Array, Array]:
    """Seconds of the arrays and bytes moved, [...] each, of the dataflow whose max(arrays, memory) is least; `how`: see
    `blocked_product`."""
    best = None
    for flow in DATAFLOWS:
        found = blocked_product(m, n, k, replace(array, dataflow=flow), **how)
        seconds = found.cycles * cycle_s
        xp = namespace(seconds, found.bytes, bytes_per_s)
        total = xp.maximum(seconds, found.bytes / bytes_per_s)
        if best is not None:
            better = total < best[0]
            total, seconds, moved = (
                xp.where(better, new, old) for new, old in zip((total, seconds, found.bytes), best)
            )
            best = (total, seconds, moved)
        else:
            best = (total, seconds, found.bytes)
    assert best is not None
    return best[1], best[2]


def _passes(needed: Array, half: Array, otherwise: Array) -> Array:
    """How often an operand comes from outside: once where `needed` bytes fit, else `otherwise` times."""
    return namespace(needed, half, otherwise).where(needed <= half, 1.0, otherwise)
