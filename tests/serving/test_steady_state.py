"""The fluid steady state: Little's law, limits worked out by hand, monotonicity, gradients, and the replay."""

from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_law import law

from serving import (
    Bound,
    Deployment,
    Engine,
    Lengths,
    Limits,
    Overheads,
    Requests,
    iteration_time,
    replay,
    steady_state,
)  # fmt: skip

ENGINE = Engine(max_sequences=64, max_batched_tokens=2048, kv_tokens=2e5)
POLICIES = ("mixed", "prefill_first", "static")


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(POLICIES), st.floats(0.05, 0.95), st.floats(50, 3000), st.floats(8, 400), st.booleans())
def test_littles_law_and_the_limit(batching, load, prompt, output, lookahead):
    engine = replace(ENGINE, batching=batching, lookahead=lookahead, max_batched_tokens=4096)
    lengths = Lengths.uniform(prompt, output, 0.5)
    most = steady_state(law(), engine, lengths, rate_per_s=1e-6).most_per_s
    state = steady_state(law(), engine, lengths, rate_per_s=load * most)
    assert bool(state.stable)
    assert state.load == pytest.approx(load)
    assert state.e2e_s > state.ttft_s > 0.0
    assert state.queue_s >= 0.0
    decode_s = state.e2e_s - state.ttft_s
    assert state.decoding == pytest.approx(state.rate_per_s * decode_s, rel=1e-9)
    if batching != "static":
        # residents = rate x stay, by the fixed point
        assert state.residents >= state.decoding * (1 - 1e-6)
        assert state.tpot_s * np.mean(lengths.output_tokens - 1) == pytest.approx(decode_s)
    over = steady_state(law(), engine, lengths, rate_per_s=1.01 * most)
    assert not bool(over.stable)
    assert np.isinf(over.ttft_s)
    assert over.rate_per_s == pytest.approx(most)
    with pytest.raises(ValueError, match=r"unstable.*limit"):
        over.require_stable()


@pytest.mark.parametrize("batching", ["mixed", "prefill_first"])
def test_light_load_equals_bare_iterations(batching):
    engine = replace(ENGINE, batching=batching, overheads=Overheads(1e-3, 1e-5, 0.02, 0.003))
    state = steady_state(law(), engine, Lengths.of(1000, 101), rate_per_s=1e-7)
    own = iteration_time(law(), 1000.0, 500.0, 0.0, 0.0, 1.0) + 1e-3 + 1e-5
    step = iteration_time(law(), 0.0, 0.0, 1.0, 1000 + 49.5, 1.0) + 1e-3 + 1e-5
    assert state.ttft_s == pytest.approx(own + 0.023, rel=1e-4)
    assert state.tpot_s == pytest.approx(step, rel=1e-4)
    assert state.busy < 1e-5


@pytest.mark.parametrize("batching", POLICIES)
def test_a_single_client_is_alone(batching):
    engine = replace(ENGINE, batching=batching)
    state = steady_state(law(), engine, Lengths.of(1500, 80), concurrency=1.0)
    served = replay(Requests.of(0.0, np.full(4, 1500), np.full(4, 80)), law(), engine, concurrency=1)
    assert state.ttft_s == pytest.approx(served.ttft_s.mean(), rel=1e-6)
    assert state.tpot_s == pytest.approx(served.tpot_s.mean(), rel=1e-6)
    assert state.rate_per_s == pytest.approx(1.0 / served.e2e_s.mean(), rel=1e-6)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(POLICIES), st.floats(100, 2000), st.floats(5, 300))
def test_more_load_is_never_faster(batching, prompt, output):
    engine, lengths = replace(ENGINE, batching=batching), Lengths.lognormal(prompt, 0.6, output, 0.6)
    most = float(steady_state(law(), engine, lengths, rate_per_s=1e-6).most_per_s)
    states = steady_state(law(), engine, lengths, rate_per_s=most * np.linspace(0.05, 0.97, 24))
    assert np.all(np.diff(states.tpot_s) >= -1e-9 * states.tpot_s[1:])
    assert np.all(np.diff(states.ttft_s) >= -2e-3 * states.ttft_s[1:])
    clients = steady_state(law(), engine, lengths, concurrency=np.arange(1.0, 150.0, 3.0))
    assert np.all(np.diff(clients.rate_per_s) >= -1e-2 * clients.rate_per_s[1:])


