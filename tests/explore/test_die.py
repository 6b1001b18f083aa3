"""Designs and the chips they make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from explore import Die, designed_chip, die_of, known_boards, known_dies, whole_die
from explore.technology import memory_kind, process_node
from hardware import load
from hardware.registry import names
from roofline import roofline_time
from workloads import Gemm

CATALOGUE = sorted(set(names()) & set(known_boards()))
factors = st.floats(min_value=0.25, max_value=4.0)


def numbers(chip):
    return {
        **{f"matrix {d}": v for d, v in chip.matrix_flops_per_s.items()},
        **{f"vector {d}": v for d, v in chip.vector_flops_per_s.items()},
        **{f"{m.name} bytes": m.capacity_bytes for m in chip.memory},
        **{f"{m.name} bandwidth": m.bandwidth_bytes_per_s for m in chip.memory},
        "cores": chip.cores,
        "clock": chip.clock_hz,
        "on chip": chip.on_chip_bytes_per_core,
        "scale up": chip.scale_up.bandwidth_bytes_per_s,
    }


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_known_chip_comes_back_from_its_design(name):
    chip = load(name)
    made, asked = numbers(die_of(chip).accelerator(chip)), numbers(chip)
    for what, value in asked.items():
        if value == value:
            assert made[what] == pytest.approx(value, rel=1e-12), what


@pytest.mark.parametrize("name", known_boards())
def test_no_board_has_more_than_its_die(name):
    die = die_of(name)
    assert min(die.spare_cores, die.spare_l2_bytes, die.spare_interfaces, die.spare_scale_up_bytes_per_s) >= 0.0
    assert 0.2 < die.enabled_matrix_share < 1.05
    assert 0.9 <= die.voltage < 1.5


@settings(deadline=None, max_examples=20)
@given(cores=factors, macs=factors, lanes=factors, clock=factors, interfaces=factors, l2=factors)
def test_rates_scale_with_what_they_are_made_of(cores, macs, lanes, clock, interfaces, l2):
    like, die = load("h100_sxm"), die_of("h100_sxm")
    design = die.replace(
        cores=die.cores * cores,
        matrix_macs_per_core=die.matrix_macs_per_core * macs,
        vector_lanes_per_core=die.vector_lanes_per_core * lanes,
        clock_hz=die.clock_hz * clock,
        interfaces=die.interfaces * interfaces,
        l2_bytes=die.l2_bytes * l2,
    )
    chip = design.accelerator(like)
    for dtype in ("bf16", "fp8", "int8", "tf32"):
        assert chip.matrix_flops_per_s[dtype] == pytest.approx(like.matrix_flops_per_s[dtype] * macs * cores * clock)
    for rates, asked in (
        (chip.matrix_flops_per_s, like.matrix_flops_per_s),
        (chip.vector_flops_per_s, like.vector_flops_per_s),
    ):
        assert rates["fp32"] == pytest.approx(asked["fp32"] * lanes * cores * clock)
    assert chip.dram.capacity_bytes == pytest.approx(like.dram.capacity_bytes * interfaces)
    assert chip.dram.bandwidth_bytes_per_s == pytest.approx(like.dram.bandwidth_bytes_per_s * interfaces)
    assert chip.level("l2").capacity_bytes == pytest.approx(like.level("l2").capacity_bytes * l2)
    assert chip.level("l2").bandwidth_bytes_per_s == pytest.approx(like.level("l2").bandwidth_bytes_per_s * clock)


def test_a_design_runs_through_a_kernel_model_inside_jit_and_vmap():
    like = load("h100_sxm").anonymous()

    def seconds(macs, stacks):
        die = die_of("h100_sxm").replace(matrix_macs_per_core=macs, interfaces=stacks)
        chip = designed_chip(die, like)
        return roofline_time(Gemm(m=4096, n=4096, k=4096, dtype="bf16"), chip).total_s

    macs, stacks = jnp.array([1024.0, 2048.0, 4096.0]), jnp.array([3.0, 5.0, 8.0])
    swept = jax.jit(jax.vmap(seconds))(macs, stacks)
    np.testing.assert_allclose(swept, [seconds(float(m), float(s)) for m, s in zip(macs, stacks)], rtol=1e-12)
    np.testing.assert_allclose(swept, seconds(macs, stacks), rtol=1e-12)
    assert swept[0] > swept[1] > swept[2]


def test_a_whole_die_has_all_its_cores():
    for name in known_dies():
        die = whole_die(name)
        assert die.spare_cores == 0.0
        assert die.cores >= 10


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: die_of("h100"), "h100"),
        (lambda: die_of("tpu_v4"), "nothing published here on 'tpu_v4'"),
        (lambda: whole_die("GH10"), "did you mean 'GH100'"),
        (lambda: process_node("4nm"), "node: unknown name '4nm'"),
        (lambda: memory_kind("hbm3f"), "did you mean 'hbm3"),
        (
            lambda: Die().accelerator(load("h100_sxm").replace(vector_flops_per_s={"fp16": 1e14})),
            "vector_flops_per_s.fp32",
        ),
    ],
)
def test_bad_names_say_what_is_known(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()
