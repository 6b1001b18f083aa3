"""Families of published configurations: which keys each has and the structure they describe."""

from collections.abc import Callable
from typing import Any

from workloads.huggingface.checked_fields import CheckedFields
from workloads.huggingface.dense import bert, dense_decoder, gpt2, opt
from workloads.huggingface.latent import latent_decoder
from workloads.huggingface.mixtures import gemma4, gpt_oss, llama4, minimax_m2, mixtral, qwen_hybrid, qwen_moe
from workloads.transformer import TransformerModel

Reader = Callable[[CheckedFields, str], TransformerModel]


def _dense(**traits: Any) -> Reader:
    return lambda fields, name: dense_decoder(fields, name, **traits)


#: Reader of each `model_type`.
FAMILIES: dict[str, Reader] = {
    "llama": _dense(),
    "mistral": _dense(),
    "qwen2": _dense(qkv_bias=True),
    "qwen3": _dense(qk_norm="head"),
    "phi3": _dense(),
    "gemma": _dense(tied=True),
    "gemma2": _dense(tied=True, norms=4, pattern=2),
    "gemma3_text": _dense(tied=True, norms=4, pattern=6, qk_norm="head"),
    "gpt2": gpt2,
    "opt": opt,
    "bert": bert,
    "mixtral": mixtral,
    "qwen2_moe": qwen_moe,
    "qwen3_moe": qwen_moe,
    "qwen3_next": qwen_hybrid,
    "qwen3_5_moe_text": qwen_hybrid,
    "qwen3_5_text": qwen_hybrid,
    "gpt_oss": gpt_oss,
    "minimax_m2": minimax_m2,
    "llama4_text": llama4,
    "gemma4_text": gemma4,
    "deepseek_v2": latent_decoder,
    "deepseek_v3": latent_decoder,
    "deepseek_v32": latent_decoder,
    "kimi_k2": latent_decoder,
    "glm_moe_dsa": latent_decoder,
}
