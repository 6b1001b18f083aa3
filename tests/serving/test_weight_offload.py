"""Experts and layers in farther tiers: nothing far is the plain law, drawn steps, what prefetch hides, derivatives."""

from dataclasses import replace
from itertools import pairwise

import jax
import numpy as np
import pytest
from plain_law import law as plain_law

import workloads
from serving import Engine, Lengths, iteration_time, steady_state
from serving.experts import (
    ExpertOffload,
    LayerOffload,
    chosen_probability,
    expert_bytes,
    fetch_s,
    hit_probability,
    layer_bytes,
    missing_experts,
    offloaded_law,
    overlapped_s,
    power_law_routing,
    random_routing,
)
from serving.stages import decode_law, law_time, memory_tier
from workloads import Parallelism

HOST = memory_tier("host")


@pytest.fixture(scope="module")
def law():
    sequences = np.array([0.0, 1.0, 8.0, 64.0, 512.0])
    own = plain_law()
    ends = own.tables.decode_context
    context = np.outer(sequences, ends) * 2e-8
    return replace(
        own, layers=48.0, tables=own.tables._replace(decode_sequences=sequences, decode_s=context, mixed_s=context)
    )


def experts(resident, **changes):
    given = {"routing": power_law_routing(64, 0.7), "top_k": 4, "expert_bytes": 9.4e6, "tier": HOST} | changes
    return ExpertOffload(resident=resident, **given)


def decode_s(law, n=8.0):
    return float(iteration_time(law, 0.0, 0.0, n, 800.0, n))


def test_nothing_far_is_the_plain_law(law):
    nowhere = LayerOffload(layer_bytes=1e9, share=0.0, tier=HOST)
    for offload in (experts(64.0), experts(64.0, policy="lru"), experts(64.0, prefetch=1.0, wasted=0.5), nowhere):
        for plain, same in zip(law.tables, offloaded_law(law, offload).tables):
            np.testing.assert_array_equal(plain, same)
        assert float(offload.freed_bytes(48.0)) == 0.0


@pytest.mark.parametrize("policy", ["pinned", "lru"])
def test_missing_experts_are_those_of_drawn_steps(policy):
    routing, tokens, top_k, resident = power_law_routing(64, 0.8), 6, 2, 40
    generator, missed = np.random.default_rng(2), []
    probability = np.asarray(chosen_probability(routing, top_k))
    order = list(range(resident))  # most recently used last
    for _ in range(4000):
        ends = np.cumsum(probability) - generator.random((tokens, 1))
        needed = np.flatnonzero((np.floor(ends) > np.floor(ends - probability)).any(axis=0))
        if policy == "pinned":
            missed.append(np.sum(needed >= resident))
            continue
        missed.append(len(set(needed) - set(order)))
        order = ([e for e in order if e not in needed] + list(needed))[-resident:]
    law = float(missing_experts(routing, float(tokens), top_k, float(resident), policy))
    assert law == pytest.approx(np.mean(missed[200:]), rel=0.06)


def test_a_step_fetches_less_the_more_is_resident(law):
    sizes = np.array([0.0, 16.0, 32.5, 48.0, 64.0])
    for policy in ("pinned", "lru"):
        times = [decode_s(offloaded_law(law, experts(size, policy=policy))) for size in sizes]
        assert all(after < before for before, after in pairwise(times))
        assert times[-1] == decode_s(law)
    assert decode_s(offloaded_law(law, experts(16.0, policy="lru"))) > decode_s(offloaded_law(law, experts(16.0)))
    all_far = decode_s(offloaded_law(law, experts(0.0)))
    hit = float(hit_probability(power_law_routing(64, 0.7), 8.0, 4).sum())
    assert all_far == pytest.approx(decode_s(law) + 48 * float(fetch_s(HOST, hit, 9.4e6)), rel=1e-9)
    # two ranks fetch over links of their own, two sharers over one
    one = decode_s(offloaded_law(law, experts(16.0))) - decode_s(law)
    quick = HOST.replace(latency_s=0.0)
    alone, split, shared = (
        decode_s(offloaded_law(law, o)) - decode_s(law)
        for o in (
            experts(16.0, tier=quick), experts(16.0, tier=quick, ranks=2.0),
            experts(16.0, tier=quick.replace(sharers=2.0), ranks=2.0),
        )
    )  # fmt: skip
    assert one > alone == pytest.approx(2.0 * split) == pytest.approx(shared)


