"""Questions the other way round: the answers keep their limits, move the right way with them, and beat what else was looked at."""

import numpy as np
import pytest

import hardware
import workloads
from explore import constraint, samples, sweep
from ridgeline.chip_design import design_problem
from ridgeline.inverse import best_shape, cheapest_chip, cheapest_cluster, cluster_problem, robust, shape_problem
from ridgeline.model_shape import METRICS, decoder
from ridgeline.objectives import ModelObjective

CHIPS = ("a100_sxm", "h100_sxm", "b200_sxm")


def cluster(decode_s=0.03, rate=4000.0, **options):
    limits = {"decode_s": decode_s, "output_tokens_per_s": rate, **options.pop("limits", {})}
    return cheapest_cluster("llama-3.1-8b", CHIPS, limits=limits, estimator="roofline", replicas=(1, 2, 4), **options)


def test_the_cheapest_cluster_keeps_its_limits_and_costs_more_for_more():
    easy, hard, fast = cluster(), cluster(rate=16_000.0), cluster(decode_s=0.006)
    best = easy.best.iloc[0]
    assert best["decode_s"] <= 0.03
    assert best["output_tokens_per_s"] >= 4000.0
    assert best["memory_use"] <= 1.0
    assert (easy.best["usd_per_hour"].diff().dropna() >= 0.0).all()
    for other in (hard, fast):
        assert other.best.iloc[0]["usd_per_hour"] >= best["usd_per_hour"]
    assert "bounds" in easy.notes[0]
    with pytest.raises(ValueError, match=r"usd_per_hour <= 0\.01"):
        cluster(limits={"usd_per_hour": 0.01})


def test_a_cost_follows_from_the_price_of_each_chip():
    problem = cluster_problem("llama-3.1-8b", CHIPS, estimator="roofline", replicas=(1,), tp=(1, 2))
    frame = sweep(problem, points="all").to_frame()
    per_device = (frame["usd_per_hour"] / frame["devices"]).groupby(frame["chip"]).agg(["min", "max"])
    np.testing.assert_allclose(per_device["min"], per_device["max"])
    assert per_device.loc["a100_sxm", "max"] < per_device.loc["h100_sxm", "max"] < per_device.loc["b200_sxm", "max"]
    tokens_per_hour = 3600.0 * frame["output_tokens_per_s"]
    assert (frame["usd_per_million_tokens"] >= 0.999e6 * frame["usd_per_hour"] / tokens_per_hour).all()


def test_what_is_best_at_a_quantile_is_best_there_and_no_better_than_the_prediction():
    problem = cluster_problem(
        "llama-3.1-8b", CHIPS, limits={"decode_s": 0.03}, objective="usd_per_million_tokens", estimator="roofline"
    )
    careful = robust(problem, 0.95)
    assert careful.minimise == ("usd_per_million_tokens_p95",)
    assert careful.constraints[0].metric == "decode_p95_s"
    assert careful.constraints[-1].metric == "memory_use"
    frame = sweep(careful, points="all").to_frame()
    good = frame[(frame["decode_p95_s"] <= 0.03) & (frame["memory_use"] <= 1.0)]
    assert sweep(careful).best.iloc[0]["usd_per_million_tokens_p95"] == good["usd_per_million_tokens_p95"].min()
    answered = frame[frame["decode_s"].notna()]
    assert (answered["decode_p95_s"] > answered["decode_s"]).all()
    assert (answered["usd_per_million_tokens_p95"] > answered["usd_per_million_tokens"]).all()
    wider = sweep(robust(problem, 0.99), points="all").to_frame()
    np.testing.assert_array_less(answered["decode_p95_s"], wider["decode_p99_s"][answered.index])


def test_a_robust_design_is_asked_for_by_the_same_function():
    problem = robust(
        design_problem("llama-3.1-8b", estimator="roofline", constraints=(constraint("decode_s", "<= 0.02"),))
    )
    assert problem.minimise == ("usd_per_million_tokens_p95",)
    assert problem.constraints[0].metric == "decode_p95_s"
    assert "die_mm2" in {one.metric for one in problem.constraints}
    with pytest.raises(ValueError, match="carries no errors"):
        robust(shape_problem("h100_sxm", parameters=8e9))
    with pytest.raises(ValueError, match="quantile"):
        robust(problem, 1.0)


def test_a_shape_has_the_size_it_was_asked_for():
    llama = workloads.load("llama-3.1-8b")
    same = decoder(parameters=llama.parameters, layers=32, heads=32, head_dim=128)
    assert same.parameters == llama.parameters
    assert same.layers[0].feed_forward.width == 14336
    assert decoder(parameters=8e9, layers=32, heads=20, head_dim=128) is None
    assert decoder(parameters=1e9, layers=128, heads=128, head_dim=128) is None


def test_the_best_shape_is_the_fastest_of_its_size():
    problem = shape_problem("h100_sxm", parameters=8e9, points=6, most_heads=64, estimator="roofline")
    result = best_shape("h100_sxm", parameters=8e9, points=6, most_heads=64, estimator="roofline")
    best = result.best.iloc[0]
    assert abs(best["parameters"] / 8e9 - 1.0) < 0.02
    assert 32.0 <= best["width_per_layer"] <= 256.0
    assert 2.0 <= best["feed_forward_ratio"] <= 6.0
    assert 0 < result.counts["feasible"] < result.counts["points"]
    assert set(problem.metric_names) == set(METRICS)
    model = decoder(parameters=8e9, **{name: int(best[name]) for name in ("layers", "heads", "head_dim")})
    subjects = {name: value for name, value in problem.subjects.items() if name not in ("layers", "heads", "head_dim")}
    again = ModelObjective(model=model, estimator="roofline")({**subjects, "chip": hardware.load("h100_sxm")})
    assert best["output_tokens_per_s"] == pytest.approx(float(again["output_tokens_per_s"]))


def test_the_cheapest_chip_keeps_its_limits():
    limits = {"decode_s": 0.02, "price_usd": 20_000.0, "die_mm2": 700.0}
    options = {"method": "sobol", "estimator": "roofline", "traced": False}
    found = cheapest_chip("llama-3.1-8b", limits=limits, budget=2000, **options)
    for name, most in limits.items():
        assert found.best[name] <= most
    first = samples(found.problem.space, "sobol", 1000)
    metrics = found.problem.at(first.columns(0, 1000))
    seen = metrics["usd_per_million_tokens"][found.problem.feasible(metrics)]
    assert found.best["usd_per_million_tokens"] < seen.min()


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: cluster(limits={"decode": 1.0}), "did you mean 'decode_s'"),
        (lambda: cluster(limits={"decode_s": -1.0}), "limits.decode_s: -1.0"),
        (lambda: cheapest_cluster("resnet-50", CHIPS, limits={}), "no transformer"),
        (lambda: cheapest_cluster("llama-3.1-8b", [], limits={}), "chips: none"),
    ],
)
def test_bad_questions_are_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()
