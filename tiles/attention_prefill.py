"""Prefill attention, flash-style: query tiles x key tiles, causal and windowed, whole prompts or chunks with a prefix.

Tile i of a sequence (i = 1..n, `span` queries each) sees  keys_i = min(prefix + i span, limit, kv)  keys, with limit
= kv, or window + span + window_tiles 128 under a window. Their sum is closed (a ramp, then a plateau):

    ramp  = clip(floor((limit - prefix) / span), 0, n)
    total = ramp prefix + span ramp (ramp + 1) / 2 + (n - ramp) limit        (+ masked_cost of what a window hides)

    step  = 2 tile_rows 128 (d_k + d_v) / (peak / cores * eff(d)),   eff(d) = efficiency d/(d + half) scaled to 1 at d
    = 128 core  = pnorm_queue( sequences heads (n tile_s + total/128 step) / cores,  lone (tile_s + longest/128 step) )
    T     = launch + passes before the kernel + pnorm_4(core, memory)

The longest tile bounds a chip with few sequences; the queue exponent near 1 says that it is not hidden behind the
others. Packed kernels put the query heads of one kv head into one tile, so short prompts do not waste rows.
Limits: long causal prompts -> FLOP at the kernel's rate; one query over a long prefix -> one pass over the cache (use
the decode model, which splits it); windows -> linear in tokens.
"""

from hardware.accelerator import Accelerator
from roofline.relax import Rounding, exact
from tiles.attention_decode import KEY_TILE, AttentionTerms
from tiles.attention_kernels import PrefillKernel
from tiles.attention_memory import joined, memory_traffic
from workloads.numeric import Array, namespace
from workloads.operators import Attention

#: Compute and memory overlap inside the kernel almost fully.
OVERLAP = 4.0
#: Products of the backward pass over those of the forward pass (five against two); its rate is assumed to be the same.
BACKWARD_PRODUCTS = 2.5


def prefill_terms(
    op: Attention, chip: Accelerator, k: PrefillKernel, matrix_flops_per_s: Array, *, rounding: Rounding = exact
) -> AttentionTerms:
    """The terms of prefill attention with kernel constants `k`.

    `matrix_flops_per_s`: peak of the format the kernel computes in, the whole chip's. Arguments broadcast.
    """
    xp = namespace(op, chip, k, matrix_flops_per_s)
    cores = chip.cores
    sequences, heads, kv_heads = 1.0 * op.sequences, 1.0 * op.heads, 1.0 * op.kv_heads
    queries, kv = 1.0 * op.query_tokens, 1.0 * op.kv_tokens
    values = 0.0 if op.scores_only else op.values_dim
    head_dim = 0.5 * (op.head_dim + values)
    products = BACKWARD_PRODUCTS if op.backward else 1.0
    group = heads / kv_heads
    packed = k.packs_group
    rows = queries * (packed * group + 1.0 - packed)
    columns = packed * kv_heads + (1.0 - packed) * heads  # tiles side by side: one per kv head or per head
    tiles = rounding.ceil(rows / k.tile_rows)
    span = k.tile_rows / (packed * group + 1.0 - packed)

    prefix = (kv - queries) if op.causal else kv
    windowed = xp.asarray(op.window) > 0
    around = 0.0 if op.sparsity == "top_k" else span + k.window_tiles * KEY_TILE
    limit = xp.where(windowed, xp.minimum(op.window + around, kv), kv)
    total, longest = _keys_seen(xp, tiles, span, prefix, limit, k, rounding)
    whole, whole_longest = _keys_seen(xp, tiles, span, prefix, kv, k, rounding)
    total = total + k.masked_cost * (whole - total)
    longest = longest + k.masked_cost * (whole_longest - longest)

    shape = head_dim / (head_dim + k.half_head_dim) * (1.0 + k.half_head_dim / 128.0)
    wide = xp.maximum(head_dim / 128.0, 1.0) ** -k.wide_exponent
    rate = matrix_flops_per_s / cores * xp.minimum(k.efficiency * shape * wide, 1.0)
    step_s = products * 4.0 * k.tile_rows * KEY_TILE * head_dim / rate
    fill = xp.minimum(rows / k.tile_rows, 1.0)
    fixed_s = k.tile_s * (head_dim / 128.0) ** k.tile_exponent * (k.row_share + (1.0 - k.row_share) * fill)
    block_s = fixed_s + longest / KEY_TILE * step_s
    work_s = sequences * columns * total / KEY_TILE * step_s / cores
    busy_s = work_s + sequences * columns * tiles * fixed_s / cores
    core_s = joined(busy_s, k.lone * block_s, k.queue)

    tokens = sequences * queries
    memory = memory_traffic(op.bytes, op.bytes, chip, k.dram_efficiency, k.l2_share, k.l2_speedup)
    pass_bytes = tokens * 2.0 * (k.q_passes * heads * op.head_dim + k.kv_passes * kv_heads * 2.0 * head_dim)
    passes = memory_traffic(pass_bytes, pass_bytes, chip, 1.0, k.l2_share, k.l2_speedup)
    extra_s = passes.time_s + tokens * k.token_s * xp.minimum(kv_heads * head_dim / 512.0, 1.0)

    floor_s = xp.maximum(op.flops / matrix_flops_per_s, memory.floor_s)
    blocks = sequences * columns * tiles
    terms = (
        k.launch_s, core_s, block_s, work_s, memory.time_s, 0.0, extra_s, floor_s,
        1.0, blocks, blocks / cores, memory.dram_bytes + passes.dram_bytes, memory.resident,
    )  # fmt: skip
    return AttentionTerms(*xp.broadcast_arrays(*(xp.asarray(term, dtype=float) for term in terms)))


def _keys_seen(xp, tiles: Array, span: Array, prefix: Array, limit: Array, k: PrefillKernel, rounding: Rounding):
    """Keys that the query tiles of one sequence and head go through, in all and in the longest tile, [...]."""
    least = k.least_tiles * KEY_TILE
    ramp = xp.clip(rounding.floor((limit - prefix) / span), 0.0, tiles)
    total = ramp * prefix + span * ramp * (ramp + 1.0) / 2.0 + (tiles - ramp) * limit
    return xp.maximum(xp.minimum(total, tiles * limit), tiles * least), xp.maximum(limit, least)