def test_prefetch_hides_what_fits_behind_compute(law):
    assert overlapped_s(3.0, 2.0) == 5.0
    assert overlapped_s(3.0, 2.0, 1.0) == 3.0
    assert overlapped_s(3.0, 4.0, 1.0) == 4.0
    assert overlapped_s(3.0, 4.0, 0.5) == 5.0
    assert overlapped_s(1.0, 4.0, 0.5, wasted=1.0) == 6.0
    shares = [decode_s(offloaded_law(law, experts(60.0, prefetch=p))) for p in (0.0, 0.5, 1.0)]
    assert shares[0] > shares[1] > shares[2] >= decode_s(law)
    # streamed layers cost nothing until the link is slower than the layer
    each_s = decode_s(law) / 48
    assert decode_s(offloaded_law(law, LayerOffload(layer_bytes=0.5 * each_s * 55e9, share=1.0, tier=HOST))) == (
        pytest.approx(decode_s(law), rel=1e-3)
    )
    slow = LayerOffload(layer_bytes=1e9, share=0.5, tier=HOST.replace(latency_s=0.0))
    assert decode_s(offloaded_law(law, slow)) == pytest.approx(48 * 0.5e9 / 55e9, rel=1e-2)
    prompt = iteration_time(offloaded_law(law, slow), 8192.0, 4096.0, 0.0, 0.0, 1.0)
    busy = float(iteration_time(law, 8192.0, 4096.0, 0.0, 0.0, 1.0))
    assert busy <= float(prompt) < 48 * 0.5e9 / 55e9 + busy


def test_it_reaches_requests_and_stages(law):
    far = offloaded_law(law, experts(48.0, prefetch=0.5))
    lengths = Lengths.uniform(500, 100)
    plain, slow = (steady_state(x, Engine(), lengths, rate_per_s=1.0) for x in (law, far))
    assert slow.tpot_s > plain.tpot_s
    assert slow.most_per_s < plain.most_per_s
    assert law_time(decode_law(far, 800.0), 8.0) == pytest.approx(decode_s(far))


def test_derivatives(law):
    def step(resident, bandwidth):
        offload = experts(resident, tier=HOST.replace(bandwidth_bytes_per_s=bandwidth))
        return iteration_time(offloaded_law(law, offload), 0.0, 0.0, 8.0, 800.0, 8.0)

    slopes = jax.jit(jax.grad(step, (0, 1)))(20.5, 55e9)
    assert float(slopes[0]) == pytest.approx((step(20.6, 55e9) - step(20.4, 55e9)) / 0.2, rel=1e-6)
    assert float(slopes[1]) == pytest.approx((step(20.5, 55.1e9) - step(20.5, 54.9e9)) / 2e8, rel=1e-4)


def test_bytes_of_a_model():
    model, dense = workloads.load("qwen3-30b-a3b"), workloads.load("llama-3.1-8b")
    assert isinstance(model, workloads.TransformerModel)
    assert isinstance(dense, workloads.TransformerModel)
    assert expert_bytes(model) == 3 * 2048 * 768 * 2.0
    whole = float(layer_bytes(model))
    assert whole > 128 * expert_bytes(model)
    assert float(layer_bytes(model, Parallelism(dp=2, ep=2))) == pytest.approx(whole - 64 * expert_bytes(model))
    with pytest.raises(ValueError, match="no layers with experts"):
        expert_bytes(dense)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda law: experts(65.0), r"offload\.resident: 65"),
        (lambda law: experts(6.0, policy="fifo"), r"offload\.policy: 'fifo' is unknown \(known: pinned, lru\)"),
        (lambda law: experts(6.0, prefetch=1.5), r"offload\.prefetch: 1\.5"),
        (lambda law: experts(6.0, expert_bytes=1e15), r"tiers\.host\.capacity_bytes"),
        (lambda law: LayerOffload(layer_bytes=1e9, share=-0.1, tier=HOST), r"offload\.share: -0\.1"),
        (lambda law: offloaded_law(plain_law(), experts(6.0)), r"law\.layers: 0"),
        (lambda law: missing_experts(random_routing(8), 4.0, 2, 9.0), "resident: 9"),
    ],
)
def test_bad_input_is_named(call, message, law):
    with pytest.raises(ValueError, match=message):
        call(law)
