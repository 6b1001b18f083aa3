"""The catalogue against the facts it was written from, and the ways to name a chip."""

import csv
import math
import os
from pathlib import Path

import pytest

import hardware
from hardware.registry import aliases, load, names

DATA = Path(os.environ.get("RIDGELINE_DATA", Path(__file__).parents[3] / "shared" / "data"))
FACTS = DATA / "facts" / "accelerators.csv"

#: Names under which measurements of the open and published data sets record their devices.
RECORDED = {
    "NVIDIA H100 80GB HBM3": "h100_sxm",
    "NVIDIA A100 80GB PCIe": "a100_pcie",
    "NVIDIA A100-PCIE-40GB": "a100_pcie_40gb",
    "NVIDIA A100-SXM4-40GB": "a100_sxm_40gb",
    "NVIDIA L4": "l4",
    "Tesla V100-PCIE-32GB": "v100_pcie",
    "V100-PCIE-16GB": "v100_pcie_16gb",
    "Tesla T4": "t4",
    "Tesla P100-PCIE-16GB": "p100_pcie",
    "Tesla P4": "p4",
    "AMD Instinct MI100": "mi100",
    "AMD Instinct MI210": "mi210",
    "AMD Instinct MI250": "mi250",
    "a100_vidur": "a100_sxm",
    "h100_vidur": "h100_sxm",
    "a40_vidur": "a40",
    "A100_llmcompass": "a100_sxm",
    "MI210_llmcompass": "mi210",
    "RTX4090": "rtx_4090",
    "RTXPRO6000": "rtx_pro_6000",
    "rtx_pro_6000_server": "rtx_pro_6000",
    "H100-SXM-80GB": "h100_sxm",
    "H200-SXM-141GB": "h200_sxm",
    "b60": "b60",
}

#: CSV column -> (dotted path, factor to SI units). On-chip memories are counted in binary units.
COLUMNS = {
    "cores": ("cores", 1),
    "boost_clock_ghz": ("clock_hz", 1e9),
    "fp8_dense_tflops": ("matrix_flops_per_s.fp8", 1e12),
    "fp4_dense_tflops": ("matrix_flops_per_s.fp4", 1e12),
    "int8_dense_tops": ("matrix_flops_per_s.int8", 1e12),
    "fp32_vector_tflops": ("vector_flops_per_s.fp32", 1e12),
    "mem_gb": ("memory.dram.capacity_bytes", 1e9),
    "mem_bw_gb_per_s": ("memory.dram.bandwidth_bytes_per_s", 1e9),
    "l2_mb": ("memory.l2.capacity_bytes", 2**20),
    "smem_kb_per_core": ("on_chip_bytes_per_core", 2**10),
    "tdp_w": ("peak_watts", 1),
    "scaleup_gb_per_s_per_dir": ("scale_up.bandwidth_bytes_per_s", 1e9),
    "scaleout_gb_per_s_per_dir": ("scale_out.bandwidth_bytes_per_s", 1e9),
    "devices_per_node": ("devices_per_node", 1),
}
FP16_ONLY = ("Volta", "Turing", "Pascal")


def facts():
    if not FACTS.is_file():
        pytest.skip(f"no {FACTS}: set RIDGELINE_DATA to the data folder")
    with FACTS.open() as file:
        return list(csv.DictReader(file))


def test_every_fact_is_in_the_catalogue():
    rows, checked = facts(), 0
    assert {row["name"] for row in rows} <= set(names())
    for row in rows:
        chip = load(row["name"])
        numbers = hardware.numeric_paths(chip)
        assert (chip.vendor, chip.architecture) == (row["vendor"], row["arch"])
        half = "fp16" if row["arch"] in FP16_ONLY else "bf16"
        columns = {**COLUMNS, "bf16_dense_tflops": (f"matrix_flops_per_s.{half}", 1e12)}
        for column, (path, factor) in columns.items():
            number = numbers.get(path, math.nan)
            if row[column] == "":
                assert math.isnan(number), f"{chip.name}: {path} has no fact"
            else:
                assert number == pytest.approx(float(row[column]) * factor, rel=1e-12), f"{chip.name}: {path}"
                checked += 1
    assert checked > 400


def test_only_chips_with_bf16_units_have_a_bf16_rate():
    for name in names():
        chip = load(name)
        assert ("bf16" in chip.matrix_flops_per_s) == (chip.architecture not in FP16_ONLY and name != "tpu_v1")


@pytest.mark.parametrize("recorded", RECORDED)
def test_recorded_names_resolve(recorded):
    assert load(recorded).name == RECORDED[recorded]
    assert load(f" {recorded.upper()} ").name == RECORDED[recorded]


def test_every_alias_resolves_to_one_chip_only():
    spellings = [s.lower() for n in names() for s in {load(n).name.lower(), *map(str.lower, load(n).aliases)}]
    assert len(spellings) == len(set(spellings)) == len(aliases())
    assert all(load(spelling).name == name for spelling, name in aliases().items())


def test_every_number_has_a_kind_and_a_source():
    for name in names():
        chip = load(name)
        stated = [path for path, _, _ in chip.provenance]
        known = [path for path, value in hardware.numeric_paths(chip).items() if not math.isnan(value)]
        assert stated == known
        assert all(kind in hardware.KINDS and source for _, kind, source in chip.provenance)


def test_numbers_are_consistent_within_a_chip():
    """Orders that hold for every chip, so that a slipped digit shows."""
    for name in names():
        chip = load(name)
        matrix = chip.matrix_flops_per_s
        half = matrix.get("bf16", matrix.get("fp16", math.nan))
        assert not matrix.get("fp8", half) < half
        assert not matrix.get("fp4", math.inf) < matrix.get("fp8", half)
        assert not matrix.get("tf32", 0.0) > half
        assert 1.0 < max(matrix.values()) / chip.dram.bandwidth_bytes_per_s < 5000.0
        assert all(level.capacity_bytes < chip.dram.capacity_bytes for level in chip.memory[1:])
        assert not any(level.bandwidth_bytes_per_s < chip.dram.bandwidth_bytes_per_s for level in chip.memory[1:])


def test_smaller_memories_are_chips_of_their_own():
    assert load("NVIDIA A100-SXM4-40GB").dram.bandwidth_bytes_per_s == 1555e9
    assert load("a100_sxm").dram.bandwidth_bytes_per_s == 2039e9
    assert load("V100-PCIE-16GB").dram.capacity_bytes == 16e9


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("h100-sxm", "did you mean 'h100_sxm'?"),
        ("h100", "did you mean 'h100_pcie' or 'h100_sxm'?"),
        ("RTX 4091", "did you mean 'rtx_4090'?"),
        ("completely different", "known: ridgeline devices"),
        ("", "known: ridgeline devices"),
        ("x" * 10_000, "known: ridgeline devices"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name, hint):
    with pytest.raises(ValueError, match="unknown device") as error:
        load(name)
    assert hint in str(error.value)
    assert len(str(error.value)) < 250
    assert "\n" not in str(error.value)


def test_pass_through_and_wrong_types():
    chip = load("l4")
    assert load(chip) is chip
    with pytest.raises(ValueError, match="expected a name"):
        load(3)  # type: ignore[arg-type]
