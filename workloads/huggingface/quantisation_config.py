"""`quantization_config` of a checkpoint as number formats per part of the model."""

import re
from dataclasses import replace

from workloads.huggingface.checked_fields import CheckedFields
from workloads.quantisation import PARTS, Quantisation

METHODS = ("fp8", "fbgemm_fp8", "mxfp4", "compressed-tensors", "modelopt", "gptq", "awq")

#: Module names as they occur in ignore lists, per part.
_MODULES = {
    "attention": "model.layers.5.self_attn.q_proj",
    "dense": "model.layers.5.mlp.up_proj",
    "experts": "model.layers.5.mlp.experts.7.up_proj",
    "shared_experts": "model.layers.5.mlp.shared_experts.up_proj",
    "lm_head": "lm_head",
}


def read_quantisation(fields: CheckedFields) -> Quantisation:
    """Formats of all parts; parts named in the ignore list keep the model's dtype. `ValueError` for methods not
    understood."""
    method = fields.text("quant_method", known=METHODS)
    fields.ignore(
        "activation_scheme", "fmt", "scale_fmt", "format", "quantization_status", "kv_cache_scheme", "version"
    )
    fields.ignore("global_compression_ratio", "sparsity_config", "transform_config", "producer", "kv_cache_quant_algo")
    fields.ignore(
        "desc_act", "sym", "static_groups", "damp_percent", "true_sequential", "model_file_base_name", "zero_point"
    )
    fields.ignore(
        "checkpoint_format", "meta", "backend", "do_fuse", "model_name_or_path", "exllama_config", "dequantize"
    )
    ignored = fields.items("modules_to_not_convert", str) + fields.items("ignore", str)
    ignored += fields.items("exclude_modules", str)
    lm_head = False
    if method in ("fp8", "fbgemm_fp8"):
        blocks = fields.items("weight_block_size", int)
        dtype = "fp8_block" if blocks else "fp8"
        fields.ignore("activation_scale_ub")
    elif method == "mxfp4":
        dtype = "mxfp4"
    elif method == "modelopt":
        algorithm = fields.text("quant_algo", known=("NVFP4", "FP8", "W4A16_AWQ", "W4A8_AWQ"))
        dtype = {"NVFP4": "nvfp4", "FP8": "fp8"}.get(algorithm, "int4")
        fields.ignore("group_size", "config_groups", "quant_method")
    elif method in ("gptq", "awq"):
        fields.expect("bits", 4)
        fields.ignore("group_size", "w_bit", "q_group_size", "lm_head")
        dtype = "int4"
    else:
        dtype = _compressed(fields)
        lm_head = True
    formats = {part: "" if _ignored(part, ignored) else dtype for part in PARTS}
    if not lm_head:
        formats["lm_head"] = ""
    if method == "mxfp4":
        formats = {part: dtype if part == "experts" else "" for part in PARTS}
    fields.finish()
    return replace(Quantisation(), **formats)


def _compressed(fields: CheckedFields) -> str:
    groups = fields.inside("config_groups")
    if groups is None or not groups.raw:
        raise ValueError(f"{fields.path}.config_groups: missing; expected at least one group")
    group = CheckedFields(next(iter(groups.raw.values())), f"{groups.path}.{next(iter(groups.raw))}")
    weights = group.inside("weights")
    if weights is None:
        raise ValueError(f"{group.path}.weights: missing")
    bits, kind = weights.size("num_bits", most=8), weights.text("type", known=("int", "float"))
    activations = group.has("input_activations")
    if (bits, kind) == (4, "int"):
        return "int4"
    if (bits, kind) == (8, "float"):
        return "fp8_block" if weights.raw.get("strategy") == "block" else "fp8"
    if (bits, kind) == (4, "float"):
        return "nvfp4" if weights.raw.get("group_size") == 16 else "mxfp4"
    if (bits, kind) == (8, "int") and activations:
        return "int8"
    raise ValueError(f"{weights.path}.num_bits: {bits} of type {kind!r} is not supported")


def _ignored(part: str, patterns: list[str]) -> bool:
    name = _MODULES[part]
    for pattern in patterns:
        expression = pattern[3:] if pattern.startswith("re:") else re.escape(pattern).replace(r"\*", ".*")
        try:
            # a plain name also covers the modules below it, as in "model.layers.*.self_attn"
            if re.match(f"(?:{expression})(?:$|\\.)", name) or (
                part == "attention" and pattern in ("self_attn", "*self_attn*")
            ):
                return True
        except re.error as error:
            raise ValueError(f"quantization_config.ignore: {pattern!r} is not a regular expression ({error})") from None
    return False
