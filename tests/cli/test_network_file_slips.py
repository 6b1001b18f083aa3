"""Slips of the pen in a network file: one line with the field's path, whatever stands there."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ridgeline.cli import main
from ridgeline.engine_law_file import engine_law
from ridgeline.stage_network_file import read_network
from serving.dynamics import Autoscaler, autoscaled_course
from serving.experts import missing_experts, power_law_routing, replicated_placement, traced_routing

NETWORKS = Path(__file__).parents[2] / "docs" / "networks"


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("rag", 'name = "chat with retrieval"', "name = nan", "name: nan; expected text"),
        ("rag", "dimensions = 768", "dimensions = 0", r"pools.index.search.dimensions: 0; expected a number above 0"),
        ("rag", "probes = 32", "probes = 65537", r"pools.index.search.probes: 65537; expected at most the 65536 lists"),
        ("rag", "probes = 32, ", "", r"pools.index.search.probes: missing"),
        ("rag", "probes = 32", "probes = 32, residual = 3", r"pools.index.search.residual: 3; expected true or false"),
        ("experts", "context = 2048", "context = 0", r"law.context: 0; expected at least 1 token"),
        ("rag", "clock_share = 0.8", "clock_share = 8", r"pools.prefill.power.clock_share: 8; expected a share"),
        ("rag", "rate = 12.0", "rate = 1e300", r"classes.chat.rate: 1e\+300; expected a number from"),
        (
            "rag",
            'work = "3 ms"',
            'work = "1e-290 s"',
            r"classes.chat.stages.prepare.work: '1e-290 s'; expected a number",
        ),
        ("kv_tiers", 'kind = "ssd"', "kind = []", r"tiers.ssd.kind: \[\]; expected a kind of memory"),
        ("kv_tiers", '"host", "ssd"]', '"host", "host"]', r"retrieve.tiers: .*expected at least two different tiers"),
        ("kv_tiers", '"host", "ssd"]', '"host", {}]', r"retrieve.tiers: \{\} is no tier"),
        ("kv_tiers", 'kv_dtype = "bf16"', "kv_dtype = []", r"retrieve.block.kv_dtype: \[\]; expected a format"),
        ("kv_tiers", 'feeds = "prefill"', "feeds = []", r"retrieve.feeds: \[\] is no stage"),
        ("kv_tiers", 'slows = { pool = "decode"', "slows = { pool = {}", r"slows.pool: \{\}; expected a batch or"),
        ("kv_tiers", "[pools.decode]", "[pools.other]", r"slows.pool: 'decode'; expected a batch or"),
        ("experts", "dp = 4, ep = 4", "dp = 4.5, ep = 4", r"pools.shared.law.dp: 4.5; expected a whole number"),
        ("experts", "dp = 4, ep = 4", "dp = 4, ep = 3", r"pools.shared.law"),
        ("experts", "copies = 16", 'copies = "many"', r"pools.shared.law.routing.copies: 'many'; expected"),
        ("experts", "exponent = 0.8, c", "exponent = -1, c", r"pools.shared.law.routing.exponent: -1 is"),
        ("experts", "resident = 80", "resident = nan", r"pools.small.law.offload.resident: nan is"),
        ("experts", 'on = "l40s"', 'on = "l41z"', r"pools.small.law.on: unknown device 'l41z'"),
        ("experts", "micro_batches = 2", "micro_batches = 2.5", r"feed_forward.micro_batches: 2.5; expected a whole"),
    ],
)
def test_a_slip_in_a_network_file_is_named(name: str, old: str, new: str, said: str, tmp_path: Path) -> None:
    text = (NETWORKS / f"{name}.toml").read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "network.toml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"^[^\n]*toml: [^\n]*{said}[^\n]*$") as error:
        read_network(file)
    assert str(error.value).count("pools.shared.law") < 2


def test_a_slip_in_an_engine_s_law_is_named() -> None:
    law: dict[str, Any] = tomllib.loads((NETWORKS / "npu.toml").read_text(encoding="utf-8"))["pools"]["decode"]["law"]
    for key, value in (("model", 3), ("model", "nothing"), ("on", []), ("dtype", []), ("dtype", "fp3"), ("tp", 0)):
        with pytest.raises(ValueError, match=rf"^pools\.decode\.law\.{key}: "):
            engine_law(law | {key: value}, "pools.decode.law")


def test_an_autoscaler_without_bounds_is_refused() -> None:
    network = read_network(NETWORKS / "day.toml").network
    with pytest.raises(ValueError, match=r"pools.prefill: .*expected at most"):
        autoscaled_course(network, (Autoscaler(pool="prefill", most=10**18),), duration_s=10.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--scale", "1e300"], "--scale: 1e+300; expected"),
        (["--replay", "0"], "--replay: 0; expected"),
        (["--replay", "20", "--seed", "-1"], "--seed: -1; expected"),
        (["--elasticities", "-1"], "--elasticities: -1; expected"),
        (["--transient", "inf"], "--transient: inf; expected"),
        (["--transient", "1e-300"], "--transient: 1e-300; expected"),
        (["--transient", "10", "--replay", "100"], "--replay: no part of a course"),
    ],
)
def test_a_slip_in_an_option_is_named(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["serve", "network", str(NETWORKS / "day.toml"), *options])
    error = capsys.readouterr().err.strip()
    assert (end.value.code, error.count("\n")) == (2, 0)
    assert said in error


def test_a_network_that_nothing_limits_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "network.toml"
    file.write_text('[pools.a]\nkind = "delay"\n[classes.c]\nrate = 0.1\n[classes.c.stages.s]\npool = "a"\n')
    with pytest.raises(SystemExit):
        main(["serve", "network", str(file), "--json"])
    answer = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert (answer["stable"], answer["scale"], answer["bottleneck"]) == (True, None, None)
    assert answer["statements"] == ["no pool limits the network"]


def test_a_router_s_limit_for_no_class_is_named(tmp_path: Path) -> None:
    file = tmp_path / "network.toml"
    file.write_text(
        '[pools.a]\n[pools.b]\n[routers.r]\npools = ["a", "b"]\npolicy = "slo"\ncost = [1, 2]\nlimits = { chart = "1 s" }\n'
        '[classes.chat]\nrate = 0.1\n[classes.chat.stages.s]\npool = "r"\n'
    )
    with pytest.raises(ValueError, match=r"routers\.r\.limits_s\.chart: no class; did you mean 'chat'"):
        read_network(file)


def test_expert_arguments_are_checked() -> None:
    routing = power_law_routing(8, 0.8)
    for name, ask in {
        "run_tokens": lambda: power_law_routing(8, 0.8, run_tokens=float("nan")),
        "ranks": lambda: replicated_placement(routing, 0, 4),
        "policy": lambda: missing_experts(routing, 16.0, 2.0, 4.0, "fifo"),
        "top_k": lambda: traced_routing([[1.0, 2.0], [2.0, 1.0]], 0.0),
    }.items():
        with pytest.raises(ValueError, match=f"^{name}: "):
            ask()
