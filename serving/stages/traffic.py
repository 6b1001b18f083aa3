"""Traffic of a stage network: how often each stage is visited, how full each pool is, what gets through.

**Visits.** With e_k the requests per second that enter at stage k and P the probabilities of what is next,

    lambda = e + P' lambda            (a linear solve: every request leaves in the end)

**Utilisation** of pool j is the work its stages ask for over what it can do when full:

    u_j = sum_k lambda_k w_k / C_j,   C: servers;  bandwidth;  servers x slots / T(slots) steps or items

so that the network takes up to 1 / max_j u_j times its rates, and the pool with the largest u_j is the bottleneck.

**Overload** (Goodman and Massey, The non-ergodic Jackson network, 1984). A pool that is offered more than it can do lets
the share a_j = min(1, 1 / u_j) of its arrivals through: lambda = e + P' (a lambda). Its queue grows by what it does not do.
"""

from typing import Any, NamedTuple

import numpy as np

from serving.stages.implicit_fixed_point import fixed_point
from serving.stages.linear_systems import solved
from serving.stages.network import END, KINDS, Network, Pool
from serving.stages.step_law import law_time
from workloads.numeric import Array, namespace, stop_gradient

DELAY, BATCH, CONTINUOUS = KINDS.index("delay"), KINDS.index("batch"), KINDS.index("continuous")


class Flat(NamedTuple):
    """A network as arrays: stages of all classes in order [..., stages], routing [..., stages, stages]; `pool_of`,
    `class_of`, `entry` are structure."""

    work: Array
    scv: Array
    weight: Array
    routing: Array
    entering: Array
    burstiness: Array
    pool_of: np.ndarray
    class_of: np.ndarray
    entry: np.ndarray


class Traffic(NamedTuple):
    """Flows in steady state: per stage [..., stages], per pool [..., pools]. `offered` is the utilisation that the rates ask
    for, `passed` the share let through, `rate_per_s` what arrives at each stage after throttling upstream."""

    rate_per_s: Array
    visits_per_s: Array
    offered: Array
    utilisation: Array
    passed: Array
    mean_work: Array
    mean_weight: Array


class Limits(NamedTuple):
    """What full buffers do, per pool [..., pools] (`serving.stages.finite_buffers`): share `lost` of what comes, factor `stretch`
    on the utilisation by those who have finished and keep their place."""

    lost: Array
    stretch: Array


def flatten(network: Network) -> Flat:
    """The network as arrays, see `Flat`: of NumPy where all numbers of an array are."""
    stages = [(i, stage) for i, c in enumerate(network.classes) for stage in c.stages]
    at = {(i, stage.name): k for k, (i, stage) in enumerate(stages)}
    pools = {pool.name: j for j, pool in enumerate(network.pools)}
    entry = np.array([at[i, c.stages[0].name] for i, c in enumerate(network.classes)])
    rows = [[0.0] * len(stages) for _ in stages]
    for k, (i, stage) in enumerate(stages):
        for name, probability in stage.next.items():
            if name != END:
                rows[k][at[i, name]] = rows[k][at[i, name]] + probability
    entering: list[Any] = [0.0] * len(stages)
    for c, k in zip(network.classes, entry):
        entering[k] = c.rate_per_s
    flat_routing = _kept([p for row in rows for p in row])
    return Flat(
        *(_kept([getattr(stage, name) for _, stage in stages]) for name in ("work", "scv", "weight")),
        routing=namespace(flat_routing).reshape(flat_routing, (*flat_routing.shape[:-1], len(stages), len(stages))),
        entering=_kept(entering),
        burstiness=_kept([c.burstiness for c in network.classes]),
        pool_of=np.array([pools[stage.pool] for _, stage in stages]),
        class_of=np.array([i for i, _ in stages]),
        entry=entry,
    )  # fmt: skip


def traffic(network: Network, flat: Flat, limits: Limits | None = None) -> Traffic:
    """Flows, utilisations and what gets through, see the module; `limits` of buffers on a pool come first."""
    xp = namespace(network, flat)
    size = len(flat.pool_of)
    turned = namespace(flat.routing).swapaxes(flat.routing, -1, -2)
    visits = solved(namespace(turned).eye(size) - turned, flat.entering)
    offered, work, weight = _load(network, flat, visits)
    visits = visits + 0.0 * offered[..., :1]
    if limits is not None:
        shed = np.array([pool.when_full == "shed" for pool in network.pools])
        return _limited(network, flat, visits, shed, limits)

    def through(x: Array, theta: Any) -> Array:
        net, f = theta
        used, _, _ = _load(net, f, x)
        passed = 1.0 / xp.maximum(used, 1.0)
        return f.entering + _times(xp.swapaxes(f.routing, -1, -2), x * at_stages(f, passed))

    if xp is np and not np.any(offered > 1.0):
        return Traffic(visits, visits, offered, offered, np.ones_like(offered), work, weight)
    dynamic = (network, _numbers(flat))
    rate = fixed_point(lambda x, t: through(x, (t[0], _with(flat, t[1]))), stop_gradient(visits), dynamic)
    used, work, weight = _load(network, flat, rate)
    return Traffic(rate, visits, offered, used, 1.0 / xp.maximum(used, 1.0), work, weight)


