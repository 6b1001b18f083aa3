"""Which attention kernel runs: the constants of each kernel of a software stack, and the conditions it is chosen by.

A stack ships several kernels for one operator, and the largest errors of a prediction are a wrong choice, not a wrong
constant. A family (architecture, stack) is therefore an ordered list of kernels with conditions; the first whose
conditions hold runs, and the last one takes whatever is left. Conditions are what the dispatchers of the stacks test:
query heads per kv head, head size, number formats, windows, and whether the grid fills the chip.
"""

from dataclasses import dataclass, fields
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from workloads.dtypes import element_bytes
from workloads.numeric import Array, namespace
from workloads.operators import Attention


class DecodeKernel(NamedTuple):
    """Constants of a kernel that reads a KV cache for one query per sequence. Cycles are not used: latencies in
    seconds.

    `launch_s`: kernel start and fixed ends. `block_s`: fixed time of one block at head size 128, growing as
    (head size / 128)^`block_exponent`. `port_bytes_per_clock`: keys and values one core takes in. `row_efficiency`:
    share of the core's matrix peak reached on the (unpadded) query rows. `chunk_tokens`: least keys worth a split of
    their own; `most_splits`: the kernel's limit; `blocks_per_core`: resident blocks the split count aims at.
    `combine_s`: fixed time of the reduction over splits. `least_tiles`: key tiles of 128 that are paid even for an
    empty context.
    `lone`: time of a block alone / its share of a busy core. `queue`: exponent joining throughput and one block's
    latency (1 adds, large takes the longer); `overlap`: the same for core against memory time. `group_rows`: query
    heads of one kv head that share a read. `window_slack_tokens`: keys read beyond a window. `split_full_context`: 1
    if splits are planned for the whole context although a window hides most. `per_query_head`: 1 if each query head
    reads on its own.
    `head_swap_s`: extra kernels that transpose grouped heads (more than one sequence and kv head).
    `dram_efficiency`; `l2_share`: part of L2 a cache-resident context may fill; `l2_speedup`: L2 over DRAM bandwidth.
    """

    launch_s: Array = 8e-6
    block_s: Array = 1.5e-6
    block_exponent: Array = 0.2
    port_bytes_per_clock: Array = 48.0
    row_efficiency: Array = 0.2
    chunk_tokens: Array = 256.0
    most_splits: Array = 1024.0
    blocks_per_core: Array = 2.0
    combine_s: Array = 2e-6
    least_tiles: Array = 0.5
    lone: Array = 1.0
    queue: Array = 1.2
    overlap: Array = 2.0
    group_rows: Array = 64.0
    window_slack_tokens: Array = 32.0
    split_full_context: Array = 0.0
    per_query_head: Array = 0.0
    head_swap_s: Array = 0.0
    dram_efficiency: Array = 0.9
    l2_share: Array = 0.6
    l2_speedup: Array = 2.0


class PrefillKernel(NamedTuple):
    """Constants of a flash-style kernel over query tiles and key tiles, with the cache write that goes with it.

    `launch_s`: starts of the kernels. `tile_s`: fixed time of one query tile (prologue, epilogue) at head size 128,
    growing as (head size / 128)^`tile_exponent`; `row_share` of it is paid whatever the number of valid rows.
    `efficiency`: share of matrix peak at head size 128; over head sizes d it follows d / (d + `half_head_dim`) and,
    beyond 128, (128 / d)^`wide_exponent`. `tile_rows`: query rows of a tile. `packs_group`: 1 if the query heads of
    one kv head share a tile. `window_tiles`: key tiles touched beyond the window's; `ignores_window`: 1 if masked
    tiles are computed.
    `least_tiles`: key tiles paid even for fewer keys. `lone`, `queue`: as for decode. `q_passes`, `kv_passes`: extra
    passes of Q and of K, V through memory (rotary embedding, cache write, quantisation); `token_s`: time per token of
    the cache write at 512 or more elements per token. `decodes_single`: 1 if one query per sequence is sent to the
    decode kernel.
    `dram_efficiency`, `l2_share`, `l2_speedup`: as for decode.
    """

    launch_s: Array = 11e-6
    tile_s: Array = 2e-6
    tile_exponent: Array = 0.3
    row_share: Array = 0.6
    efficiency: Array = 0.6
    half_head_dim: Array = 40.0
    wide_exponent: Array = 0.2
    tile_rows: Array = 128.0
    packs_group: Array = 0.0
    window_tiles: Array = 1.0
    masked_cost: Array = 0.0
    least_tiles: Array = 0.4
    lone: Array = 0.8
    queue: Array = 1.2
    q_passes: Array = 2.0
    kv_passes: Array = 2.0
    token_s: Array = 0.1e-9
    decodes_single: Array = 0.0
    dram_efficiency: Array = 0.85
    l2_share: Array = 0.5
    l2_speedup: Array = 2.0


