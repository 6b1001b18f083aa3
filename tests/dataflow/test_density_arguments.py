"""Sparsity that cannot be: one line naming the field, whichever way the model was made."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dataflow as df

WORK = df.gemm(8, 4, 6)
CHIP = df.architecture([df.Storage(name="DRAM"), df.Storage(name="Buffer", capacity_words=600.0, read_joules=1.0)])
MADE = df.mapping(WORK, CHIP, {"DRAM": [("M", 8), ("N", 4)], "Buffer": [("K", 6)]})


@pytest.mark.parametrize("density", [1.5, -0.1, math.nan, math.inf, "x", None, True, [0.2, 1.2], [[1], [1, 2]], []])
def test_shares_are_from_zero_to_one(density):
    for make in (
        lambda: df.density_model("uniform", density=density),
        lambda: df.density_model("fixed_structured", density=density),
        lambda: df.sparsity(WORK, CHIP, {"Inputs": df.Uniform(density)}),
        lambda: df.sparsity(WORK, CHIP, {"Inputs": df.EvenlySpread(density)}),
        lambda: df.sparsity(WORK, CHIP, {"Inputs": density}),
    ):
        with pytest.raises(ValueError, match=r"density|densities\.Inputs"):
            make()


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("unifrm", {"density": 0.1}, "unknown density model 'unifrm'; did you mean 'uniform'"),
        ("uniform", {}, "density.density: missing"),
        ("uniform", {"densty": 0.1}, "unknown field 'densty'; did you mean 'density'"),
        ("structured", {"n": 5, "m": 4}, "5:4, expected 0 <= n <= m"),
        ("structured", {"n": 1, "m": math.nan}, "expected 0 <= n <= m"),
        ("structured", {"n": "1", "m": 4}, "expected 0 <= n <= m"),
        ("structured", {"n": 1, "m": 4, "rank": 1.5}, "density.rank: 1.5"),
        ("banded", {"half_width": -1, "shape": (4, 4)}, "density.half_width: -1"),
        ("banded", {"half_width": math.nan, "shape": (4, 4)}, "density.half_width: nan"),
        ("banded", {"half_width": 1, "shape": (0, 0)}, r"density.shape: \(0, 0\)"),
        ("banded", {"half_width": 1, "shape": 5}, "density.shape: 5"),
        ("banded", {"half_width": 1, "shape": (4, 4), "ranks": (0, 0)}, "two different ranks"),
        ("measured", {"mask": []}, "density.mask"),
        ("measured", {"mask": [[1], [1, 0]]}, "density.mask"),
        ("measured", {"mask": [math.nan, 1.0]}, "density.mask"),
        ("measured", {"mask": "abc"}, "density.mask"),
        ("histogram", {"occupancies": {}}, "density.occupancies"),
        ("histogram", {"occupancies": 3}, "density.occupancies: 3"),
        ("histogram", {"occupancies": {4: [-1]}}, "density.occupancies.4"),
        ("histogram", {"occupancies": {4: [math.nan, 1]}}, "density.occupancies.4"),
        ("histogram", {"occupancies": {"4": [1]}}, "density.occupancies: '4'"),
        ("histogram", {"occupancies": {4: "abc"}}, "density.occupancies.4"),
    ],
)
def test_models_by_name(kind, values, message):
    with pytest.raises(ValueError, match=message) as error:
        df.density_model(kind, **values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (df.Structured(5, 4), "expected 0 <= n <= m"),
        (df.Structured(2, 4, rank=9), r"densities\.Inputs\.rank: 9, expected one of the 2 ranks"),
        (df.Banded(1, (8, 6), ranks=(0, 2)), r"densities\.Inputs\.ranks: 2, expected one of the 2 ranks"),
        (df.measured(np.ones(6)), r"densities\.Inputs\.mask: 1 axes, expected 2"),
    ],
)
def test_models_fit_their_tensor(model, message):
    with pytest.raises(ValueError, match=message):
        df.sparsity(WORK, CHIP, {"Inputs": model})


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"densities": 0.5}, r"sparsity\.densities: 0\.5"),
        ({"densities": {"Input": 0.5}}, "did you mean 'Inputs'"),
        ({"formats": {"DRAM": "CSR"}}, r"sparsity\.formats\.DRAM: 'CSR'"),
        ({"formats": {"DRAM": {"Inputs": 3}}}, r"sparsity\.formats\.DRAM\.Inputs: 3"),
        ({"formats": {"DRAM": {"Inputs": "CSS"}}}, "unknown format 'CSS'"),
        ({"optimisations": "skipping"}, r"sparsity\.optimisations: 'skipping'"),
        ({"optimisations": [("skipping", "DRAM", "Inputs", 3)]}, r"optimisations\[0\]\.leaders: 3"),
        ({"optimisations": [("skip", "DRAM", "Inputs", ["Weights"])]}, "unknown action 'skip'"),
        ({"compute": "x"}, "unknown action 'x'"),
        ({"gated_energy_share": "x"}, "gated_energy_share: 'x'"),
        ({"gated_energy_share": math.nan}, "gated_energy_share: nan"),
    ],
)
def test_sparsity_is_named(given_, message):
    with pytest.raises(ValueError, match=message):
        df.sparsity(WORK, CHIP, **given_)


@pytest.mark.parametrize("values", [{"bits": 0}, {"bits": "x"}, {"bits": math.nan}, {"longest_run": -1}, {"bit": 3}])
def test_rank_formats(values):
    with pytest.raises(ValueError, match=r"format"):
        df.rank_format("RLE", **values)


@settings(deadline=None, max_examples=40)
@given(st.floats(0, 1), st.integers(0, 8), st.integers(0, 8))
def test_what_is_accepted_is_answered(density, n, half_width):
    for model in (density, df.EvenlySpread(density), df.Structured(min(n, 4), 4), df.Banded(half_width, (8, 6))):
        found = df.evaluate_sparse(
            WORK, CHIP, MADE, df.sparsity(WORK, CHIP, {"Inputs": model}, {"DRAM": {"Inputs": "CSR"}})
        )
        assert np.isfinite(found.energy_joules)
        assert found.cycles >= 0
