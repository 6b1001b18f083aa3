"""Convolutions: kernel selection, limits, monotony, JAX equals NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hardware
from roofline.kernel_time import Reason
from tiles.conv2d import Conv2dConstants, conv2d_constants, conv2d_terms, conv2d_time
from workloads.operators import Conv2d

V100 = hardware.load("Tesla V100-PCIE-32GB")


def conv(batch=32.0, channels=256.0, filters=256.0, size=28.0, kernel=3.0, stride=1.0, dtype="fp32", groups=1.0):
    return Conv2d(
        batch=batch, channels=channels, filters=filters, height=size, width=size, kernel_h=kernel, kernel_w=kernel,
        stride=stride, dtype=dtype, groups=groups,
    )  # fmt: skip


def test_winograd_only_for_3_x_3_stride_1():
    constants = Conv2dConstants()
    assert conv2d_terms(conv(), V100, constants).algorithm in (2.0, 4.0)
    assert conv2d_terms(conv(kernel=5.0), V100, constants).algorithm == 0.0
    assert conv2d_terms(conv(stride=2.0), V100, constants).algorithm == 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 64), st.integers(1, 1024), st.integers(1, 1024), st.integers(4, 128))
def test_never_faster_than_winograd_at_peak_or_memory(batch, channels, filters, size):
    op = conv(float(batch), float(channels), float(filters), float(size))
    time = conv2d_time(op, V100, Conv2dConstants())
    peak = V100.vector_flops_per_s["fp32"]
    assert time.total_s >= op.flops / 4.0 / peak
    assert time.total_s >= op.bytes / V100.dram.bandwidth_bytes_per_s
    direct = conv2d_time(
        conv(float(batch), float(channels), float(filters), float(size), kernel=5.0), V100, Conv2dConstants()
    )
    assert direct.total_s >= 25.0 / 9.0 * op.flops / peak


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 32), st.integers(1, 512), st.integers(1, 32), st.floats(1.0, 4.0))
def test_monotone_in_batch_and_peak(batch, channels, more, factor):
    constants = Conv2dConstants(ragged=0.0)
    base = float(conv2d_time(conv(float(batch), float(channels)), V100, constants).total_s)
    assert float(conv2d_time(conv(float(batch + more), float(channels)), V100, constants).total_s) >= base * (1 - 1e-9)
    faster = V100.replace(vector_flops_per_s={"fp32": V100.vector_flops_per_s["fp32"] * factor})
    assert float(conv2d_time(conv(float(batch), float(channels)), faster, constants).total_s) <= base * (1 + 1e-9)


def test_jit_equals_eager():
    size = np.array([7.0, 14.0, 56.0])
    constants = conv2d_constants(V100, "torch-eager")[0]

    def total(s):
        return conv2d_time(conv(size=s), V100, constants).total_s

    np.testing.assert_allclose(jax.jit(total)(jnp.asarray(size)), total(size), rtol=1e-12)


def test_missing_format_is_a_reason():
    time = conv2d_time(conv(dtype="nvfp4"), V100, Conv2dConstants())
    assert np.isnan(time.total_s)
    assert time.reason == Reason.UNSUPPORTED_DTYPE


def test_shipped_constants_name_their_origin():
    constants, chosen = conv2d_constants(V100, "torch2.1.0-cu121-eager")
    assert chosen.kind == "fitted"
    assert "Volta" in chosen.source
    assert constants.dram_efficiency == pytest.approx(0.92)
    assert conv2d_constants(hardware.load("h100_sxm"), "torch-eager")[1].kind != "fitted"
