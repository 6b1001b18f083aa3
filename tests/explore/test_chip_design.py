"""Chips that do not exist: what the model says of known ones, elasticities against differences, a search that gains."""

import numpy as np
import pandas as pd
import pytest

import hardware
from explore import Settings, constraint, die_of, elasticities, samples, search
from ridgeline.chip_design import design_problem
from roofline.relax import exact

NUMBERS = ("decode_s", "usd_per_million_tokens", "die_mm2", "peak_watts")


@pytest.fixture(scope="module")
def problem():
    return design_problem(
        "llama-3.1-8b",
        objective="output_tokens_per_s_per_device",
        maximise=True,
        estimator="roofline",
        constraints=(constraint("peak_watts", "<= 700"), constraint("price_usd", "<= 30000")),
    )


def test_the_design_of_a_known_chip_is_that_chip(problem):
    columns = problem.space.of_unit(samples(problem.space, "random", 4, seed=0).unit(0, 4))
    die = die_of("h100_sxm")
    known = {name: getattr(die, name) for name in columns if hasattr(die, name)}
    columns |= {name: np.full(4, float(value)) for name, value in known.items()}
    columns |= {"batch": np.full(4, 1.0), "tp": np.full(4, 1.0)}
    found = problem.at(columns)
    chip = hardware.load("h100_sxm")
    made = die.accelerator(chip)
    assert made.matrix_flops_per_s["bf16"] == pytest.approx(chip.matrix_flops_per_s["bf16"], rel=0.02)
    assert np.ptp(found["decode_s"]) == 0.0
    weights_s = 16.06e9 / chip.dram.bandwidth_bytes_per_s
    assert weights_s < found["decode_s"][0] < 1.2 * weights_s


def test_elasticities_agree_with_differences_away_from_kinks(problem):
    space = problem.space
    columns = space.labels(space.of_unit(samples(space, "sobol", 256, seed=5).unit(0, 200)))
    designs = pd.DataFrame(columns)
    designs["spare_cores"] += 1.0
    # Whole numbers move by one, which is no small step: the derivative is asked where they are held.
    table = elasticities(problem, designs, metrics=NUMBERS, step=1e-4, rounding=exact)
    numbers = [name for name, p in space.parameters.items() if p.kind in ("continuous", "logarithmic")]
    table = table[table["parameter"].isin(numbers)]
    assert table["design"].nunique() == 200
    smooth = (table["up"] - table["down"]).abs() < 1e-3
    assert smooth.mean() > 0.98
    central = 0.5 * (table["up"] + table["down"])[smooth]
    wrong = (table["elasticity"][smooth] - central).abs() > 0.02 * central.abs() + 1e-4
    assert not wrong.any(), table[smooth][wrong]


def test_a_search_beats_what_it_starts_from(problem):
    settings = Settings(screened=512, starts=0, descents=4, gradients=200, finishers=1, whole=100, polish=400)
    found = search(problem, settings=settings).require_feasible().best
    first = samples(problem.space, "sobol", 512, seed=0)
    metrics = problem.at(first.columns(0, 512))
    seen = metrics["output_tokens_per_s_per_device"][problem.feasible(metrics)].max()
    assert found["output_tokens_per_s_per_device"] > 1.5 * seen
    assert found["memory_use"] <= 1.0
    assert found["peak_watts"] <= 700.0
    assert found["clock_margin"] >= 1.0
    again = problem.at({name: np.array([float(found[name])]) for name in problem.space.names})
    for name in problem.objectives:
        assert again[name][0] == pytest.approx(found[name], rel=1e-9)


def test_bad_designs_are_refused():
    with pytest.raises(ValueError, match="no transformer"):
        design_problem("resnet-50")
    with pytest.raises(ValueError, match="known"):
        design_problem(like="tpu_v5e")
