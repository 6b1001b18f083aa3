"""The planner: what it lists fits and keeps its levels, and the replay of its best setting agrees."""

import json

import numpy as np
import pytest

from ridgeline.cli import main
from ridgeline.serve_cost import hourly_usd
from ridgeline.serve_layouts import degrees
from ridgeline.serve_plan import plan
from serving import Requests, replay

MODEL, CHIP = "llama-3.1-8b", "h100_sxm"
ASKED = {"input_tokens": 1000, "output_tokens": 100, "ttft_s": 0.5, "tpot_s": 0.02}
FEW = {"sequences": (16, 64, 256), "budgets": (2048, 8192)}


@pytest.fixture(scope="module")
def best():
    return plan(MODEL, on=f"{CHIP}:2", **ASKED, **FEW)


@pytest.fixture(scope="module")
def alone(best):
    """Its aggregated settings."""
    return best.settings[best.settings["mode"] == "aggregated"]


def test_every_setting_fits_and_keeps_its_levels(best):
    rows = best.settings
    assert len(rows) == best.counts["settings_within_levels"] > 0
    assert (rows["ttft_s"] <= ASKED["ttft_s"] * (1 + 1e-6)).all()
    assert (rows["tpot_s"] <= ASKED["tpot_s"] * (1 + 1e-6)).all()
    assert (rows["gpus"] <= 2).all()
    prompts = rows["prefill_tp"] * rows["prefill_dp"] * rows["prefill_replicas"]
    assert (rows["gpus"] == rows["tp"] * rows["dp"] * rows["replicas"] + prompts).all()
    assert ((prompts > 0) == (rows["mode"] == "disaggregated")).all()
    assert set(rows["mode"]) == {"aggregated", "disaggregated"}
    assert (rows["kv_tokens"] >= 1100).all()
    assert (rows["load"] < 1.0).all()
    assert rows["requests_per_s_per_gpu"].is_monotonic_decreasing


def test_error_bars_hold_the_prediction(best):
    rows = best.settings
    for name in ("ttft{}_s", "tpot{}_s"):
        low, middle, high = (rows[name.format(end)] for end in ("_low", "", "_high"))
        assert (low < middle).all()
        assert (middle < high).all()
    low, middle, high = (rows[f"requests_per_s_per_gpu{end}"] for end in ("_low", "", "_high"))
    assert (low < middle).all()
    assert (middle < high).all()


def test_goodput_is_the_largest_rate(best):
    """A little more than the best setting's goodput breaks a level; at a little less both hold."""
    row = best.settings.sort_values("requests_per_s").iloc[-1]
    one = {"sequences": (int(row["max_sequences"]),), "budgets": (int(row["max_batched_tokens"]),)}
    layout = ["tp", "ep", "dp", "replicas"]
    less, more = 0.99 * row["requests_per_s"], 1.01 * row["requests_per_s"]
    kept = plan(MODEL, on=f"{CHIP}:2", rate_per_s=less, **ASKED, **one).settings
    assert (kept[layout] == row[layout]).all(axis=1).any()
    with pytest.raises(ValueError, match=r"unstable|nearest miss"):
        plan(MODEL, on=f"{CHIP}:2", rate_per_s=more, **ASKED, **one)


def test_more_chips_serve_no_less(alone):
    totals = [
        plan(MODEL, on=CHIP, chips=n, mode="aggregated", **ASKED, **FEW).settings["requests_per_s"].max()
        for n in (1, 3)
    ]
    assert totals[0] <= alone["requests_per_s"].max() <= totals[1]


def test_stricter_levels_serve_no_more(alone):
    for change in ({"ttft_s": 0.1}, {"tpot_s": 0.01}):
        strict = plan(MODEL, on=f"{CHIP}:2", mode="aggregated", **(ASKED | change), **FEW)
        most = strict.settings["requests_per_s_per_gpu"].max()
        assert most <= alone["requests_per_s_per_gpu"].max() * (1 + 1e-6)


@pytest.mark.parametrize("tight", [{}, {"ttft_s": 0.1}])
def test_the_best_keeps_its_levels_in_the_replay(tight):
    asked = ASKED | tight
    found = plan(MODEL, on=f"{CHIP}:2", mode="aggregated", **asked, **FEW)
    layout, engine, deployment, rate = found.replayable()
    served = replay(Requests.poisson(rate, np.full(6000, 1000.0), 100.0, seed=1), layout.law, engine, deployment)
    assert not served.refused.any()
    settled = slice(500, -500)
    assert served.ttft_s[settled].mean() <= 1.15 * asked["ttft_s"]
    assert served.tpot_s[settled].mean() <= 1.15 * asked["tpot_s"]
    assert served.tpot_s[settled].mean() == pytest.approx(found.settings.iloc[0]["tpot_s"], rel=0.15)


