"""Properties of a training step."""

import numpy as np
import pytest

import workloads as w

MATRIX = ("gemm", "grouped_gemm", "attention")


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt3-13b", "mixtral-8x7b"])
def test_step_is_three_forwards_and_recomputation_a_fourth(name):
    model = w.load(name)
    forward = model.phase(w.Batch.prefill_of(4, 2048))
    step = model.training_step(4, 2048)
    rows = 2 * model.vocab_size * model.hidden_size * 4
    products = forward.total("flops", ["gemm", "grouped_gemm"]) + rows * 2047  # logits of every token
    assert step.total("flops", ["gemm", "grouped_gemm"]) == pytest.approx(3 * products)
    attention = forward.total("flops", ["attention"])
    assert step.total("flops", ["attention"]) == pytest.approx(3.5 * attention)
    selective = model.training_step(4, 2048, recompute="selective")
    assert selective.total("flops", ["attention"]) == pytest.approx(4.5 * attention)
    full = model.training_step(4, 2048, recompute="full")
    inside = products - rows * 2048
    assert full.total("flops", ["gemm", "grouped_gemm"]) == pytest.approx(3 * products + inside)


def test_flops_agree_with_the_published_closed_form():
    """Korthikanti et al., 2022: 72 b s l h^2 (1 + s / 6h + V / 12 l h), attention not halved by the mask."""
    model, b, s = w.load("gpt3-175b"), 4, 2048
    h, layers, v = 12288, 96, model.vocab_size
    step = model.training_step(b, s, flash_attention=False)
    expected = 72 * b * s * layers * h**2 * (1 + s / (6 * h) + v / (12 * layers * h))
    assert step.total("flops", ["gemm"]) == pytest.approx(expected, rel=1e-6)


def test_work_is_conserved_over_devices_and_microbatches():
    model = w.load("gpt3-13b")
    whole = model.training_step(32, 1024).total("flops", MATRIX)
    p = w.Parallelism(tp=4, dp=2)
    split = model.training_step(32, 1024, p, microbatches=np.array([1, 2, 8])).total("flops", MATRIX)
    np.testing.assert_allclose(split * 8, whole, rtol=1e-12)


def test_gradient_reduction_and_optimiser():
    model = w.load("gpt3-1.3b")
    plain = model.training_step(16, 1024, w.Parallelism(dp=8))
    reduced = [e for e in plain.entries() if e.name == "dense_gradient_all_reduce"]
    assert [float(e.operator.payload_bytes) for e in reduced] == [model.parameters * 4.0]
    sharded = model.training_step(16, 1024, w.Parallelism(dp=8), distributed_optimiser=True)
    names = {e.name for e in sharded.entries()}
    assert {"dense_gradient_reduce_scatter", "dense_weight_all_gather"} <= names
    update = next(e.operator for e in plain.entries() if e.name == "dense_adamw")
    assert float(update.bytes) == pytest.approx(30.0 * model.parameters)  # 4 words read, 3.5 written
    less = next(e.operator for e in sharded.entries() if e.name == "dense_adamw")
    assert float(less.bytes) * 8 == pytest.approx(float(update.bytes))


def test_recomputation_trades_memory_for_work():
    model = w.load("gpt3-175b")
    p = w.Parallelism(tp=8, pp=8)

    def activations(recompute, flash):
        use = model.training_memory(8, 2048, p, microbatches=8, recompute=recompute, flash_attention=flash)
        return float(use.activation_bytes)

    assert activations("full", False) < activations("selective", False) < activations("none", False)
    assert activations("none", True) == activations("selective", True)


def test_adam_takes_eighteen_bytes_per_parameter():
    model = w.load("gpt3-1.3b")
    use = model.training_memory(1, 128)
    states = use.weights_bytes + use.gradients_bytes + use.optimiser_bytes
    assert float(states) == pytest.approx(18.0 * model.parameters)
    assert not bool(use.fits(10e9))
    assert bool(use.fits(80e9))


@pytest.mark.parametrize("option", [{"recompute": "some"}, {"optimiser": "adamx"}])
def test_unknown_options_are_named(option):
    with pytest.raises(ValueError, match=next(iter(option.values()))):
        w.load("gpt2").training_step(8, 128, **option)


def test_every_model_trains():
    for name in ("deepseek-v3.2", "qwen3.5-397b-a17b", "gpt-oss-20b", "llama-4-scout", "gemma-4-26b-a4b"):
        step = w.load(name).training_step(8, 256, w.Parallelism(tp=2, ep=4, dp=4), recompute="full")
        assert (
            float(step.flops)
            > 3 * float(w.load(name).phase(w.Batch.prefill_of(2, 256), w.Parallelism(tp=2)).flops) * 0.5
        )
