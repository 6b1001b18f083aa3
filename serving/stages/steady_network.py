"""Steady state of a stage network: times, queues and limits in closed form, for one configuration or a million.

    end-to-end time of a class:  t = (I - P)^-1 s       s_k: mean time at stage k = wait of its pool + its own service
    its second moment:           q = (I - P)^-1 (v + s^2 + 2 s P t),    v_k: variance of the time at k

From mean and variance follow percentiles of a gamma distribution (Wilson and Hilferty 1931). Traffic, utilisation and burstiness:
`serving.stages.traffic`; waiting: `serving.stages.shared_service`, `serving.stages.batch_service`. Pools are taken as
independent given their arrivals (exact for product-form networks: Poisson arrivals, exponential or shared service).

The part of v that the state of a pool sets (the wait; how many share it) is the same for all pieces of one visit to it.

Includes overload: what gets through, which queue grows; full buffers (`serving.stages.finite_buffers`) and routers
(`serving.stages.routers`). Excludes: transients (`serving.dynamics`), correlation between the waits of one request at different
pools. Everything broadcasts over configurations and is differentiable in every number that is not a count.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from serving.stages.batch_service import batch_state
from serving.stages.burstiness import Burstiness, burstiness
from serving.stages.finite_buffers import buffered, held_limits
from serving.stages.linear_systems import solved
from serving.stages.network import KINDS, Network, check_network, stacked_pools
from serving.stages.revisits import Revisits, revisits
from serving.stages.routers import AWAY_ROUNDS, sent_away, without_routers
from serving.stages.shared_service import PoolState, continuous_state, delay_state, link_state, servers_state
from serving.stages.slo_routing import assigned
from serving.stages.traffic import Flat, Limits, Traffic, at_stages, flatten, pool_sums, stack, traffic
from workloads.numeric import Array, namespace, stop_gradient

#: Shares of the fluid's scale at which a network that blocks is looked at: linear between them, to 0.5 %.
SCALES = np.linspace(0.2, 1.0, 33)
#: Standard normal quantiles of the percentiles given.
_P50, _P90, _P99 = 0.0, 1.2815515655446004, 2.3263478740408408


class SteadyNetwork(NamedTuple):
    """Steady state, per stage [..., stages] (all classes in order), pool [..., pools] and class [..., classes]; names are
    those of the network.

    `offered`: utilisation of each pool that the rates ask for; `utilisation`: that of what reaches it; `scale`: factor on
    all rates that the network just holds; `bottleneck`: index of the pool that sets it; `throughput_per_s` per class;
    `queue`: requests waiting; `in_service`: requests being served; `batch`:
    size of the batch a request is in; `busy`: share of time a server works; `growth_per_s` of each queue under
    overload; `passed`: share a pool lets through; `lost_per_s` of each class, where full buffers shed. Behind routers, stages and
    pools are those of `without_routers(network)`. Times are infinite where a pool on the way is overloaded.
    """

    rate_per_s: Array
    stage_s: Array
    wait_s: Array
    offered: Array
    utilisation: Array
    passed: Array
    queue: Array
    in_service: Array
    batch: Array
    busy: Array
    growth_per_s: Array
    e2e_s: Array
    e2e_deviation_s: Array
    e2e_p50_s: Array
    e2e_p90_s: Array
    e2e_p99_s: Array
    throughput_per_s: Array
    scale: Array
    bottleneck: Array
    stable: Array
    lost_per_s: Array


def steady_network(network: Network, *, checked: bool = True) -> SteadyNetwork:
    """Steady state of `network`. Outside JAX it must be as `check_network` wants it, unless it is known to be (`checked` False)."""
    if namespace(network) is not np:  # whole numbers have no derivative
        network = jax.tree_util.tree_map(lambda leaf: leaf * 1.0, network)
    elif checked:
        check_network(network)
    network = answerable(network)
    flat = flatten(network)
    if all(pool.when_full == "wait" or _endless(pool.buffer) for pool in network.pools):
        flows = traffic(network, flat)
        return _answer(network, flat, flows, *_pools(network, flat, flows))
    return _with_buffers(network, flat)


def _endless(buffer: Array) -> bool:
    return not isinstance(buffer, jax.Array) and bool(np.all(np.isinf(buffer)))


def answerable(network: Network) -> Network:
    """The network without routers whose steady state is that of `network`: classes assigned, those sent elsewhere counted."""
    if not network.routers:
        return network
    if any(router.policy == "slo" for router in network.routers):
        network = assigned(network, lambda x: (without_routers(x), steady_network(x, checked=False)))
    away: dict[str, Array] = {}
    for _ in range(AWAY_ROUNDS if any(router.policy == "prefix" for router in network.routers) else 0):
        plain = without_routers(network, away)
        flat = flatten(plain)
        flows = traffic(plain, flat)
        away = sent_away(network, plain, flows, _pools(plain, flat, flows)[1])
    return without_routers(network, away)


def _with_buffers(network: Network, flat: Flat) -> SteadyNetwork:
    """The steady state of flows that agree with what full buffers make of them."""
    limits = held_limits(network, flat, _limits_after)
    flows = traffic(network, flat, limits)
    xp = namespace(network, flat, flows)
    visits, states = _pools(network, flat, flows, limits)
    found = buffered(network, flat, flows, states, limits)
    rates = pool_sums(xp, flat, flows.rate_per_s, len(network.pools))
    finite = xp.isfinite(states.wait_s)
    own = xp.where(finite, states.wait_s, 0.0)
    ratio = xp.where(
        finite & (own > 0.0), xp.where(finite, states.wait_square, 0.0) / xp.maximum(own, 1e-150) ** 2, 4.0 / 3.0
    )
    queued = found.waiting / xp.where(rates > 0.0, rates * flows.passed, 1.0)
    wait = xp.where(found.another, queued, states.wait_s)
    square = xp.where(found.another, queued * queued * xp.clip(ratio, 1.0, 10.0), states.wait_square)
    answer = _answer(network, flat, flows, visits, states._replace(wait_s=wait, wait_square=square))
    if all(pool.when_full != "block" for pool in network.pools):
        return answer
    return answer._replace(scale=_held_scale(network, flat))


def _limits_after(network: Network, flat: Flat, limits: Limits) -> Limits:
    flows = traffic(network, flat, limits)
    return buffered(network, flat, flows, _pools(network, flat, flows, limits)[1], limits).limits


def _held_scale(network: Network, flat: Flat) -> Array:
    """Factor on all rates at which a pool is first full of work and of those who keep their place; no derivative."""
    network, numbers = jax.tree_util.tree_map(stop_gradient, (network, flat[:6]))
    flat = flat._replace(**dict(zip(Flat._fields, numbers)))
    xp = namespace(network, flat)
    shed = np.array([pool.when_full == "shed" for pool in network.pools])
    most = xp.max(traffic(network, flat).offered, axis=-1)
    fluid = 1.0 / xp.where(most > 0.0, most, xp.nan)
    factors = fluid * np.reshape(SCALES, (-1, *(1,) * most.ndim))
    at = flat._replace(entering=flat.entering * factors[..., None])
    offered = traffic(network, at, held_limits(network, at, _limits_after)).offered
    full = xp.max(xp.where(shed, 0.0, offered), axis=-1)
    above = xp.clip(xp.sum(1 * (full < 1.0), axis=0), 1, len(SCALES) - 1)[None]
    low, high = (xp.take_along_axis(full, i, axis=0)[0] for i in (above - 1, above))
    first, last = (xp.take_along_axis(factors + 0.0 * full, i, axis=0)[0] for i in (above - 1, above))
    share = xp.clip((1.0 - low) / xp.maximum(high - low, 1e-12), 0.0, 1.0)
    return xp.minimum(first + share * (last - first), fluid)


def _pools(network: Network, flat: Flat, flows: Traffic, limits: Limits | None = None) -> tuple[Revisits, PoolState]:
    """Visits and the states of all pools."""
    xp = namespace(network, flat, flows)
    pool_rates = pool_sums(xp, flat, flows.rate_per_s, len(network.pools))
    visits = revisits(flat, flows, len(network.pools))
    if limits is not None:
        visits = visits._replace(piece=visits.piece * limits.stretch)
    bursts = network_bursts(network, flat, flows, visits, pool_rates)
    return visits, pool_states(network, flows, pool_rates, visits, bursts.dispersion, bursts.clump, KINDS)


def network_bursts(network: Network, flat: Flat, flows: Traffic, visits: Revisits, rates: Array) -> Burstiness:
    """How visits come to each pool, batches that leave together included; `rates` [..., pools] of visits."""
    xp = namespace(network, flat, flows)

    def made(dispersion: Array) -> Array:
        """Others that leave with an item of a batch: E[b (b - 1)] / E[b]."""
        if not any(pool.kind == "batch" for pool in network.pools):
            return 0.0 * rates
        state = pool_states(network, flows, rates, visits, dispersion, 0.0 * dispersion, ("batch",))
        return xp.maximum(state.batch - 1.0, 0.0) * (1.0 - visits.staying)

    return burstiness(network, flat, flows, visits, made)


def _answer(network: Network, flat: Flat, flows: Traffic, visits: Revisits, states: PoolState) -> SteadyNetwork:
    xp = namespace(network, flat, flows, states)
    stage_rate = flows.rate_per_s
    pool_rates = pool_sums(xp, flat, stage_rate, len(network.pools))
    shed = np.array([pool.when_full == "shed" for pool in network.pools])
    times = _stage_times(xp, network, flat, flows, visits, states)
    mean, second = _through(xp, flat, times)
    entry = list(flat.entry)
    e2e, deviation = mean[..., entry], _deviation(xp, mean[..., entry], second[..., entry])
    served = stage_rate * at_stages(flat, flows.passed)
    # who is turned away is in no service: Little's law of who is not
    waits = xp.isfinite(times.wait)
    service = xp.where(waits, times.time, 0.0) - xp.where(waits, times.wait, 0.0)
    inside = pool_sums(xp, flat, served * service, len(network.pools))
    servers = np.array([pool.kind == "servers" for pool in network.pools])
    leaves = served * (1.0 - xp.sum(flat.routing, axis=-1))
    classes = len(network.classes)
    throughput = _of_classes(xp, flat, leaves, classes)
    most = xp.max(flows.offered, axis=-1)
    return SteadyNetwork(
        rate_per_s=stage_rate, stage_s=times.time, wait_s=times.wait, offered=flows.offered, utilisation=flows.utilisation,
        passed=flows.passed,
        queue=_queues(xp, network, flat, stage_rate * at_stages(flat, xp.where(shed, flows.passed, 1.0)), times.wait),
        in_service=xp.where(shed, xp.minimum(states.in_service, inside), states.in_service),
        batch=states.batch, busy=xp.where(shed & servers, xp.minimum(states.busy, flows.utilisation * flows.passed), states.busy),
        growth_per_s=xp.where(shed, 0.0, pool_rates * (1.0 - flows.passed)), e2e_s=e2e,
        e2e_deviation_s=deviation, e2e_p50_s=_gamma(xp, e2e, deviation, _P50), e2e_p90_s=_gamma(xp, e2e, deviation, _P90),
        e2e_p99_s=_gamma(xp, e2e, deviation, _P99), throughput_per_s=throughput,
        scale=1.0 / xp.where(most > 0.0, most, xp.nan), bottleneck=xp.argmax(flows.offered, axis=-1),
        stable=xp.max(xp.where(shed, 0.0, flows.offered), axis=-1) < 1.0,
        lost_per_s=_of_classes(xp, flat, stage_rate * at_stages(flat, xp.where(shed, 1.0 - flows.passed, 0.0)), classes),
    )  # fmt: skip


def _of_classes(xp: Any, flat: Flat, values: Array, classes: int) -> Array:
    """Sums over the stages of each class, [..., classes]."""
    return xp.matmul(values[..., None, :], 1.0 * (flat.class_of[:, None] == np.arange(classes)))[..., 0, :]


def pool_states(
    network: Network,
    flows: Traffic,
    rates: Array,
    visits: Revisits,
    dispersion: Array,
    clump: Array,
    kinds: tuple[str, ...],
) -> PoolState:
    """Waiting and service of all pools of `kinds`, [..., pools]; others as pools that nobody waits at. Pools of a kind at once."""
    xp = namespace(network, flows, rates)
    numbers = (
        rates, flows.mean_work, flows.mean_weight, flows.utilisation, visits.total_scv, visits.piece, visits.staying,
        dispersion, clump,
    )  # fmt: skip
    given = xp.stack(xp.broadcast_arrays(*numbers), axis=-1)
    order, parts = [], []
    for kind in KINDS:
        on = np.array([j for j, pool in enumerate(network.pools) if pool.kind == kind], dtype=int)
        if len(on) == 0:
            continue
        chosen = given[..., on, :]
        rate, work, weight, load, scv, piece, staying, *bursts = (chosen[..., i] for i in range(given.shape[-1]))
        pool = stacked_pools([network.pools[j] for j in on])
        if kind == "delay" or kind not in kinds:
            state = delay_state(rate, work)
        elif kind == "link":
            state = link_state(pool, rate, work, load, scv, *bursts)
        elif kind == "servers":
            state = servers_state(pool, rate, work, load, scv, piece, *bursts)
        elif kind == "batch":
            state = batch_state(pool, rate, weight, load, staying, *bursts)
        else:
            state = continuous_state(pool, rate, work, weight, load, scv, piece, *bursts)
        order += on.tolist()
        parts.append(state)
    back = np.argsort(order)
    whole = xp.concatenate([xp.stack(xp.broadcast_arrays(*part), axis=-1) for part in _widest(xp, parts)], axis=-2)
    whole = whole[..., back, :]
    return PoolState(*(whole[..., i] for i in range(len(PoolState._fields))))


def _widest(xp: Any, parts: list[PoolState]) -> list[PoolState]:
    """The states with the axes over configurations of the widest."""
    shape = np.broadcast_shapes(*(field.shape[:-1] for part in parts for field in part))
    return [PoolState(*(xp.broadcast_to(field, (*shape, field.shape[-1])) for field in part)) for part in parts]


class _StageTimes(NamedTuple):
    """Per stage [..., stages]: mean time, mean wait, variance of the time, and the deviation of that part of it which the state of
    the pool sets: pieces of one visit share it."""

    time: Array
    wait: Array
    variance: Array
    shared: Array


def _stage_times(
    xp: Any, network: Network, flat: Flat, flows: Traffic, visits: Revisits, states: PoolState
) -> _StageTimes:
    together = xp.stack(xp.broadcast_arrays(*states), axis=-1)[..., flat.pool_of, :]
    at = PoolState(*(together[..., i] for i in range(len(states))))
    batch = np.array([network.pools[j].kind == "batch" for j in flat.pool_of])
    latency = at_stages(flat, _latency(xp, network))
    some = xp.isfinite(at.wait_s) & xp.isfinite(at.unit_s)
    mean = at_stages(flat, flows.mean_weight)
    own = at.unit_s * flat.work
    service = xp.where(batch, at.unit_s * mean + at.batch_slope_s * (flat.work - mean), own)
    finite = xp.where(some, service, 0.0)
    variance = flat.scv * xp.where(batch, at.batch_slope_s * flat.work, finite) ** 2
    shared = (1.0 + flat.scv) * at.unit_scv * finite**2
    # who comes straight from a batch of the same pool is there when the next one starts
    waited = at.wait_s - visits.again * at.rest_s
    square = xp.where(some, at.wait_square, 0.0) - xp.where(some, at.wait_s, 0.0) ** 2
    shared = shared + xp.maximum(square, 0.0)
    return _StageTimes(
        waited + service + latency, waited, variance + shared, xp.sqrt(xp.maximum(shared, 1e-30)) + 0.0 * latency
    )


def _queues(xp: Any, network: Network, flat: Flat, rate: Array, wait: Array) -> Array:
    stuck = xp.isinf(wait) & (rate > 0.0)
    waiting = pool_sums(xp, flat, rate * xp.where(xp.isinf(wait), 0.0, wait), len(network.pools))
    return xp.where(pool_sums(xp, flat, 1.0 * stuck, len(network.pools)) > 0.0, xp.inf, waiting)


def _latency(xp: Any, network: Network) -> Array:
    return stack(xp, [pool.latency_s if pool.kind == "link" else 0.0 for pool in network.pools])


def _through(xp: Any, flat: Flat, times: _StageTimes) -> tuple[Array, Array]:
    """Mean and mean square of the time from each stage to the end, [..., stages]; infinite where a stage ahead is."""
    system = namespace(flat.routing).eye(len(flat.pool_of)) - flat.routing
    finite = xp.isfinite(times.time)
    t = xp.where(finite, times.time, 0.0)
    mean = solved(system, t)
    ahead = xp.sum(flat.routing * mean[..., None, :], axis=-1)
    # pieces of one visit find the pool in the same state
    inner = flat.routing * (flat.pool_of[:, None] == flat.pool_of[None, :])
    same = solved(namespace(inner).eye(len(flat.pool_of)) - inner, times.shared)
    together = times.shared * xp.sum(inner * same[..., None, :], axis=-1)
    second = times.variance + t * t + 2.0 * t * ahead + 2.0 * together
    second = solved(system, second)
    if xp is np and np.all(finite):
        return mean, second
    reached = solved(system, 1.0 - finite) > 1e-12
    return xp.where(reached, xp.inf, mean), xp.where(reached, xp.inf, second)


def _deviation(xp: Any, mean: Array, second: Array) -> Array:
    finite = xp.isfinite(mean)
    inside = xp.where(finite, second, 1.0) - xp.where(finite, mean, 0.0) ** 2
    return xp.where(finite, xp.sqrt(xp.maximum(inside, 1e-12 * xp.where(finite, mean, 1.0) ** 2)), xp.inf)


def _gamma(xp: Any, mean: Array, deviation: Array, z: float) -> Array:
    """Quantile of a gamma distribution by its mean and deviation, at the standard normal quantile z."""
    finite = xp.isfinite(mean)
    m, d = xp.where(finite, mean, 1.0), xp.where(finite, deviation, 0.0)
    ratio = d / xp.where(m > 0.0, m, 1.0)
    root = xp.maximum(1.0 - ratio * ratio / 9.0 + z * ratio / 3.0, 0.0)
    return xp.where(finite, m * root**3, xp.inf)
