"""Pools for prompts and decoding in a plan: beside aggregated deployments, at their limits, on two kinds of chips."""

import numpy as np
import pytest

from ridgeline.cli import main
from ridgeline.serve_plan import plan
from serving import Requests

MODEL, CHIP = "llama-3.1-8b", "h100_sxm"
ASKED = {"input_tokens": 2000, "output_tokens": 200, "ttft_s": 0.5, "tpot_s": 0.02}
FEW = {"sequences": (64, 256), "budgets": (4096,)}
PER_GPU = "requests_per_s_per_gpu"


def planned(**changes):
    return plan(MODEL, **({"on": f"{CHIP}:2", "mode": "disaggregated"} | ASKED | FEW | changes))


def most(found):
    return found.settings[PER_GPU].max()


@pytest.fixture(scope="module")
def pools():
    return planned(on=f"{CHIP}:3")


def test_modes_are_parts_of_all(pools):
    everything, alone = (planned(on=f"{CHIP}:3", mode=mode).settings for mode in ("all", "aggregated"))
    for mode, expected in (("disaggregated", pools.settings), ("aggregated", alone)):
        part = everything[everything["mode"] == mode]
        assert part[PER_GPU].tolist() == pytest.approx(expected[PER_GPU].tolist())


def test_every_part_has_chips_and_keeps_the_levels(pools):
    rows = pools.settings
    assert (rows["prefill_replicas"] * rows["prefill_tp"] + rows["replicas"] * rows["tp"] == rows["gpus"]).all()
    assert rows["gpus"].between(2, 3).all()
    assert (rows["slack"] <= 1.0 + 1e-9).all()
    assert (rows["ttft_s"] > rows["transfer_s"]).all()
    assert rows["prefill_load"].between(0.0, 1.0).all()
    for name in ("ttft", "tpot"):
        assert (rows[f"{name}_low_s"] < rows[f"{name}_s"]).all()
    assert (rows[f"{PER_GPU}_low"] <= rows[PER_GPU]).all()
    assert (rows[f"{PER_GPU}_high"] > rows[PER_GPU]).all()


def test_fixed_roles_serve_no_more_where_levels_do_not_bind():
    """With a free transfer and levels that nothing breaks, two chips that do both serve at least what one of each kind of work
    does; what disaggregation wins, it wins under the levels."""
    loose = {"ttft_s": 500.0, "tpot_s": 5.0, "link_bytes_per_s": 1e18}
    assert most(planned(mode="aggregated", **loose)) >= 0.98 * most(planned(**loose))


def test_a_free_transfer_is_the_best_link_and_a_slow_one_binds():
    free, own, slow = (planned(link_bytes_per_s=link) for link in (1e18, None, 1.5e9))
    assert most(free) >= most(own) > most(slow)
    assert slow.settings["limit"][0] == "link"
    assert slow.settings["requests_per_s"][0] <= 1.5e9 / (131072 * 2000)
    with pytest.raises(ValueError, match="nearest miss is prompts on tp 1"):
        planned(link_bytes_per_s=1e8)


def test_the_replay_agrees(pools):
    served = pools.replay(
        Requests.poisson(0.9 * pools.settings["requests_per_s"][0], np.full(5000, 2000.0), 200.0, seed=1)
    )
    settled = slice(500, -500)
    assert not served.refused.any()
    assert served.tpot_s[settled].mean() <= ASKED["tpot_s"] * 1.03
    assert served.ttft_s[settled].mean() <= ASKED["ttft_s"] * 1.03


def test_a_percentile_is_kept_by_nearly_all_in_the_replay():
    few = {"sequences": (128,)}
    asked = few | {"ttft_s": None, "tpot_s": None, "ttft_p99_s": 0.5, "tpot_p99_s": 0.02}
    for mode in ("aggregated", "disaggregated"):
        found = planned(mode=mode, **asked)
        best = found.settings.iloc[0]
        assert best["ttft_p99_s"] <= 0.5 * (1 + 1e-6)
        assert best["within"] >= 0.98
        assert best["good_requests_per_s_per_gpu"] == pytest.approx(best["within"] * best[PER_GPU])
        assert best[PER_GPU] <= most(planned(mode=mode, **few)) * (1 + 1e-6)
        served = found.replay(Requests.poisson(best["requests_per_s"], np.full(8000, 2000.0), 200.0, seed=3))
        kept = (served.ttft_s <= 0.5) & (served.tpot_s <= 0.02)
        assert kept[500:-500].mean() >= 0.97