def _limited(network: Network, flat: Flat, visits: Array, shed: np.ndarray, limits: Limits) -> Traffic:
    """Flows that obey `limits`."""
    xp = namespace(network, flat, visits, limits)

    def passing(net: Network, f: Flat, x: Array, given: Limits) -> tuple[Array, ...]:
        used, work, weight = _load(net, f, x)
        used = used * given.stretch
        return used, xp.where(shed, 1.0 - given.lost, 1.0 / xp.maximum(used, 1.0)), work, weight

    def through(x: Array, theta: Any) -> Array:
        net, numbers, given = theta
        f = _with(flat, numbers)
        return f.entering + _times(xp.swapaxes(f.routing, -1, -2), x * at_stages(f, passing(net, f, x, given)[1]))

    start = stop_gradient(visits + 0.0 * limits.lost[..., :1])
    rate = fixed_point(through, start, (network, _numbers(flat), limits))
    used, passed, work, weight = passing(network, flat, rate, limits)
    offered = _load(network, flat, visits)[0] * limits.stretch
    return Traffic(rate, visits, offered, used, passed, work, weight)


def _numbers(flat: Flat) -> tuple[Array, ...]:
    return flat[:6]


def _with(flat: Flat, numbers: tuple[Array, ...]) -> Flat:
    return flat._replace(**dict(zip(Flat._fields, numbers)))


def pool_rate(pool: Pool, mean_weight: Array) -> Array:
    """Work per second of a full pool, [...], of residents or items of `mean_weight`; infinite for a delay."""
    if pool.kind == "link":
        return pool.bandwidth_bytes_per_s
    if pool.kind in ("batch", "continuous"):
        return pool.servers * pool.slots / law_time(pool.law, pool.slots * mean_weight)
    return pool.servers


def _load(network: Network, flat: Flat, rate: Array) -> tuple[Array, Array, Array]:
    """Utilisation, mean work per visit and mean weight of a resident or item per pool, [..., pools], at stage rates."""
    xp = namespace(network, flat, rate)
    pools = len(network.pools)

    def over(values: Array) -> Array:
        return pool_sums(xp, flat, values, pools)

    kinds = np.array([KINDS.index(pool.kind) for pool in network.pools])
    total, done = over(rate + 0.0 * flat.work), over(rate * flat.work)
    used = total > 0.0
    mean = done / xp.where(used, total, 1.0)
    weight = over(rate * flat.work * flat.weight) / xp.where(used, done, 1.0)
    weight = xp.where(used, xp.where(kinds == CONTINUOUS, weight, mean), 1.0)
    asked = xp.where(kinds == BATCH, total, xp.where(kinds == DELAY, 0.0, done))
    rates = stack(xp, [pool_rate(pool, weight[..., j]) for j, pool in enumerate(network.pools)])
    return asked / rates, mean, weight


def _times(matrix: Array, vector: Array) -> Array:
    xp = namespace(matrix, vector)
    return xp.sum(matrix * vector[..., None, :], axis=-1)


def stack(xp: Any, values: list[Any]) -> Array:
    """`values`, broadcast against each other, on a new last axis."""
    return xp.stack(xp.broadcast_arrays(*(xp.asarray(v) * 1.0 for v in values)), axis=-1)


def pool_sums(xp: Any, flat: Flat, values: Array, pools: int) -> Array:
    """Sums over the stages of each pool, [..., pools], of finite `values` [..., stages]."""
    return xp.matmul(values[..., None, :], 1.0 * (flat.pool_of[:, None] == np.arange(pools)))[..., 0, :]


def at_stages(flat: Flat, values: Array) -> Array:
    """For each stage, [..., stages], the value of its pool: finite `values` [..., pools]."""
    xp = namespace(values)
    member = 1.0 * (np.arange(values.shape[-1])[:, None] == flat.pool_of)
    return xp.matmul(values[..., None, :], member)[..., 0, :]


def _kept(values: list[Any]) -> Array:
    return stack(namespace(values), values)
