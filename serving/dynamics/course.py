"""A stage network in time, as a fluid: what each pool holds under arrival rates that change, through saturation and drain.

Per stage k on pool j, W_k requests wait, S_k are served, each leaving after an exponential time of mean tau_k = work t_j(y):

    dW_k/dt = a_k - A_j W_k / W_j,      dS_k/dt = A_j W_k / W_j - S_k / tau_k,     a = e(t) + P' (S / tau)

and A_j, what pool j takes in, holds it on its curve (`serving.dynamics.pool_curves`): W_j = Q_j(y_j), y_j = sum S_k. Without
fluctuations that is everybody as long as there is room, then as many as leave. Solved in steps of constant flows: S is the exact
exponential, A the root of a line through the knots, a the fixed point of the step (`serving.stages.implicit_fixed_point`).

Limits. Whatever the step, requests are conserved (exactly), and constant rates end in the steady state of `steady_network`: its
throughput and utilisation exactly (of the fluid also under overload, where each pool passes the same share of all its stages),
its queues with fluctuations exactly at the reference rates. In time the error is of the order of a step, and of one service:
services are exponential in the course, whatever `scv` is. Bursts and the mix of stages are those at the reference rates (means of
the course). Routers that go by load or in turn send by the servers of the moment. Transfers share a link evenly: overloaded, it
passes small ones sooner than `steady_network` says. Buffers of pools that shed lose what comes beyond them; those that block are
refused (`serving.stages.finite_buffers` has their steady state). Against the mean of replays of a step to 1.3 of saturation and
back (`python benchmarks/network_dynamics.py`): what is in the network is 2 to 8 % off on average, its peak within 5 %.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from composition.argument_checks import check_number
from serving.dynamics.fluid_step import Seen, Setting, State, again_waiting, step
from serving.dynamics.pool_curves import Curves, at_knots, closed, pool_curves, stacked
from serving.stages.linear_systems import solved, solved_columns
from serving.stages.network import Network, Pool, check_network
from serving.stages.steady_network import answerable
from serving.stages.traffic import Flat, flatten, pool_rate, pool_sums, stack, traffic
from workloads.numeric import Array, namespace

#: Long steps that polish a steady start; how far beyond the end of a course, in courses, its last flow is followed.
SETTLING, FAR = 3, 1e3


@dataclass(frozen=True)
class NetworkCourse:
    """Course of one network at times `time_s` [times] (the first before the first step); rates are those of the step that ends
    there. Per pool [times, pools]: `waiting`, `in_service`, `arriving_per_s`, `leaving_per_s`, `lost_per_s` (buffers),
    `utilisation` (work done over what the pool can do when full), `servers`, `wait_s` of who comes then (in order of arrival).
    Per class [times, classes]: `rate_per_s` from outside, `throughput_per_s`, `e2e_s` (mean of who comes then, with the later
    stages as they are now). Per stage [times, stages]: `content`. `lost` and `served` requests of the course, per class."""

    time_s: Array
    waiting: Array
    in_service: Array
    arriving_per_s: Array
    leaving_per_s: Array
    lost_per_s: Array
    utilisation: Array
    servers: Array
    wait_s: Array
    rate_per_s: Array
    throughput_per_s: Array
    e2e_s: Array
    content: Array
    served: Array
    lost: Array


class Course(NamedTuple):
    """A course before its first step: the network without routers, setting (curves [levels, pools, knots] where servers change),
    `rates` [steps, stages], seconds of a step `dt`, `levels` of servers, who varies, first state."""

    network: Network
    setting: Setting
    rates: Array
    dt: float
    levels: np.ndarray
    varying: tuple[int, ...]
    state: State


def network_course(
    network: Network,
    *,
    duration_s: float,
    edges_s: Array | None = None,
    factors: Array | None = None,
    steps: int = 400,
    start: str = "steady",
    fluctuations: bool = True,
    servers: dict[str, np.ndarray] | None = None,
    restarted: np.ndarray | None = None,
) -> NetworkCourse:
    """Course of `network` under its rates times `factors` [bins], or [bins, classes], between `edges_s` [bins + 1] (nobody comes
    outside of them). `start`: "steady" (at the rates of the first bin, which must hold) or "empty". `servers`: of a pool by
    name, in each step [steps], instead of those of the network; `restarted` [steps, pools]: share of those in service who wait anew
    at the start of a step. Behind routers, stages and pools are those of `without_routers(network)`. One configuration; `jax.vmap`
    over numbers of the network."""
    pools = len(answerable(network).pools)
    schedule = scheduled(network, servers, steps)
    levels = np.unique(np.concatenate([np.zeros(0), *schedule.values()]))
    first = {name: counts[0] for name, counts in schedule.items()}
    course = prepared(network, duration_s, edges_s, factors, steps, start, fluctuations, levels, first)
    counts = np.array([_servers(pool) for pool in course.network.pools]) + np.zeros((steps, 1))
    for j in course.varying:
        counts[:, j] = schedule[course.network.pools[j].name]
    moved = np.zeros((steps, pools)) if restarted is None else restarted
    state, member = course.state, course.setting.flat.pool_of
    if namespace(course.setting, course.rates, state) is np:
        states, seen = [state], []
        for i in range(steps):
            state, found = step(
                chosen(course, counts[i]), again_waiting(state, moved[i, member]), course.rates[i], course.dt
            )
            states.append(state)
            seen.append(found)
        states, seen = (jax.tree_util.tree_map(lambda *x: np.stack(x), *rows) for rows in (states, seen))
    else:
        varied = _levels(course, counts) if course.varying else None

        def along(state, at):
            rate, one, share = at
            setting = course.setting if one is None else _with_servers(course.setting, *one)
            state, found = step(setting, again_waiting(state, share), rate, course.dt)
            return state, (state, found)

        states, seen = jax.lax.scan(along, state, (course.rates, varied, moved[:, member]))[1]
        states = jax.tree_util.tree_map(lambda first, rest: jnp.concatenate([first[None], rest]), state, states)
    return reported(course, counts, moved, states, seen)


def prepared(
    network: Network, duration_s: float, edges_s: Any, factors: Any, steps: int, start: str, fluctuations: bool,
    levels: np.ndarray, first: dict[str, float],
) -> Course:  # fmt: skip
    """A course whose pools of `first` start with so many servers and have any of `levels` later."""
    check_number("duration_s", duration_s, least=0.0, above=True)
    check_number("steps", steps, least=2)
    if start not in ("steady", "empty"):
        raise ValueError(f"start: {start!r} is unknown (known: steady, empty)")
    for pool in network.pools:
        if pool.when_full == "block":
            raise ValueError(f"pools.{pool.name}.when_full: 'block' has no course; expected 'shed' or 'wait'")
    shape = binned(network, edges_s, factors, duration_s, steps)
    if namespace(network, shape) is np:
        check_network(network)
    else:
        network = jax.tree_util.tree_map(lambda leaf: leaf * 1.0, network)
    network = answerable(network)
    flat = flatten(network)
    xp = namespace(flat, shape)
    rates = xp.asarray(flat.entering * shape[:, flat.class_of])
    names = [pool.name for pool in network.pools]
    setting = setting_of(network_at(network, shape.mean(axis=0)), flat, fluctuations, levels, tuple(first))
    nothing = 0.0 * flat.work + 0.0 * rates[0]
    varying = tuple(j for j, name in enumerate(names) if name in first)
    course = Course(network, setting, rates, duration_s / steps, levels, varying, State(nothing, nothing, nothing))
    if start == "empty":
        return course
    counts = np.array([first.get(pool.name, _servers(pool)) for pool in network.pools])
    return course._replace(state=settled(network, chosen(course, counts), rates[0]))


def _servers(pool: Pool) -> float:
    """Servers as a number; 1 where they are traced."""
    return 1.0 if isinstance(pool.servers, Tracer) else float(np.asarray(pool.servers))


def scheduled(network: Network, servers: dict[str, np.ndarray] | None, steps: int) -> dict[str, np.ndarray]:
    """`servers`, checked: whole numbers [steps] for pools that have servers."""
    pools = {pool.name: pool for pool in network.pools}
    found = {}
    for name, counts in (servers or {}).items():
        if name not in pools or pools[name].kind not in ("servers", "batch", "continuous"):
            raise ValueError(f"servers.{name}: no pool with servers (known: {', '.join(pools)})")
        counts = np.asarray(counts, dtype=float) + np.zeros(steps)
        if counts.shape != (steps,) or np.any(counts < 0.0) or np.any(counts != np.floor(counts)):
            raise ValueError(f"servers.{name}: shape {counts.shape}; expected whole numbers for {steps} steps")
        found[name] = counts
    return found


def setting_of(network: Network, flat: Flat, fluctuations: bool, levels: np.ndarray, names: tuple[str, ...]) -> Setting:
    """Setting at the reference rates of `network`; its curves on a first axis over `levels` where `names` have a schedule."""
    flows = traffic(network, flatten(network))
    xp = namespace(network, flows)
    if names:
        each = []
        for level in levels:
            scaled = network
            for name in names:
                scaled = scaled.replace(f"pools.{name}.servers", max(float(level), 1.0))
            at = traffic(scaled, flatten(scaled))
            none = np.array([level == 0.0 and pool.name in names for pool in network.pools])[:, None]
            each.append(closed(pool_curves(scaled, flat, at, fluctuations=fluctuations), none))
        curves = stacked(each)
    else:
        curves = pool_curves(network, flat, flows, fluctuations=fluctuations)
    batch = np.array([network.pools[j].kind == "batch" for j in flat.pool_of])
    delays = stack(xp, [pool.latency_s if pool.kind == "link" else 0.0 for pool in network.pools])
    room = stack(xp, [pool.buffer if pool.when_full == "shed" else np.inf for pool in network.pools])
    splits = np.array([1.0 * (stage.split in ("even", "together")) for c in network.classes for stage in c.stages])
    return Setting(flat, curves, xp.where(batch, 1.0, flat.work), delays[flat.pool_of], room, splits)


def binned(network: Network, edges_s: Any, factors: Any, duration_s: float, steps: int) -> Array:
    """Mean of the factors over each step, [steps, classes]."""
    classes = len(network.classes)
    if factors is None:
        return np.ones((steps, classes))
    factors = factors if isinstance(factors, jax.Array) else np.asarray(factors, dtype=float)
    factors = factors[:, None] if factors.ndim == 1 else factors
    edges = np.linspace(0.0, duration_s, len(factors) + 1) if edges_s is None else np.asarray(edges_s, dtype=float)
    if factors.ndim != 2 or factors.shape[1] not in (1, classes) or edges.shape != (len(factors) + 1,):
        raise ValueError(
            f"factors: shape {factors.shape}, edges_s: shape {edges.shape}; expected [bins] or [bins, {classes}], and bins + 1"
        )
    if not np.all(np.diff(edges) > 0.0):
        raise ValueError(f"edges_s: {edges.tolist()}; expected ascending times")
    if not isinstance(factors, jax.Array) and not (np.all(factors >= 0.0) and np.all(np.isfinite(factors))):
        raise ValueError("factors: expected finite numbers of 0 or more")
    ends = np.linspace(0.0, duration_s, steps + 1)
    overlap = np.minimum(ends[1:, None], edges[1:]) - np.maximum(ends[:-1, None], edges[:-1])
    share = np.maximum(overlap, 0.0) * steps / duration_s
    return share @ factors + np.zeros((1, classes))


def network_at(network: Network, factors: Array) -> Network:
    """The network with the rates of its classes times `factors` [classes]."""
    for i, c in enumerate(network.classes):
        network = network.replace(f"classes.{c.name}.rate_per_s", c.rate_per_s * factors[i])
    return network


def chosen(course: Course, counts: np.ndarray) -> Setting:
    """The setting with so many servers [pools]."""
    if not course.varying:
        return course.setting
    return _with_servers(course.setting, *_levels(course, counts))


def _levels(course: Course, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Level of the curves and servers over those of the network, for counts [..., pools]."""
    level, share = np.zeros(counts.shape, dtype=int), np.ones(counts.shape)
    for j in course.varying:
        level[..., j] = np.searchsorted(course.levels, counts[..., j])
        share[..., j] = counts[..., j] / _servers(course.network.pools[j])
    return level, share


