"""Two pools under an open loop: limits, the aggregated deployment they come from, the closed loop, and their replay."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hardware
import workloads
from serving import (
    Disaggregated,
    Lengths,
    Limits,
    Requests,
    Wire,
    Workers,
    closed_form_law,
    disaggregated_draws,
    disaggregated_loop,
    disaggregated_state,
    load_engine,
    replay_disaggregated,
    steady_state,
)
from serving.closed_form_law import Knots
from tiles import tile_estimator
from workloads import Parallelism, TransformerModel

PROMPT, OUTPUT = 2000, 200
LENGTHS = Lengths.of(PROMPT, OUTPUT)
FREE = Wire(1.0, 1e30, 1e30)
ENGINE = replace(load_engine("vllm").calibrated(), kv_tokens=400_000.0)
LIMITS = Limits.of(ENGINE)


@pytest.fixture(scope="module")
def law():
    model, chip = workloads.load("llama-3.1-8b"), hardware.load("h100_sxm")
    assert isinstance(model, TransformerModel)
    return closed_form_law(model, chip, Parallelism(), tile_estimator("vllm"), knots=Knots(16384, 8192, 1024))


def workers(law, count, **limits):
    return Workers(law, ENGINE, LIMITS._replace(**limits), count)


def state(law, rate, prompts=1, decoders=1, wire=FREE, lengths=LENGTHS, **limits):
    return disaggregated_state(workers(law, prompts, **limits), workers(law, decoders), wire, lengths, rate)


def test_a_light_load_takes_a_prompt_and_steps(law):
    """Nothing waits: overheads, one prompt, one step of a decode worker to the first token, and as long for each other."""
    found = state(law, 1e-4)
    together = steady_state(law, ENGINE, LENGTHS, rate_per_s=1e-4)
    assert found.ttft_s == pytest.approx(together.ttft_s + together.tpot_s, rel=0.02)
    assert found.tpot_s == pytest.approx(together.tpot_s, rel=0.02)


@given(st.floats(0.05, 0.9))
@settings(deadline=None, max_examples=10)
def test_prompts_of_their_own_pool_leave_decoding_alone(law, load):
    """Without cost of the transfer, a token takes less than beside prompts on one chip; no law makes two chips with fixed
    roles serve more than two that do both."""
    most = float(steady_state(law, ENGINE, LENGTHS, rate_per_s=1e9).most_per_s)
    alone = state(law, load * most)
    together = steady_state(law, ENGINE, LENGTHS, rate_per_s=load * most)
    assert alone.tpot_s <= together.tpot_s * 1.001
    assert alone.most_per_s <= 2.0 * most * 1.02


@given(st.floats(0.0, 0.95), st.floats(1.0, 30.0))
@settings(deadline=None, max_examples=20)
def test_slower_links_and_heavier_loads_never_help(law, load, slower):
    wire = Wire(131072.0, 50e9, 100e9)
    worse = wire._replace(flow_bytes_per_s=50e9 / slower, total_bytes_per_s=100e9 / slower)
    rate = np.array([load, load + 0.04]) * float(state(law, 1e-3, wire=worse).most_per_s) + 1e-6
    fast, slow = (state(law, rate, wire=w) for w in (wire, worse))
    assert np.all(fast.ttft_s <= slow.ttft_s * (1 + 1e-9))
    assert fast.ttft_s[0] <= fast.ttft_s[1]
    assert np.all(fast.most_per_s >= slow.most_per_s)


def test_the_slowest_part_is_the_limit(law):
    found = state(law, 1.0, wire=Wire(131072.0, 1e9, 1e9))
    assert found.most_per_s == pytest.approx(1e9 / (131072.0 * PROMPT))
    beyond = state(law, np.array([1.0, 5.0]), wire=Wire(131072.0, 1e9, 1e9))
    assert list(np.isinf(beyond.ttft_s)) == [False, True]
    drawn = disaggregated_draws(workers(law, 1), workers(law, 1), Wire(131072.0, 1e9, 1e9), LENGTHS, beyond)
    assert list(drawn.within(1e9, 1.0)) == [1.0, 0.0]
    assert state(law, 1.0, prompts=3).prompts_per_s == pytest.approx(3.0 * found.prompts_per_s)
    assert state(law, 1.0, prompts=50).most_per_s == pytest.approx(found.decode.most_per_s)


@pytest.mark.parametrize(("prompts", "load"), [(1, 0.6), (4, 0.8)])
def test_the_replay_agrees(law, prompts, load):
    wire = Wire(131072.0, 50e9, 50e9 * prompts)
    pools = workers(law, prompts), workers(law, 2 * prompts)
    lengths = Lengths.uniform(PROMPT, OUTPUT, 0.7)
    rate = load * float(disaggregated_state(*pools, wire, lengths, 1e-3).most_per_s)
    found = disaggregated_state(*pools, wire, lengths, rate)
    sizes = np.ceil(np.random.default_rng(1).uniform(0.7, 1.0, (2, 6000)) * [[PROMPT], [OUTPUT]])
    served = replay_disaggregated(Requests.poisson(rate, *sizes, seed=2), *pools, wire)
    settled = slice(500, -500)
    assert found.ttft_s == pytest.approx(served.ttft_s[settled].mean(), rel=0.07)
    assert found.tpot_s == pytest.approx(served.tpot_s[settled].mean(), rel=0.03)
    drawn = disaggregated_draws(*pools, wire, lengths, found)
    assert drawn.ttft_s.mean() == pytest.approx(float(found.ttft_s), rel=0.02)
    assert drawn.tpot_s.mean() == pytest.approx(float(found.tpot_s), rel=0.02)
    level = np.percentile(served.ttft_s[settled], 90)
    assert drawn.within(level, 1.0) == pytest.approx(0.9, abs=0.03)
    assert drawn.within(level, 0.0) == 0.0


def test_the_closed_loop_at_the_same_throughput_agrees(law):
    """Of `disaggregated_loop`, which has neither classes nor waits of decode workers."""
    pools = Disaggregated(
        prefill=law, prefill_ranks=2, decode=law, decode_ranks=2, transfer_bytes_per_token=131072.0,
        link_bytes_per_s=50e9, layers=float(law.layers), overheads=ENGINE.overheads,
    )  # fmt: skip
    loop = disaggregated_loop(pools, 40, PROMPT, OUTPUT)
    found = state(law, loop.completions_per_s, 2, 2, Wire(131072.0, 50e9, 1e30), max_batched_tokens=2048.0)
    assert found.tpot_s == pytest.approx(loop.tpot_s, rel=0.05)
    assert found.ttft_s == pytest.approx(loop.ttft_s, rel=0.4)


def test_static_batching_has_no_pools(law):
    static = Workers(law, replace(ENGINE, batching="static"), LIMITS)
    with pytest.raises(ValueError, match="static"):
        disaggregated_state(static, workers(law, 1), FREE, LENGTHS, 1.0)
