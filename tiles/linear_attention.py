"""Linear attention and SSM scan (gated delta rule, Mamba-2): the recurrent and the chunked kernel, whichever is faster.

Recurrent (decode): one block per sequence, head and 64 columns of the state walks the tokens one by one.

    blocks = sequences heads ceil(d_v / 64),    waves = ceil(blocks / (cores blocks_per_core))
    T_r = launch + max( bytes / (bandwidth dram_efficiency), waves tokens token_s,
                        flops / (vector peak vector_efficiency) )

Chunked (prefill): inside a chunk of C tokens attention-like products on the matrix unit, between chunks a recurrence
over the state, sequential per sequence and head. Per chunk and head, with d = d_k, v = d_v:

    flops_c = 2 C^2 (2 d + v) + 2 C^3 / 3 + 6 C d v      scores, key products, triangular solve, three state products
    bytes_c = operator bytes + 2 states (fp32) per chunk and head, written by the recurrence and read by the output pass
    T_c = chunked_launches launch + max( flops_c chunks / (matrix peak matrix_efficiency),
                                         bytes_c / (bandwidth dram_efficiency), ceil(tokens / C) waves chunk_s )

Both tend to the bytes of q, k, v, o and the state at DRAM speed. All constants are assumed: no measured kernel of
this kind is in the open data, so every result of this module is to be marked assumed.

Hand check: 256 sequences x 32 heads x 128 x 128 x 4 B x 2 = 1.07 GB per token step; 3.35e12 B/s x 0.85: 377 us.
"""

from typing import NamedTuple

from hardware.accelerator import Accelerator
from roofline.kernel_time import Bound, KernelTime, Reason, kernel_time
from roofline.relax import Rounding, exact
from tiles.attention import matrix_peak
from workloads.dtypes import element_bytes
from workloads.numeric import Array, namespace
from workloads.operators import LinearAttention

#: Columns of the state that one block keeps in registers.
STATE_COLUMNS = 64.0


class LinearAttentionConstants(NamedTuple):
    """Assumed constants. `launch_s` of one kernel; `chunked_launches` kernels of the chunked form; `chunk_tokens` C.

    `token_s`, `chunk_s`: latency of one step of a block's recurrence over tokens, over chunks. `blocks_per_core`:
    resident blocks. `matrix_efficiency`, `vector_efficiency`, `dram_efficiency`: shares of the datasheet peaks.
    """

    launch_s: Array = 4e-6
    chunked_launches: Array = 5.0
    chunk_tokens: Array = 64.0
    token_s: Array = 0.4e-6
    chunk_s: Array = 1.5e-6
    blocks_per_core: Array = 4.0
    matrix_efficiency: Array = 0.3
    vector_efficiency: Array = 0.5
    dram_efficiency: Array = 0.85


class LinearAttentionTerms(NamedTuple):
    """Seconds of each resource of one form, its chip-wide blocks, sequential steps and bytes moved. [...]"""

    launch_s: Array
    compute_s: Array
    memory_s: Array
    steps_s: Array
    blocks: Array
    steps: Array
    bytes: Array


ASSUMED = LinearAttentionConstants()


def linear_attention_time(
    op: LinearAttention, chip: Accelerator, constants: LinearAttentionConstants = ASSUMED, *, rounding: Rounding = exact
) -> KernelTime:
    """Time of linear attention `op` on `chip`: the faster of the recurrent and the chunked kernel, [...]; broadcasts.

    Includes: launches, state traffic, sequential steps. Excludes: projections, gates, short convolution. Constants are
    assumed.
    """
    recurrent = _assembled(op, recurrent_terms(op, chip, constants, rounding=rounding))
    chunked = _assembled(op, chunked_terms(op, chip, constants, rounding=rounding))
    xp = namespace(recurrent, chunked)
    first = ~(chunked.total_s < recurrent.total_s)  # a chip without a matrix rate has no chunked form (NaN)
    return KernelTime(*(xp.where(first, r, c) for r, c in zip(recurrent, chunked)))


