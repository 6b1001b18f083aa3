"""Accelerators of the catalogue: every layer kind maps on each, results obey their bounds, and the estimator's signature."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataflow import (
    attention_pv,
    attention_qk,
    conv2d,
    depthwise_conv2d,
    evaluate,
    gemm,
    grouped_conv2d,
    mapping_from_text,
)
from dataflow.layer_estimator import preset_estimator
from dataflow.layer_mapping import ROLE_ORDER, rule_mapping, run_layer
from dataflow.plots import energy_frame, latency_frame, layer_figure, nest_text, reuse_frame
from dataflow.presets import LevelRule, preset, preset_names
from ridgeline.cli import main
from roofline import Reason, operator_bound, phase_time
from workloads.operators import Attention, Conv2d, Elementwise, Gemm, GroupedGemm

size = st.integers(1, 40)


def layers(draw_size=24):
    n = draw_size
    return {
        "conv2d": conv2d(2, n, n + 3, 19, 17, 3, 3, 2, 1, 1),
        "depthwise": depthwise_conv2d(1, n, 14, 14, 3, 3),
        "grouped": grouped_conv2d(1, 2, n, n, 15, 15, 5, 5),
        "gemm": gemm(31, n, 2 * n + 1),
        "qk": attention_qk(1, 2, n, 33, 16),
        "pv": attention_pv(1, 2, n, 33, 16),
    }


@pytest.mark.parametrize("name", preset_names())
def test_every_kind_of_layer_maps_and_respects_its_bounds(name):
    chip = preset(name)
    for rule in chip.dataflows:
        for problem in layers().values():
            run = run_layer(problem, chip, dataflow=rule.name, variants=8)
            found = run.evaluation
            assert found.reason == 0
            assert 0.0 < found.utilisation <= 1.0
            assert found.cycles >= problem.macs / chip.architecture.compute_units
            outer = run.architecture.levels[0]
            words = sum(float(t.fills + t.reads + t.updates) for t in found.counts.words["DRAM"].values())
            assert found.cycles >= words / outer.shared_words_per_cycle * (1 - 1e-9)
            again = mapping_from_text(run.mapping.to_text(), problem, run.architecture)
            assert evaluate(problem, run.architecture, again).cycles == found.cycles


@settings(deadline=None, max_examples=25)
@given(size, size, size, st.sampled_from(("eyeriss", "gemmini", "output_stationary")))
def test_any_size_maps_and_more_variants_are_never_worse(m, n, k, name):
    problem, chip = gemm(m, n, k), preset(name)
    few, many = (run_layer(problem, chip, variants=v).evaluation.edp for v in (1, 64))
    assert many <= few
    plain = rule_mapping(problem, chip.architecture_for(problem), chip.dataflow())
    assert evaluate(problem, chip.architecture_for(problem), plain).edp == pytest.approx(few)


def test_stationary_tensors_stay():
    """The tensor a teaching design is named after enters the elements' registers the fewest times it can."""
    problem = gemm(64, 32, 32)
    weights = run_layer(problem, "weight_stationary").evaluation.counts.words["register_file"]["Weights"]
    assert weights.fills * weights.instances == 32 * 32
    sums = run_layer(problem, "output_stationary").evaluation.counts.words["register_file"]["Outputs"]
    assert sums.reads == sums.updates - 1 * sums.updates / 32


@pytest.mark.parametrize("name", preset_names())
def test_no_rule_nests_worse_at_the_outermost_level_than_without_one(name):
    """What a rule says about the outermost loops is what it means: the usual nesting there would not cost less."""
    chip, work = preset(name), conv2d(1, 64, 64, 56, 56, 3, 3, 1, 1, 1)
    outer = chip.architecture.level_names[0]
    for rule in chip.dataflows:
        usual = replace(rule.levels.get(outer, LevelRule()), order=ROLE_ORDER)
        other = replace(chip, dataflows=(replace(rule, levels=rule.levels | {outer: usual}),))
        written, nested = (run_layer(work, c, dataflow=rule.name, variants=16).evaluation for c in (chip, other))
        assert written.energy_joules <= nested.energy_joules * (1 + 1e-9)
        assert written.cycles <= nested.cycles * (1 + 1e-9)


def test_a_row_stationary_mapping_is_what_its_summary_says():
    work = conv2d(1, 64, 64, 56, 56, 3, 3, 1, 1, 1)
    run = run_layer(work, "eyeriss", dataflow="row_stationary")
    buffer = run.mapping.levels.index("global_buffer")
    spread = {axis: {x.dimension for x in run.mapping.loops(buffer) if x.axis == axis} for axis in "XY"}
    assert spread["X"] <= {"P", "M"}
    assert "R" in spread["Y"]
    assert spread["Y"] <= {"R", "C", "M"}
    assert "output rows or filters over columns" in preset("eyeriss").dataflow("row_stationary").summary


def test_views():
    problem = conv2d(1, 8, 16, 16, 16, 3, 3)
    runs = {rule.name: run_layer(problem, "eyeriss", dataflow=rule.name) for rule in preset("eyeriss").dataflows}
    text = nest_text(runs["row_stationary"])
    assert text.splitlines()[0] == "DRAM [Weights, Inputs, Outputs]"
    assert text.splitlines()[-1].strip() == "Outputs += Weights * Inputs"
    assert "parallel-for r in 3  (over Y)" in text
    for run in runs.values():
        frame = reuse_frame(run)
        spent = frame["energy_joules"].sum() + float(run.evaluation.energy.compute)
        assert spent == pytest.approx(float(run.evaluation.energy_joules))
        served = frame[(frame["level"] == "weight_scratchpad")]
        assert served["reads_words"].item() == problem.macs
    latency = latency_frame(runs)
    assert (latency["total"] >= latency[["compute", "DRAM"]].max(axis=1)).all()
    assert energy_frame(runs).sum(axis=1).to_numpy() == pytest.approx(
        [float(run.evaluation.energy_joules) for run in runs.values()]
    )
    figure = layer_figure(runs, title="four dataflows")
    assert figure.axes[0].get_ylabel() == "energy (pJ per MAC)"


