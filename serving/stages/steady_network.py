"""Steady state of a stage network: times, queues and limits in closed form, for one configuration or a million.

    end-to-end time of a class:  t = (I - P)^-1 s       s_k: mean time at stage k = wait of its pool + its own service
    its second moment:           q = (I - P)^-1 (v + s^2 + 2 s P t),    v_k: variance of the time at k

From mean and variance follow percentiles of a gamma distribution (Wilson and Hilferty 1931). Traffic, utilisation and burstiness:
`serving.stages.traffic`; waiting: `serving.stages.shared_service`, `serving.stages.batch_service`. Pools are taken as
independent given their arrivals (exact for product-form networks: Poisson arrivals, exponential or shared service).

The part of v that the state of a pool sets (the wait; how many share it) is the same for all pieces of one visit to it.

Includes overload: what gets through, which queue grows. Excludes: transients, finite buffers that block, correlation between the
waits of one request at different pools. Everything broadcasts over configurations and is differentiable in every number that
is not a count.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from serving.stages.batch_service import batch_state
from serving.stages.burstiness import burstiness
from serving.stages.network import Network, check_network
from serving.stages.revisits import Revisits, revisits
from serving.stages.shared_service import PoolState, continuous_state, delay_state, link_state, servers_state
from serving.stages.traffic import Flat, Traffic, flatten, pool_sums, stack, traffic
from workloads.numeric import Array, namespace

#: Standard normal quantiles of the percentiles given.
_P50, _P90, _P99 = 0.0, 1.2815515655446004, 2.3263478740408408


class SteadyNetwork(NamedTuple):
    """Steady state, per stage [..., stages] (all classes in order), pool [..., pools] and class [..., classes]; names are
    those of the network.

    `offered`: utilisation of each pool that the rates ask for; `utilisation`: that of what reaches it; `scale`: factor on
    all rates that the network just holds; `bottleneck`: index of the pool that sets it; `throughput_per_s` per class;
    `queue`: requests waiting; `in_service`: requests being served; `batch`:
    size of the batch a request is in; `busy`: share of time a server works; `growth_per_s` of each queue under
    overload; `passed`: share a pool lets through. Times are infinite where a pool on the way is overloaded.
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


def steady_network(network: Network) -> SteadyNetwork:
    """Steady state of `network`, which must be as `check_network` wants it (checked outside JAX)."""
    if namespace(network) is np:
        check_network(network)
    else:  # whole numbers have no derivative
        network = jax.tree_util.tree_map(lambda leaf: leaf * 1.0, network)
    flat = flatten(network)
    flows = traffic(network, flat)
    return _answer(network, flat, flows)


def _answer(network: Network, flat: Flat, flows: Traffic) -> SteadyNetwork:
    xp = namespace(network, flat, flows)
    stage_rate = flows.rate_per_s
    pool_rates = pool_sums(xp, flat, stage_rate, len(network.pools))
    visits = revisits(flat, flows, len(network.pools))

    def made(dispersion: Array) -> Array:
        """Others that leave with an item of a batch: E[b (b - 1)] / E[b]."""
        values = []
        for j, pool in enumerate(network.pools):
            if pool.kind == "batch":
                state = _pool_state(network, j, flows, pool_rates, visits, dispersion, 0.0 * dispersion)
                values.append(xp.maximum(state.batch - 1.0, 0.0) * (1.0 - visits.staying[..., j]))
            else:
                values.append(0.0 * pool_rates[..., j])
        return xp.stack(xp.broadcast_arrays(*values), axis=-1)

    bursts = burstiness(network, flat, flows, visits, made)
    states = [
        _pool_state(network, j, flows, pool_rates, visits, bursts.dispersion, bursts.clump)
        for j in range(len(network.pools))
    ]
    times = _stage_times(xp, network, flat, flows, visits, states)
    mean, second = _through(xp, flat, times)
    entry = list(flat.entry)
    e2e, deviation = mean[..., entry], _deviation(xp, mean[..., entry], second[..., entry])
    served = stage_rate * flows.passed[..., flat.pool_of]
    leaves = served * (1.0 - xp.sum(flat.routing, axis=-1))
    classes = len(network.classes)
    throughput = xp.stack([xp.sum(leaves[..., flat.class_of == i], axis=-1) for i in range(classes)], axis=-1)
    most = xp.max(flows.offered, axis=-1)
    return SteadyNetwork(
        rate_per_s=stage_rate, stage_s=times.time, wait_s=times.wait, offered=flows.offered, utilisation=flows.utilisation,
        passed=flows.passed, queue=pool_sums(xp, flat, stage_rate * times.wait, len(network.pools)),
        in_service=stack(xp, [s.in_service for s in states]),
        batch=stack(xp, [s.batch for s in states]), busy=stack(xp, [s.busy for s in states]),
        growth_per_s=pool_rates * (1.0 - flows.passed), e2e_s=e2e,
        e2e_deviation_s=deviation, e2e_p50_s=_gamma(xp, e2e, deviation, _P50), e2e_p90_s=_gamma(xp, e2e, deviation, _P90),
        e2e_p99_s=_gamma(xp, e2e, deviation, _P99), throughput_per_s=throughput,
        scale=1.0 / xp.where(most > 0.0, most, xp.nan), bottleneck=xp.argmax(flows.offered, axis=-1),
        stable=most < 1.0,
    )  # fmt: skip


