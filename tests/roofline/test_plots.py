"""The roofline picture: roofs where they belong, every point drawn, nothing invented."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pytest

from hardware import Accelerator, MemoryLevel
from roofline.plots import RooflinePoint, plot_style, roofline_plot

CHIP = Accelerator(
    name="paper",
    matrix_flops_per_s={"bf16": 1e15, "fp8": 2e15},
    memory=(
        MemoryLevel(name="dram", bandwidth_bytes_per_s=2e12),
        MemoryLevel(name="l2", bandwidth_bytes_per_s=8e12),
    ),
)


@pytest.fixture
def ax():
    with plot_style():
        figure, ax = plt.subplots()
        yield ax
        plt.close(figure)


def test_axes_are_labelled_and_returned(ax):
    assert roofline_plot(CHIP, ["bf16"], ax=ax) is ax
    assert "FLOP per byte" in ax.get_xlabel()
    assert "FLOP/s" in ax.get_ylabel()
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_each_roof_has_its_ridge(ax):
    roofline_plot(CHIP, ["bf16", "fp8"], ax=ax)
    texts = " ".join(text.get_text() for text in ax.texts)
    for words in ("ridge 500", "ridge 1,000", "DRAM 2 TB/s", "L2 8 TB/s"):
        assert words in texts


def test_points_lie_at_intensity_and_rate_and_copies_are_left_out(ax):
    points = [
        RooflinePoint("gemm", "prefill", 1e12, 1e9, 2e-3),
        RooflinePoint("copy", "prefill", 0.0, 1e9, 1e-3),
    ]
    roofline_plot(CHIP, ["bf16"], points, ax=ax)
    (drawn,) = ax.collections
    assert drawn.get_offsets().tolist() == [[1000.0, 5e14]]
