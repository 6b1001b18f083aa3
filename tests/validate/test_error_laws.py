"""Error laws and conformal intervals: coverage on data they never saw, size dependence, choice of a law, files."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.error_law import (
    KNOTS,
    SAME_GENERATION_FACTOR,
    ErrorLaw,
    LawIndex,
    LawKey,
    basis_of,
    choose_law,
    laws_from,
    replaced_laws,
    shipped_laws,
)
from profiles.error_law_fit import conformal_quantiles, fit_law, fit_laws, laws_toml
from ridgeline.validate.intervals import residuals_of, with_intervals
from ridgeline.validate.scores import score_intervals


def residuals(n=4000, seed=0, chips=("a",), bias=(0.0,), basis="fitted", family="gemm"):
    """Small kernels err by 30 %, large ones by 3 %."""
    rng = np.random.default_rng(seed)
    time = 10 ** rng.uniform(-6, -2, n)
    chip = rng.integers(0, len(chips), n)
    spread = np.interp(np.log10(time), [-6, -2], [0.3, 0.03])
    return pd.DataFrame(
        {
            "level": "kernel",
            "basis": basis,
            "family": family,
            "op": "gemm",
            "dtype": "bf16",
            "engine": "vllm",
            "architecture": "Hopper",
            "chip": np.array(chips)[chip],
            "stack": "vllm-1",
            "predicted": time,
            "measured": time * np.exp(np.array(bias)[chip] + rng.normal(0, spread)),
            "scale": 1.0,
        }
    )


def law(**changes):
    values = {"spread": (0.1,) * len(KNOTS), "low": -2.0, "high": 2.0, "shared": 0.05, "private": 0.6, "n": 500}
    key = LawKey(**{name: changes.pop(name) for name in LawKey._fields if name in changes})
    return ErrorLaw(**{"level": "kernel", "basis": "fitted", **values, **changes}, key=key)


def test_intervals_cover_what_they_never_saw_and_widen_for_short_kernels():
    seen, new = residuals(seed=0), residuals(seed=1)
    found = fit_law(seen, "kernel", "fitted", LawKey(family="gemm"))
    low, high = found.interval(new["predicted"].to_numpy())
    scores = score_intervals(new["predicted"], new["measured"], low, high)
    assert 0.87 <= scores.coverage90 <= 0.93
    assert scores.width90 < 0.95 * scores.constant_width90
    assert found.spread_at(1e-6) > 3 * found.spread_at(1e-2)


@given(st.integers(5, 400), st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_quantiles_are_conservative_order_statistics(n, seed):
    scores = np.random.default_rng(seed).normal(size=n)
    low, high = conformal_quantiles(scores)
    assert low in scores
    assert high in scores
    # At least 95 % of n + 1 exchangeable scores lie below the upper bound, or it is the largest there is.
    assert (scores <= high).sum() >= min(np.ceil(0.95 * (n + 1) - 1e-9), n)
    assert (scores >= low).sum() >= min(np.ceil(0.95 * (n + 1) - 1e-9), n)


def test_equal_weights_change_nothing_and_no_scores_are_an_error():
    scores = np.random.default_rng(0).normal(size=77)
    assert conformal_quantiles(scores) == conformal_quantiles(scores, np.full(77, 3.0))
    with pytest.raises(ValueError, match="scores: none"):
        conformal_quantiles(np.array([]))


def test_laws_of_chips_left_out_are_symmetric_and_hold_for_the_next_chip():
    chips = tuple("abcdefgh")
    biases = tuple(np.random.default_rng(5).normal(0, 0.25, len(chips)))
    rows = residuals(8000, chips=chips, bias=biases, basis="other generation")
    covered = []
    for held in chips:
        found = fit_law(rows[rows["chip"] != held], "kernel", "other generation", LawKey(family="gemm"))
        assert found.low == -found.high
        low, high = found.interval(rows["predicted"].to_numpy())
        inside = (low <= rows["measured"]) & (rows["measured"] <= high)
        covered.append(float(inside[rows["chip"] == held].mean()))
    assert 0.8 <= np.mean(covered) <= 0.99


def test_shared_and_private_are_told_apart():
    rows = residuals(9000, chips=("a", "b", "c"), bias=(0.2, -0.2, 0.2), basis="other generation")
    found = fit_law(rows, "kernel", "other generation", LawKey(family="gemm"))
    assert found.shared == pytest.approx(0.2, abs=0.02)
    alone = fit_law(residuals(), "kernel", "fitted", LawKey(family="gemm"))
    assert alone.shared < 0.02


def test_the_most_specific_law_is_chosen_and_fields_are_given_up_in_order():
    general, own, engine = law(), law(family="gemm", dtype="bf16"), law(family="gemm", engine="vllm", n=7)
    laws = LawIndex([general, own, engine])
    assert choose_law(laws, "kernel", "fitted", LawKey("gemm", "", "bf16")) is own
    assert choose_law(laws, "kernel", "fitted", LawKey("gemm", "x", "fp8", "vllm", "Ada")) is engine
    assert choose_law(laws, "kernel", "fitted", LawKey("other")) is general
    assert choose_law(laws, "model", "fitted", LawKey("gemm")) is None
    kin = choose_law(laws, "kernel", "same generation", LawKey("gemm", "", "bf16"))
    assert kin.spread[0] == pytest.approx(0.1 * SAME_GENERATION_FACTOR)
    assert kin.shared == pytest.approx(0.05 * SAME_GENERATION_FACTOR)


def test_basis_follows_the_constants_and_the_architecture():
    assert basis_of("fitted", "Hopper", ()) == "fitted"
    assert basis_of("transferred", "Hopper", {"Hopper"}) == "same generation"
    assert basis_of("transferred", "Blackwell Ultra", {"Blackwell"}) == "same generation"
    assert basis_of("transferred", "Volta", {"Hopper"}) == "other generation"
    assert basis_of("datasheet", "Volta", {"Volta"}) == "datasheet"


def test_laws_survive_a_file_and_wrong_files_are_one_clear_line():
    import tomllib

    laws = fit_laws(residuals())
    read = laws_from(tomllib.loads(laws_toml(laws, date="2026-01-01", data="test"))["law"])
    assert {(found.key, found.low, found.spread) for found in read} == {(x.key, x.low, x.spread) for x in laws}
    with pytest.raises(ValueError, match=r"law\[0\].width"):
        laws_from([{"width": 1}])
    with pytest.raises(ValueError, match=r"law\[0\].basis: missing"):
        laws_from([{"level": "kernel"}])
    with pytest.raises(ValueError, match="spread: 1 values"):
        laws_from([{"level": "k", "basis": "b", "spread": [1.0], "low": -1, "high": 1, "n": 1}])


def test_shipped_laws_are_sane():
    laws = shipped_laws().laws
    assert {found.level for found in laws} >= {"kernel", "collective", "training"}
    for found in laws:
        assert all(np.isfinite(found.spread))
        assert min(found.spread) > 0.0
        assert found.low < found.high
        assert found.n > 0


def test_intervals_of_a_split_come_from_other_folds():
    rng = np.random.default_rng(3)
    n = 3000
    time = 10 ** rng.uniform(-5, -3, n)
    points = pd.DataFrame(
        {
            "op": "gemm",
            "gpu": "h100_sxm",
            "dtype": "bfloat16",
            "stack": "vllm-0.24.0",
            "predicted": time,
            "measured": time * np.exp(rng.normal(0.05, 0.1, n)),
            "calibration": "fitted",
            "unit": rng.integers(0, 200, n),
        }
    )
    found = with_intervals(points, "kernel", "shapes")
    scores = score_intervals(found["predicted"], found["measured"], found["lower"], found["upper"])
    assert 0.87 <= scores.coverage90 <= 0.93
    points.loc[:9, "predicted"] = np.nan
    assert with_intervals(points, "kernel", "shapes")["lower"].isna().sum() == 10


def test_laws_can_be_replaced_for_a_while():
    before = shipped_laws()
    with replaced_laws([law()]):
        assert len(shipped_laws().laws) == 1
    assert shipped_laws() is before


def test_a_deviation_that_is_no_number_is_refused_and_families_need_not_have_one():
    rows = residuals(500)
    with pytest.raises(ValueError, match=r"residuals\.scale"):
        fit_laws(rows.assign(scale=np.where(np.arange(len(rows)) == 7, np.nan, 1.0)))
    points = pd.DataFrame(
        {"op": "gemm", "gpu": "h100_sxm", "dtype": "bf16", "stack": "vllm-0.14.0", "calibration": "fitted"}
        | {"measured": [1e-3, 2e-3], "predicted": [1.1e-3, 1.9e-3], "scale": [np.nan, 0.1]}
    )
    assert residuals_of(points, "kernel", "gpu")["scale"].tolist() == [1.0, 0.1]
