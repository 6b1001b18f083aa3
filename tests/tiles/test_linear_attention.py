"""Linear attention: the two forms, their limits and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hardware
from roofline.kernel_time import Bound
from tiles.linear_attention import chunked_terms, linear_attention_time, recurrent_terms
from workloads.operators import LinearAttention

CHIP = hardware.load("h100_sxm")


def operator(sequences=8, tokens=1024, heads=32, key_dim=128, value_dim=128):
    return LinearAttention(sequences=sequences, tokens=tokens, heads=heads, key_dim=key_dim, value_dim=value_dim)


def test_a_decode_step_is_the_state_at_dram_speed():
    op = operator(sequences=256, tokens=1)
    time = linear_attention_time(op, CHIP)
    state_s = 2 * 256 * 32 * 128 * 128 * 4 / 3.35e12 / 0.85
    assert time.total_s == pytest.approx(state_s, rel=0.05)
    assert time.bound == Bound.MEMORY.value


def test_prefill_is_chunked_and_decode_recurrent():
    for tokens, first in ((1, recurrent_terms), (4, recurrent_terms), (8192, chunked_terms)):
        op = operator(tokens=tokens)
        chosen = linear_attention_time(op, CHIP)
        assert chosen.launch_s == first(op, CHIP).launch_s
    assert chunked_terms(operator(tokens=8192), CHIP).steps * 64 == recurrent_terms(operator(tokens=8192), CHIP).steps


@given(
    sequences=st.integers(1, 300),
    tokens=st.integers(1, 20_000),
    heads=st.integers(1, 64),
    more=st.integers(1, 2000),
)
@settings(deadline=None, max_examples=60)
def test_never_below_the_bytes_and_never_faster_with_more_tokens(sequences, tokens, heads, more):
    op = operator(sequences, tokens, heads)
    time = linear_attention_time(op, CHIP)
    assert time.total_s >= op.bytes / CHIP.dram.bandwidth_bytes_per_s
    assert linear_attention_time(operator(sequences, tokens + more, heads), CHIP).total_s >= time.total_s


def test_compiled_equals_eager_and_the_gradient_is_the_difference():
    def time(tokens):
        return linear_attention_time(operator(tokens=tokens, sequences=64), CHIP).total_s

    tokens = np.array([1.0, 77.0, 5000.0])
    np.testing.assert_allclose(jax.jit(time)(jnp.asarray(tokens)), time(tokens), rtol=1e-12)
    slope = jax.jit(jax.grad(time))(jnp.asarray(2.0))
    assert slope == pytest.approx((time(2.001) - time(1.999)) / 0.002, rel=1e-4)


def test_a_chip_without_the_matrix_format_uses_the_recurrent_form():
    chip = CHIP.replace(matrix_flops_per_s={})
    op = operator(tokens=4096)
    assert np.isfinite(linear_attention_time(op, chip).total_s)
    assert linear_attention_time(op, chip).total_s > linear_attention_time(op, CHIP).total_s
