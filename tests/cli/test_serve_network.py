"""`ridgeline serve network` and its page: every snippet runs, every command answers, bad files are refused in one line."""

import json
import re
from pathlib import Path

import pytest

from ridgeline.cli import main
from ridgeline.stage_network_file import read_network

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "networks" / "rag.toml"
DAY = ROOT / "docs" / "networks" / "day.toml"


def answered(capsys, *options: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(["serve", "network", str(FILE), *options])
    assert end.value.code == 0
    return capsys.readouterr().out


def test_a_file_is_a_network_with_its_promises(capsys):
    found = json.loads(answered(capsys, "--json", "--scale", "0.8"))
    assert found["stable"]
    assert found["bottleneck"] == "prefill"
    assert list(found["classes"]) == ["chat", "complete"]
    chat = found["classes"]["chat"]
    assert chat["slo"]["e2e_p99"]["limit_s"] == 12.0
    assert chat["stages"]["prefill"]["visits_per_s"] == pytest.approx(0.8 * 12.0 / 0.8)
    assert found["pools"]["wire"]["utilisation"] == pytest.approx(0.8 * 15.0 * 4e8 / 25e9)
    assert found["energy"]["joules_per_million_tokens"] > 0.0


def test_tables_pictures_and_overload(capsys, tmp_path):
    picture = tmp_path / "network.png"
    printed = answered(capsys, "--scale", "2", "--overload", "--plot", str(picture))
    assert "% of mean time" in answered(capsys, "--elasticities", "3", "--replay", "2000")
    assert "prefill limits the network to" in printed
    assert "grows" in printed
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'pool = "reranker"',
            'pool = "rerank"',
            r"classes\.chat\.stages\.rerank\.pool: 'rerank' is no pool; did you mean 'reranker'",
        ),
        ("{ tool = 0.2, end = 0.8 }", "{ tool = 0.2, end = 0.7 }", r"stages\.decode\.next: probabilities sum to 0\.9"),
        ("{ tool = 0.2, end = 0.8 }", "{ tool = 1.0 }", r"a cycle without exit"),
        ('kind = "link"', 'kind = "links"', r"pools\.wire\.kind: 'links' is unknown; did you mean 'link'"),
        ("rate = 12.0", "rate = 24.0", r"pools\.prefill: unstable: offered 1\.\d+ times.*--overload"),
        ("probes = 32", "probe = 32", r"pools\.index\.search\.probe: unknown; did you mean 'probes'"),
        ("probes = 32, ", "", r"pools\.index\.search\.probes: missing"),
        ("vectors = 1e9", "vectors = 1e13", r"pools\.index\.search: index: .* bytes"),
        ('work = "400 MB"', 'work = "400 ms"', r"classes\.chat\.stages\.transfer\.work"),
        ("slots = 64\n", "", r"pools\.decode\.slots: missing"),
    ],
)
def test_bad_files_are_refused_in_one_line(capsys, tmp_path, old, new, message):
    text = FILE.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "network.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        main(["serve", "network", str(path)])
    captured = capsys.readouterr()
    assert end.value.code == 2
    assert len(captured.err.strip().splitlines()) == 1
    assert "network.toml" in captured.err
    assert re.search(message, captured.err)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('policy = "least_work"', 'policy = "fastest"', r"routers\.decoders\.policy: 'fastest' is unknown"),
        (
            'pools = ["new", "old"]',
            'pools = ["new", "odd"]',
            r"routers\.decoders\.pools: 'odd' is no pool; did you mean 'old'",
        ),
        (
            'pools = ["new", "old"]',
            'pools = ["new", 3]',
            r"routers\.decoders\.pools: \['new', 3\]; expected a list of pools",
        ),
        ('when_full = "shed"', 'when_full = "drop"', r"pools\.cpu\.when_full: 'drop' is unknown"),
        ("factors = [1.0, 2.0, 1.0]", "factors = [1.0, 2.0]", r"arrivals\.factors: \[1\.0, 2\.0\]; expected 3 numbers"),
        (
            'start_up = "60 s"',
            'startup = "60 s"',
            r"pools\.prefill\.autoscale\.startup: unknown; did you mean 'start_up'",
        ),
        ("least = 2", "least = 3", r"pools\.prefill\.autoscale: 2 servers at the start"),
        ('at = "400 s"', 'at = "400 J"', r"pools\.new\.failure\.at"),
        ('fixed = "7 ms"', "fixed = [7]", r"pools\.new\.law\.fixed: \[7\]; expected a number"),
        ("rate = 15.0", "rate = 45.0", r"pools\.prefill: unstable at the start"),
    ],
)
def test_bad_changes_are_refused_in_one_line(capsys, tmp_path, old, new, message):
    text = DAY.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "day.toml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        main(["serve", "network", str(path), "--transient", "60"])
    captured = capsys.readouterr()
    assert end.value.code == 2
    assert len(captured.err.strip().splitlines()) == 1
    assert "day.toml" in captured.err
    assert re.search(message, captured.err)


def test_a_course_in_numbers_and_as_a_picture(capsys, tmp_path):
    picture = tmp_path / "course.png"
    with pytest.raises(SystemExit) as end:
        main(["serve", "network", str(DAY), "--transient", "900", "--json", "--plot", str(picture)])
    assert end.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pools"]["prefill"]["most_servers"] == 3.0
    assert found["pools"]["new"]["least_servers"] == 1.0
    assert found["autoscaling"]["prefill"]["replica_hours"] > 0.5
    assert found["classes"]["chat"]["served"] == pytest.approx(15.0 * 1200.0, rel=0.01)
    assert picture.stat().st_size > 10_000
    without = tmp_path / "loss.toml"
    without.write_text(re.sub(r"autoscale = .*", "", DAY.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["serve", "network", str(without), "--transient", "900"])
    printed = capsys.readouterr().out
    assert "recovered at" in printed
    assert "within 15 s" in printed


@pytest.mark.parametrize(("page", "least"), [("stages", 4), ("network_dynamics", 5)])
def test_every_snippet_of_the_pages_runs(monkeypatch, page, least):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert len(snippets) >= least
    names: dict = {}
    for snippet in snippets:
        exec(compile(snippet, f"docs/{page}.md", "exec"), names)
    assert names["state"].stable
    assert read_network(FILE).name == "chat with retrieval"
    if page == "network_dynamics":
        assert names["held"].utilisation[0] > names["free"].utilisation[0]
        assert names["held"].scale <= names["free"].scale
        assert names["seen"].e2e_s[0] == pytest.approx(float(names["balanced"].e2e_s[0]), rel=0.1)
        assert names["scaled"].serving["prefill"].max() > 2
