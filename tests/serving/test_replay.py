"""The replay against a plain simulation, conservation laws and limits worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import Deployment, Engine, Overheads, PhaseLaw, Requests, Tables, replay
from serving.phase_law import as_tables

PER_TOKEN, PER_ITERATION, PER_CONTEXT = 1e-4, 2e-3, 1e-7


def linear_law() -> PhaseLaw:
    """tau = 2 ms + 0.1 ms per new token + 0.1 us per sequence and cached token."""
    ends = np.array([0.0, 1e6])
    line = PER_ITERATION + PER_TOKEN * ends
    context = np.outer(ends, ends) * PER_CONTEXT
    nothing = np.zeros((2, 2))
    return PhaseLaw(
        as_tables(Tables(ends, line, ends, np.zeros(2), ends, ends, nothing, ends, ends, context, context, ends,
                         np.zeros(2)))
    )  # fmt: skip


def plain(arrivals, prompts, outputs, slots, budget):
    """Mixed batching without memory limits, one iteration after the other, in plain Python."""
    now, waiting, running, upcoming = 0.0, [], [], 0
    first, last = {}, {}
    done = dict.fromkeys(range(len(arrivals)), 0)
    made = dict.fromkeys(range(len(arrivals)), 0)
    while len(last) < len(arrivals) or running or waiting:
        while upcoming < len(arrivals) and arrivals[upcoming] <= now:
            waiting.append(upcoming)
            upcoming += 1
        if not running and not waiting:
            if upcoming == len(arrivals):
                break
            now = arrivals[upcoming]
            continue
        left, plan = budget, []
        for i in running:
            tokens = min(prompts[i] + made[i] - done[i], left)
            plan.append((i, tokens))
            left -= tokens
        while waiting and left > 0 and len(running) < slots:
            i = waiting.pop(0)
            tokens = min(prompts[i], left)
            running.append(i)
            plan.append((i, tokens))
            left -= tokens
        total = sum(tokens for _, tokens in plan)
        context = sum(done[i] for i, tokens in plan if tokens == 1 and made[i] > 0)
        now += PER_ITERATION + PER_TOKEN * total + PER_CONTEXT * context
        for i, tokens in plan:
            done[i] += tokens
            if tokens and done[i] == prompts[i] + made[i]:
                made[i] += 1
                first.setdefault(i, now)
                if made[i] == outputs[i]:
                    last[i] = now
                    running.remove(i)
    order = range(len(arrivals))
    return np.array([first[i] for i in order]), np.array([last[i] for i in order])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 0.3), st.integers(1, 200), st.integers(1, 12)), min_size=1, max_size=25),
    st.integers(1, 6),
    st.integers(6, 150),
)
def test_equals_a_plain_simulation(requests, slots, budget):
    arrivals = np.sort([r[0] for r in requests])
    prompts, outputs = np.array([r[1] for r in requests]), np.array([r[2] for r in requests])
    first, last = plain(arrivals, prompts, outputs, slots, budget)
    served = replay(
        Requests.of(arrivals, prompts, outputs), linear_law(), Engine(max_sequences=slots, max_batched_tokens=budget)
    )
    np.testing.assert_allclose(served.ttft_s, first - arrivals, rtol=1e-9)
    np.testing.assert_allclose(served.e2e_s, last - arrivals, rtol=1e-9)


def test_one_request_alone():
    served = replay(Requests.of(1.0, 250, 3), linear_law(), Engine(max_batched_tokens=100))
    chunks = 3 * PER_ITERATION + 250 * PER_TOKEN
    assert served.ttft_s[0] == pytest.approx(chunks)
    steps = 2 * (PER_ITERATION + PER_TOKEN) + (250 + 251) * PER_CONTEXT
    assert served.e2e_s[0] == pytest.approx(chunks + steps)
    assert served.tpot_s[0] == pytest.approx(steps / 2)
    assert served.iterations == 5


lengths = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 40)), min_size=2, max_size=40)


@settings(max_examples=40, deadline=None)
@given(lengths, st.sampled_from(["mixed", "prefill_first", "static"]), st.booleans(), st.integers(30, 200))
def test_every_request_is_served_or_refused_whatever_the_memory(requests, batching, lookahead, blocks):
    prompts, outputs = np.array([r[0] for r in requests]), np.array([r[1] for r in requests])
    engine = Engine(
        batching=batching, lookahead=lookahead, max_sequences=8, max_batched_tokens=512, kv_tokens=blocks * 4,
        block_tokens=4,
    )  # fmt: skip
    served = replay(Requests.of(0.0, prompts, outputs), linear_law(), engine)
    assert np.array_equal(served.refused, -(-(prompts + outputs) // 4) > blocks)
    assert served.generated_tokens == outputs[~served.refused].sum()
    assert np.all(served.e2e_s[~served.refused] >= served.ttft_s[~served.refused] - 1e-12)


def test_too_little_memory_preempts_and_recomputes():
    requests = Requests.of(0.0, np.full(8, 64), np.full(8, 64))
    tight = replay(requests, linear_law(), Engine(kv_tokens=400, block_tokens=16))
    roomy = replay(requests, linear_law(), Engine(kv_tokens=4000, block_tokens=16))
    assert tight.preemptions.sum() > 0
    assert roomy.preemptions.sum() == 0
    assert tight.makespan_s > roomy.makespan_s


def test_memory_set_aside_at_admission_preempts_nobody():
    requests = Requests.of(0.0, np.full(8, 64), np.full(8, 64))
    tight = replay(requests, linear_law(), Engine(kv_tokens=400, block_tokens=16, reserve_output=True))
    three = replay(requests, linear_law(), Engine(max_sequences=3))
    assert tight.preemptions.sum() == 0
    np.testing.assert_allclose(tight.e2e_s, three.e2e_s)  # 400 tokens hold three requests of 128


def test_roomy_memory_makes_setting_it_aside_free():
    requests = Requests.poisson(20.0, np.full(50, 300), np.full(50, 40), seed=1)
    plain, aside = (replay(requests, linear_law(), Engine(reserve_output=x)) for x in (False, True))
    np.testing.assert_array_equal(plain.e2e_s, aside.e2e_s)


def test_closed_loop_keeps_its_concurrency():
    requests = Requests.of(0.0, np.full(60, 50), np.full(60, 20))
    served = replay(requests, linear_law(), Engine(), concurrency=6)
    frame = served.to_frame()
    sent = np.concatenate([[0.0] * 6, np.sort(served.ttft_s)])[:6]
    assert len(frame) == 60
    assert np.all(sent == 0.0)
    # Little: requests in flight = throughput x time in the system, but for the drain at the end.
    assert served.e2e_s.sum() / served.makespan_s == pytest.approx(6.0, rel=0.1)


def test_replicas_share_the_load_and_lockstep_waits_for_the_slowest():
    requests = Requests.poisson(40.0, np.random.default_rng(0).integers(20, 400, 200), np.full(200, 20), seed=1)
    one = replay(requests, linear_law(), Engine())
    two = replay(requests, linear_law(), Engine(), Deployment(2))
    least = replay(requests, linear_law(), Engine(), Deployment(2, "least_loaded"))
    tied = replay(requests, linear_law(), Engine(), Deployment(2, "round_robin", True))
    assert two.e2e_s.mean() < one.e2e_s.mean()
    assert least.e2e_s.mean() <= two.e2e_s.mean() * 1.02
    assert tied.tpot_s.mean() > two.tpot_s.mean()


def test_prefill_first_gives_earlier_first_tokens_and_slower_next_ones():
    requests = Requests.poisson(8.0, np.full(100, 800), np.full(100, 60), seed=3)
    mixed = replay(requests, linear_law(), Engine(max_batched_tokens=200))
    first = replay(requests, linear_law(), Engine(batching="prefill_first", max_batched_tokens=2000))
    assert first.ttft_s.mean() < mixed.ttft_s.mean()


def test_overheads_lie_where_they_are_said_to():
    requests = Requests.of(0.0, 10, 5)
    base = replay(requests, linear_law(), Engine())
    each = replay(requests, linear_law(), Engine(overheads=Overheads(iteration_s=1e-3, sequence_s=1e-4)))
    assert each.e2e_s[0] - base.e2e_s[0] == pytest.approx(5 * 1.1e-3)
    edge = replay(requests, linear_law(), Engine(overheads=Overheads(request_s=0.5, token_s=0.25)))
    assert edge.ttft_s[0] - base.ttft_s[0] == pytest.approx(0.75)
    assert edge.tpot_s[0] == pytest.approx(base.tpot_s[0])


def test_same_inputs_same_bits():
    requests = Requests.poisson(30.0, np.random.default_rng(5).integers(1, 500, 300), np.full(300, 30), seed=2)
    runs = [replay(requests, linear_law(), Engine(max_sequences=16), Deployment(3, "least_loaded")) for _ in range(2)]
    assert np.array_equal(runs[0].e2e_s, runs[1].e2e_s)


def test_shortest_first_serves_short_prompts_sooner():
    prompts = np.array([500, 500, 500, 500, 10])
    fifo = replay(Requests.of(0.0, prompts, 4), linear_law(), Engine(max_sequences=1))
    short = replay(Requests.of(0.0, prompts, 4), linear_law(), Engine(max_sequences=1, admission="shortest_first"))
    assert short.ttft_s[4] < fifo.ttft_s[4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batching": "magic"}, "engine.batching"),
        ({"max_sequences": 0}, "engine.max_sequences"),
        ({"kv_tokens": 3}, "engine.kv_tokens"),
        ({"kv_tokens": math.nan}, "engine.kv_tokens"),
        ({"watermark": 1.5}, "engine.watermark"),
    ],
)
def test_bad_engines_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Engine(**arguments)


def test_bad_deployments_are_named():
    requests = Requests.of(0.0, 10, 5)
    with pytest.raises(ValueError, match=r"deployment\.router"):
        replay(requests, linear_law(), Engine(), Deployment(2, "best"))
    with pytest.raises(ValueError, match=r"deployment\.replicas"):
        replay(requests, linear_law(), Engine(), Deployment(0))
