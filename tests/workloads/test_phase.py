"""Properties of the operator table of a forward pass."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import workloads as w

MODELS = (
    "llama-3.1-8b",
    "mixtral-8x7b",
    "deepseek-v3",
    "deepseek-v3.2",
    "gpt-oss-20b",
    "qwen3.5-397b-a17b",
    "gpt2",
    "gemma-4-26b-a4b",
)
MATRIX = ("gemm", "grouped_gemm", "attention")


@pytest.mark.parametrize("name", ["llama-3.1-70b", "qwen3-30b-a3b", "gpt2-xl", "mixtral-8x7b", "opt-6.7b"])
def test_flops_are_two_per_active_parameter_and_token_plus_attention(name):
    model, tokens, requests = w.load(name), 512, 8
    table = model.phase(w.Batch.prefill_of(requests, tokens))
    products = table.total("flops", ["gemm", "grouped_gemm"])
    table_rows = model.vocab_size * model.hidden_size * (1 if model.tied_embeddings else 2)
    inner = model.active_parameters - table_rows - model.learned_positions * model.hidden_size
    expected = 2 * inner * tokens * requests + 2 * model.vocab_size * model.hidden_size * requests
    assert products == pytest.approx(expected, rel=2e-3)
    spec = model.layers[0].attention
    attention = requests * tokens * (tokens + 1) / 2 * spec.heads * 4 * spec.head_dim * model.layer_count
    assert table.total("flops", ["attention"]) == pytest.approx(attention, rel=1e-12)


@pytest.mark.parametrize("name", ["llama-3.1-70b", "mixtral-8x7b", "gpt-oss-120b", "qwen3-235b-a22b"])
@pytest.mark.parametrize("tp", [2, 4])
def test_tensor_parallelism_conserves_work_and_weights(name, tp):
    model = w.load(name)
    batch = w.Batch.of(prefill=[300, (128, 64)], decode=[100, 200])
    whole, part = model.phase(batch), model.phase(batch, w.Parallelism(tp=tp))
    kinds = ("grouped_gemm", "attention")
    assert part.total("flops", kinds) * tp == pytest.approx(whole.total("flops", kinds))
    router = {"router"}
    split = sum(
        e.count * e.operator.flops for e in part.entries() if e.operator.kind == "gemm" and e.name not in router
    )
    entire = sum(
        e.count * e.operator.flops for e in whole.entries() if e.operator.kind == "gemm" and e.name not in router
    )
    assert split * tp == pytest.approx(entire)
    shared = model.memory(batch, w.Parallelism(tp=tp)).weights_bytes * tp
    # norms, router and biases are on every device
    assert model.weight_bytes <= shared <= model.weight_bytes * 1.01


@pytest.mark.parametrize("name", ["mixtral-8x7b", "deepseek-v3", "qwen3-30b-a3b"])
def test_expert_parallelism_conserves_expert_work_and_weights(name):
    model, batch = w.load(name), w.Batch.decode_of(64, 1000)
    whole = model.phase(batch).total("flops", ["grouped_gemm"])
    for p in (
        w.Parallelism(tp=4, ep=4),
        w.Parallelism(tp=8, ep=2),
        w.Parallelism(dp=8, ep=8),
        w.Parallelism(tp=2, dp=4, ep=8),
    ):
        part = model.phase(batch, p)
        assert np.all(part.divisible)
        assert part.total("flops", ["grouped_gemm"]) * p.devices == pytest.approx(whole)
        sent = [e for e in part.entries() if getattr(e.operator, "op", "") == "all_to_all"]
        assert len(sent) == (2 if p.ep > p.tp else 0)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(MODELS),
    requests=st.integers(1, 50),
    tokens=st.integers(1, 3000),
    context=st.integers(0, 9000),
    factor=st.integers(2, 5),
)
def test_work_is_linear_in_identical_requests(name, requests, tokens, context, factor):
    model = w.load(name)
    one = model.phase(w.Batch.of(prefill=[(tokens, context)] * requests, decode=[context] * requests))
    many = model.phase(
        w.Batch.of(prefill=[(tokens, context)] * requests * factor, decode=[context] * requests * factor)
    )
    assert many.flops == pytest.approx(factor * one.flops, rel=1e-9)
    assert one.bytes < many.bytes <= factor * one.bytes * (1 + 1e-12)


@settings(max_examples=20, deadline=None)
@given(name=st.sampled_from(MODELS), contexts=st.lists(st.integers(0, 20000), min_size=1, max_size=6))
def test_decode_groups_as_one_kernel_keep_work_and_traffic(name, contexts):
    model = w.load(name)

    def attention(batch):
        table = model.phase(batch)
        kinds = ("attention", "linear_attention")
        return np.array([table.total("flops", kinds), table.total("bytes", kinds)])

    together = attention(w.Batch.of(decode=contexts))
    apart = sum(attention(w.Batch.of(decode=[context])) for context in contexts)
    np.testing.assert_allclose(together, apart, rtol=1e-9)


def test_shapes_that_do_not_divide_are_marked_not_raised():
    table = w.load("llama-3.1-8b").phase(w.Batch.decode_of(8, 100), w.Parallelism(tp=np.array([1, 2, 3, 8, 16, 64])))
    assert table.divisible.tolist() == [True, True, False, True, True, False]
    assert table.flops.shape == (6,)
    mixture = w.load("mixtral-8x7b").phase(w.Batch.decode_of(8, 100), w.Parallelism(tp=4, ep=np.array([1, 2, 3, 4, 8])))
    assert mixture.divisible.tolist() == [True, True, False, True, False]
    deep = w.load("gpt2").phase(w.Batch.decode_of(8, 100), w.Parallelism(pp=np.array([1, 12, 13])))
    assert deep.divisible.tolist() == [True, True, False]


def test_more_ranks_than_key_heads_replicate_heads():
    model, batch = w.load("llama-3.1-70b"), w.Batch.decode_of(1, 1000)
    eight, sixteen = (model.memory(batch, w.Parallelism(tp=tp)).kv_bytes for tp in (8, 16))
    assert eight == sixteen == 1001 * 327_680 / 8


@pytest.mark.parametrize("name", MODELS)
def test_arrays_equal_scalars_one_by_one(name):
    model = w.load(name)
    requests, tps = np.array([1, 7, 64]), np.array([1, 2])
    swept = model.phase(w.Batch.decode_of(requests[:, None], 777), w.Parallelism(tp=tps))
    for i, r in enumerate(requests):
        for j, tp in enumerate(tps):
            one = model.phase(w.Batch.decode_of(int(r), 777), w.Parallelism(tp=int(tp)))
            assert swept.flops[i, j] == pytest.approx(float(one.flops), rel=1e-12)
            assert swept.bytes[i, j] == pytest.approx(float(one.bytes), rel=1e-12)


@pytest.mark.parametrize("name", ["mixtral-8x7b", "deepseek-v3.2", "qwen3.5-397b-a17b"])
def test_jit_equals_eager_and_gradients_equal_differences(name):
    model = w.load(name)

    def traffic(requests, context, tp):
        batch = w.Batch((w.PrefillGroup(2.0, 300.0),), (w.DecodeGroup(requests, context),))
        return model.phase(batch, w.Parallelism(tp=tp, ep=tp)).bytes

    value, gradient = jax.jit(jax.value_and_grad(traffic))(32.0, 1000.0, 2.0)
    assert float(value) == pytest.approx(float(traffic(32.0, 1000.0, 2.0)), rel=1e-9)
    step = 1e-3
    numeric = (traffic(32.0 + step, 1000.0, 2.0) - traffic(32.0 - step, 1000.0, 2.0)) / (2 * step)
    assert float(gradient) == pytest.approx(float(numeric), rel=1e-5)


def test_collectives_of_each_parallelism():
    model, batch = w.load("llama-3.1-8b"), w.Batch.prefill_of(2, 100)

    def moved(**degrees):
        table = model.phase(batch, w.Parallelism(**degrees))
        return {
            (e.name, float(e.count)): float(e.operator.payload_bytes)
            for e in table.entries()
            if e.operator.unit == "network"
        }

    assert moved() == {}
    hidden_bytes = 200 * 4096 * 2
    two = moved(tp=2)
    assert (
        two["attention_all_reduce", 32.0]
        == two["ffn_all_reduce", 32.0]
        == two["embedding_all_reduce", 1.0]
        == hidden_bytes
    )
    assert two["logits_all_gather", 1.0] == 2 * 128256 * 2
    assert moved(pp=4) == {("pipeline_send_recv", 3.0): hidden_bytes}
    assert ("ffn_reduce_scatter", 32.0) in moved(tp=2, sequence_parallel=True)


def test_logits_only_where_they_are_needed():
    table = w.load("llama-3.1-8b").phase(w.Batch.of(prefill=[500, 500, 20], decode=[10] * 4))
    head = next(e for e in table.entries() if e.name == "lm_head")
    assert float(head.operator.m) == 3 + 4


def test_windows_bound_attention_and_cache():
    model = w.load("gpt-oss-120b")
    short, long = (model.memory(w.Batch.decode_of(1, n)).kv_bytes for n in (10_000, 20_000))
    assert long - short == 10_000 * 18 * 2 * 8 * 64 * 2  # only the 18 full layers grow


def test_sparse_attention_reads_only_the_chosen_keys():
    dense, sparse = w.load("deepseek-v3"), w.load("deepseek-v3.2")
    batch = w.Batch.decode_of(1, 100_000)

    def latent_bytes(model):
        entries = model.phase(batch).entries()
        return sum(float(e.operator.bytes) for e in entries if e.name == "attention_decode")

    assert latent_bytes(sparse) < latent_bytes(dense) / 10


@pytest.mark.parametrize("dtype", ["fp8", "nvfp4", "int4", "mxfp4"])
def test_quantisation_changes_bytes_but_not_work(dtype):
    model = w.load("llama-3.1-70b")
    narrow = model.with_quantisation(dtype)
    batch = w.Batch.decode_of(4, 100)
    assert narrow.weight_bytes < 0.6 * model.weight_bytes
    kinds = ("gemm", "attention")
    assert narrow.phase(batch).total("flops", kinds) == model.phase(batch).total("flops", kinds)
    quantises = any(group.kind == "quantise" for group in narrow.phase(batch))
    assert quantises == (dtype in ("fp8", "nvfp4"))


def test_table_is_small_and_merges_layers():
    table = w.load("llama-3.1-70b").phase(w.Batch.decode_of(8, 100), w.Parallelism(tp=4, pp=2))
    assert len(table) < 25
    assert len(table.groups) <= 12
    assert len(table.to_frame()) == len(table)


@pytest.mark.parametrize(
    ("prefill", "decode"), [([0], []), ([-1], []), ([], [-1]), (["a"], []), ([(10, -2)], []), ([None], [])]
)
def test_bad_lengths_name_the_field(prefill, decode):
    with pytest.raises(ValueError, match=r"prefill\[0\]|decode\[0\]"):
        w.Batch.of(prefill=prefill, decode=decode)