def test_estimator_answers_operators_and_arrays():
    chip = preset("simba")
    estimate = preset_estimator(chip, variants=4)
    one = estimate(Gemm(m=64, n=64, k=64), chip.chip())
    many = estimate(Gemm(m=np.array([[64.0], [128.0]]), n=np.array([64.0, 64.0]), k=64.0), chip.chip())
    assert many.total_s.shape == (2, 2)
    assert many.total_s[0, 0] == one.total_s == many.total_s[0, 1]
    assert one.total_s >= 2 * 64**3 / (2 * 1024 * 1.8e9)
    run = run_layer(gemm(64, 64, 64), chip, objective="latency", variants=4)
    assert one.total_s == pytest.approx(float(run.evaluation.latency_s))
    for op in (
        Conv2d(batch=1, channels=16, filters=16, height=8, width=8, kernel_h=3, kernel_w=3),
        Conv2d(batch=1, channels=16, filters=16, height=8, width=8, kernel_h=3, kernel_w=3, groups=16),
        Attention(sequences=1, query_tokens=32, kv_tokens=32, heads=2, kv_heads=2, head_dim=16),
        GroupedGemm(tokens=8, experts=8, top_k=2, n=32, k=32, local_experts=8),
        Elementwise(elements=1000.0),
    ):
        answer = estimate(op, chip.chip())
        assert answer.reason == Reason.OK
        assert answer.total_s > 0
        assert answer.total_s >= op.flops / (2 * 1024 * 1.8e9) * 0.99 or op.unit == "vector"


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 200), st.sampled_from(("simba", "tpu_v1_like")))
def test_estimator_is_never_below_the_roofline(m, n, k, name):
    chip = preset(name)
    op = Gemm(m=m, n=n, k=k, dtype="int8")
    found = preset_estimator(chip, variants=3)(op, chip.chip())
    assert found.total_s >= operator_bound(op, chip.chip()).total_s * (1 - 1e-12)


def test_a_model_runs_on_a_preset():
    import workloads

    table = workloads.load("bert_base").phase(workloads.Batch.prefill_of(1, 32), workloads.Parallelism())
    chip = preset("nvdla_like")
    found = phase_time(table, chip.chip(), estimator=preset_estimator(chip, variants=2))
    assert np.isfinite(found.total_s)
    assert found.total_s > 12 * 2 * 32 * 7e6 / (2 * 2048e9) * 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clock = '1 GHz'\nspeed = 3", "unknown key 'speed'"),
        ("level = [{name = 'DRAM'}]\ndataflow = {a = {}}", "clock: missing"),
        ("clock = '1 GHz'\nlevel = [{name = 'D', sise = 3}]\ndataflow = {a = {}}", r"level\[0\]: unknown key 'sise'"),
        ("clock = '1 GHz'\nlevel = [{name = 'D'}]\ndataflow = {a = {E = {x = ['rows']}}}", "unknown level 'E'"),
        ("clock = '1 GHz'\nlevel = [{name = 'D'}]\ndataflow = {a = {D = {x = ['row']}}}", "did you mean 'rows'"),
        ("clock = '1 GHz'\nlevel = [{name = 'D', fanout_x = -1}]\ndataflow = {a = {}}", "fanout_x: -1"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        preset(path)


def test_unknown_names_and_unmappable_layers():
    with pytest.raises(ValueError, match="did you mean 'eyeriss'"):
        run_layer(gemm(2, 2, 2), "eyeris")
    with pytest.raises(ValueError, match="did you mean 'row_stationary'"):
        run_layer(gemm(2, 2, 2), "eyeriss", dataflow="row_stationery")
    with pytest.raises(ValueError, match="unknown objective 'speed'"):
        run_layer(gemm(2, 2, 2), "eyeriss", objective="speed")


def test_command_line(capsys, tmp_path):
    def call(*words):
        with pytest.raises(SystemExit) as stop:
            main(["dataflow", *words])
        return stop.value.code, capsys.readouterr()

    code, out = call("--json")
    assert code == 0
    assert {row["name"] for row in json.loads(out.out)} == set(preset_names())
    code, out = call("gemm", "m=8", "n=16", "k=32", "--on", "gemmini", "--json", "--plot", str(tmp_path / "a.png"))
    answer = json.loads(out.out)[0]
    assert (code, answer["macs"]) == (0, 8 * 16 * 32)
    assert (tmp_path / "a.png").stat().st_size > 10_000
    code, out = call("gemm", "m=8", "n=16", "k=32", "--dataflow", "all")
    assert code == 0
    assert "input_stationary" in out.out
    for words, message in (
        (("gem",), "unknown layer kind 'gem'; did you mean 'gemm'?"),
        (("gemm", "m=0"), "LAYER gemm.m: '0'"),
        (("gemm", "m=2"), "n, k missing"),
        (("gemm", "q=2"), "unknown size 'q'"),
    ):
        code, out = call(*words)
        assert code == 2
        assert message in out.err
        assert out.err.count("\n") == 1