def _with_servers(setting: Setting, level: Array, share: Array) -> Setting:
    xp = namespace(setting, level, share)
    pools = np.arange(setting.curves.inside.shape[-2])
    routing, follows = setting.flat.routing, setting.follows
    sent = routing * (share[setting.flat.pool_of] + 1e-12)
    whole = xp.sum(sent, axis=-1, keepdims=True)
    sent = sent / xp.where(whole > 0.0, whole, 1.0)
    return setting._replace(
        curves=Curves(*(curve[level, pools] for curve in setting.curves)),
        flat=setting.flat._replace(routing=xp.where(follows[:, None] > 0.5, sent, routing)),
    )


def settled(network: Network, setting: Setting, entering: Array) -> State:
    """The state that constant rates end in; `ValueError` where a pool cannot take them."""
    flat, curves = setting.flat, setting.curves
    pools = len(network.pools)
    xp = namespace(setting, entering)
    rate = solved(xp.eye(len(flat.pool_of)) - xp.swapaxes(flat.routing, -1, -2), entering)

    def over(values: Array) -> Array:
        return pool_sums(xp, flat, values, pools)

    flow = over(rate)
    amount = over(rate * setting.amount) / xp.where(flow > 0.0, flow, 1.0)
    able = curves.inside / (curves.seconds * xp.where(flow > 0.0, amount, 1.0)[:, None])
    if xp is np:
        for j, pool in enumerate(network.pools):
            if flow[j] > able[j, -1] * (1.0 + 1e-9):
                raise ValueError(
                    f"pools.{pool.name}: unstable at the start: {flow[j]:.4g} per second, it can do {able[j, -1]:.4g}; expected a "
                    "load that holds, or start 'empty'"
                )
    inside = at_knots(flow, able, curves.inside)
    share = rate / xp.where(flow > 0.0, flow, 1.0)[flat.pool_of]
    work = rate * setting.amount / xp.where(flow > 0.0, flow * amount, 1.0)[flat.pool_of]
    queue = at_knots(inside, curves.inside, curves.queue)
    state = State(share * queue[flat.pool_of], work * inside[flat.pool_of], rate * setting.latency)
    long = 100.0 * xp.max(setting.amount * curves.seconds[flat.pool_of, 0])
    for _ in range(SETTLING):
        state, _ = step(setting, state, entering, long)
    return state


