"""GPU kernels in closed form, predicted from how the hardware schedules them: tiles, waves, splits, caches, selection.

What may live here: kernel models and their fitted constants. What may not: measurements, the fitting code, composition
into models.
"""

from tiles.attention import attention_time, decode_attention_time, explain_attention, prefill_attention_time
from tiles.attention_constants import AttentionConstants, attention_constants
from tiles.calibrated import Calibrated, read_calibrated
from tiles.candidates import FAMILIES, Candidates, family
from tiles.conv2d import conv2d_time
from tiles.estimator import STACKS, tile_estimator
from tiles.gemm import GemmBreakdown, GemmTerms, explain_gemm, gemm_time
from tiles.gemm_constants import GemmConstants, gemm_constants
from tiles.gemm_sweep import gemm_seconds
from tiles.linear_attention import LinearAttentionConstants, linear_attention_time
from tiles.memory_bound import memory_bound_time
from tiles.moe import moe_time
from tiles.paper_chip import completed, is_gpu
from tiles.utilisation_law import TileTime, tiled_time, utilisation
from tiles.wave import Wave, wave
from tiles.wave_scaling import memory_boundedness, scaled_time

__all__ = [
    "FAMILIES",
    "STACKS",
    "AttentionConstants",
    "Calibrated",
    "Candidates",
    "GemmBreakdown",
    "GemmConstants",
    "GemmTerms",
    "LinearAttentionConstants",
    "TileTime",
    "Wave",
    "attention_constants",
    "attention_time",
    "completed",
    "conv2d_time",
    "decode_attention_time",
    "explain_attention",
    "explain_gemm",
    "family",
    "gemm_constants",
    "gemm_seconds",
    "gemm_time",
    "is_gpu",
    "linear_attention_time",
    "memory_bound_time",
    "memory_boundedness",
    "moe_time",
    "prefill_attention_time",
    "read_calibrated",
    "scaled_time",
    "tile_estimator",
    "tiled_time",
    "utilisation",
    "wave",
]
