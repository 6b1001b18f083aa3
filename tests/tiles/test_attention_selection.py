"""Which attention kernel is chosen, and which family stands in for which chip and stack."""

import numpy as np
import pytest

import hardware
from tiles.attention import explain_attention
from tiles.attention_constants import (
    attention_constants,
    core_generation,
    family_from_dict,
    known_families,
    load_family,
)
from tiles.attention_kernels import DecodeKernel, Kernel, When, select
from workloads.operators import Attention


def decode(heads, kv_heads, **changes):
    fields = {"sequences": 64, "query_tokens": 1, "kv_tokens": 2048, "head_dim": 128, **changes}
    return Attention(heads=heads, kv_heads=kv_heads, **fields)


@pytest.mark.parametrize(
    ("op", "name"),
    [
        (decode(64, 1), "per_query_head"),  # 64 heads on one kv head: beyond what the grouped kernel packs
        (decode(32, 1), "grouped"),
        (decode(32, 32), "per_query_head"),
        (decode(8, 1, sequences=1, kv_tokens=64), "per_query_head"),  # too few blocks for the grouped kernel
        (decode(32, 8, kv_dtype="fp8"), "grouped_warp_group"),
        (decode(32, 8, kv_dtype="fp8", head_dim=64), "grouped_fp8"),
        (decode(128, 1, head_dim=576, value_dim=512, shared_kv=True), "mla"),
    ],
)
def test_the_hopper_tensorrt_kernels_are_chosen_as_its_dispatcher_does(op, name):
    chip = hardware.load("h100_sxm")
    assert explain_attention(op, chip, load_family("hopper", "trtllm"))["kernel"] == name


def test_the_cliff_beyond_32_heads_per_kv_head_is_predicted():
    """Measured on H100, 64 sequences, 4096 keys, one kv head: 70 us with 32 heads, several times that with 64."""
    chip, constants = hardware.load("h100_sxm"), load_family("hopper", "trtllm")
    below = explain_attention(decode(32, 1, kv_tokens=4096), chip, constants)["total_s"]
    above = explain_attention(decode(64, 1, kv_tokens=4096), chip, constants)["total_s"]
    assert above > 2.5 * below


def test_the_first_kernel_whose_conditions_hold_runs_at_each_point():
    kernels = (
        Kernel("wide", When(head_dim_at_least=257), DecodeKernel(launch_s=1.0)),
        Kernel("windowed", When(windowed=True, group_at_least=4), DecodeKernel(launch_s=2.0)),
        Kernel("never", When(kv="fp8"), DecodeKernel(launch_s=3.0)),
        Kernel("rest", When(), DecodeKernel(launch_s=4.0)),
    )
    op = decode(
        np.array([8, 8, 2, 8]),
        1,
        head_dim=np.array([512, 128, 128, 64]),
        window=np.array([128, 128, 128, 0]),
    )
    index, constants = select(kernels, op, 132)
    assert list(index) == [0, 1, 3, 3]
    assert list(constants.launch_s) == [1.0, 2.0, 4.0, 4.0]
    assert constants.lone == DecodeKernel().lone  # shared by all: stays a scalar


def test_every_shipped_family_is_read_and_says_what_it_was_fitted_to():
    assert {"hopper", "blackwell", "ada", "ampere"} == {architecture for architecture, _ in known_families()}
    for architecture, stack in [*known_families(), ("generic", "generic")]:
        family = load_family(architecture, stack)
        assert family.decode
        assert family.prefill
        assert {"software", "date", "data"} <= set(family.source)
        assert 0.0 < family.log_sigma["decode"] < 0.7
        assert 0.0 < family.log_sigma["prefill"] < 0.7


@pytest.mark.parametrize(
    ("chip", "stack", "family", "calibration"),
    [
        ("h100_sxm", "trtllm-1.3.0rc20", ("hopper", "trtllm"), "fitted"),
        ("h200_sxm", "vLLM 0.24", ("hopper", "vllm"), "transferred"),
        ("b300_sxm", "trtllm", ("blackwell", "trtllm"), "transferred"),
        ("gb200", "sglang-0.5.14", ("blackwell", "vllm"), "transferred"),
        ("rtx_pro_6000", "trtllm", ("ada", "trtllm"), "transferred"),
        ("rtx_pro_6000", "vllm", ("ampere", "vllm"), "transferred"),
        ("mi210", "vllm", ("generic", "generic"), "datasheet"),
    ],
)
def test_the_nearest_family_stands_in_and_is_marked(chip, stack, family, calibration):
    found = attention_constants(hardware.load(chip), stack)
    assert (found.architecture, found.stack) == family
    assert found.calibration == calibration


@pytest.mark.parametrize(("chip", "stack"), [("b200_sxm", "trtllm"), ("l40s", "vllm"), ("mi210", "sglang")])
def test_latent_attention_never_falls_back_to_one_read_per_query_head(chip, stack):
    op = decode(128, 1, head_dim=576, value_dim=512, shared_kv=True, kv_tokens=8192)
    found = explain_attention(op, hardware.load(chip), attention_constants(hardware.load(chip), stack))
    assert found["kernel"] == "mla"
    assert found["blocks"] == pytest.approx(64 * 2 * found["splits"])


def test_workstation_parts_are_told_from_data_centre_parts_of_one_generation():
    assert core_generation(hardware.load("rtx_pro_6000")) == "blackwell workstation"
    assert core_generation(hardware.load("b200_sxm")) == "blackwell"


def test_unknown_names_are_refused_with_the_nearest_known():
    with pytest.raises(ValueError, match=r"stack: unknown software stack 'vlm'; did you mean 'vllm'\?"):
        attention_constants(hardware.load("h100_sxm"), "vlm")
    table = {
        "architecture": "a",
        "stack": "s",
        "decode": {"base": {"launch": 1.0}, "kernels": []},
        "prefill": {"base": {}, "kernels": []},
    }
    with pytest.raises(ValueError, match=r"decode\.base\.launch: unknown field; did you mean 'launch_s'\?"):
        family_from_dict(table)