def test_two_kinds_of_chips_have_their_own_counts_and_prices():
    found = planned(on=f"{CHIP}:1,h200_sxm:2", mode="all", usd_per_hour=(2.0, 5.0), sort="cost")
    rows = found.settings
    for chip, count, usd in ((CHIP, 1, 2.0), ("h200_sxm", 2, 5.0)):
        used = rows["replicas"] * rows["tp"] * (rows["chip"] == chip)
        used += rows["prefill_replicas"] * rows["prefill_tp"] * (rows["prefill_chip"] == chip)
        assert (used <= count).all()
        rows = rows.assign(usd=rows.get("usd", 0.0) + used * usd)
    assert set(zip(rows["prefill_chip"], rows["chip"])) >= {("", CHIP), (CHIP, "h200_sxm"), ("h200_sxm", CHIP)}
    cost = rows["usd"] / (3600 * rows["output_tokens_per_s"]) * 1e6
    assert rows["usd_per_million_output_tokens"].to_numpy() == pytest.approx(cost.to_numpy())
    assert rows["usd_per_million_output_tokens"].is_monotonic_increasing


def test_lengths_may_be_those_of_a_trace():
    """A trace of equal requests is planned as they are; lengths that vary cost goodput at a percentile."""
    asked = {"input_tokens": None, "output_tokens": None, "ttft_s": None, "ttft_p99_s": 0.5}
    equal = planned(**asked, requests=Requests.of(0.0, np.full(50, 2000.0), 200.0))
    same = planned(**(asked | {"input_tokens": 2000, "output_tokens": 200}))
    assert most(equal) == pytest.approx(most(same))
    prompts = np.concatenate([np.full(90, 1000.0), np.full(10, 11000.0)])
    assert most(planned(**asked, requests=Requests.of(0.0, prompts, 200.0))) < 0.9 * most(same)
    with pytest.raises(ValueError, match="beside them"):
        planned(**(asked | {"input_tokens": 5}), requests=Requests.of(0.0, prompts, 200.0))


def test_a_given_load_is_what_comes_or_is_in_flight():
    rows = planned(on=f"{CHIP}:3", rate_per_s=8.0).settings
    assert (rows["requests_per_s"] == 8.0).all()
    assert rows["gpus"].min() == 2
    rows = planned(concurrency=20).settings
    in_flight = rows["requests_per_s"] * (rows["ttft_s"] + 199 * rows["tpot_s"])
    assert in_flight.to_numpy() == pytest.approx(20.0, rel=0.02)


def test_the_curve_of_pairs_is_a_front(pools):
    assert set(pools.curve["mode"]) == {"disaggregated"}
    for _, curve in pools.curve.groupby(["prefill_tp", "tp"]):
        ordered = curve.sort_values("user_tokens_per_s", ascending=False)["output_tokens_per_s_per_gpu"]
        assert ordered.is_monotonic_increasing


BASE = ["serve", "plan", MODEL, "--input", "2000", "--output", "200", "--on"]
LEVELS = ["--ttft", "0.5", "--tpot", "0.02"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([f"{CHIP}:1", *LEVELS, "--mode", "disaggregated"], "at least 2 chips"),
        ([f"{CHIP}:2", *LEVELS, "--mode", "both"], "known: all, aggregated, disaggregated"),
        ([f"{CHIP}:2", *LEVELS, "--sort", "price"], "known: goodput, cost"),
        ([f"{CHIP}:2", *LEVELS, "--trace", "some.csv"], "no such file"),
        ([f"{CHIP}:2", *LEVELS, "--link", "fast"], "link: 'fast'"),
        ([f"{CHIP}:2", *LEVELS, "--link", "0"], "link"),
        ([f"{CHIP}:2,{CHIP}:2", *LEVELS], "twice"),
        ([f"{CHIP}:2,h200_sxm:0", *LEVELS], "expected 1 to 4096"),
        ([f"{CHIP}:4000,h200_sxm:4000", *LEVELS], "in all"),
        ([f"{CHIP}:2", *LEVELS, "--usd-per-hour", "1,2"], "2 prices for 1 kind"),
        ([f"{CHIP}:2", *LEVELS, "--usd-per-hour", "cheap"], "expected USD"),
        ([f"{CHIP}:2", "--ttft", "0.5"], "expected tpot or tpot_p99"),
        ([f"{CHIP}:2", "--tpot", "0.02", "--ttft-p99", "0"], "ttft_p99: 0.0; expected seconds above 0"),
        ([f"{CHIP}:2", "--tpot", "0.02", "--ttft-p99", "0.001", "--mode", "disaggregated"], "TTFT p99"),
        ([f"{CHIP}:2", *LEVELS, "--mode", "disaggregated", "--rate", "1e6"], "unstable in every setting"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*BASE, *arguments])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
