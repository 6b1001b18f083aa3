"""`simulate` and its command: answers hang together, bad input is named."""

import json

import pytest

from ridgeline.cli import main
from ridgeline.simulation import simulate


def test_a_light_load_sees_bare_iterations():
    found = simulate("llama-3.1-8b", on="h100_sxm", rate_per_s=0.2, requests=4, input_tokens=512, output_tokens=16)
    alone = simulate("llama-3.1-8b", on="h100_sxm", concurrency=1, requests=4, input_tokens=512, output_tokens=16)
    served = found.served
    assert served.refused.sum() == 0
    assert served.queue_s.max() < 0.05
    assert served.ttft_s.min() == pytest.approx(alone.served.ttft_s.min(), rel=1e-9)
    assert found.kv_tokens > 100_000


def test_more_load_is_never_faster():
    light, heavy = (
        simulate("llama-3.1-8b", on="h100_sxm", rate_per_s=r, requests=60, input_tokens=512, output_tokens=32).served
        for r in (1.0, 200.0)
    )
    assert heavy.ttft_s.mean() > light.ttft_s.mean()
    assert heavy.tpot_s.mean() > light.tpot_s.mean()


def test_notes_say_what_an_answer_does_not_hold_for():
    light, heavy = (
        simulate("llama-3.1-8b", on="h100_sxm", rate_per_s=r, requests=20, input_tokens=512, output_tokens=32)
        for r in (1.0, 2000.0)
    )
    assert not any("unstable" in note for note in light.notes)
    assert any("unstable" in note for note in heavy.notes)
    assert any("not measured with llama-3.1-8b on h100_sxm" in note for note in light.notes)
    for name, (low, high) in light.intervals().items():
        assert low < getattr(light.served, name).mean() < high


def run(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    streams = capsys.readouterr()
    return stop.value.code, streams.out, streams.err


BASE = ["serve", "simulate", "llama-3.1-8b", "--on", "h100_sxm", "--input", "256", "--output", "8", "--requests", "12"]


def test_command_prints_json_and_draws(tmp_path, capsys):
    picture = tmp_path / "load.png"
    code, out, _ = run([*BASE, "--concurrency", "4", "--json", "--plot", str(picture)], capsys)
    answer = json.loads(out)
    assert code == 0
    assert picture.stat().st_size > 1000
    assert answer["requests"] == 12
    assert answer["refused"] == 0
    assert answer["load"] == "4 in flight"
    assert answer["parallelism"] == {"tp": 1, "pp": 1, "ep": 1, "dp": 1}
    low, high = answer["mean_90_interval"]["e2e_s"]
    assert low < answer["metrics"]["e2e_s"]["mean"] < high
    assert answer["metrics"]["ttft_s"]["p99"] >= answer["metrics"]["ttft_s"]["p50"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], "exactly one of trace, rate and concurrency"),
        (["--rate", "1", "--concurrency", "2"], "exactly one"),
        (["--rate", "-1"], "rate: -1.0; expected requests/s above 0"),
        (["--rate", "1", "--on", "h100_sxm:2"], "a chip alone"),
        (["--rate", "1", "--engine", "vlm"], "did you mean 'vllm'"),
        (["--rate", "1", "--router", "best"], "router"),
        (["--rate", "1", "--replicas", "0"], "deployment.replicas"),
        (["--rate", "1", "--input", "0"], "requests[0].input_tokens"),
        (["--rate", "1", "--input", "200000"], "beyond the model's context"),
        (["--rate", "1", "--input", "1" + 25 * "0"], "requests[0].input_tokens: 1e+25"),
        (["--trace", "nowhere.csv"], "requests: cannot be combined with a trace"),
        (["--rate", "1", "--max-sequences", "0"], "engine.max_sequences"),
        (["--rate", "1", "--replicas", "99999"], "deployment.replicas"),
        (["--rate", "1", "--tp", "3"], "does not divide over tp 3"),
        (["--concurrency", "-1"], "concurrency"),
        (["--rate", "1", "--seed", "-1"], "seed"),
        (["--rate", "1", "--plot", "no/such/folder/p.png"], "is not a folder"),
    ],
)
def test_bad_input_is_one_line_and_code_2(extra, message, capsys):
    code, _, err = run([*BASE, *extra], capsys)
    assert code == 2
    assert message in err
    assert "\n" not in err.strip()


def test_a_model_that_does_not_fit(capsys):
    code, _, err = run(["serve", "simulate", "llama-3.1-70b", "--on", "h100_sxm", "--rate", "1"], capsys)
    assert code == 2
    assert "does not fit on 1 x h100_sxm" in err


def test_a_trace_brings_its_own_lengths(tmp_path, capsys):
    path = tmp_path / "trace.csv"
    path.write_text("input_tokens,output_tokens\n64,4\n32,2\n")
    command = ["serve", "simulate", "llama-3.1-8b", "--on", "h100_sxm", "--trace", str(path)]
    code, out, _ = run([*command, "--json"], capsys)
    answer = json.loads(out)
    assert (code, answer["requests"]) == (0, 2)
    assert any("no arrival times" in note for note in answer["notes"])
    code, _, err = run([*command, "--input", "5"], capsys)
    assert code == 2
    assert "input: cannot be combined with a trace" in err
    code, _, err = run([*command[:-1], "nowhere.csv"], capsys)
    assert code == 2
    assert "no such file" in err
