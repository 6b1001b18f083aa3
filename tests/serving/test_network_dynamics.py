"""Stage networks in time, full buffers, routers: limits that are simpler models exactly, known queues, the replay."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.dynamics import Autoscaler, ReplicaLoss, autoscaled_course, loss_course, network_course
from serving.stages import (
    Network,
    Pool,
    RequestClass,
    Router,
    Stage,
    answerable,
    backpressure,
    chain,
    check_stable,
    linear_law,
    replay_course,
    replay_network,
    steady_network,
)


def queue(rate: float, *, servers: float = 1.0, pool: str = "p", scv: float = 1.0, **how) -> Network:
    """Requests of one exponential second for some servers."""
    stage = Stage(name="s", pool=pool, scv=scv)
    return Network(
        classes=(RequestClass(name="a", rate_per_s=rate, stages=(stage,)),),
        pools=(Pool(name="p", servers=servers, **how),),
    )


def tandem(rate: float, room: float, when: str) -> Network:
    """Two exponential servers of equal speed, a buffer between them."""
    stages = chain(Stage(name="s", pool="a", scv=1.0), Stage(name="t", pool="b", scv=1.0))
    pools = (Pool(name="a"), Pool(name="b", buffer=room, when_full=when))
    return Network(classes=(RequestClass(name="a", rate_per_s=rate, stages=stages),), pools=pools)


def routed(policy: str, load: float = 0.8, pools: int = 4, **how) -> Network:
    """Two servers each behind a router."""
    each = tuple(Pool(name=f"p{i}", servers=2.0) for i in range(pools))
    router = Router(name="r", policy=policy, pools=tuple(pool.name for pool in each), **how)
    a = RequestClass(name="a", rate_per_s=2.0 * load * pools, stages=(Stage(name="s", pool="r", scv=1.0),))
    return Network(classes=(a,), pools=each, routers=(router,))


@pytest.fixture(scope="module")
def network() -> Network:
    """Pools of every kind, a loop, two classes."""
    chat = chain(
        Stage(name="prepare", pool="cpu", work=0.02, scv=1.0), Stage(name="prefill", pool="gpu"),
        Stage(name="send", pool="wire", work=2e7), Stage(name="decode", pool="engine", work=100.0, scv=1.0),
        Stage(name="tool", pool="tools", work=0.5),
    )  # fmt: skip
    chat = (*chat[:3], replace(chat[3], next={"tool": 0.3, "end": 0.7}), replace(chat[4], next={"prefill": 1.0}))
    short = chain(Stage(name="prefill", pool="gpu"), Stage(name="decode", pool="engine", work=20.0))
    return Network(
        classes=(RequestClass(name="chat", rate_per_s=8.0, stages=chat), RequestClass(name="short", rate_per_s=4.0, stages=short)),
        pools=(
            Pool(name="cpu", servers=2.0), Pool(name="gpu", kind="batch", slots=8.0, law=linear_law(0.01, 0.04)),
            Pool(name="wire", kind="link", bandwidth_bytes_per_s=1e9, latency_s=0.2),
            Pool(name="engine", kind="continuous", servers=2.0, slots=32.0, law=linear_law(0.008, 0.0004)),
            Pool(name="tools", kind="delay"),
        ),
    )  # fmt: skip


@pytest.mark.parametrize("start", ["empty", "steady"])
def test_constant_rates_end_in_the_steady_state(network, start):
    state = steady_network(network)
    course = network_course(network, duration_s=120.0, steps=60, start=start)
    np.testing.assert_allclose(course.throughput_per_s[-1], state.throughput_per_s, rtol=1e-8)
    np.testing.assert_allclose(course.utilisation[-1], state.utilisation, rtol=1e-8)
    np.testing.assert_allclose(course.waiting[-1], state.queue, rtol=1e-6, atol=1e-9)
    fluid = network_course(network, duration_s=120.0, steps=60, start=start, fluctuations=False)
    np.testing.assert_allclose(fluid.throughput_per_s[-1], state.throughput_per_s, rtol=1e-8)
    np.testing.assert_allclose(fluid.utilisation[-1], state.utilisation, rtol=1e-8)
    assert np.all(fluid.waiting[-1] < 1e-9)


def test_overload_passes_what_the_steady_state_says(network):
    crowded = network.scaled(2.0)
    state = steady_network(crowded)
    course = network_course(crowded, duration_s=4000.0, steps=400, start="empty", fluctuations=False)
    np.testing.assert_allclose(course.throughput_per_s[-1], state.throughput_per_s, rtol=2e-3)
    j = int(state.bottleneck)
    grown = (course.waiting[-1] - course.waiting[-101]) / 1000.0
    assert grown[j] == pytest.approx(float(state.growth_per_s[j]), rel=2e-3)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.just(0.0) | st.floats(0.05, 2.0), min_size=1, max_size=4), st.integers(5, 60), st.booleans())
def test_nobody_is_lost_or_made(factors, steps, fluctuations):
    net = queue(3.0, servers=4.0)
    course = network_course(
        net, duration_s=60.0, steps=steps, factors=factors, start="empty", fluctuations=fluctuations
    )
    came = course.rate_per_s[1:].sum() * 60.0 / steps
    assert came == pytest.approx(3.0 * 60.0 * np.mean(factors), abs=1e-9)
    assert came == pytest.approx(float(course.served.sum() + course.content[-1].sum()), rel=1e-9, abs=1e-9)


def test_a_step_of_load_as_the_replay_sees_it():
    net = queue(8.0, servers=8.0)
    how = {"duration_s": 120.0, "factors": [0.6, 1.3, 0.6]}
    seen = np.mean([replay_course(net, steps=60, seed=i, **how).content[:, 0] for i in range(20)], axis=0)
    found = network_course(net, steps=240, start="empty", **how).content.sum(axis=1)[::4]
    assert np.abs(found - seen).mean() < 0.08 * seen.mean()


def test_a_course_has_a_gradient():
    def peak(work):
        net = queue(1.0).replace("classes.a.stages.s.work", work)
        course = network_course(
            net, duration_s=40.0, steps=20, factors=[0.5, 1.5, 0.5, 0.5], start="empty", fluctuations=False
        )
        return course.waiting.sum()

    slope = (peak(0.9 + 1e-5) - peak(0.9 - 1e-5)) / 2e-5
    found = jax.jit(lambda work: jax.jvp(peak, (work,), (1.0,))[1])(0.9)
    assert float(found) == pytest.approx(slope, rel=1e-3)


@settings(max_examples=6, deadline=None)
@given(st.floats(0.3, 2.5), st.integers(1, 5), st.integers(0, 20))
def test_a_buffer_that_sheds_is_an_erlang_loss_queue(load, servers, room):
    n = np.arange(1, servers + room + 1)
    weight = np.cumprod(np.concatenate([[1.0], load * servers / np.minimum(n, servers)]))
    weight /= weight.sum()
    state = steady_network(queue(load * servers, servers=float(servers), buffer=float(room), when_full="shed"))
    assert float(state.lost_per_s[0]) == pytest.approx(load * servers * weight[-1], rel=1e-6)
    assert float(state.queue[0]) == pytest.approx(float(weight[servers:] @ np.arange(room + 1)), rel=1e-5, abs=1e-9)
    busy = float(weight @ np.minimum(np.arange(servers + room + 1), servers))
    assert float(state.in_service[0]) == pytest.approx(busy, rel=1e-6)
    assert float(state.busy[0]) == pytest.approx(busy / servers, rel=1e-6)


def test_no_more_gets_through_a_full_continuous_pool_than_it_can_do():
    chat = RequestClass(name="a", rate_per_s=10.0, stages=chain(Stage(name="s", pool="p", work=100.0, scv=1.0)))
    pool = Pool(
        name="p", kind="continuous", servers=2.0, slots=4.0, law=linear_law(0.01, 0.001), buffer=2.0, when_full="shed"
    )
    net = Network(classes=(chat,), pools=(pool,))
    state, seen = steady_network(net), replay_network(net, 10_000)
    assert float(state.throughput_per_s[0]) <= 8.0 / (100.0 * 0.014) * (1.0 + 1e-6)
    assert float(state.throughput_per_s[0]) == pytest.approx(float(seen.throughput_per_s[0]), rel=0.06)


def test_two_servers_in_a_row_block_each_other():
    for room in (0.0, 3.0):
        state = steady_network(tandem(10.0, room, "block"))
        assert float(state.throughput_per_s[0]) == pytest.approx((room + 2.0) / (room + 3.0), rel=1e-4)
        seen = replay_network(tandem(10.0, room, "block"), 20_000, warm_up=0.0)
        assert seen.throughput_per_s[0] == pytest.approx((room + 2.0) / (room + 3.0), rel=0.05)
    assert float(state.scale) * 10.0 == pytest.approx(5.0 / 6.0, rel=5e-3)
    calm, free = steady_network(tandem(0.5, 2.0, "block")), steady_network(tandem(0.5, 2.0, "wait"))
    assert float(calm.utilisation[0]) > float(free.utilisation[0]) == 0.5
    assert float(calm.e2e_s[0]) > float(free.e2e_s[0])


@pytest.mark.parametrize("when", ["block", "shed"])
def test_a_buffer_without_end_changes_nothing(network, when):
    plain = steady_network(network)
    wide = network
    for name in ("cpu", "engine") if when == "block" else ("cpu", "gpu", "engine"):
        wide = wide.replace(f"pools.{name}.when_full", when)
    for name, a, b in zip(plain._fields, plain, steady_network(wide)):
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_shedding_in_a_replay_and_in_time():
    net = queue(1.5, buffer=3.0, when_full="shed")
    state, seen = steady_network(net), replay_network(net, 40_000)
    assert seen.lost_per_s[0] == pytest.approx(float(state.lost_per_s[0]), rel=0.03)
    assert seen.e2e_s[0] == pytest.approx(float(state.e2e_s[0]), rel=0.05)
    course = network_course(net, duration_s=60.0, steps=60, start="empty", fluctuations=False)
    assert course.waiting.max() == pytest.approx(3.0)
    assert course.lost_per_s[-1, 0] == pytest.approx(0.5)
    check_stable(net, state)
    assert "p sheds" in backpressure(net, state)[1]


@pytest.mark.parametrize(
    ("policy", "how", "off"),
    [
        ("random", {}, 0.1), ("round_robin", {}, 0.08), ("shortest_queue", {}, 0.08), ("least_work", {}, 0.18),
        ("prefix", {"hit_rate": 0.6, "hit_work": 0.5}, 0.1),
    ],
)  # fmt: skip
def test_routers_as_the_replay_sees_them(policy, how, off):
    net = routed(policy, **how)
    state, seen = steady_network(net), replay_network(net, 100_000)
    assert float(state.e2e_s[0]) == pytest.approx(seen.e2e_s[0], rel=off)
    assert float(state.throughput_per_s[0]) == pytest.approx(6.4)


def test_better_routers_wait_less_and_one_pool_is_the_pool():
    times = [float(steady_network(routed(policy)).e2e_s[0]) for policy in ("random", "round_robin", "shortest_queue")]
    assert times[0] > times[1] > times[2]
    assert times[2] == pytest.approx(float(steady_network(queue(6.4, servers=8.0)).e2e_s[0]))
    plain = steady_network(queue(1.6, servers=2.0))
    for policy in ("random", "round_robin", "shortest_queue", "least_work", "user"):
        alone = routed(policy, pools=1)
        for a, b in zip(plain, steady_network(alone)):
            np.testing.assert_array_equal(a, b)
    assert answerable(routed("random")).pools[-1].kind == "delay"


def test_a_users_function_routes_the_replay():
    net = routed("user")
    least = replay_network(net, 20_000, choose={"r": lambda present, waiting, work_s: int(np.argmin(work_s))})
    assert least.e2e_s[0] == pytest.approx(replay_network(routed("least_work"), 20_000).e2e_s[0], rel=0.1)
    first = replay_network(net.scaled(0.1), 5_000, choose={"r": lambda present, waiting, work_s: 2})
    assert np.argmax(first.in_service) == 2
    with pytest.raises(ValueError, match=r"routers\.r\.policy: 'user' needs a function"):
        replay_network(net, 1_000)


def test_classes_go_to_the_cheapest_pool_that_meets_their_limit():
    pools = (Pool(name="fast", kind="continuous", slots=32.0, law=linear_law(0.005, 0.0)),
             Pool(name="cheap", kind="continuous", slots=32.0, law=linear_law(0.02, 0.0)))  # fmt: skip
    router = Router(name="r", policy="slo", pools=("fast", "cheap"), cost=(3.0, 1.0), limits_s={"chat": 1.0})
    stage = Stage(name="s", pool="r", work=100.0)
    classes = tuple(RequestClass(name=name, rate_per_s=1.0, stages=(stage,)) for name in ("chat", "later"))
    net = Network(classes=classes, pools=pools, routers=(router,))
    served = steady_network(net).utilisation
    assert served[0] == pytest.approx(100.0 * 0.005 / 32.0)
    assert served[1] == pytest.approx(100.0 * 0.02 / 32.0)
    none = Network(classes=classes, pools=pools, routers=(replace(router, limits_s={}),))
    assert steady_network(none).utilisation[0] == 0.0


def test_autoscaling_without_delay_is_the_steady_answer_and_delay_costs():
    net = queue(6.0, servers=9.0)
    quick = Autoscaler(pool="p", most=32, target=0.7, period_s=0.0, start_up_s=0.0, cooldown_s=0.0)
    calm = autoscaled_course(net, (quick,), duration_s=60.0, steps=60)
    assert set(calm.serving["p"]) == {9.0}
    state = steady_network(net)
    np.testing.assert_allclose(calm.course.waiting[-1], state.queue, rtol=1e-6)
    np.testing.assert_array_equal(calm.course.e2e_s, network_course(net, duration_s=60.0, steps=60).e2e_s)
    how = {"duration_s": 600.0, "steps": 300, "factors": [1.0, 2.5, 1.0]}
    fast, slow = (
        autoscaled_course(net, (replace(quick, start_up_s=start_up),), **how) for start_up in (0.0, 60.0)
    )  # fmt: skip
    assert slow.course.waiting.max() > 5.0 * fast.course.waiting.max()
    assert fast.serving["p"].max() == slow.serving["p"].max() == np.ceil(2.5 * 6.0 / 0.7)
    assert np.all(slow.paid["p"] >= slow.serving["p"])
    assert abs(fast.extra_hours["p"]) < 0.02 * fast.replica_hours["p"]
    queued = autoscaled_course(net, (replace(quick, queue=2.0, period_s=5.0, start_up_s=10.0),), **how)
    assert 9.0 < queued.serving["p"].max() <= 32.0


def test_loss_of_a_replica():
    net = queue(4.0, servers=6.0)
    how = {"duration_s": 300.0, "steps": 150}
    never = loss_course(net, (ReplicaLoss(pool="p", at_s=1e4, repair_s=10.0),), **how)
    np.testing.assert_array_equal(never.course.e2e_s, network_course(net, **how).e2e_s)
    assert never.goodput_share[0] == 1.0
    assert never.e2e_p99_s[0] == pytest.approx(float(steady_network(net).e2e_p99_s[0]), rel=0.02)
    some, worse = (
        loss_course(net, (ReplicaLoss(pool="p", at_s=60.0, repair_s=60.0, count=n),), limits_s={"a": 5.0}, **how) for n in (1, 4)
    )  # fmt: skip
    np.testing.assert_allclose(some.course.waiting[59], steady_network(queue(4.0, servers=5.0)).queue, rtol=0.05)
    assert worse.peak_queue["p"] > 100.0 > some.peak_queue["p"]
    assert worse.goodput_share[0] < some.goodput_share[0] < 1.0
    assert worse.e2e_p99_s[0] > some.e2e_p99_s[0]
    assert 120.0 < worse.recovered_s < 300.0
    assert worse.course.served[0] + worse.course.content[-1].sum() == pytest.approx(
        4.0 * 300.0 + worse.course.content[0].sum()
    )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: routed("fastest"), r"routers\.r\.policy: 'fastest' is unknown"),
        (lambda: routed("random", shares=(0.5, 0.2, 0.2, 0.2)), r"routers\.r\.shares: sum to 1\.1"),
        (lambda: replace(routed("random"), routers=(Router(name="r"),)), r"routers\.r\.pools: none"),
        (lambda: queue(1.0, when_full="drop"), r"pools\.p\.when_full: 'drop' is unknown"),
        (lambda: queue(1.0, kind="delay", when_full="shed"), r"pools\.p\.when_full: 'shed'; a delay has no buffer"),
        (lambda: replace(tandem(1.0, 2.0, "block").replace("pools.a.when_full", "block"), classes=(RequestClass(name="a", stages=(
            Stage(name="s", pool="a", next={"t": 1.0}), Stage(name="t", pool="b", next={"s": 0.5, "end": 0.5}))),)),
         r"pools\.a\.when_full: 'block' in a circle"),
    ],
)  # fmt: skip
def test_bad_networks_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        steady_network(build())


def test_bad_courses_are_named():
    with pytest.raises(ValueError, match=r"pools\.p: unstable at the start: 2 per second, it can do 1"):
        network_course(queue(2.0), duration_s=10.0)
    with pytest.raises(ValueError, match=r"pools\.b\.when_full: 'block' has no course"):
        network_course(tandem(0.5, 2.0, "block"), duration_s=10.0)
    with pytest.raises(ValueError, match=r"servers\.q: no pool with servers"):
        network_course(queue(0.5), duration_s=10.0, servers={"q": np.ones(400)})
    with pytest.raises(ValueError, match=r"pools\.p\.failure\.count: 2"):
        loss_course(queue(0.5), (ReplicaLoss(pool="p", at_s=1.0, repair_s=1.0, count=2),), duration_s=10.0)
    with pytest.raises(ValueError, match=r"pools\.p\.autoscale: 1 servers at the start"):
        autoscaled_course(queue(0.5), (Autoscaler(pool="p", least=2),), duration_s=10.0)
