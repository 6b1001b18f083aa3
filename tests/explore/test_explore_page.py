"""docs/explore.md: every snippet runs in the order of the page; its space files are read; its commands answer small questions."""

import json
import re
from pathlib import Path

import pytest

import ridgeline as rl
from ridgeline.cli import main
from ridgeline.space_file import read_space

DOCS = Path(__file__).resolve().parents[2] / "docs"


def run(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    streams = capsys.readouterr()
    return end.value.code, streams.out, streams.err


def test_every_snippet_runs(capsys):
    page = (DOCS / "explore.md").read_text("utf-8")
    snippets = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(snippets) >= 5
    names: dict = {}
    for snippet in snippets:
        exec(compile(snippet, "docs/explore.md", "exec"), names)
    assert names["result"].counts["points"] == 9 * 3 * 5
    assert names["best"]["decode_s"] <= names["result"].best["decode_s"].iloc[0] * 1.001
    assert names["table"]["decode_s"].shape == (9, 3, 5)


@pytest.mark.parametrize("path", sorted((DOCS / "spaces").glob("*.toml")), ids=lambda p: p.stem)
def test_space_files_are_problems(path):
    problem, sweep_options, search_options = read_space(path)
    assert problem.objectives
    assert sweep_options or search_options


SMALL = """
[objective]
kind = "kernel"
estimator = "roofline"
minimise = ["time_s"]
[fixed]
chip = "h100_sxm"
op = { m = 64, n = 64, k = 64 }
[parameters.m]
path = "op.m"
low = 1
high = 4096
scale = "log"
points = 12
[parameters.chip]
options = ["a100_sxm", "h100_sxm"]
[constraints]
flops_per_s = ">= 1e9"
"""


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(SMALL)
    return path


def test_sweep_writes_a_result_that_opens_again(space, tmp_path, capsys):
    folder, picture = tmp_path / "out", tmp_path / "front.png"
    code, out, _ = run(["sweep", space, "--out", folder, "--all", "--json", "--plot", picture], capsys)
    assert code == 0
    answer = json.loads(out)
    found = rl.load_result(folder)
    assert found.complete
    assert answer["counts"] == found.counts
    assert set(found.to_frame()["chip"]) == {"a100_sxm", "h100_sxm"}
    assert answer["best"][0]["time_s"] == pytest.approx(found.best["time_s"].iloc[0])
    assert picture.stat().st_size > 2000
    code, out, _ = run(["sweep", space, "--out", folder, "--all"], capsys)
    assert code == 0
    assert "feasible" in out


def test_search_prints_designs_and_what_binds(space, tmp_path, capsys):
    picture = tmp_path / "convergence.png"
    code, out, _ = run(["search", space, "--method", "sobol", "--budget", "600", "--plot", picture], capsys)
    assert code == 0
    assert "m >= 1, its range" in out.replace("\n", " ")
    assert "note: bounds: peak rates" in out
    assert picture.stat().st_size > 2000


def test_a_problem_of_unlike_chips_says_so(space):
    text = space.read_text().replace('"a100_sxm", ', '"tpu_v5e", ').replace('"roofline"', '"tiles"')
    space.write_text(text.replace("points = 12", "points = 2"))
    problem, _, _ = read_space(space)
    assert "tpu_v5e: no GPU, so bounds, which look faster" in problem.notes[0]


def test_elasticity_of_a_model(capsys):
    code, out, _ = run(
        ["elasticity", "llama-3.1-8b", "--on", "h100_sxm", "--estimator", "roofline", "--metric", "decode_s", "--json"],
        capsys,
    )
    rows = {row["parameter"]: row for row in json.loads(out)["elasticities"]}
    assert code == 0
    assert -1.0 <= rows["memory bandwidth"]["elasticity"] < -0.5
    assert abs(rows["everything else"]["elasticity"]) < 1e-6
    assert rows["memory bandwidth"]["low"] <= rows["memory bandwidth"]["elasticity"] <= rows["memory bandwidth"]["high"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('path = "op.m"', 'path = "op.mm"', "no 'mm'"),
        ('"time_s"', '"tim_s"', "did you mean 'time_s'"),
        ('kind = "kernel"', 'kind = "kernle"', "did you mean 'kernel'"),
        ("[objective]", "[objektive]", "did you mean 'objective'"),
        ("low = 1", 'low = "1 GB/s"', "low"),
        ("high = 4096", "high = 0", "exceeds"),
        ('">= 1e9"', '"about 3"', "expected"),
        ('">= 1e9"', '">= 1e30"', "no point meets flops_per_s >= 1e+30"),
        ('"h100_sxm"]', '"h100_smx"]', "h100_sxm"),
        ("op = {", "op = { q = 1,", "unknown"),
        ("[parameters.m]", "[parameters.m", "no TOML file"),
        ('"roofline"', "3", "objective.estimator: 3; expected text"),
        ('"roofline"', '"rofline"', "objective.estimator: unknown 'rofline'; did you mean 'roofline'"),
        ("[objective]", "[objective]\nstack = []", "objective.stack"),
        ("[objective]", "[objective]\nerrors = 1", "objective.errors: 1; expected true or false"),
        ("[objective]", "[objective]\nrobust = 2.0", "objective.robust: 2.0"),
        ("[objective]", "[objective]\nrobust = 0.9", "objective.robust: robust: the objective carries no errors"),
        ('chip = "h100_sxm"', "chip = 3", "fixed.chip: 3"),
        ("n = 64", 'n = "many"', "fixed.op.n: 'many'; expected a number"),
        ("n = 64", 'n = 64, dtype = "bf61"', "fixed.op.dtype: unknown dtype 'bf61'"),
        ("n = 64", "n = 64, dtype = 16", "fixed.op.dtype"),
        ("low = 1", "low = 1" + 400 * "0", "parameters.m: low: a whole number of 401 digits"),
        ("points = 12", "points = 1_000_000_000_000", "parameters.m: points"),
        ("points = 12", 'points = "12"', "parameters.m: integer: points '12'"),
        ("points = 12", "points = 12\nwhen = 3", "parameters.m: when"),
        ('"h100_sxm"]', "[]]", "parameters.chip.options"),
        ('"h100_sxm"]', "7]", "parameters.chip.options: 7; expected a chip"),
        ('path = "op.m"', 'path = "op.m"\noptions = ["a", "b"]', "parameter 'm': str 'a' for 'op.m'; expected numbers"),
        ("[objective]", "name = 3\n[objective]", "name: 3; expected text"),
        ("[constraints]", "[sweep]\nresolution = []\n[constraints]", "sweep.resolution"),
        ("[constraints]", "[sweep]\nmethod = 1\n[constraints]", "sweep.method: 1; expected text"),
    ],
)
def test_bad_space_files_are_one_line(space, old, new, message, capsys):
    space.write_text(space.read_text().replace(old, new, 1))
    code, _, err = run(["sweep", space], capsys)
    assert code == 2
    assert message in err
    assert "\n" not in err.strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "nowhere.toml"], "no such file"),
        (["sweep", "SPACE", "--all"], "needs --out"),
        (["sweep", "SPACE", "--method", "sobl", "--count", "4"], "did you mean 'sobol'"),
        (["sweep", "SPACE", "--method", "random"], "how many points"),
        (["sweep", "SPACE", "--chunk", "0"], "chunk 0"),
        (["search", "SPACE", "--budget", "3"], "at least 100"),
        (["search", "SPACE", "--method", "magic"], "unknown search"),
        (["elasticity", "llama-3.1-8b", "--on", "h100_sxm", "--step", "2"], "step"),
        (["elasticity", "llama-3.1-8b", "--on", "h100_sxm", "--batch", "0"], "batch"),
        (["elasticity", "resnet-50", "--on", "h100_sxm"], "no transformer"),
    ],
)
def test_bad_options_are_one_line(space, arguments, message, capsys):
    code, _, err = run([space if a == "SPACE" else a for a in arguments], capsys)
    assert code == 2
    assert message in err
    assert "\n" not in err.strip()
