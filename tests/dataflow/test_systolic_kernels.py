"""Kernels of systolic arrays and of memory that computes: limits, directions, and what a chip file makes of them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hardware
from dataflow import ElementBytes, SystolicArray, blocked_product, near_memory_estimator, near_memory_time, systolic
from dataflow.systolic_estimator import systolic_time
from roofline import Reason, operator_bound
from roofline.relax import Rounding
from workloads.operators import Attention, Collective, Elementwise, Gemm, GroupedGemm, Normalisation

NPU, PIM = hardware.load("npu_128x128"), hardware.load("npu_128x128_pim")
sizes = st.integers(1, 4000)


def decoding(**changes):
    shape = {"sequences": 32, "query_tokens": 1, "kv_tokens": 2048, "heads": 96, "kv_heads": 96, "head_dim": 128}
    return Attention(**(shape | changes))


@settings(max_examples=40, deadline=None)
@given(m=sizes, n=sizes, k=sizes, flow=st.sampled_from(["os", "ws", "is"]), side=st.sampled_from([8, 128]))
def test_unlimited_scratchpads_give_the_cycles_of_the_array_and_compulsory_bytes(m, n, k, flow, side):
    array = SystolicArray(rows=side, cols=2 * side, dataflow=flow)
    found = blocked_product(m, n, k, array)
    assert found.cycles == systolic(m, n, k, array).compute_cycles
    assert found.bytes == 2.0 * (m * k + k * n + m * n)
    assert found.blocks == 1.0


@settings(max_examples=40, deadline=None)
@given(m=sizes, n=sizes, k=sizes, kib=st.floats(1.0, 1e5), flow=st.sampled_from(["os", "ws", "is"]))
def test_smaller_scratchpads_and_fewer_arrays_are_never_better(m, n, k, kib, flow):
    array = SystolicArray(rows=64, cols=64, dataflow=flow)
    small, large = (blocked_product(m, n, k, array, scratchpad_bytes=1024 * s) for s in (kib, 4 * kib))
    assert small.bytes >= large.bytes >= 2.0 * (m * k + k * n + m * n)
    assert small.cycles >= large.cycles * (1 - 1e-12)
    several = blocked_product(m, n, k, array, scratchpad_bytes=1024 * kib, arrays=4)
    assert small.cycles / 4 <= several.cycles <= small.cycles
    # Inputs and weights exchange their roles when the product is transposed.
    other = {"os": "os", "ws": "is", "is": "ws"}[flow]
    wide = ElementBytes(a=1.0, b=3.0)
    turned = blocked_product(
        n, m, k, replace(array, dataflow=other), scratchpad_bytes=1024 * kib, element=ElementBytes(a=3.0, b=1.0)
    )
    straight = blocked_product(m, n, k, array, scratchpad_bytes=1024 * kib, element=wide)
    assert turned.cycles == straight.cycles
    assert turned.bytes == pytest.approx(straight.bytes)


def test_a_large_square_product_approaches_the_peak_of_the_array():
    side = np.array([128.0, 1024.0, 8192.0, 65536.0])
    share = 2.0 * side**3 / systolic_time(Gemm(m=side, n=side, k=side), NPU).total_s / 32.768e12
    assert np.all(np.diff(share) > 0.0)
    assert 0.99 < share[-1] <= 1.0
    # By hand: 8192^3 with stationary weights or inputs, 64 x 64 folds of 128 + 128 + 128 + 8192 - 2 cycles of 1 ns.
    assert systolic_time(Gemm(m=8192, n=8192, k=8192), NPU).total_s == pytest.approx(4096 * (8192 + 254) * 1e-9)


@settings(max_examples=25, deadline=None)
@given(tokens=st.integers(1, 4096), width=st.integers(64, 8192), flow=st.sampled_from(["any", "os", "ws", "is"]))
def test_no_kernel_is_faster_than_the_roofline_of_its_chip(tokens, width, flow):
    chip = NPU.replace(systolic=replace(NPU.systolic, dataflow=flow))
    assert chip.systolic.dataflow == flow
    for op in (
        Gemm(m=tokens, n=width, k=512, weight_dtype="int8"),
        GroupedGemm(tokens=tokens, experts=8, top_k=2, n=width, k=256, local_experts=8),
        Attention(sequences=2, query_tokens=tokens, kv_tokens=tokens + 7, heads=8, kv_heads=2, head_dim=64),
        Normalisation(rows=tokens, cols=width),
        Elementwise(elements=tokens * width),
    ):
        own = systolic_time(op, chip)
        assert own.total_s >= operator_bound(op, chip).total_s * (1 - 1e-12)
        assert own.total_s >= systolic_time(op, NPU).total_s * (1 - 1e-12)  # a compiler that chooses is never slower


def test_memory_bound_operators_and_collectives_are_those_of_the_chip():
    op = Normalisation(rows=64, cols=12288)
    assert systolic_time(op, NPU) == operator_bound(op, NPU)
    ring = Collective(payload_bytes=1e8, ranks=np.array([1, 2, 4, 8]))
    seconds = systolic_time(ring, NPU).total_s
    assert seconds[0] == 0.0
    assert np.all(np.diff(seconds) > 0.0)
    assert seconds[1] == pytest.approx(1e8 / 32e9 + 1e-6, rel=0.02)
    assert systolic_time(Gemm(m=8, n=8, k=8, dtype="fp4"), NPU).reason == Reason.UNSUPPORTED_DTYPE
    with pytest.raises(ValueError, match=r"h100_sxm\.systolic: missing"):
        systolic_time(op, hardware.load("h100_sxm"))


def test_compiled_differentiated_and_vectorised_over_the_chip():
    op = Gemm(m=2048, n=12288, k=12288)

    def seconds(clock, rate):
        chip = NPU.replace({"memory.dram.bandwidth_bytes_per_s": rate}, clock_hz=clock).anonymous()
        return systolic_time(op, chip).total_s

    value, slope = jax.jit(jax.value_and_grad(seconds))(jnp.asarray(1e9), jnp.asarray(936e9))
    assert value == pytest.approx(systolic_time(op, NPU).total_s, rel=1e-12)
    assert slope == pytest.approx(-systolic_time(op, NPU).total_s / 1e9, rel=1e-9)
    sides = systolic_time(op, NPU.replace({"systolic.rows": np.array([64, 128]), "systolic.cols": np.array([64, 128])}))
    assert sides.total_s[0] > 3.0 * sides.total_s[1]


def test_smooth_rounding_keeps_what_is_less_than_one_fold_or_row():
    soft = Rounding("smooth", 0.05)
    for op in (Gemm(m=1, n=12288, k=12288), decoding(sequences=1, kv_tokens=100)):
        assert systolic_time(op, NPU, soft).total_s == pytest.approx(systolic_time(op, NPU).total_s, rel=0.05)
        assert near_memory_time(op, PIM, soft).total_s == pytest.approx(near_memory_time(op, PIM).total_s, rel=0.05)


def test_banks_at_the_rate_of_the_channel_gain_nothing_over_reading_it():
    memory = replace(
        PIM.near_memory, bank_bandwidth_bytes_per_s=936e9 / 512, activate_s=0.0, command_s=0.0, kernel_s=0.0,
        handover_s=0.0,
    )  # fmt: skip
    chip = replace(PIM, near_memory=memory)
    op = decoding()
    streamed = near_memory_time(op, chip)
    assert streamed.memory_s == pytest.approx(2 * 32 * 2048 * 96 * 128 * 2 / 936e9)  # keys and values once
    plain = operator_bound(op, chip)
    offered = near_memory_estimator(operator_bound)(op, chip)
    assert tuple(map(float, offered)) == tuple(map(float, plain))
    # By hand, at full speed: 96 pairs a channel, 32 rows of keys and 32 of values each, 30 + 4 + 64 ns a row, and crossing.
    own = near_memory_time(op, PIM)
    assert own.total_s == pytest.approx(96 * 64 * 98e-9 + 1e-6 + 1e-6 + 2 * 32 * 96 * 128 * 2 / 936e9)


def test_nothing_is_offloaded_where_it_costs_too_much_or_where_there_is_nothing_to_offload_to():
    far = replace(PIM, near_memory=replace(PIM.near_memory, handover_s=1e9))
    offered = near_memory_estimator(systolic_time)
    for op in (decoding(), Gemm(m=4, n=512, k=512), decoding(query_tokens=512)):
        assert offered(op, far) == systolic_time(op, NPU)
        assert offered(op, NPU) == systolic_time(op, NPU)
    assert offered(decoding(), PIM).total_s < 0.1 * systolic_time(decoding(), PIM).total_s
    prompt = decoding(sequences=1, query_tokens=2048)
    assert offered(prompt, PIM) == systolic_time(prompt, PIM)  # many queries per key: the arrays


@settings(max_examples=20, deadline=None)
@given(sequences=st.integers(1, 200), tokens=st.integers(1, 9000), group=st.sampled_from([1, 4, 8]))
def test_directions_of_near_memory(sequences, tokens, group):
    op = decoding(sequences=sequences, kv_tokens=tokens, kv_heads=96 // group)
    base = near_memory_time(op, PIM).total_s
    assert near_memory_time(replace(op, kv_tokens=2 * tokens), PIM).total_s >= base
    assert near_memory_time(replace(op, kv_dtype="int8"), PIM).total_s <= base
    for field, factor in {"channels": 2, "bank_bandwidth_bytes_per_s": 2, "activate_s": 0.5, "handover_s": 0.5}.items():
        better = replace(PIM.near_memory, **{field: factor * getattr(PIM.near_memory, field)})
        assert near_memory_time(op, replace(PIM, near_memory=better)).total_s <= base


def test_products_in_memory_stream_their_weights_once_per_row():
    one, two = (near_memory_time(Gemm(m=m, n=4096, k=4096), PIM) for m in (1, 2))
    assert two.memory_s == pytest.approx(2.0 * one.memory_s)
    assert near_memory_time(Normalisation(rows=4, cols=4), PIM).reason == Reason.UNSUPPORTED_OPERATOR
    with pytest.raises(ValueError, match="near_memory: missing"):
        near_memory_time(decoding(), NPU)


def test_a_chip_file_describes_both_and_comes_back(tmp_path):
    text = hardware.dump(PIM)
    file = tmp_path / "mine.toml"
    file.write_text(text)
    assert hardware.load(file) == PIM
    for wrong, message in {
        text.replace("rows = 128", ""): r"systolic\.rows: missing",
        text.replace('dataflow = "any"', 'dataflow = "ws2"'): r"systolic\.dataflow: 'ws2'; expected one of",
        text.replace("banks = 16", "banks = -1"): r"near_memory\.banks: -1",
        text.replace("banks = 16", "bank = 16"): r"near_memory\.bank: unknown key; did you mean 'banks'",
        text.replace('clock = "1 GHz"', ""): "clock: missing; a systolic array needs its clock",
    }.items():
        file.write_text(wrong)
        with pytest.raises(ValueError, match=message):
            hardware.load(file)
    with pytest.raises(ValueError, match="systolic: 3; expected SystolicUnit"):
        NPU.replace(systolic=3)
