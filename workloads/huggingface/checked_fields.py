"""Typed access to the keys of a configuration, which remembers what was read and refuses the rest by name."""

import math
from difflib import get_close_matches
from typing import Any

#: Keys that change neither parameters, nor bytes, nor work, in any family.
HARMLESS = frozenset(
    [
        "_attn_implementation",
        "_attn_implementation_autoset",
        "_name_or_path",
        "activation_dropout",
        "add_cross_attention",
        "architectures",
        "attention_dropout",
        "attention_probs_dropout_prob",
        "attn_logit_softcapping",
        "attn_pdrop",
        "attn_temperature_tuning",
        "attn_scale",
        "floor_scale",
        "audio_config",
        "audio_token_id",
        "auto_map",
        "aux_loss_alpha",
        "bad_words_ids",
        "begin_suppress_tokens",
        "boa_token_id",
        "boi_token_id",
        "boi_token_index",
        "bos_token_id",
        "cache_implementation",
        "chunk_size_feed_forward",
        "classifier_dropout",
        "cls_token_id",
        "cross_attention_hidden_size",
        "decoder_start_token_id",
        "diversity_penalty",
        "do_sample",
        "dropout",
        "early_stopping",
        "embd_pdrop",
        "embed_pdrop",
        "encoder_no_repeat_ngram_size",
        "eoa_token_id",
        "eoa_token_index",
        "eoi_token_id",
        "eoi_token_index",
        "eos_token_id",
        "ep_size",
        "exponential_decay_length_penalty",
        "final_logit_softcapping",
        "finetuning_task",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "for_llm_compressor",
        "gradient_checkpointing",
        "hidden_act",
        "hidden_activation",
        "hidden_dropout_prob",
        "id2label",
        "ignore_index",
        "image_token_id",
        "image_token_index",
        "indexer_rope_interleave",
        "init_std",
        "initial_context_length",
        "initializer_factor",
        "initializer_range",
        "is_decoder",
        "is_encoder_decoder",
        "is_composition",
        "label2id",
        "layer_norm_eps",
        "layer_norm_epsilon",
        "layerdrop",
        "length_penalty",
        "max_length",
        "media_placeholder_token_id",
        "min_length",
        "mm_tokens_per_image",
        "mrope_interleaved",
        "n_ctx",
        "n_group",
        "no_repeat_ngram_size",
        "norm_topk_prob",
        "num_beam_groups",
        "num_beams",
        "num_return_sequences",
        "original_max_position_embeddings",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "output_scores",
        "pad_token_id",
        "position_embedding_type",
        "prefix",
        "pretraining_tp",
        "problem_type",
        "pruned_heads",
        "query_pre_attn_scalar",
        "remove_invalid_values",
        "reorder_and_upcast_attn",
        "repetition_penalty",
        "resid_pdrop",
        "return_dict",
        "return_dict_in_generate",
        "rms_norm_eps",
        "rope_interleave",
        "rope_local_base_freq",
        "rope_scaling",
        "rope_theta",
        "routed_scaling_factor",
        "router_aux_loss_coef",
        "router_jitter_noise",
        "scale_attn_by_inverse_layer_idx",
        "scale_attn_weights",
        "scoring_func",
        "sep_token_id",
        "seq_aux",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
        "suppress_tokens",
        "swiglu_limit",
        "task_specific_params",
        "temperature",
        "text_hidden_size",
        "tf_legacy_loss",
        "tie_encoder_decoder",
        "tokenizer_class",
        "top_k",
        "top_p",
        "topk_group",
        "topk_method",
        "torchscript",
        "transformers_version",
        "typical_p",
        "unsloth_version",
        "use_bfloat16",
        "use_bidirectional_attention",
        "use_cache",
        "use_unified_vision_chunk",
        "video_placeholder",
        "video_token_id",
        "video_token_index",
        "vision_config",
        "vision_end_token_id",
        "vision_soft_tokens_per_image",
        "vision_start_token_id",
        "vocab_size_per_layer_input",
    ]
)

_MISSING = object()