def test_a_mixture_is_spread_over_experts_and_ranks():
    found = plan(
        "gpt-oss-120b",
        on=f"{CHIP}:2",
        concurrency=32,
        **(ASKED | {"ttft_s": 2.0, "tpot_s": 0.05}),
        sequences=(64,),
        budgets=(4096,),
    )
    spread = {tuple(row) for row in found.best_per_layout()[["tp", "ep", "dp", "replicas"]].to_numpy()}
    assert spread == {(1, 1, 1, 1), (1, 1, 1, 2), (2, 1, 1, 1), (2, 2, 1, 1), (1, 2, 2, 1)}
    assert (found.settings["output_tokens_per_s"] > 0).all()


def test_layouts_stay_inside_a_node_and_divide():
    import workloads

    for p in degrees(workloads.load("gpt-oss-120b"), 16, 8):
        assert p.devices <= 8
        assert bool(p.consistent)
    assert {int(p.tp) for p in degrees(workloads.load(MODEL), 6, 8)} == {1, 2, 4}


def test_the_curve_is_a_front(best):
    for _, curve in best.curve.groupby(["tp", "replicas"]):
        ordered = curve.sort_values("user_tokens_per_s", ascending=False)["output_tokens_per_s_per_gpu"]
        assert ordered.is_monotonic_increasing


@pytest.mark.parametrize("output", [2, 3])
def test_short_answers_near_the_limit_have_sound_times(output):
    found = plan(MODEL, on=CHIP, **(ASKED | {"output_tokens": output, "ttft_s": 50.0, "tpot_s": 5.0}), **FEW)
    assert (found.settings["ttft_s"] > 0.01).all()
    assert (found.settings["load"] <= 0.99 + 1e-9).all()
    assert set(found.settings["binding"]) <= {"slots", "memory", "budget", "ttft"}


def test_cost_is_the_price_over_the_tokens(best):
    priced = plan(MODEL, on=CHIP, usd_per_hour=3.6, **ASKED, **FEW).settings
    expected = 3.6 / (3600 * priced["output_tokens_per_s_per_gpu"]) * 1e6
    assert priced["usd_per_million_output_tokens"].to_numpy() == pytest.approx(expected.to_numpy())
    assert best.stocks[0].usd_per_hour > 0.1
    assert np.isnan(hourly_usd(best.chip.replace(name="unheard_of"))[0])


def run(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    streams = capsys.readouterr()
    return stop.value.code, streams.out, streams.err


BASE = ["serve", "plan", MODEL, "--on", f"{CHIP}:1", "--input", "1000", "--output", "100"]
LEVELS = ["--ttft", "0.5", "--tpot", "0.02"]


def test_command_prints_and_draws(tmp_path, capsys):
    picture = tmp_path / "plan.png"
    code, out, err = run([*BASE, *LEVELS, "--json", "--plot", str(picture)], capsys)
    answer = json.loads(out)
    assert code == 0
    assert err == ""
    assert picture.stat().st_size > 1000
    assert answer["settings"][0]["requests_per_s_per_gpu"] > 0
    assert answer["settings"][0]["binding"] in ("ttft", "tpot", "slots", "memory", "budget")
    assert answer["counts"]["settings_within_levels"] == len(answer["settings"])
    code, out, _ = run([*BASE, *LEVELS, "--rate", "2"], capsys)
    assert code == 0
    assert "arrivals" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*BASE, "--ttft", "0.0001", "--tpot", "0.02"], "nearest miss"),
        ([*BASE, *LEVELS, "--rate", "5000"], "unstable"),
        ([*BASE, *LEVELS, "--rate", "5", "--concurrency", "3"], "at most one"),
        ([*BASE, *LEVELS, "--rate", "-1"], "rate"),
        ([*BASE, *LEVELS, "--concurrency", "0"], "concurrency"),
        ([*BASE, *LEVELS, "--engine", "vlm"], "did you mean 'vllm'"),
        ([*BASE, *LEVELS, "--usd-per-hour", "0"], "usd_per_hour"),
        ([*BASE, *LEVELS, "--plot", "plan.docx"], "--plot"),
        ([*BASE, "--ttft", "-1", "--tpot", "0.02"], "ttft"),
        ([*BASE, *LEVELS, "--on", f"{CHIP}:many"], "NAME:CHIPS"),
        ([*BASE, *LEVELS, "--on", "h100_smx:1"], "did you mean"),
        ([*BASE, *LEVELS, "--output", "900000"], "context"),
        ([*BASE, *LEVELS, "--output", "1"], "at least 2 tokens"),
        ([*BASE, *LEVELS, "--input", "0"], "input"),
        (["serve", "plan", "llama-3.1-405b", *BASE[3:], *LEVELS], "fits nowhere"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    code, _, err = run(arguments, capsys)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
