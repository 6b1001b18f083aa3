"""GPU kernels in closed form, predicted from how the hardware schedules them: tiles, waves, splits, caches, selection.

What may live here: kernel models and their fitted constants. What may not: measurements, the fitting code, composition
into models.
"""

from tiles.attention import attention_time, decode_attention_time, explain_attention, prefill_attention_time
from tiles.attention_constants import AttentionConstants, attention_constants
from tiles.linear_attention import LinearAttentionConstants, linear_attention_time

__all__ = [
    "AttentionConstants",
    "LinearAttentionConstants",
    "attention_constants",
    "attention_time",
    "decode_attention_time",
    "explain_attention",
    "linear_attention_time",
    "prefill_attention_time",
]