def reported(course: Course, counts: np.ndarray, moved: np.ndarray, states: State, seen: Seen) -> NetworkCourse:
    """The course as a user sees it: `states` [times, stages], `seen` [steps, ...], `counts` of servers and share `moved` back to
    waiting [steps, pools]."""
    network, setting, rates, dt = course.network, course.setting, course.rates, course.dt
    xp = namespace(states, seen)
    flat, pools, classes = setting.flat, len(network.pools), len(network.classes)
    times = np.arange(len(counts) + 1) * dt

    def over(values: Array) -> Array:
        return pool_sums(xp, flat, values, pools)

    def rows(values: Array) -> Array:  # the first time is as the first step
        return xp.concatenate([values[:1], values], axis=0)

    member = 1.0 * (flat.class_of[:, None] == np.arange(classes))
    leaves = xp.matmul(seen.leaving * (1.0 - xp.sum(flat.routing, axis=-1)), member)
    lost = xp.matmul(seen.lost, member)
    waiting = over(states.waiting)
    restarted = over(states.serving[:-1]) * moved / dt
    wait = _waits(times, waiting, over(seen.arriving - seen.lost) + restarted, seen.taken, dt)
    through = wait[:, flat.pool_of] + rows(seen.service_s) + setting.latency
    weight = traffic(network, flatten(network)).mean_weight
    most = stack(xp, [pool_rate(pool, weight[j]) for j, pool in enumerate(network.pools)])
    for j in course.varying:
        most = xp.where(
            np.arange(pools) == j, most / network.pools[j].servers * xp.maximum(counts[:, j : j + 1], 1e-300), most
        )
    delay = np.array([pool.kind == "delay" for pool in network.pools])
    done = over(seen.done * setting.amount)
    return NetworkCourse(
        time_s=times, waiting=waiting, in_service=over(states.serving), arriving_per_s=rows(over(seen.arriving)),
        leaving_per_s=rows(over(seen.done)), lost_per_s=rows(over(seen.lost)),
        utilisation=rows(xp.where(delay | (done <= 0.0), 0.0, done / most)), servers=rows(counts), wait_s=wait,
        rate_per_s=rows(xp.matmul(rates, member)), throughput_per_s=rows(leaves),
        e2e_s=_ends(xp, flat, through), content=states.waiting + states.serving + states.sent,
        served=xp.sum(leaves, axis=0) * dt, lost=xp.sum(lost, axis=0) * dt,
    )  # fmt: skip


