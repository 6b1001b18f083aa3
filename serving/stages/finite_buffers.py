"""Pools whose buffer is finite: what is shed, what is blocked, and how far blocking reaches upstream. In closed form.

**Law of the queue.** With r = pi(all full, none waits) / P(as many or fewer), load u and V = (I + c_s^2) g / 2 of the infinite
queue (`serving.stages.shared_service`), i waiting have weight ~ sigma^i up to the room K,

    sigma = 1 - (1 - u) / V,    S(K) = (1 - sigma^K) / (1 - u),    norm = 1 + r u S(K)
    loss  = r sigma^K / norm,   waiting = r u S(K) / norm x (1 / (1 - sigma) - K sigma^K / (1 - sigma^K))

exact for M/M/m/K (sigma = u); K = inf is the infinite queue exactly; under overload, loss >= 1 - 1 / u, its limit for large K: the
fluid. For batches, P = P(queue >= K) of the infinite queue (gamma by two moments): loss = (1 - u) P / (1 - u P) (exact in shape
for one server: Tijms 1992), at least the fluid's 1 - 1 / u with batches of at most K, at most what
serving one by one would lose. Rough where K is less than what comes at once.

**Shed.** A share `loss` leaves the network there; the others go on. **Block.** Who finds pool j full stays where it was served
and takes its place: the line of j is K + M long, M the places of the pools before it, fed at a rate l' that is lambda_j after
what is turned away, l' (1 - loss(l', K + M)) = lambda_j. Of those waiting, H_j = sum (i - K) p_i stand in places of pools before
it, whose utilisation rises:

    u_i' = u_i + sum_j H_j f_ij / places_i,      f_ij: share of pool i in what comes to j

(exact for two exponential servers in a row, saturated, of equal speed). What comes from outside, a delay, a link or a router
waits at the door. Held requests of a batch keep its server until the last is gone: H_j counts as that of its mean batch. Pools
are taken as independent, and a circle of pools that block each other, which can come to a standstill, is refused.

Two pools in a row against the replay (`python benchmarks/network_dynamics.py`): servers and continuous pools within 1 % of
throughput where they shed (4 % with few places before a continuous pool at nearly twice its limit), 5 % where they block and are
overloaded; times within 2 %, 23 % too long without any buffer between servers that block.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from serving.implicit_root import increasing_root
from serving.stages.implicit_fixed_point import fixed_point
from serving.stages.network import Network, Pool
from serving.stages.shared_service import MOST_LOAD, PoolState, full_ratio
from serving.stages.step_law import law_time
from serving.stages.traffic import Flat, Limits, Traffic, pool_sums, stack, traffic
from serving.waiting import normal
from workloads.numeric import Array, namespace, stop_gradient

#: Share of a new round of what buffers do in the next.
DAMPING = 0.5


class Buffered(NamedTuple):
    """Per pool, [..., pools]: the limits that flows obey, mean `waiting` (standing before it included), and whether it is `another`
    than without a buffer."""

    limits: Limits
    waiting: Array
    another: Array


def queue_law(load: Array, last: Array, spread: Array, room: Array) -> tuple[Array, Array]:
    """Share lost and mean number waiting of the law above, [...]."""
    xp = namespace(load, last, spread, room)
    mass, _, loss, mean, short = _law(xp, load, last, spread, room)
    return loss, mass * mean * short


def _law(xp: Any, load: Array, last: Array, spread: Array, room: Array) -> tuple[Array, ...]:
    """Probability that some wait, sigma^room, loss, mean number of those who wait, and what a regular queue is short of it."""
    d, inverse = _slope(xp, load, spread)
    power, gone, mean = _geometric(xp, d, room)
    norm = 1.0 + last * load * gone * inverse
    short = xp.where(load < 1.0, xp.minimum(1.0, spread / xp.maximum(1.0 - load, 1e-12)), 1.0)
    return last * load * gone * inverse / norm, power, last * power / norm, mean, short


def _slope(xp: Any, load: Array, spread: Array) -> tuple[Array, Array]:
    """sigma - 1, and it over u - 1."""
    v = xp.maximum(spread, 0.02)
    v = xp.where(load < 1.0, xp.maximum(v, (1.0 - load) / (1.0 - 1e-9)), v)
    d = (load - 1.0) / v
    return xp.where(xp.abs(d) < 1e-9, 1e-9, d), 1.0 / v


def _geometric(xp: Any, d: Array, size: Array) -> tuple[Array, Array, Array]:
    """sigma^K, (sigma^K - 1) / d and the mean of i = 1..K with weights sigma^i, sigma = 1 + d."""
    size = xp.minimum(size, 1e9)
    power = xp.exp(xp.clip(size * xp.log1p(d), -700.0, 200.0))
    some = xp.abs(power - 1.0) > 1e-7
    mean = xp.where(some, size * power / xp.where(some, power - 1.0, 1.0) - 1.0 / d, 0.5 * (size + 1.0))
    return power, (power - 1.0) / d, xp.where(size > 0.0, xp.maximum(mean, 1.0), 0.0)


def _batch_law(pool: Pool, weight: Array, rate: Array, load: Array, wait: Array, square: Array) -> tuple[Array, Array]:
    """Share lost and mean number waiting of a batch pool."""
    loss, waiting, _ = _batch_tail(pool, rate, load, wait, square)
    xp = namespace(rate, load, loss)
    few = xp.clip(pool.buffer, 1.0, pool.slots)
    asked = rate * law_time(pool.law, few * weight) / (pool.servers * few)
    # serving one by one would lose more
    single = rate * law_time(pool.law, weight) / pool.servers
    most = queue_law(single, full_ratio(pool, single), 1.0 + 0.0 * single, pool.buffer)[0]
    return xp.minimum(xp.maximum(loss, 1.0 - 1.0 / xp.maximum(asked, 1.0)), most), waiting


def _batch_tail(pool: Pool, rate: Array, load: Array, wait: Array, square: Array) -> tuple[Array, Array, Array]:
    """Share lost, mean number waiting, and mean number beyond the buffer, of the infinite queue cut off there."""
    xp = namespace(rate, load, wait, square)
    finite = xp.isfinite(wait) & (wait > 0.0)
    w = xp.where(finite, wait, 1.0)
    queue = xp.maximum(rate * w, 1e-12)
    c = xp.maximum(xp.where(finite, square, 1.0) / (w * w) - 1.0, 0.0) + 1.0 / queue
    size = xp.clip(pool.buffer, 1e-3, 1e9)
    z = ((size / queue) ** (1.0 / 3.0) - 1.0 + c / 9.0) / xp.sqrt(c / 9.0)
    beyond = 1.0 - normal(xp.clip(z, -8.0, 8.0))[0]
    u = xp.minimum(load, 1.0 - 1e-6)
    loss = xp.where(finite, (1.0 - u) * beyond / xp.maximum(1.0 - u * beyond, 1e-12), 0.0)
    return loss, xp.where(finite, queue * size / (queue + size), size), xp.where(finite, beyond * c * queue, 1e9)


def buffered(network: Network, flat: Flat, flows: Traffic, states: PoolState, before: Limits) -> Buffered:
    """What the buffers of `network` do at `flows` that obeyed `before`: one round."""
    xp = namespace(network, flat, flows, states)
    pools = len(network.pools)
    rates = pool_sums(xp, flat, flows.rate_per_s, pools)
    places: list[Any] = [_places(pool) for pool in network.pools]
    sent = flows.rate_per_s * flows.passed[..., flat.pool_of]
    member = 1.0 * (flat.pool_of[:, None] == np.arange(pools))
    between = xp.matmul(member.T, xp.matmul(sent[..., None] * flat.routing, member))  # [..., from, to]
    lost, waiting, held, another = [], [], [], []
    for j, pool in enumerate(network.pools):
        load, last, spread = (x[..., j] for x in (flows.utilisation, states.last, states.spread))
        none = 0.0 * load
        given = (rates[..., j], load, states.wait_s[..., j], states.wait_square[..., j])
        share, queue, standing = none, none, none
        if pool.when_full == "shed" and pool.kind == "batch":
            share, queue = _batch_law(pool, flows.mean_weight[..., j], *given)
        elif pool.when_full == "shed":
            share, queue = queue_law(load, last, spread, pool.buffer)
            # `last` of a continuous pool is that at its limit: no more gets through than it can do
            share = xp.maximum(share, 1.0 - 1.0 / xp.maximum(load, 1.0))
        elif pool.when_full == "block":
            feeding = [i for i in range(pools) if places[i] is not None and _feeds(network, i, pool.name)]
            total = xp.maximum(rates[..., j], 1e-300)
            inner = sum(between[..., i, j] for i in feeding) / total if feeding else none
            before_it = sum((places[i] for i in feeding), 0.0)
            if pool.kind == "batch":
                standing = xp.minimum(_batch_tail(pool, *given)[2], before_it * 1.0) * inner
            else:
                queue, standing = _blocked(pool, load, last, spread, before_it, inner)
            standing = standing / total
        plain = xp.isinf(xp.asarray(pool.buffer) * 1.0) & (load < 1.0)
        plain = plain | (pool.when_full == "wait") | (pool.when_full == "block" and pool.kind == "batch")
        for values, value in ((lost, share), (waiting, queue), (held, standing), (another, 1.0 - 1.0 * plain)):
            values.append(value)
    pushed = []
    for i, own in enumerate(places):
        if own is None:
            pushed.append(0.0 * rates[..., i])
            continue
        raw = flows.utilisation[..., i] * flows.passed[..., i] / before.stretch[..., i]
        standing = sum(held[j] * between[..., i, j] for j in range(pools))
        if network.pools[i].kind == "batch":
            standing = standing / xp.maximum(states.batch[..., i], 1.0)
        pushed.append(standing / (own * xp.maximum(raw, 1e-9)))
    return Buffered(Limits(stack(xp, lost), 1.0 + stack(xp, pushed)), stack(xp, waiting), stack(xp, another) > 0.5)


def held_limits(network: Network, flat: Flat, after: Callable[..., Limits], start: Limits | None = None) -> Limits:
    """Limits that the flows they make agree with; `after(network, flat, limits)`: those of the flows that obey `limits`. From
    `start`, those of a configuration beside it, some rounds are enough."""
    xp = namespace(network, flat)
    pools = len(network.pools)

    def again(x: Array, theta: Any) -> Array:
        net, numbers = theta
        new = after(
            net, flat._replace(**dict(zip(Flat._fields, numbers))), Limits(x[..., :pools], 1.0 + x[..., pools:])
        )
        xq = namespace(x, new)
        return (1.0 - DAMPING) * x + DAMPING * xq.concatenate([new.lost, new.stretch - 1.0], axis=-1)

    first = stop_gradient(xp.concatenate([0.0 * traffic(network, flat).offered] * 2, axis=-1))
    # the root inside of a line that blocks is found to 1e-6
    close = 1e-5 if any(pool.when_full == "block" for pool in network.pools) else 1e-8
    found = fixed_point(again, first, (network, flat[:6]), close)
    return Limits(found[..., :pools], 1.0 + found[..., pools:])


def _blocked(pool: Pool, load: Array, last: Array, spread: Array, places: Array, inner: Array) -> tuple[Array, Array]:
    """Mean number waiting for a pool (before it, too), and of those who stand in a place of a pool before it."""
    xp = namespace(load, last, spread, places, inner)
    line = pool.buffer + places
    door = inner < 1.0 - 1e-9  # others may stand without a place: no limit to the line
    line = xp.where(door, 1e9, line) + 0.0 * load

    def turned(fed: Array, theta: Any) -> Array:
        own, asked, last, spread, line = theta
        ratio = full_ratio(own, fed) if pool.kind == "servers" else last
        return fed * (1.0 - queue_law(fed, ratio, spread, line)[0]) - asked

    zero = 0.0 * (load + last + spread + line)
    fed = increasing_root(
        turned, load + zero, MOST_LOAD + zero, (pool, load + zero, last + zero, spread + zero, line + zero)
    )
    ratio = full_ratio(pool, fed) if pool.kind == "servers" else last
    mass, power, _, mean, short = _law(xp, fed, ratio, spread, line)
    d, _ = _slope(xp, fed, spread)
    within, _, _ = _geometric(xp, d, xp.minimum(pool.buffer, 1e9))
    _, beyond, over = _geometric(xp, d, xp.maximum(line - xp.minimum(pool.buffer, 1e9), 0.0))
    whole = (power - 1.0) / d
    standing = mass * within * beyond / xp.where(whole > 0.0, whole, 1.0) * over * short * inner
    return mass * mean * short, xp.where(xp.isinf(xp.asarray(pool.buffer) * 1.0), 0.0, standing)


def _places(pool: Pool) -> Array | None:
    """Requests (batches) that can be served at once; None where who has finished takes no place."""
    return {"servers": pool.servers, "batch": pool.servers, "continuous": pool.servers * pool.slots}.get(pool.kind)


def _feeds(network: Network, i: int, name: str) -> bool:
    on = {(c.name, stage.name): stage.pool for c in network.classes for stage in c.stages}
    return any(
        stage.pool == network.pools[i].name and on.get((c.name, after)) == name
        for c in network.classes for stage in c.stages for after in stage.next
    )  # fmt: skip