def recurrent_terms(
    op: LinearAttention, chip: Accelerator, constants: LinearAttentionConstants = ASSUMED, *, rounding: Rounding = exact
) -> LinearAttentionTerms:
    """The recurrent form, token by token on the vector unit; see the module's equations."""
    xp = namespace(op, chip, constants)
    c = constants
    blocks = 1.0 * op.sequences * op.heads * rounding.ceil(1.0 * xp.asarray(op.value_dim) / STATE_COLUMNS)
    waves = rounding.ceil(blocks / (chip.cores * c.blocks_per_core))
    vector = chip.vector_flops_per_s.get("fp32", float("nan"))
    compute_s = op.flops / (xp.nan_to_num(xp.asarray(vector), nan=xp.inf) * c.vector_efficiency)
    memory_s = op.bytes / (chip.dram.bandwidth_bytes_per_s * c.dram_efficiency)
    steps_s = waves * op.tokens * c.token_s
    return _terms(xp, c.launch_s, compute_s, memory_s, steps_s, blocks, waves * op.tokens, op.bytes)


def chunked_terms(
    op: LinearAttention, chip: Accelerator, constants: LinearAttentionConstants = ASSUMED, *, rounding: Rounding = exact
) -> LinearAttentionTerms:
    """The chunked form, attention-like inside a chunk on the matrix unit; see the module's equations."""
    xp = namespace(op, chip, constants)
    c = constants
    size, d, v = c.chunk_tokens, op.key_dim, op.value_dim
    chunks = rounding.ceil(1.0 * xp.asarray(op.tokens) / size)
    per_chunk = 2.0 * size**2 * (2.0 * d + v) + 2.0 * size**3 / 3.0 + 6.0 * size * d * v
    flops = per_chunk * chunks * op.sequences * op.heads
    states = 2.0 * chunks * op.sequences * op.heads * d * v * element_bytes(op.state_dtype)
    moved = op.bytes + states
    blocks = 1.0 * op.sequences * op.heads * rounding.ceil(1.0 * xp.asarray(v) / STATE_COLUMNS)
    waves = rounding.ceil(blocks / (chip.cores * c.blocks_per_core))
    compute_s = flops / (matrix_peak(chip, op.dtype) * c.matrix_efficiency)
    memory_s = moved / (chip.dram.bandwidth_bytes_per_s * c.dram_efficiency)
    steps_s = waves * chunks * c.chunk_s
    return _terms(xp, c.chunked_launches * c.launch_s, compute_s, memory_s, steps_s, blocks, waves * chunks, moved)


def _terms(xp, *values: Array) -> LinearAttentionTerms:
    return LinearAttentionTerms(*xp.broadcast_arrays(*(xp.asarray(value, dtype=float) for value in values)))


def _assembled(op: LinearAttention, t: LinearAttentionTerms) -> KernelTime:
    xp = namespace(op, t)
    busy = xp.maximum(xp.maximum(t.compute_s, t.memory_s), t.steps_s)
    answered = xp.isfinite(busy)
    core = xp.where(t.compute_s >= t.steps_s, Bound.COMPUTE.value, Bound.LOAD_PORT.value)
    bound = xp.where(t.memory_s >= xp.maximum(t.compute_s, t.steps_s), Bound.MEMORY.value, core)
    return kernel_time(
        compute_s=xp.where(answered, xp.maximum(t.compute_s, t.steps_s), 0.0),
        memory_s=xp.where(answered, t.memory_s, 0.0),
        launch_s=t.launch_s,
        flops=op.flops,
        bytes=t.bytes,
        busy_s=xp.where(answered, busy, 0.0),
        bound=xp.where(t.launch_s > busy, Bound.LAUNCH.value, bound),
        reason=xp.where(answered, Reason.OK.value, Reason.UNSUPPORTED_DTYPE.value),
    )
