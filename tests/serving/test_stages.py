"""Stage networks: limits that are queues with known answers, properties, gradients, and the replay beside the closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.stages import (
    Network,
    Pool,
    RequestClass,
    Stage,
    backpressure,
    chain,
    check_network,
    check_stable,
    law_time,
    linear_law,
    network_elasticities,
    network_secants,
    replay_network,
    roofline_law,
    steady_network,
)
from serving.stages.batch_service import batch_state
from serving.stages.network import stacked_pools


def one(kind: str, rate: float, *, work: float = 1.0, scv: float = 1.0, servers: float = 1.0, **pool) -> Network:
    """One stage on one pool."""
    stage = Stage(name="s", pool="p", work=work, scv=scv)
    return Network(
        classes=(RequestClass(name="a", rate_per_s=rate, stages=(stage,)),),
        pools=(Pool(name="p", kind=kind, servers=servers, **pool),),
    )


@pytest.fixture(scope="module")
def pipeline() -> Network:
    """Pools of every kind, a branch, a loop through another pool and two classes."""
    chat = chain(
        Stage(name="prepare", pool="cpu", work=0.02, scv=1.0),
        Stage(name="embed", pool="embedder"),
        Stage(name="prefill", pool="gpu", work=4.0, weight=8.0),
        Stage(name="send", pool="wire", work=2e7),
        Stage(name="decode", pool="gpu", work=100.0, scv=1.0),
        Stage(name="tool", pool="tools", work=0.5, scv=1.0),
    )
    chat = (*chat[:4], chat[4].__class__(**{**vars(chat[4]), "next": {"tool": 0.3, "end": 0.7}}), chat[5])
    chat = (*chat[:5], chat[5].__class__(**{**vars(chat[5]), "next": {"prefill": 1.0}}))
    return Network(
        classes=(
            RequestClass(name="chat", rate_per_s=6.0, stages=chat),
            RequestClass(
                name="embed", rate_per_s=20.0, burstiness=2.0, stages=chain(Stage(name="embed", pool="embedder"))
            ),
        ),
        pools=(
            Pool(name="cpu", servers=2.0),
            Pool(name="embedder", kind="batch", slots=32.0, law=roofline_law(0.002, 0.01, 0.001)),
            Pool(name="gpu", kind="continuous", servers=2.0, slots=32.0, law=linear_law(0.008, 0.0004)),
            Pool(name="wire", kind="link", bandwidth_bytes_per_s=1e9, latency_s=1e-3),
            Pool(name="tools", kind="delay"),
        ),
    )


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 0.95), st.floats(0.0, 3.0), st.integers(1, 20))
def test_servers_are_erlang_queues(load, scv, servers):
    state = steady_network(one("servers", load * servers, scv=scv, servers=float(servers)))
    terms = np.cumprod(np.concatenate([[1.0], load * servers / np.arange(1, servers + 1)]))
    full = terms[-1] / (1.0 - load) / (terms[:-1].sum() + terms[-1] / (1.0 - load))
    expected = full / (servers * (1.0 - load)) * 0.5 * (1.0 + scv)
    assert float(state.wait_s[0]) == pytest.approx(expected, rel=1e-4, abs=1e-9)
    assert float(state.scale) == pytest.approx(1.0 / load)


def test_a_link_and_one_replica_that_slows_down_in_proportion_are_the_same():
    link = steady_network(one("link", 0.7, bandwidth_bytes_per_s=1.0))
    assert float(link.e2e_s[0]) == pytest.approx(1.0 / 0.3)
    many = steady_network(one("continuous", 0.7, work=1e4, slots=128.0, law=linear_law(1e-12, 1e-4)))
    assert float(many.e2e_s[0]) == pytest.approx(1.0 / 0.3, rel=1e-3)


def test_a_continuous_pool_without_crowding_serves_as_servers_do():
    flat = steady_network(one("continuous", 6.0, work=1e5, slots=8.0, law=linear_law(1e-5, 0.0)))
    queue = steady_network(one("servers", 6.0, servers=8.0))
    assert float(flat.e2e_s[0]) == pytest.approx(float(queue.e2e_s[0]), rel=1e-3)


def test_batches_of_one_are_a_server_and_light_load_waits_for_none():
    law = linear_law(0.5, 0.5)
    light = steady_network(one("batch", 1e-6, scv=0.0, slots=8.0, law=law))
    assert float(light.e2e_s[0]) == pytest.approx(1.0, rel=1e-5)
    assert float(steady_network(one("batch", 0.5, scv=0.0, slots=1.0, law=law)).scale) == pytest.approx(2.0)
    single = steady_network(one("batch", 0.5, scv=0.0, slots=1.0, law=law))
    server = steady_network(one("servers", 0.5, scv=0.0))
    assert float(single.e2e_s[0]) == pytest.approx(float(server.e2e_s[0]), rel=0.05)


def test_feedback_counts_as_more_work(pipeline):
    loop = Stage(name="s", pool="p", work=0.2, scv=1.0, next={"s": 0.6, "end": 0.4})
    looped = Network(classes=(RequestClass(name="a", rate_per_s=1.2, stages=(loop,)),), pools=(Pool(name="p"),))
    once = steady_network(one("servers", 1.2, work=0.5))
    found = steady_network(looped)
    assert float(found.e2e_s[0]) == pytest.approx(float(once.e2e_s[0]), rel=1e-6)
    visits = steady_network(pipeline).rate_per_s
    np.testing.assert_allclose(visits[[2, 3, 4]], 6.0 / 0.7)


def test_an_empty_class_and_an_unused_pool_change_nothing(pipeline):
    extra = Network(
        classes=(*pipeline.classes, RequestClass(name="none", rate_per_s=0.0, stages=pipeline.classes[0].stages)),
        pools=(*pipeline.pools, Pool(name="idle", kind="batch", slots=4.0, law=linear_law(1.0, 1.0))),
    )
    plain, more = steady_network(pipeline), steady_network(extra)
    np.testing.assert_allclose(more.e2e_s[:2], plain.e2e_s, rtol=1e-9)
    np.testing.assert_allclose(more.utilisation[:5], plain.utilisation)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.2, 0.9), st.floats(1.01, 1.1))
def test_more_load_is_never_faster_and_faster_steps_never_slower(load, factor):
    network = one("batch", 1.0, slots=16.0, law=linear_law(0.1, 0.05))
    at = load * float(steady_network(network).scale)
    light, heavy = steady_network(network.scaled(at)), steady_network(network.scaled(at * factor))
    assert float(heavy.e2e_s[0]) >= float(light.e2e_s[0])
    fast = network.replace("pools.p.law", linear_law(0.1 / factor, 0.05 / factor))
    assert float(steady_network(fast.scaled(at)).e2e_s[0]) <= float(light.e2e_s[0])


def test_arrays_are_single_answers(pipeline):
    factors = np.linspace(0.4, 1.6, 7)
    together = steady_network(pipeline.scaled(factors))
    for i, factor in enumerate(factors):
        alone = steady_network(pipeline.scaled(factor))
        for name in ("e2e_s", "e2e_p99_s", "queue", "throughput_per_s", "passed"):
            np.testing.assert_allclose(getattr(together, name)[i], getattr(alone, name), rtol=1e-6, err_msg=name)


def test_elasticities_are_finite_differences():
    network = Network(
        classes=(
            RequestClass(name="chat", rate_per_s=30.0, stages=(Stage(name="decode", pool="gpu", work=50.0, scv=1.0),)),
        ),
        pools=(Pool(name="gpu", kind="continuous", slots=24.0, law=linear_law(0.008, 0.0002)),),
    )
    found = network_elasticities(network)
    secants = network_secants(network)
    assert set(secants) == set(found)
    for path, value in secants.items():
        assert found[path] == pytest.approx(value, rel=1e-2, abs=1e-4), path
    assert "pools.gpu.law.seconds" in found
    assert not any("slots" in path or "servers" in path for path in found)
    with pytest.raises(ValueError, match="no elasticity"):
        network_elasticities(network, paths=("pools.gpu.slots",))


def test_a_batch_has_the_derivative_of_its_root():
    pool = stacked_pools([Pool(name="p", kind="batch", slots=32.0, law=linear_law(0.01, 0.004))])
    one, none = np.ones(1), np.zeros(1)

    def wait(rate):
        load = rate * law_time(pool.law, 32.0) / 32.0
        return batch_state(pool, rate, one, load, 0.2 * one, one, none).wait_s

    at = np.full(1, 80.0)
    _, slope = jax.jit(lambda rate: jax.jvp(wait, (rate,), (jnp.ones(1),)))(jnp.asarray(at))
    np.testing.assert_allclose(slope, (wait(at + 1e-3) - wait(at - 1e-3)) / 2e-3, rtol=1e-4)


def test_overload_passes_what_the_bottleneck_can_do_and_says_so(pipeline):
    crowded = pipeline.scaled(2.0 * float(steady_network(pipeline).scale)).replace("pools.gpu.buffer", 100.0)
    state = steady_network(crowded)
    gpu = int(state.bottleneck)
    assert crowded.pools[gpu].name == "gpu"
    assert not bool(state.stable)
    assert float(state.passed[gpu]) < 1.0
    # requests come in, go out, or pile up
    coming = sum(float(c.rate_per_s) for c in crowded.classes)
    assert float(state.throughput_per_s.sum() + state.growth_per_s.sum()) == pytest.approx(coming)
    lines = backpressure(crowded, state)
    assert "gpu limits" in lines[0]
    assert "fills its buffer of 100" in lines[1]
    with pytest.raises(ValueError, match=r"pools\.gpu: unstable"):
        check_stable(crowded, state)


def test_throughput_past_saturation_has_the_derivative_of_what_gets_through():
    stages = chain(Stage(name="a", pool="p", work=0.5), Stage(name="b", pool="q", work=0.2))
    short = RequestClass(name="short", rate_per_s=1.0, stages=(Stage(name="c", pool="p", work=0.1),))
    network = Network(
        classes=(RequestClass(name="long", rate_per_s=2.5, stages=stages), short),
        pools=(Pool(name="p"), Pool(name="q")),
    )
    # p is offered 1.35: long requests get 2.5 / 1.35 through
    assert float(steady_network(network).throughput_per_s[0]) == pytest.approx(2.5 / 1.35)
    slope = jax.jit(
        jax.grad(lambda r: steady_network(network.replace("classes.long.rate_per_s", r)).throughput_per_s[0])
    )(2.5)
    assert float(slope) == pytest.approx(1.0 / 1.35 - 2.5 * 0.5 / 1.35**2, rel=1e-6)


def test_the_replay_agrees_and_repeats_itself(pipeline):
    network = pipeline.scaled(0.7 * float(steady_network(pipeline).scale))
    state, seen = steady_network(network), replay_network(network, 60_000, seed=3)
    np.testing.assert_allclose(state.throughput_per_s, seen.throughput_per_s, rtol=0.03)
    np.testing.assert_allclose(state.e2e_s, seen.e2e_s, rtol=0.10)
    np.testing.assert_allclose(state.e2e_p99_s, seen.e2e_quantile_s(0.99), rtol=0.25)
    again = replay_network(network, 60_000, seed=3)
    assert again.events == seen.events
    np.testing.assert_array_equal(again.e2e_bins, seen.e2e_bins)
    # Little's law on what was counted: requests at a pool are visits times time
    np.testing.assert_allclose(seen.in_service[4], network.classes[0].rate_per_s * 0.3 / 0.7 * 0.5, rtol=1.0)
    crowded = replay_network(pipeline.scaled(1.5 * float(steady_network(pipeline).scale)), 60_000, seed=1)
    limit = steady_network(pipeline.scaled(1.5 * float(steady_network(pipeline).scale)))
    np.testing.assert_allclose(limit.throughput_per_s, crowded.throughput_per_s, rtol=0.03)
    assert crowded.most_in_flight > 1 << 10


def test_the_replay_is_an_erlang_queue_where_one_is_known():
    seen = replay_network(one("servers", 2.4, servers=3.0), 150_000, seed=1)
    assert float(seen.e2e_s[0]) == pytest.approx(
        float(steady_network(one("servers", 2.4, servers=3.0)).e2e_s[0]), rel=0.04
    )
    share = replay_network(one("link", 0.6, bandwidth_bytes_per_s=1.0), 150_000, seed=1)
    assert float(share.e2e_s[0]) == pytest.approx(2.5, rel=0.04)


def _stage(pipeline, **changes):
    stage = Stage(**{**vars(pipeline.classes[1].stages[0]), **changes})
    return Network(classes=(RequestClass(name="a", stages=(stage,)),), pools=pipeline.pools)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": "gpux"}, r"classes\.a\.stages\.embed\.pool: 'gpux' is no pool; did you mean 'gpu'"),
        ({"pool": ""}, r"classes\.a\.stages\.embed\.pool: missing"),
        ({"next": {"embed": 1.0}}, r"classes\.a\.stages\.embed\.next: a cycle without exit"),
        ({"next": {"end": 0.7}}, r"classes\.a\.stages\.embed\.next: probabilities sum to 0\.7"),
        ({"next": {"ends": 1.0}}, r"classes\.a\.stages\.embed\.next\.ends: no stage of this class; did you mean 'end'"),
        ({"work": -1.0}, r"classes\.a\.stages\.embed\.work: -1\.0; expected a finite number above 0"),
    ],
)
def test_bad_stages_are_named(pipeline, changes, message):
    with pytest.raises(ValueError, match=message):
        check_network(_stage(pipeline, **changes))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("pools.gpu.kind", "gpu", r"pools\.gpu\.kind: 'gpu' is unknown"),
        ("pools.gpu.slots", 0.5, r"pools\.gpu\.slots: 0\.5; expected a whole number"),
        ("pools.wire.bandwidth_bytes_per_s", 0.0, r"pools\.wire\.bandwidth_bytes_per_s: 0\.0"),
        ("pools.gpu.law.seconds", (0.1, -0.1), r"pools\.gpu\.law\.seconds"),
        ("pools.gpu.law.seconds", (0.0, 0.1), None),
        ("classes.chat.rate_per_s", float("nan"), r"classes\.chat\.rate_per_s: nan"),
    ],
)
def test_bad_numbers_are_named(pipeline, path, value, message):
    changed = pipeline.replace(path, value)
    if message is None:
        assert check_network(changed) is changed
        return
    with pytest.raises(ValueError, match=message):
        steady_network(changed)


def test_alone_in_a_large_pool_a_request_takes_its_steps():
    law, rates = linear_law(0.014, 0.0002), np.array([1e-7, 1e-4, 1e-3])
    for slots in (64.0, 500.0, 2000.0):
        pool = Pool(name="p", kind="continuous", servers=2.0, slots=slots, law=law)
        chat = RequestClass(name="a", rate_per_s=1.0, stages=chain(Stage(name="s", pool="p", work=600.0, scv=1.0)))
        state = steady_network(Network(classes=(chat,), pools=(pool,)).scaled(rates))
        np.testing.assert_allclose(state.e2e_s[:, 0], 600.0 * 0.0142, rtol=1e-4)