class CheckedFields:
    """Reads a mapping field by field. Each method raises `ValueError` with the field's path, the value and the
    expectation."""

    def __init__(self, raw: Any, path: str) -> None:
        if not isinstance(raw, dict):
            raise ValueError(f"{path}: {_short(raw)}; expected an object with named fields")
        self.raw = raw
        self.path = path
        self.used: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether `key` is present and not null."""
        return self.raw.get(key) is not None

    def _get(self, key: str, default: Any) -> Any:
        self.used.add(key)
        value = self.raw.get(key)
        if value is not None:
            return value
        if default is _MISSING:
            if key in self.raw:
                raise ValueError(f"{self.path}.{key}: missing (null); expected a value")
            near = get_close_matches(key, [k for k in self.raw if isinstance(k, str)], 1)
            raise ValueError(f"{self.path}.{key}: missing" + (f"; found {near[0]!r} instead" if near else ""))
        return default

    def size(self, key: str, default: Any = _MISSING, least: int = 1, most: int = 2**40) -> Any:
        """A whole number of at least `least`; `default` (any value) where absent or null."""
        value = self._get(key, default)
        if value is default:
            return value
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            limit = f" and at most {most}" if isinstance(value, (int, float)) and value > most else ""
            raise ValueError(f"{self.path}.{key}: {_short(value)}; expected a whole number of at least {least}{limit}")
        return value

    def number(self, key: str, default: float) -> float:
        """A finite number greater than 0."""
        value = self._get(key, default)
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
        if not good:
            raise ValueError(f"{self.path}.{key}: {_short(value)}; expected a number greater than 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise ValueError(f"{self.path}.{key}: {_short(value)}; expected true or false")
        return value

    def text(self, key: str, default: Any = _MISSING, known: tuple[str, ...] = ()) -> str:
        """A string, one of `known` if given."""
        value = self._get(key, default)
        if not isinstance(value, str):
            raise ValueError(f"{self.path}.{key}: {_short(value)}; expected a string")
        if known and value not in known:
            near = get_close_matches(value, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{self.path}.{key}: {_short(value)}; expected one of {', '.join(known)}{hint}")
        return value

    def items(self, key: str, kind: type, length: int = -1) -> list[Any]:
        """A list of `kind` values (empty where absent), of `length` if that is not negative and the list is present."""
        value = self._get(key, [])
        if not isinstance(value, list) or any(not isinstance(v, kind) or isinstance(v, bool) for v in value):
            raise ValueError(f"{self.path}.{key}: {_short(value)}; expected a list of {kind.__name__} values")
        if length >= 0 and value and len(value) != length:
            raise ValueError(f"{self.path}.{key}: {len(value)} entries; expected {length}, one per layer")
        return value

    def inside(self, key: str) -> "CheckedFields | None":
        """The object under `key`, or None."""
        self.used.add(key)
        return CheckedFields(self.raw[key], f"{self.path}.{key}") if self.has(key) else None

    def expect(self, key: str, *accepted: Any) -> None:
        """Accept `key` only where it is absent, null or one of `accepted`: other values change the cost in an
        unknown way."""
        self.used.add(key)
        value = self.raw.get(key)
        if value is not None and not any(value == good and type(value) is type(good) for good in accepted):
            wanted = " or ".join(repr(good) for good in accepted)
            raise ValueError(f"{self.path}.{key}: {_short(value)} is not supported; expected {wanted}")

    def ignore(self, *keys: str) -> None:
        """Declare `keys` understood and without effect for this family."""
        self.used.update(keys)

    def finish(self) -> None:
        """Raise `ValueError` if a key is left that is neither used, nor harmless, nor null."""
        left = [k for k, v in self.raw.items() if k not in self.used and k not in HARMLESS and v is not None]
        if left:
            near = get_close_matches(str(left[0]), sorted(self.used | HARMLESS), 1)
            hint = f"; nearest known: {near[0]!r}" if near else ""
            names = ", ".join(repr(k) for k in left[:6]) + (f" and {len(left) - 6} more" if len(left) > 6 else "")
            raise ValueError(f"{self.path}: cannot tell what {names} changes in cost{hint}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
