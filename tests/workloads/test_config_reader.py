"""The `config.json` reader: every published file reads, everything else is one clear `ValueError`."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

import workloads as w

DATA = Path(os.environ.get("RIDGELINE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "facts" / "models"
FILES = sorted(DATA.glob("*.json"))
needs_data = pytest.mark.skipif(not FILES, reason="no facts/models under RIDGELINE_DATA")

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}
MIXTURE = {
    "model_type": "deepseek_v3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "vocab_size": 1000,
    "topk_method": "noaux_tc",
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
}


@needs_data
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_published_configuration_reads(path):
    model = w.load(path)
    table = model.phase(w.Batch.of(prefill=[64], decode=[100]), w.Parallelism(tp=2))
    assert model.parameters > 1e8
    assert table.divisible
    assert table.flops > 0
    if "text_config" in json.loads(path.read_text()):
        assert "text model only" in model.notes[0]


@needs_data
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_built_in_models_equal_their_published_configuration(path):
    published = w.load(path)
    twins = [w.load(n) for n in w.model_names()]
    same = [
        t
        for t in twins
        if isinstance(t, w.TransformerModel)
        and path.stem.replace("--", "/") in t.source
        and t.layers == published.layers
    ]
    assert len(same) == 1
    assert same[0].parameters == published.parameters
    assert same[0].mtp_layers == published.mtp_layers
    assert same[0].max_context_tokens == published.max_context_tokens
    if "nvfp4" not in same[0].name:
        assert same[0].quantisation == published.quantisation


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": -64}, r"config\.hidden_size: -64; expected a whole number of at least 1"),
        ({"hidden_size": 0}, "hidden_size: 0"),
        ({"hidden_size": "64"}, "hidden_size: '64'"),
        ({"hidden_size": 64.5}, "hidden_size: 64.5"),
        ({"hidden_size": True}, "hidden_size: True"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: 3; expected a divisor"),
        ({"hidden_size": 66}, "divisor of hidden_size"),
        ({"vocab_size": None}, "vocab_size: missing"),
        ({"model_type": "lama"}, "did you mean 'llama'"),
        ({"model_type": 7}, "model_type: 7; expected a string"),
        ({"num_expert": 8}, "cannot tell what 'num_expert' changes in cost"),
        ({"attention_bias": "no"}, "attention_bias: 'no'; expected true or false"),
        ({"torch_dtype": "float17"}, "torch_dtype"),
        ({"quantization_config": {"quant_method": "magic"}}, "quant_method: 'magic'"),
        ({"quantization_config": 4}, "quantization_config: 4; expected an object"),
        ({"quantization_config": {"quant_method": "fp8", "secret": 1}}, "secret"),
        ({"layer_types": ["full_attention"]}, "layer_types: 1 entries; expected 2"),
        ({"layer_types": ["full_attention", "magic"]}, r"layer_types\[1\]"),
        ({"sliding_window": -1}, "sliding_window: -1"),
        ({"text_config": []}, "text_config"),
    ],
)
def test_wrong_values_name_path_value_and_expectation(change, message):
    with pytest.raises(ValueError, match=message) as caught:
        w.load({**LLAMA, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"num_experts_per_tok": 9}, {"qk_head_dim": 13}, {"attention_bias": True}, {"moe_intermediate_size": None}],
)
def test_inconsistent_mixtures_are_refused(change):
    with pytest.raises(ValueError, match=next(iter(change)).split("_")[0] + "|experts per token"):
        w.load({**MIXTURE, **change})


def test_unsupported_but_known_switches_are_refused():
    base = {
        "model_type": "gemma4_text",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "vocab_size": 1000,
        "sliding_window": 16,
    }
    assert w.load(base).layer_count == 6
    with pytest.raises(ValueError, match="num_kv_shared_layers: 4 is not supported; expected 0"):
        w.load({**base, "num_kv_shared_layers": 4})


def test_files_that_are_not_configurations(tmp_path):
    text = json.dumps(LLAMA)
    cases = {
        "truncated.json": text[:60].encode(),
        "list.json": b"[1, 2]",
        "empty.json": b"",
        "binary.json": bytes(range(256)),
        "nan.json": text.replace("64", "NaN", 1).encode(),
        "deep.json": b"[" * 100_000,
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name.split(".")[0]) as caught:
            w.load(tmp_path / name)
        assert "\n" not in str(caught.value)
    big = tmp_path / "big.json"
    with big.open("wb") as file:
        file.truncate(10**9)  # a sparse gigabyte
    with pytest.raises(ValueError, match="1000000000 bytes; expected a configuration"):
        w.load(big)
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        w.load(tmp_path)
    with pytest.raises(ValueError, match="no file"):
        w.load(tmp_path / "absent.json")


def test_folder_and_separate_quantisation_file(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    assert w.load(tmp_path).weight_bytes == 2 * w.load(LLAMA).parameters
    quantised = {
        "producer": {"name": "modelopt"},
        "quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]},
    }
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(quantised))
    model = w.load(tmp_path)
    assert model.quantisation.attention == "nvfp4"
    assert model.quantisation.lm_head == ""


def test_unknown_name_suggests_the_nearest_and_counts():
    count = len(w.model_names())
    with pytest.raises(ValueError, match=rf"did you mean 'llama-3.1-70b'\? \({count} known"):
        w.load("lama-3.1-70b")
    assert w.load("Llama_3.1-70B") == w.load("llama-3.1-70b")


def _mutations(base):
    junk = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-10, 10**20),
        st.floats(),
        st.text(max_size=8),
        st.just([]),
        st.just({}),
        st.lists(st.integers(-1, 3), max_size=3),
        st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
    )
    return st.dictionaries(
        st.sampled_from([*base, "text_config", "layer_types", "rope_parameters"]), junk, min_size=1, max_size=3
    )


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_mutated_configurations_read_or_raise_value_error(data):
    base = data.draw(st.sampled_from([LLAMA, MIXTURE]))
    mutated = {**base, **data.draw(_mutations(base))}
    try:
        model = w.load(mutated)
    except ValueError as error:
        event(f"refused: {str(error).count(chr(10))} line breaks")
        return
    assert model.parameters > 0


@settings(max_examples=100, deadline=None)
@given(cut=st.integers(0, len(json.dumps(MIXTURE)) - 1), noise=st.binary(max_size=3))
def test_truncated_files_raise_value_error(tmp_path_factory, cut, noise):
    path = tmp_path_factory.mktemp("cut") / "config.json"
    path.write_bytes(json.dumps(MIXTURE).encode()[:cut] + noise)
    with pytest.raises(ValueError, match="config"):
        w.load(path)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "qwen2_moe", "shared_expert_intermediate_size": 64, "num_experts": 8, "num_experts_per_tok": 2,
         "moe_intermediate_size": 32},
        {"model_type": "mistral", "sliding_window": 16, "head_dim": 16},
        {"model_type": "qwen2", "use_sliding_window": False, "max_window_layers": 2, "sliding_window": 16},
        {"model_type": "gemma3_text", "sliding_window": 16, "sliding_window_pattern": 2},
        {"model_type": "phi3", "sliding_window": 16, "partial_rotary_factor": 0.5},
    ],
    ids=lambda c: c["model_type"],
)  # fmt: skip
def test_related_families(config):
    model = w.load({**LLAMA, **config})
    assert model.phase(w.Batch.of(prefill=[10], decode=[30])).flops > 0


def test_quantisation_ignore_lists():
    groups = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 32}}}
    ignore = ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"]
    config = {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": ignore}
    model = w.load({**MIXTURE, "quantization_config": config})
    assert model.quantisation == w.Quantisation(experts="int4")
    with pytest.raises(ValueError, match="regular expression"):
        w.load({**MIXTURE, "quantization_config": {**config, "ignore": ["re:("]}})
