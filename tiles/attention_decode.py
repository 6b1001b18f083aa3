"""Decode attention: one query per sequence over a paged cache, the context split until the cores are filled.

    blocks = sequences x kv heads x ceil(group / group_rows)        (per-query-head kernels: sequences x heads)
    splits = clip(cores blocks_per_core / blocks, 1, min(keys / chunk_tokens, most_splits))
    block  = block_s + (keys / splits) [ bytes per key / port + FLOP per key / matrix rate of one core ]
    core   = pnorm_queue( blocks splits block / cores, lone block )
    T      = launch + pnorm_overlap(core, memory) + combine(splits)

Split counts are taken as continuous: dispatchers choose them so that the grid just fills the chip, and a rounded count
fits the measurements no better. Limits: empty cache -> launch + one block; long contexts -> bytes at DRAM speed; a
cache that fits in L2 -> L2 speed (then, and only then, below the DRAM bound).

Hand check: 64 sequences x 8 kv heads x 2048 keys x 128 x 2 (K, V) x 2 B = 537 MB; on 3.35e12 B/s at 0.93: 172 us + 12
us.
"""

from typing import NamedTuple

from hardware.accelerator import Accelerator
from roofline.relax import Rounding, exact
from tiles.attention_kernels import DecodeKernel
from tiles.attention_memory import joined, memory_traffic
from workloads.dtypes import element_bytes
from workloads.numeric import Array, namespace
from workloads.operators import Attention

#: Keys of one tile of the inner loop.
KEY_TILE = 128.0


class AttentionTerms(NamedTuple):
    """Where the time of an attention kernel goes: seconds, counts and bytes, every field of the broadcast shape.

    `core_s`: cores including queueing; `block_s`: one block (query tile) alone; `waves`: passes of blocks over the
    cores;
    `memory_s`: DRAM and L2; `compute_s`: matrix work at the kernel's rate; `combine_s`: reduction over splits;
    `extra_s`: passes before the kernel (cache write, rotary embedding, quantisation, head transposes).
    `floor_s`: datasheet bound left after L2 residency, which the total respects. `resident`: share of bytes found in
    L2.
    """

    launch_s: Array
    core_s: Array
    block_s: Array
    compute_s: Array
    memory_s: Array
    combine_s: Array
    extra_s: Array
    floor_s: Array
    splits: Array
    blocks: Array
    waves: Array
    dram_bytes: Array
    resident: Array


def decode_terms(
    op: Attention, chip: Accelerator, k: DecodeKernel, matrix_flops_per_s: Array, *, rounding: Rounding = exact
) -> AttentionTerms:
    """The terms of decode attention with kernel constants `k`; `op.query_tokens` queries per sequence share each read.

    `matrix_flops_per_s`: peak of the format the kernel computes in, the whole chip's. Arguments broadcast.
    """
    xp = namespace(op, chip, k, matrix_flops_per_s)
    cores, kv_size = chip.cores, element_bytes(op.kv_dtype or op.dtype)
    sequences, heads, kv_heads = 1.0 * op.sequences, 1.0 * op.heads, 1.0 * op.kv_heads
    group = heads / kv_heads * op.query_tokens
    values = 0.0 if op.scores_only else op.values_dim
    key_dims = op.head_dim + (0.0 if op.shared_kv else values)
    windowed = xp.asarray(op.window) > 0
    slack = 0.0 if op.sparsity == "top_k" else k.window_slack_tokens
    visible = xp.minimum(1.0 * op.kv_tokens, op.window + op.query_tokens - 1.0 + slack)
    keys = xp.where(windowed, visible, 1.0 * op.kv_tokens)

    shared = rounding.ceil(group / k.group_rows)
    alone = k.per_query_head
    blocks = sequences * (alone * heads * op.query_tokens + (1.0 - alone) * kv_heads * shared)
    planned = k.split_full_context * op.kv_tokens + (1.0 - k.split_full_context) * keys
    most = xp.maximum(xp.minimum(planned / k.chunk_tokens, k.most_splits), 1.0)
    splits = xp.clip(cores * k.blocks_per_core / blocks, 1.0, most)
    rows = alone + (1.0 - alone) * xp.minimum(group, k.group_rows)

    clock = chip.clock_hz
    port_s = key_dims * kv_size / (k.port_bytes_per_clock * clock)
    matrix_s = 2.0 * (op.head_dim + values) * rows * cores / (matrix_flops_per_s * k.row_efficiency)
    counted = xp.maximum(keys, k.least_tiles * KEY_TILE)
    fixed_s = k.block_s * (op.head_dim / 128.0) ** k.block_exponent
    block_s = fixed_s + counted / splits * (port_s + matrix_s)
    busy_s = blocks * splits * block_s / cores
    core_s = joined(busy_s, k.lone * block_s, k.queue)

    cache_bytes = sequences * kv_heads * keys * key_dims * kv_size
    ends_bytes = sequences * op.query_tokens * heads * (op.head_dim + values) * element_bytes(op.dtype)
    both = cache_bytes + ends_bytes
    memory = memory_traffic(both, both, chip, k.dram_efficiency, k.l2_share, k.l2_speedup)
    partial_bytes = 2.0 * splits * sequences * heads * op.query_tokens * values * 4.0
    partial_s = partial_bytes / (k.l2_speedup * chip.dram.bandwidth_bytes_per_s)
    combine_s = xp.minimum(splits - 1.0, 1.0) * (k.combine_s + partial_s)
    swapped = (heads > kv_heads) & (kv_heads > 1.0) & (sequences > 1.0)
    extra_s = xp.where(swapped, k.head_swap_s + 0.0 * memory.time_s, 0.0 * memory.time_s)

    work_s = op.flops / matrix_flops_per_s
    lost = 1.0 - xp.minimum(keys, op.keys_read) / keys  # slack beyond the window is not compulsory
    floor_s = xp.maximum(work_s, memory.floor_s * (1.0 - lost))
    terms = (
        k.launch_s, core_s, block_s, counted * blocks * matrix_s / cores, memory.time_s, combine_s, extra_s, floor_s,
        splits, blocks * splits, blocks * splits / (cores * k.blocks_per_core), memory.dram_bytes, memory.resident,
    )  # fmt: skip
    return AttentionTerms(*xp.broadcast_arrays(*(xp.asarray(term, dtype=float) for term in terms)))