def test_clients_beyond_the_slots_wait_by_littles_law():
    state = steady_state(law(), ENGINE, Lengths.of(200, 100), concurrency=np.array([32.0, 200.0]))
    assert list(state.bound) == [Bound.CLIENTS, Bound.SLOTS]
    np.testing.assert_allclose(state.rate_per_s * state.e2e_s, [32.0, 200.0], rtol=1e-6)


@pytest.mark.parametrize("load", ["rate_per_s", "concurrency"])
def test_gradients_equal_central_differences(load):
    lengths = Lengths.lognormal(800, 0.7, 200, 0.7)

    def answer(x, scale):
        limits = Limits.of(ENGINE)._replace(iteration_s=1e-3 * scale)
        state = steady_state(law(), ENGINE, lengths, **{load: x}, limits=limits)
        return state.ttft_s + 10.0 * state.tpot_s

    x, scale = (9.0, 1.0) if load == "rate_per_s" else (30.0, 1.0)
    gradient = jax.jit(jax.grad(answer, (0, 1)))(x, scale)
    step = 1e-5
    for i, at in enumerate([(x * step, 0.0), (0.0, step)]):
        numeric = (answer(x + at[0], scale + at[1]) - answer(x - at[0], scale - at[1])) / (2 * sum(at))
        assert float(gradient[i]) == pytest.approx(float(numeric), rel=1e-3)


def test_compiled_equals_eager_and_broadcasts():
    lengths, rates = Lengths.uniform(600, 120), np.array([1.0, 5.0, 12.0])
    eager = steady_state(law(), ENGINE, lengths, rate_per_s=rates)
    compiled = jax.jit(lambda r: steady_state(law(), ENGINE, lengths, rate_per_s=r))(rates)
    for name in ("ttft_s", "tpot_s", "most_per_s", "residents"):
        np.testing.assert_allclose(getattr(compiled, name), getattr(eager, name), rtol=1e-8)
    each = [steady_state(law(), ENGINE, lengths, rate_per_s=r).ttft_s for r in rates]
    np.testing.assert_allclose(eager.ttft_s, each, rtol=1e-8)


@pytest.mark.parametrize("load", ["rate_per_s", "concurrency"])
def test_any_limit_may_be_an_array(load):
    lengths, values = Lengths.uniform(600, 120), np.array([0.0, 1e-3, 5e-3])
    offered: dict[str, Any] = {load: 8.0}
    for name in ("iteration_s", "watermark", "max_batched_tokens"):
        at = values + (2048.0 if name == "max_batched_tokens" else 0.0)
        many = steady_state(law(), ENGINE, lengths, **offered, limits=Limits.of(ENGINE)._replace(**{name: at})).ttft_s
        each = [
            steady_state(law(), ENGINE, lengths, **offered, limits=Limits.of(ENGINE)._replace(**{name: x})).ttft_s
            for x in at
        ]
        np.testing.assert_allclose(many, each, rtol=1e-8)


@pytest.mark.parametrize(("batching", "lookahead", "load"), [
    ("mixed", False, 0.5), ("mixed", True, 0.8), ("prefill_first", False, 0.6),
])  # fmt: skip
def test_near_the_replay(batching, lookahead, load):
    engine = replace(ENGINE, batching=batching, lookahead=lookahead)
    generator = np.random.default_rng(7)
    prompts, outputs = generator.integers(300, 900, 3000), generator.integers(40, 120, 3000)
    lengths = Lengths.of(prompts, outputs)
    most = float(steady_state(law(), engine, lengths, rate_per_s=1e-6).most_per_s)
    served = replay(Requests.poisson(load * most, prompts, outputs, seed=3), law(), engine)
    state = steady_state(law(), engine, lengths, rate_per_s=load * most)
    assert state.tpot_s == pytest.approx(served.tpot_s[300:-300].mean(), rel=0.03)
    assert state.ttft_s == pytest.approx(served.ttft_s[300:-300].mean(), rel=0.10)