@dataclass(frozen=True, kw_only=True)
class When:
    """Conditions of a kernel; all must hold, an absent one always does. Heads per kv head, head size, window present.

    `kv`, `compute`: "fp8" or "16bit" storage of keys, or arithmetic. `shared_kv`: keys and values are one array
    (absorbed MLA);
    `narrow_value`: value head size below the key's (MLA prefill). `fill_at_least`: kv heads x sequences x 128-key
    pieces per core.
    """

    group_at_least: float | None = None
    group_at_most: float | None = None
    head_dim_at_least: float | None = None
    head_dim_at_most: float | None = None
    fill_at_least: float | None = None
    windowed: bool | None = None
    kv: str | None = None
    compute: str | None = None
    shared_kv: bool | None = None
    narrow_value: bool | None = None

    def holds(self, op: Attention, cores: Array) -> Any:
        """True or False where it does not depend on arrays, else a boolean array, [...]."""
        narrow = bits(op.kv_dtype or op.dtype), bits(op.dtype)
        for wanted, found in ((self.kv, narrow[0]), (self.compute, narrow[1]), (self.shared_kv, op.shared_kv)):
            if wanted is not None and wanted != found:
                return False
        xp = namespace(op, cores)
        group = op.heads / op.kv_heads
        pieces = xp.maximum(xp.floor((1.0 * op.kv_tokens - 1.0) / 128.0), 1.0)
        fill = op.sequences * op.kv_heads * pieces / cores
        tests: list[tuple[float | None, Any]] = [
            (self.group_at_least, lambda v: group >= v),
            (self.group_at_most, lambda v: group <= v),
            (self.head_dim_at_least, lambda v: xp.asarray(op.head_dim) >= v),
            (self.head_dim_at_most, lambda v: xp.asarray(op.head_dim) <= v),
            (self.fill_at_least, lambda v: fill >= v),
            (self.windowed, lambda v: (xp.asarray(op.window) > 0) == v),
            (self.narrow_value, lambda v: (op.values_dim < xp.asarray(op.head_dim)) == v),
        ]
        result: Any = True
        for wanted, test in tests:
            if wanted is not None:
                result = result & test(wanted) if result is not True else test(wanted)
        return result


WHEN_FIELDS = tuple(f.name for f in fields(When))

Constants = TypeVar("Constants", DecodeKernel, PrefillKernel)


@dataclass(frozen=True)
class Kernel(Generic[Constants]):
    """A named kernel: when it runs and with which constants."""

    name: str
    when: When
    constants: Constants


def bits(dtype: str) -> str:
    """ "fp8" for formats of at most about one byte, else "16bit"."""
    return "fp8" if element_bytes(dtype) < 1.5 else "16bit"


def select(kernels: tuple[Kernel[Constants], ...], op: Attention, cores: Array) -> tuple[Array, Constants]:
    """Index of the kernel that runs at each point, [...], and its constants, each a scalar or [...].

    The first kernel whose conditions hold runs; the last one is the default whatever its conditions.
    """
    live: list[tuple[int, Any, Constants]] = []
    for index, kernel in enumerate(kernels):
        holds = True if index == len(kernels) - 1 else _decided(kernel.when.holds(op, cores))
        if holds is False:
            continue
        live.append((index, holds, kernel.constants))
        if holds is True:
            break
    index, _, chosen = live[-1]
    xp = namespace(op, cores, [constants for _, _, constants in live])
    result: Any = xp.asarray(index)
    for index, holds, constants in reversed(live[:-1]):
        result = xp.where(holds, index, result)
        mixed = [a if _same(a, b) else xp.where(holds, a, b) for a, b in zip(constants, chosen)]
        chosen = type(chosen)(*mixed)
    return result, chosen


def _decided(holds: Any) -> Any:
    """`holds` as True or False where plain NumPy values already agree on it, so that no array needs mixing."""
    if isinstance(holds, np.ndarray | np.bool_):
        return True if holds.all() else holds if holds.any() else False
    return holds


def _same(first: Any, second: Any) -> bool:
    return first is second or (isinstance(first, float) and isinstance(second, float) and first == second)
