"""The traffic of `gemmini.traffic` for split mappings, as a compiled loop.

A second expression of one formula, for speed alone: enumerating the mappings of a layer visits 10^6 to 10^8 of them,
and all loop orders of a split share most of the work, which arrays cannot express without temporaries a hundred times
the size of the result. A property test holds it equal to the array formula on random layers, splits and orders.
"""

import numpy as np
from numba import njit

from dataflow.gemmini import GEOMETRY, C, K, N, P, Q, R, S
from dataflow.mappers.network_design import OUTER_ORDERS

#: Columns of the result.
COLUMNS = ("registers", "accumulators", "scratchpad", "dram", "dram_blocks_words", "accumulator_words")
COLUMNS = (*COLUMNS, "scratchpad_words", "spatial_c", "spatial_k")
_DIMS_AT = OUTER_ORDERS.argsort(axis=-1).astype(np.int64)
_BLOCK = float(GEOMETRY["dram_block_words"])
_WEIGHTS, _INPUTS, _OUTPUTS = (np.isin(np.arange(7), dims) for dims in ((R, S, C, K), (R, S, P, Q, C, N), (P, Q, K, N)))


@njit(cache=True)
def split_traffic(size, stride_p, stride_q, spatial_c, spatial_k, inner, outer, order, row):
    """Fill `row` [len(COLUMNS)] for one mapping: `size`, `inner`, `outer` [7], `order` an index into `OUTER_ORDERS`."""
    macs = size[0] * size[1] * size[2] * size[3] * size[4] * size[5] * size[6]
    channels, filters = inner[C] * spatial_c, inner[K] * spatial_k
    weight_tile = inner[R] * inner[S] * channels * filters
    along_p = (inner[P] - 1.0) * stride_p + inner[R]
    along_q = (inner[Q] - 1.0) * stride_q + inner[S]
    rest = channels * inner[N]
    input_tile = along_p * along_q * rest
    output_tile = inner[P] * inner[Q] * inner[K] * inner[N]
    held = inner[R] * inner[S] * inner[C] * inner[K]
    last = np.full(3, -1)
    for place in range(7):
        d = _DIMS_AT[order, place]
        if outer[d] > 1.0:
            if _WEIGHTS[d]:
                last[0] = place
            if _INPUTS[d]:
                last[1] = place
            if _OUTPUTS[d]:
                last[2] = place
    weights, outputs, outside, inputs = 1.0, 1.0, 1.0, input_tile
    for place in range(7):
        d = _DIMS_AT[order, place]
        bound = outer[d]
        if bound > 1.0:
            if place < last[1]:
                inputs += outside * (bound - 1.0) * input_tile
            elif place == last[1]:
                kept = 0.0
                if d == R:
                    kept = max(along_p - inner[R], 0.0) * along_q * rest
                elif d == S:
                    kept = max(along_q - inner[S], 0.0) * along_p * rest
                elif d == P:
                    kept = max(along_p - inner[P] * stride_p, 0.0) * along_q * rest
                elif d == Q:
                    kept = max(along_q - inner[Q] * stride_q, 0.0) * along_p * rest
                inputs += outside * (bound - 1.0) * (input_tile - kept)
            if place <= last[0]:
                weights *= bound
            if place <= last[2]:
                outputs *= bound
            outside *= bound
    register_fills = spatial_c * spatial_k * held * (outside if held > 1.0 else weights)
    weight_fills = weight_tile * weights
    output_fills = output_tile * spatial_k * outputs
    revisits = output_fills - size[P] * size[Q] * size[K] * size[N]
    row[0] = macs + register_fills
    row[1] = 2.0 * macs / spatial_c + revisits
    row[2] = weight_fills + inputs + register_fills + macs / spatial_k
    row[3] = weight_fills + inputs + output_fills + revisits
    row[4] = _BLOCK * (
        np.ceil(weight_fills / _BLOCK)
        + np.ceil(inputs / _BLOCK)
        + np.ceil(output_fills / _BLOCK)
        + np.ceil(revisits / _BLOCK)
    )
    row[5] = output_tile
    row[6] = weight_tile + input_tile
    row[7] = spatial_c
    row[8] = spatial_k


@njit(cache=True)
def coded_traffic(layers, codes, radix, sizes, strides, choices, out):
    """Rows `out` [n, len(COLUMNS)] of mappings given as layer [n] and code [n] (digits of `radix` [layers, 8]: the
    place of each dimension's split in `choices` [layers, 7, most, 3], then the order)."""
    inner, outer = np.empty(7), np.empty(7)
    for i in range(len(codes)):
        at, code = layers[i], codes[i]
        spatial_c, spatial_k = 1.0, 1.0
        for d in range(7):
            row = choices[at, d, code % radix[at, d]]
            code //= radix[at, d]
            inner[d], outer[d] = row[1], row[2]
            if d == C:
                spatial_c = row[0]
            elif d == K:
                spatial_k = row[0]
        split_traffic(sizes[at], strides[at, 0], strides[at, 1], spatial_c, spatial_k, inner, outer, code, out[i])
