"""Composition studies: exact attribution, cancellation, confidence, the rules of composition, calibrated phases, pictures."""

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composition import (
    CompositionStudy,
    KernelCase,
    calibrated_interval,
    calibrated_phase,
    cancellation,
    error_rules,
    gap,
)
from composition.plots import parity_plot, rules_plot, waterfall_plot
from profiles.error_law import KNOTS, ErrorLaw, LawKey

matplotlib.use("Agg")


def case(predicted, measured, count=None):
    predicted, measured = np.array(predicted, float), np.array(measured, float)
    return KernelCase(predicted, measured, np.ones(predicted.size) if count is None else np.array(count, float))


def study(seed=0, cases=8):
    rng = np.random.default_rng(seed)
    predicted = rng.uniform(1.0, 2.0, cases)
    measured = predicted * rng.uniform(0.9, 1.1, cases)
    level = measured * rng.uniform(1.0, 1.2, cases)
    lower = gap(
        "kernel->phase",
        level_s=level,
        parts_predicted_s=predicted,
        parts_measured_s=measured,
        explained_s={"launch": 0.05 * predicted},
    )
    upper = gap("phase->model", level_s=1.1 * level, parts_predicted_s=level, measured=False)
    return CompositionStudy(cases=tuple(f"case {i}" for i in range(cases)), boundaries=(lower, upper))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_every_attribution_adds_up(seed, cases):
    found = study(seed, cases)
    for boundary in found.boundaries:
        total = sum(np.asarray(term.seconds) for term in boundary.terms)
        np.testing.assert_allclose(total, boundary.difference_s, rtol=0, atol=1e-12 * np.max(boundary.level_s))
    frame = found.to_frame()
    assert len(frame) == 2 * cases
    terms = frame[["kernel error", "launch", "unexplained"]].fillna(0.0).sum(axis=1)
    np.testing.assert_allclose(terms, frame["signed"], atol=1e-12)


def test_summary_is_deterministic_and_holds_the_mean():
    found = study()
    table = found.summary()
    assert table.equals(found.summary())
    assert ((table["low90"] <= table["mean"]) & (table["mean"] <= table["high90"])).all()
    assert set(table["level"]) == {"measured", "predicted"}
    assert "kernel->phase (measured level)" in str(found)
    assert found.amplification().shape == (1, 8)


def test_opposite_errors_cancel_and_equal_ones_do_not():
    opposite = cancellation(case([1.0, 1.0], [1.1, 0.9]))
    assert opposite.entering == pytest.approx(0.1)
    assert opposite.kept == pytest.approx(0.0, abs=1e-15)
    assert opposite.cancelled == pytest.approx(1.0)
    equal = cancellation(case([1.0, 3.0], [1.1, 3.3]))
    assert equal.kept == pytest.approx(equal.entering) == pytest.approx(0.1)
    assert cancellation(case([1.0, 1.0], [2.0, np.nan])).kept == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no kernel"):
        cancellation(case([1.0], [np.nan]))


def test_boundaries_and_kernels_must_match_the_cases():
    with pytest.raises(ValueError, match=r"kernel->phase: shape \(2,\)"):
        CompositionStudy(
            cases=("one",), boundaries=(gap("kernel->phase", level_s=np.ones(2), parts_predicted_s=np.ones(2)),)
        )
    one = gap("x", level_s=np.ones(1), parts_predicted_s=np.ones(1))
    with pytest.raises(ValueError, match="kernels: 2 given"):
        CompositionStudy(cases=("one",), boundaries=(one,), kernels=(case([1], [1]), case([1], [1])))


def test_rules_by_hand():
    ones = np.ones(4)
    rules = error_rules(ones / 4, 0.1 * ones, 0.0 * ones, ["a"] * 4, 25.0 * ones)
    assert rules["sqrt(N) sigma"] == pytest.approx(1.0)
    assert rules["sigma / sqrt(N)"] == pytest.approx(0.01)
    assert rules["shared + private"] == pytest.approx(0.05)  # four distinct shapes: 0.1 / sqrt(4)
    shared = error_rules(ones / 4, 0.1 * ones, 0.1 * ones, ["a"] * 4, ones)
    assert shared["shared + private"] == pytest.approx(0.1)
    apart = error_rules(ones / 4, 0.1 * ones, 0.1 * ones, ["a", "a", "b", "b"], ones)
    assert apart["shared + private"] == pytest.approx(0.1 / np.sqrt(2))


def test_simulated_sums_follow_shared_plus_private():
    rng = np.random.default_rng(1)
    shared, private, n = 0.05, 0.1, 40
    share = rng.uniform(0.5, 1.5, n)
    share = share / share.sum()
    errors = shared * rng.normal(size=(20_000, 1)) + private * rng.normal(size=(20_000, n))
    expected = error_rules(share, np.full(n, np.hypot(shared, private)), np.full(n, shared), ["a"] * n, np.ones(n))
    assert float(np.std(errors @ share)) == pytest.approx(expected["shared + private"], rel=0.03)


def test_a_phase_takes_the_spread_of_its_kernels():
    import hardware
    import workloads
    from roofline import operator_bound, phase_time
    from workloads import Batch

    chip = hardware.load("h100_sxm")
    table = workloads.load("llama-3.1-8b").phase(Batch.decode_of(8, 1024.0))
    times = phase_time(table, chip, estimator=operator_bound)
    law = ErrorLaw(
        level="kernel", basis="fitted", key=LawKey("gemm"), spread=(0.1,) * len(KNOTS), low=-1.0, high=1.0, shared=0.05,
        private=1.0, n=100,
    )  # fmt: skip
    whole = calibrated_phase(times, [law] * len(times.groups))
    assert float(whole.mean_s) == pytest.approx(float(times.total_s))
    # All share one source: at least its deviation, at most shared and private of one kernel together.
    assert 0.05 < float(whole.relative_deviation) < np.hypot(0.05, 0.1)
    low, high = calibrated_interval(whole, law)
    assert low < whole.mean_s < high
    unknown = calibrated_phase(times, [None] * len(times.groups))
    assert float(unknown.relative_deviation) > float(whole.relative_deviation)


def test_pictures_are_drawn():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3)
    found = study()
    waterfall_plot(found.boundaries[0], case=0, ax=axes[0])
    assert len(axes[0].patches) == 2 + len(found.boundaries[0].terms)
    rules_plot([1, 10], [0.1, 0.05], {"shared + private": [0.1, 0.06]}, ax=axes[1])
    parity_plot([1.0, 2.0], [1.1, 1.9], lower_s=[0.9, 1.8], upper_s=[1.2, 2.2], ax=axes[2])
    assert axes[2].get_xscale() == "log"
    plt.close(figure)


def test_phases_with_other_numbers_of_operators_add_up():
    import ridgeline as rl

    found = rl.predict("kimi-k2.5", on="b200_sxm", tp=8, dtype="nvfp4", batch=4, input_tokens=100, output_tokens=4)
    low, high = found.request_interval_s
    assert low < found.request_s < high
