"""Anchored facts: published parameter counts, cache bytes and work."""

import pytest

import workloads as w

#: name, published parameters in 1e9 (10^6 for image networks), source of the figure.
TOTALS = {
    "llama-3.1-8b": 8.030,
    "llama-3.1-70b": 70.554,
    "llama-3.1-405b": 405.85,
    "llama-2-7b": 6.738,
    "llama-2-13b": 13.016,
    "llama-2-70b": 68.977,
    "mixtral-8x7b": 46.703,
    "mixtral-8x22b": 140.62,
    "deepseek-v3": 671.0,
    "deepseek-r1": 671.0,
    "deepseek-v3.2": 671.9,
    "gpt-oss-120b": 116.83,
    "gpt-oss-20b": 20.91,
    "qwen3-0.6b": 0.596,
    "qwen3-8b": 8.191,
    "qwen3-32b": 32.76,
    "qwen3-235b-a22b": 235.09,
    "qwen3-30b-a3b": 30.53,
    "qwen3.5-397b-a17b": 397.0,
    "llama-4-scout": 107.77,  # text model; 109 with the vision tower
    "kimi-k2": 1026.5,  # published as 1.04 T, checkpoint without multi-token prediction
    "glm-5": 744.0,
    "minimax-m2.5": 229.0,
    "gemma-4-26b-a4b": 25.2,
    "bert-base": 0.1095,
    "bert-large": 0.3351,
    "gpt2": 0.1244,
    "gpt2-xl": 1.5576,
    "gpt3-175b": 174.6,
    "opt-125m": 0.1252,
    "opt-350m": 0.3312,
    "opt-66b": 65.7,
}
ACTIVE = {
    "mixtral-8x7b": (12.88, 0.01),
    "mixtral-8x22b": (39.15, 0.01),
    "deepseek-v3": (37.0, 0.02),
    "qwen3-235b-a22b": (22.0, 0.01),
    "qwen3-30b-a3b": (3.3, 0.02),
    "qwen3.5-397b-a17b": (17.0, 0.025),
    "llama-4-scout": (17.0, 0.015),
    "kimi-k2": (32.6, 0.01),
    "minimax-m2.5": (10.0, 0.11),  # published rounded down, without the embedding
    "gemma-4-26b-a4b": (3.8, 0.01),
    "glm-5": (40.0, 0.05),
}
IMAGE = {"resnet-50": 25.557, "vgg-16": 138.358, "alexnet": 61.10, "dit-xl-2": 675.1, "sd-1.5-unet": 859.5}


@pytest.mark.parametrize("name", TOTALS)
def test_parameters_are_within_one_percent_of_published(name):
    assert w.load(name).parameters / 1e9 == pytest.approx(TOTALS[name], rel=0.01)


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters(name):
    published, tolerance = ACTIVE[name]
    assert w.load(name).active_parameters / 1e9 == pytest.approx(published, rel=tolerance)


def test_gpt_oss_active_parameters_without_embedding_table():
    model = w.load("gpt-oss-120b")
    assert (model.active_parameters - model.vocab_size * model.hidden_size) / 1e9 == pytest.approx(5.1, rel=0.01)


@pytest.mark.parametrize("name", IMAGE)
def test_image_networks(name):
    assert w.load(name).parameters / 1e6 == pytest.approx(IMAGE[name], rel=0.001)


@pytest.mark.parametrize(
    ("name", "gmac"), [("resnet-50", 4.09), ("vgg-16", 15.47), ("alexnet", 0.714), ("dit-xl-2", 118.6)]
)
def test_image_network_work(name, gmac):
    table = w.load(name).forward(1)
    assert table.total("flops", ["conv2d", "gemm", "attention"]) / 2e9 == pytest.approx(gmac, rel=0.005)


def test_cache_bytes_per_token():
    assert w.load("llama-3.1-70b").kv_bytes_per_token() == 327_680
    assert w.load("deepseek-v3").kv_bytes_per_token() == 70_272
    assert w.load("deepseek-v3").kv_bytes_per_token("fp8") == 35_136
    assert w.load("deepseek-v3.2").kv_bytes_per_token() == 70_272 + 61 * 132


def test_llama_8b_by_hand():
    """Every matrix of the published shape, added up by hand."""
    layer = 4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 14336 + 2 * 4096
    assert w.load("llama-3.1-8b").parameters == 32 * layer + 2 * 128256 * 4096 + 4096


def test_quantised_checkpoints_have_the_published_size():
    assert w.load("gpt-oss-120b").weight_bytes / 1e9 == pytest.approx(65.2, rel=0.01)
    assert w.load("deepseek-v3").weight_bytes / 1e9 == pytest.approx(673, rel=0.01)
