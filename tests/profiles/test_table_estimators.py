"""Estimators over tables: exact where measured, between where between, honest about the rest; laws that survive as
text."""

import jax
import numpy as np
import pandas as pd
import pytest

import hardware
from profiles.store import Store
from profiles.table_estimator import Origin, TableEstimator
from profiles.table_regression import fit_regression, read_regression
from roofline.bound import roofline_time
from roofline.kernel_time import Reason
from workloads.operators import Gemm, Softmax

CHIP = hardware.load("h100_sxm")
M, N, K = np.array([1.0, 16, 64, 256, 1024]), np.array([1024.0, 4096, 8192]), np.array([1024.0, 4096])


def measured(m, n, k):
    """A pretend measurement: 5 us and 1.3 x the roofline."""
    return 5e-6 + 1.3 * np.asarray(roofline_time(Gemm(m=m, n=n, k=k), CHIP, launch=False).total_s)


def table(**changes):
    m, n, k = (a.ravel() for a in np.meshgrid(M, N, K, indexing="ij"))
    rows = {"m": m, "n": n, "k": k, "latency_s": measured(m, n, k), "device": "h100_sxm", "stack": "torch-2.4"}
    return pd.DataFrame({**rows, **changes})


def estimator(method="auto"):
    made = TableEstimator(CHIP, method)
    made.add("gemm", table())
    return made


def test_measured_points_come_back_exactly():
    rows = table()
    answer = estimator().answer(Gemm(m=rows["m"].to_numpy(), n=rows["n"].to_numpy(), k=rows["k"].to_numpy()), CHIP)
    assert np.allclose(answer.time.total_s, rows["latency_s"], rtol=1e-12)
    assert set(answer.origin) == {Origin.MEASURED}


def test_origins_and_errors_of_unmeasured_points():
    m = np.array([32.0, 100.0, 5000.0])
    answer = estimator().answer(Gemm(m=m, n=2048.0, k=2048.0), CHIP)
    assert answer.origin.tolist() == [Origin.INTERPOLATED, Origin.INTERPOLATED, Origin.EXTRAPOLATED]
    assert np.abs(np.log(answer.time.total_s / measured(m, 2048.0, 2048.0))).max() < 0.25
    assert (answer.distance_octaves > 0).all()


def test_shapes_broadcast_and_scalars_stay_scalars():
    time = estimator()(Gemm(m=np.array([[1.0], [64.0]]), n=np.array([1024.0, 2048.0, 4096.0]), k=1024.0), CHIP)
    assert np.shape(time.total_s) == (2, 3)
    assert np.shape(estimator()(Gemm(m=3.0, n=1024.0, k=1024.0), CHIP).total_s) == ()


@pytest.mark.parametrize(
    ("op", "chip"),
    [
        (Gemm(m=1.0, n=64.0, k=64.0, dtype="fp8"), CHIP),
        (Softmax(rows=4.0, cols=64.0), CHIP),
        (Gemm(m=1.0, n=64.0, k=64.0), hardware.load("a100_sxm")),
    ],
)
def test_what_was_not_measured_is_not_answered(op, chip):
    answer = estimator().answer(op, chip)
    assert np.isnan(answer.time.total_s)
    assert answer.time.reason == Reason.UNSUPPORTED_OPERATOR
    assert answer.origin == Origin.NONE
    laws = fit_regression({"gemm": table()}, CHIP, "torch-2.4")
    assert np.isnan(laws(op, chip).total_s)


def test_scattered_points_and_repeats(tmp_path):
    rows = table().sample(17, random_state=1)
    noisy = pd.concat([rows, rows.assign(latency_s=rows["latency_s"] * 1.1)], ignore_index=True)
    store = Store(tmp_path)
    store.append("gemm", noisy)
    made = TableEstimator.from_store(store, CHIP, "torch-2.4")
    time = made(Gemm(m=48.0, n=4096.0, k=2000.0), CHIP)
    assert abs(np.log(float(time.total_s) / measured(48.0, 4096.0, 2000.0))) < 0.4
    with pytest.raises(ValueError, match="no measurement"):
        TableEstimator.from_store(store, CHIP, "torch-9")


def test_nearest_is_a_measurement():
    time = estimator("nearest")(Gemm(m=70.0, n=4000.0, k=4000.0), CHIP)
    assert np.isclose(float(time.total_s), measured(64.0, 4096.0, 4096.0))


def test_regression_recovers_its_law_and_survives_as_text(tmp_path):
    fitted = fit_regression({"gemm": table()}, CHIP, "torch-2.4", "abc", "2026-01-01")
    (law,) = fitted.laws
    assert law.mape < 0.12
    op = Gemm(m=M, n=4096.0, k=4096.0)
    path = tmp_path / "laws.toml"
    path.write_text(fitted.to_toml())
    again = read_regression(path)
    assert (again.data_hash, again.stack, again.date) == ("abc", "torch-2.4", "2026-01-01")
    assert np.allclose(again(op, CHIP).total_s, fitted(op, CHIP).total_s, rtol=1e-5)
    gradient = jax.grad(lambda m: fitted(Gemm(m=m, n=4096.0, k=4096.0), CHIP).total_s)(2048.0)
    assert gradient > 0.0
    path.write_text("[[law]]\nkind = 3\n")
    with pytest.raises(ValueError, match="not a regression file"):
        read_regression(path)


def test_few_points_widen_the_error():
    many = fit_regression({"gemm": table()}, CHIP, "torch-2.4").laws[0]
    few = fit_regression({"gemm": table().head(3)}, CHIP, "torch-2.4").laws[0]
    assert few.points == 3
    assert few.log_sigma > many.log_sigma