def test_memory_set_aside_for_outputs_limits_as_in_the_replay():
    engine = replace(ENGINE, kv_tokens=20_000.0, reserve_output=True)
    generator = np.random.default_rng(5)
    prompts, outputs = generator.integers(300, 900, 1500), generator.integers(100, 700, 1500)
    lengths = Lengths.of(prompts, outputs)
    aside = steady_state(law(), engine, lengths, concurrency=64)
    grown = steady_state(law(), replace(engine, reserve_output=False), lengths, concurrency=64)
    assert aside.residents < grown.residents
    assert not aside.preemptions
    served = replay(Requests.of(0.0, prompts, outputs), law(), engine, concurrency=64)
    assert float(aside.rate_per_s) == pytest.approx(1500 / served.makespan_s, rel=0.05)


def test_lockstep_ranks_are_slower_than_free_ones():
    lengths = Lengths.uniform(600, 120)
    free = steady_state(law(), ENGINE, lengths, rate_per_s=16.0, deployment=Deployment(4))
    tied = steady_state(law(), ENGINE, lengths, rate_per_s=16.0, deployment=Deployment(4, "round_robin", True))
    assert tied.tpot_s > free.tpot_s
    assert tied.most_per_s < free.most_per_s


@pytest.mark.parametrize(("batching", "load"), [("mixed", 0.6), ("prefill_first", 0.5)])
def test_lockstep_ranks_near_the_replay(batching, load):
    engine = replace(ENGINE, batching=batching)
    deployment = Deployment(4, "round_robin", True)
    generator = np.random.default_rng(11)
    prompts, outputs = generator.integers(300, 900, 3000), generator.integers(100, 300, 3000)
    lengths = Lengths.of(prompts, outputs)
    most = float(steady_state(law(), engine, lengths, rate_per_s=1e-6, deployment=deployment).most_per_s)
    served = replay(Requests.poisson(load * most, prompts, outputs, seed=3), law(), engine, deployment)
    state = steady_state(law(), engine, lengths, rate_per_s=load * most, deployment=deployment)
    assert state.tpot_s == pytest.approx(served.tpot_s[300:-300].mean(), rel=0.08)
    assert state.ttft_s == pytest.approx(served.ttft_s[300:-300].mean(), rel=0.12)


def test_bad_loads_are_named():
    with pytest.raises(ValueError, match="exactly one"):
        steady_state(law(), ENGINE, Lengths.of(10, 10))
    with pytest.raises(ValueError, match="rate_per_s"):
        steady_state(law(), ENGINE, Lengths.of(10, 10), rate_per_s=-1.0)
    with pytest.raises(ValueError, match="burstiness: -1"):
        steady_state(law(), ENGINE, Lengths.of(10, 10), rate_per_s=1.0, burstiness=-1.0)
    with pytest.raises(ValueError, match="rate_per_s: nan"):
        steady_state(law(), ENGINE, Lengths.of(10, 10), rate_per_s=[1.0, np.nan])
    listed = steady_state(law(), ENGINE, Lengths.of(10, 10), rate_per_s=[1.0, 2.0], burstiness=[1.0, 2.0])
    assert listed.ttft_s.shape == (2,)
    with pytest.raises(ValueError, match=r"lengths\.output_tokens"):
        Lengths.of(10, 0)


@pytest.mark.parametrize("low", [1.0, 0.5])
def test_the_host_launches_prompts_layer_by_layer_here_as_in_the_replay(low):
    slow = replace(law(), layers=32.0)
    engine = replace(ENGINE, overheads=Overheads(layer_s=1e-3))
    state = steady_state(slow, engine, Lengths.uniform(200, 50, low), rate_per_s=1.0)
    alone = replay(Requests.of(np.arange(40) * 5.0, 200, 50), slow, engine)
    assert alone.ttft_s.mean() > 0.032
    light = steady_state(slow, engine, Lengths.uniform(200, 50, low), rate_per_s=1e-4)
    assert light.ttft_s == pytest.approx(alone.ttft_s.mean(), rel=1e-3)
    assert state.ttft_s > light.ttft_s
    assert state.tpot_s > steady_state(slow, ENGINE, Lengths.uniform(200, 50, low), rate_per_s=1.0).tpot_s
