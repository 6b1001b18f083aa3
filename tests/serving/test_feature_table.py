"""What a serving simulator is asked for, feature by feature: a number that moves the right way when the feature is turned on, and a
limit in which it must be the simpler model exactly."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from plain_law import law as plain_law

import hardware
import workloads
from roofline.phase import operator_bound
from serving import (
    BlockTrace,
    Deployment,
    Engine,
    Lengths,
    Limits,
    Requests,
    Wire,
    Workers,
    closed_form_law,
    disaggregated_state,
    iteration_time,
    replay,
    replay_disaggregated,
    steady_state,
)
from serving.closed_form_law import Knots
from serving.experts import (
    ExpertOffload,
    Group,
    attention_ffn_law,
    balanced_routing,
    expert_bytes,
    offloaded_law,
    power_law_routing,
    routed_estimator,
)
from serving.stages import (
    DevicePower,
    Network,
    Pool,
    RequestClass,
    Stage,
    decode_law,
    memory_tier,
    network_energy,
    replay_network,
    steady_network,
)
from workloads import Parallelism

LENGTHS, ENGINE = Lengths.uniform(600, 120), Engine(max_sequences=64, max_batched_tokens=2048)
FREE = Wire(1.0, 1e30, 1e30)


#: No parallelism at all.
ALONE = Parallelism()


@pytest.fixture(scope="module")
def law():
    return plain_law()


@pytest.fixture(scope="module")
def requests():
    generator = np.random.default_rng(4)
    return Requests.poisson(6.0, generator.integers(200, 1000, 300), generator.integers(40, 160, 300), seed=4)


@pytest.fixture(scope="module")
def moe():
    """Laws of a mixture of experts from bounds of its kernels, by layout, chip and routing."""
    model = workloads.load("qwen3-30b-a3b")
    assert isinstance(model, workloads.TransformerModel)

    @cache
    def of(layout=ALONE, chip="h100_sxm", estimator=operator_bound, link_share=1.0):
        device = hardware.load(chip)
        link = replace(device.scale_up, bandwidth_bytes_per_s=link_share * device.scale_up.bandwidth_bytes_per_s)
        device = replace(device, scale_up=link)
        return closed_form_law(model, device, layout, estimator, knots=Knots(1024, 4096, 256), routing=0.0)

    return model, of


def decode_s(law, n=64.0, context=1000.0):
    return float(iteration_time(law, 0.0, 0.0, n, context, n))


def same(one, other):
    for part, expected in zip(one.tables, other.tables):
        np.testing.assert_allclose(part, expected, rtol=1e-9, atol=1e-15)


def pool(law, count=1.0):
    return Workers(law, ENGINE, Limits.of(ENGINE), count)


def test_prefill_and_decode_apart(law, requests):
    together = replay(requests, law, ENGINE, Deployment(2, "least_loaded"))
    apart = replay_disaggregated(requests, pool(law), pool(law), FREE)
    slow = replay_disaggregated(requests, pool(law), pool(law), Wire(131072.0, 2e9, 2e9))
    assert apart.tpot_s.mean() < together.tpot_s.mean()  # prompts leave decoding alone
    assert slow.ttft_s.mean() > apart.ttft_s.mean()
    np.testing.assert_allclose(slow.tpot_s.mean(), apart.tpot_s.mean(), rtol=0.05)
    # limit: one request, free link: the same iterations, and one of its last prompt token on the decode worker, which answers
    alone = Requests.of(0.0, 700, 50)
    plain, split = replay(alone, law, ENGINE), replay_disaggregated(alone, pool(law), pool(law), FREE)
    last_s = float(iteration_time(law, 1.0, 700.0, 0.0, 0.0, 1.0))
    assert split.e2e_s[0] - plain.e2e_s[0] == pytest.approx(last_s, rel=1e-3)
    one = replay(Requests.of(0.0, 700, 1), law, ENGINE)
    assert split.ttft_s[0] == pytest.approx(one.ttft_s[0] + last_s, rel=1e-6)


def test_attention_and_feed_forward_apart(moe):
    model, of = moe
    chip = hardware.load("h100_sxm")

    def split(attention=ALONE, experts=ALONE, link=None, batches=1):
        groups = Group(chip=chip, parallelism=attention), Group(chip=chip, parallelism=experts)
        return attention_ffn_law(
            model, *groups, link, operator_bound, knots=Knots(1024, 4096, 256), routing=0.0, micro_batches=batches
        )

    same(split(), of())  # limit: free link, one micro-batch
    four = Parallelism(dp=4), Parallelism(dp=4, ep=4)
    linked, free = split(*four, chip.scale_up), split(*four)
    assert decode_s(linked, 256.0) > decode_s(free, 256.0)
    # where attention has most to do, two micro-batches hide the experts behind it
    assert decode_s(split(*four, chip.scale_up, 2), 256.0, 4000.0) < decode_s(linked, 256.0, 4000.0)


def test_different_chips(moe):
    _, of = moe
    fast, slow = of(chip="h200_sxm"), of(chip="h100_sxm")
    homogeneous = disaggregated_state(pool(slow), pool(slow), FREE, LENGTHS, 2.0)
    mixed = disaggregated_state(pool(slow), pool(fast), FREE, LENGTHS, 2.0)
    assert mixed.tpot_s < homogeneous.tpot_s
    assert mixed.prompt_s == homogeneous.prompt_s
    # limit: what runs on other chips leaves a pool as it is alone
    law = decode_law(slow, 1000.0)

    def decoding(rate, *laws):
        pools = tuple(Pool(name=f"p{i}", kind="continuous", slots=32, law=own) for i, own in enumerate(laws))
        stages = [(Stage(name="d", pool=p.name, work=100.0, scv=1.0),) for p in pools]
        classes = (RequestClass(name=p.name, rate_per_s=rate, stages=s) for p, s in zip(pools, stages))
        return steady_network(Network(classes=tuple(classes), pools=pools))

    alone, both = decoding(3.0, law), decoding(3.0, law, decode_law(fast, 1000.0))
    assert both.e2e_s[0] == alone.e2e_s[0]
    assert both.e2e_s[1] < both.e2e_s[0]


def test_tensor_and_pipeline_parallelism(moe):
    _, of = moe
    same(of(Parallelism(tp=1, pp=1)), of())
    assert decode_s(of(Parallelism(tp=4))) < decode_s(of())
    assert decode_s(of(Parallelism(tp=4), link_share=0.01)) > decode_s(of(Parallelism(tp=4)))
    # limit: a pass through two stages is a pass through the model but for sending it on
    piped = of(Parallelism(pp=2))
    assert decode_s(piped) == pytest.approx(decode_s(of()), rel=0.02)
    assert decode_s(piped) >= decode_s(of())


def test_data_parallelism(law):
    clients = np.array([8.0, 32.0])
    one = steady_state(law, ENGINE, LENGTHS, concurrency=clients)
    two = steady_state(law, ENGINE, LENGTHS, concurrency=2.0 * clients, deployment=Deployment(2))
    np.testing.assert_allclose(two.tpot_s, one.tpot_s, rtol=1e-12)  # limit: twice the replicas, twice the clients
    np.testing.assert_allclose(two.rate_per_s, 2.0 * one.rate_per_s, rtol=1e-12)
    spread = steady_state(law, ENGINE, LENGTHS, concurrency=clients, deployment=Deployment(2))
    assert np.all(spread.tpot_s < one.tpot_s)


def test_expert_parallelism(moe):
    _, of = moe
    four = Parallelism(dp=4, ep=4)
    same(of(Parallelism(), estimator=routed_estimator(operator_bound, balanced_routing(128))), of())
    assert decode_s(of(four), 256.0) < decode_s(
        of(), 64.0
    )  # a quarter of the experts' weights per rank, as many sequences each
    assert decode_s(of(four, link_share=0.01), 256.0) > decode_s(of(four), 256.0)
    even, uneven = (
        of(four, estimator=routed_estimator(operator_bound, routing))
        for routing in (balanced_routing(128), power_law_routing(128, 1.2))
    )
    prompts = [float(iteration_time(x, 1024.0, 500.0, 0.0, 0.0, 1.0)) for x in (even, uneven)]
    assert prompts[1] > prompts[0]  # all wait for the busiest rank


def test_paged_attention(law, requests):
    def served(**changes):
        return replay(requests, law, replace(ENGINE, **changes))

    plain = served()
    for block in (1, 16, 512):  # limit: memory without end, pages do not matter
        np.testing.assert_array_equal(served(block_tokens=block).e2e_s, plain.e2e_s)
    small = [served(kv_tokens=4096.0, block_tokens=block) for block in (16, 512)]
    assert plain.e2e_s.mean() < small[0].e2e_s.mean() < small[1].e2e_s.mean()  # waste of large pages
    assert small[0].preemptions.sum() > 0
    np.testing.assert_array_equal(served(kv_tokens=1e9).e2e_s, plain.e2e_s)


def test_prefix_caching(law):
    conversations, turns = 30, 4
    hashes = [[c * 100 + b for b in range(2 * (t + 1))] for t in range(turns) for c in range(conversations)]
    prompts = np.array([512 * len(h) for h in hashes])
    trace, arrival = BlockTrace.of(hashes, prompts), np.arange(len(hashes)) * 0.2

    def served(capacity):
        cached = np.minimum(trace.cached_tokens(capacity), prompts - 1)
        return replay(Requests.of(arrival, prompts, 20, cached), law, ENGINE).ttft_s.mean()

    nothing = replay(Requests.of(arrival, prompts, 20), law, ENGINE).ttft_s.mean()
    assert served(0.0) == nothing  # limit
    assert served(1e6) < served(512.0 * 130) < nothing


def test_expert_offload(moe):
    model, of = moe

    def far(resident):
        return offloaded_law(
            of(),
            ExpertOffload(
                routing=power_law_routing(128, 0.8), top_k=8, expert_bytes=expert_bytes(model), resident=resident,
                tier=memory_tier("host"), prefetch=0.5,
            ),
        )  # fmt: skip

    same(far(128.0), of())  # limit: all of them on the device
    times = [float(steady_state(far(n), ENGINE, LENGTHS, concurrency=8.0).tpot_s) for n in (128.0, 96.0, 64.0)]
    assert times[0] == pytest.approx(float(steady_state(of(), ENGINE, LENGTHS, concurrency=8.0).tpot_s))
    assert times[0] < times[1] < times[2]


def test_power(law):
    stage = Stage(name="decode", pool="gpu", work=100.0, scv=1.0)
    gpu = Pool(name="gpu", kind="continuous", servers=2.0, slots=32.0, law=decode_law(law, 600.0))

    def watts(rate, idle):
        network = Network(classes=(RequestClass(name="a", rate_per_s=rate, stages=(stage,)),), pools=(gpu,))
        power = {"gpu": DevicePower(idle_watts=idle, active_watts=500.0, devices_per_server=4.0)}
        return network_energy(network, steady_network(network), power, tokens_per_request=100.0)

    loads = np.array([0.5, 5.0, 20.0])
    for rate in loads:  # limit: devices that always draw the same
        assert float(watts(rate, 500.0).total_watts) == pytest.approx(8 * 500.0, rel=1e-12)
    found = [watts(rate, 100.0) for rate in loads]
    total = [float(f.total_watts) for f in found]
    assert total == sorted(total)
    assert 800.0 < total[0] < total[-1] <= 4000.0
    each = [float(f.joules_per_million_tokens) for f in found]
    assert each == sorted(each, reverse=True)
    # the network's limit of one stage at a light load is its own step law
    light = Network(classes=(RequestClass(name="a", rate_per_s=1e-3, stages=(stage,)),), pools=(gpu,))
    assert replay_network(light, 300, seed=2).e2e_s[0] == pytest.approx(100.0 * float(gpu.law(1.0)), rel=0.3)
