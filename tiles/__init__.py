"""GPU kernels in closed form, predicted from how the hardware schedules them: tiles, waves, splits, caches, selection.

What may live here: kernel models and their fitted constants. What may not: measurements, the fitting code, composition
into models.
"""

from tiles.attention import attention_time, decode_attention_time, explain_attention, prefill_attention_time
from tiles.attention_constants import AttentionConstants, attention_constants
from tiles.conv2d import conv2d_time
from tiles.estimator import STACKS, tile_estimator
from tiles.gemm import GemmBreakdown, explain_gemm, gemm_time
from tiles.gemm_constants import GemmConstants, gemm_constants
from tiles.linear_attention import LinearAttentionConstants, linear_attention_time
from tiles.memory_bound import memory_bound_time
from tiles.moe import moe_time

__all__ = [
    "STACKS",
    "AttentionConstants",
    "GemmBreakdown",
    "GemmConstants",
    "LinearAttentionConstants",
    "attention_constants",
    "attention_time",
    "conv2d_time",
    "decode_attention_time",
    "explain_attention",
    "explain_gemm",
    "gemm_constants",
    "gemm_time",
    "linear_attention_time",
    "memory_bound_time",
    "moe_time",
    "prefill_attention_time",
    "tile_estimator",
]