def _pool_state(
    network: Network, j: int, flows: Traffic, rates: Array, visits: Revisits, dispersion: Array, clump: Array
) -> PoolState:
    pool, rate, work, weight = (network.pools[j], rates[..., j], flows.mean_work[..., j], flows.mean_weight[..., j])
    load, scv, piece = flows.utilisation[..., j], visits.total_scv[..., j], visits.piece[..., j]
    bursts = dispersion[..., j], clump[..., j]
    if pool.kind == "delay":
        return delay_state(rate, work)
    if pool.kind == "link":
        return link_state(pool, rate, work, load, scv, *bursts)
    if pool.kind == "servers":
        return servers_state(pool, rate, work, load, scv, piece, *bursts)
    if pool.kind == "batch":
        return batch_state(pool, rate, weight, load, visits.staying[..., j], *bursts)
    return continuous_state(pool, rate, work, weight, load, scv, piece, *bursts)


class _StageTimes(NamedTuple):
    """Per stage [..., stages]: mean time, mean wait, variance of the time, and the deviation of that part of it which the state of
    the pool sets: pieces of one visit share it."""

    time: Array
    wait: Array
    variance: Array
    shared: Array


def _stage_times(
    xp: Any, network: Network, flat: Flat, flows: Traffic, visits: Revisits, states: list[PoolState]
) -> _StageTimes:
    rows = []
    for k, j in enumerate(flat.pool_of):
        pool, state = network.pools[j], states[j]
        work, scv = flat.work[..., k], flat.scv[..., k]
        some = xp.isfinite(state.wait_s) & xp.isfinite(state.unit_s)
        if pool.kind == "batch":
            mean = flows.mean_weight[..., j]
            service = state.unit_s * mean + state.batch_slope_s * (work - mean)
            variance = scv * (state.batch_slope_s * work) ** 2
        else:
            service = state.unit_s * work
            variance = scv * xp.where(some, service, 0.0) ** 2
        shared = (1.0 + scv) * state.unit_scv * xp.where(some, service, 0.0) ** 2
        service = service + (pool.latency_s if pool.kind == "link" else 0.0)
        # who comes straight from a batch of the same pool is there when the next one starts
        waited = state.wait_s - visits.again[..., k] * state.rest_s
        square = xp.where(some, state.wait_square, 0.0) - xp.where(some, state.wait_s, 0.0) ** 2
        shared = shared + xp.maximum(square, 0.0)
        rows.append((waited + service, waited, variance + shared, xp.sqrt(xp.maximum(shared, 1e-30))))
    return _StageTimes(*(stack(xp, [row[i] for row in rows]) for i in range(4)))


def _through(xp: Any, flat: Flat, times: _StageTimes) -> tuple[Array, Array]:
    """Mean and mean square of the time from each stage to the end, [..., stages]; infinite where a stage ahead is."""
    system = xp.eye(len(flat.pool_of)) - flat.routing
    finite = xp.isfinite(times.time)
    t = xp.where(finite, times.time, 0.0)
    mean = xp.linalg.solve(system, t[..., None])[..., 0]
    ahead = xp.sum(flat.routing * mean[..., None, :], axis=-1)
    # pieces of one visit find the pool in the same state
    inner = flat.routing * (flat.pool_of[:, None] == flat.pool_of[None, :])
    same = xp.linalg.solve(xp.eye(len(flat.pool_of)) - inner, times.shared[..., None])
    together = times.shared * xp.sum(inner * xp.swapaxes(same, -1, -2), axis=-1)
    second = times.variance + t * t + 2.0 * t * ahead + 2.0 * together
    second = xp.linalg.solve(system, second[..., None])[..., 0]
    if xp is np and np.all(finite):
        return mean, second
    reached = xp.linalg.solve(system, (1.0 - finite)[..., None])[..., 0] > 1e-12
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
