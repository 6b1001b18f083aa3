"""A plan asks for each shape once and only what is missing; the harness measures it here and the store then has
it."""

import json

import numpy as np
import pytest

import workloads
from profiles.measure import MeasureReport, measure_plan
from profiles.measure_jax import JaxBackend
from profiles.plan import plan_measurements, read_plan
from profiles.store import Store
from profiles.store_schema import KINDS
from ridgeline.cli import main
from workloads.batch import Batch, DecodeGroup, PrefillGroup

TINY = (
    Batch(prefill=(PrefillGroup(1.0, np.array([16.0, 32.0])),)),
    Batch(decode=(DecodeGroup(np.array([1.0, 16.0]), np.array([64.0, 128.0])),)),
)
MODEL = workloads.read_config(
    {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 128, "intermediate_size": 256,
        "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 512,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "float32",
        "tie_word_embeddings": False,
    }
)  # fmt: skip


def test_labels_say_what_the_request_moves():
    plan = plan_measurements([MODEL], batches=TINY)
    gemm = [o for o in plan.operators if o.kind == "gemm"]
    assert gemm
    for operator in gemm:
        assert set(operator.request) == {"m"}
        assert {"n", "k"} <= set(operator.model)
    decode = [o for o in plan.operators if o.kind == "attention" and "sequences" in o.request]
    assert decode
    assert {o.model["heads"] for o in decode} == {4.0}
    assert sum(o.points for o in plan.operators) == plan.counts.to_measure


def test_the_same_model_twice_costs_nothing_more():
    once, twice = plan_measurements([MODEL], batches=TINY), plan_measurements([MODEL, MODEL], batches=TINY)
    assert twice.counts.distinct == once.counts.distinct
    assert twice.counts.saved == 0.0 or twice.counts.to_measure == once.counts.to_measure
    split = plan_measurements([MODEL], (1, 2), batches=TINY)
    assert once.counts.distinct < split.counts.distinct < 2 * once.counts.distinct


def test_a_plan_survives_its_file(tmp_path):
    plan = plan_measurements([MODEL], batches=TINY)
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    assert read_plan(path) == plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "format: expected"),
        ({"operators": [{"kind": "gem"}]}, r"operators\[0\]"),
        ({"operators": [{"kind": "gemm", "options": {}, "model": {"q": 1}, "request": {}}]}, "unknown column 'q'"),
    ],
)
def test_a_wrong_plan_is_named(tmp_path, change, message):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**json.loads(plan_measurements([MODEL], batches=TINY).to_json()), **change}))
    with pytest.raises(ValueError, match=message):
        read_plan(path)


def test_the_harness_measures_here_and_resumes(tmp_path):
    plan = plan_measurements([MODEL], batches=TINY)
    store, backend = Store(tmp_path / "store"), JaxBackend(flush=False)
    first = measure_plan(plan, store, backend, repeats=2, limit=5)
    assert isinstance(first, MeasureReport)
    assert (first.measured, first.known) == (5, 0)
    assert len(first.skipped) == plan.counts.to_measure - 5
    done = measure_plan(plan, store, backend, repeats=2)
    assert done.known == 5
    assert done.measured + len(done.skipped) == plan.counts.to_measure - 5
    assert done.measured > 0.7 * plan.counts.to_measure
    again = measure_plan(plan, store, backend, repeats=2)
    assert again.measured == 0
    rows = store.read("gemm", device="host", stack=backend.stack)
    assert (rows["latency_s"] > 0).all()
    assert (rows["n_repeats"] == 2).all()
    rest = plan_measurements([MODEL], batches=TINY, store=store, device="host")
    assert rest.counts.in_store == done.measured + 5
    assert rest.counts.to_measure == len(done.skipped)


def test_what_cannot_run_says_why(tmp_path):
    plan = plan_measurements([MODEL.with_quantisation("nvfp4")], batches=TINY)
    report = measure_plan(plan, Store(tmp_path), JaxBackend(flush=False), repeats=1, limit=200)
    reasons = report.skipped[report.skipped["kind"] == "gemm"]["reason"]
    assert reasons.str.contains("nvfp4").any()


def test_commands(tmp_path, capsys):
    plan, store = tmp_path / "plan.json", tmp_path / "store"
    for arguments in (
        ["profile", "plan", "qwen3-0.6b", "--tp", "1,2", "--output", str(plan)],
        ["measure", "--list", str(plan), "--store", str(store), "--repeats", "1", "--limit", "2", "--backend", "jax"],
        ["profile", "list", "--store", str(store)],
    ):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0, capsys.readouterr()
    assert "to measure" in capsys.readouterr().out or plan.exists()
    for arguments in (
        ["profile", "plan", "qwen3-0.6b", "--tp", "one", "--output", str(plan)],
        ["profile", "plan", "no-such-model", "--output", str(plan)],
        ["profile", "list", "--store", str(tmp_path / "nowhere")],
        ["measure", "--list", str(store), "--store", str(store)],
    ):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_every_operator_kind_is_covered_or_explained():
    assert {"gemm", "attention", "moe_layer", "mixed_attention"} <= set(KINDS)