def _ends(xp: Any, flat: Flat, through: Array) -> Array:
    """Mean time to the end of who enters, [times, classes], from the times at the stages."""
    return solved_columns(xp.eye(len(flat.pool_of)) - flat.routing, through.T).T[:, flat.entry]


def _waits(times: np.ndarray, waiting: Array, kept: Array, taken: Array, dt: float) -> Array:
    """Seconds until who comes at each time is taken in, first come, first served, [times, pools]; as at the end beyond it."""
    xp = namespace(waiting, kept, taken)
    before = xp.concatenate([0.0 * waiting[:1], xp.cumsum(kept, axis=0) * dt], axis=0) + waiting[:1]
    gone = xp.concatenate([0.0 * waiting[:1], xp.cumsum(taken, axis=0) * dt], axis=0)
    far = FAR * max(float(times[-1]), 1.0)
    late = np.append(times, times[-1] + far)
    found = []
    for j in range(waiting.shape[1]):
        course = xp.append(gone[:, j], gone[-1, j] + far * taken[-1, j] + 1e-12)
        wait = xp.interp(before[:, j], course, late, right=np.inf) - times
        found.append(xp.where(waiting[:, j] > 1e-9, xp.maximum(wait, 0.0), 0.0))
    return xp.stack(found, axis=-1)
