"""Pools that serve requests side by side: servers, continuous batches, shared links. Waiting and time in service.

**In service.** n requests in a pool of m replicas with B slots each are served at

    mu(n) = n / (S T(n)),   T(n): seconds of a step with max(n / m, 1) residents per replica, S steps;   servers: B = 1, T = S

a birth-death process whose law, pi(n) ~ prod_i lambda S T(i) / i, does not depend on the distribution of S as long as nobody
waits (processor sharing: Kelly 1979; Cohen 1979). From n = m B on the rate stays and pi falls by u per request, so that

    P(all full) = pi(m B) / (1 - u),       time per step = sum min(n, mB) pi(n) / (lambda S).

Sums over n run over at most `NODES` nodes, integers first and wider steps for large pools (Euler-Maclaurin).

**Waiting** for a free slot (Allen and Cunneen 1978 with the correction of Kraemer and Langenbach-Belz 1976):

    W = P(all full) S T / (m B (1 - u)) (I + c_s^2) / 2 g,    g = exp(-2 (1 - u) (1 - I)^2 / (3 u (I + c_s^2))) where I < 1

and the clump's own part: its members beyond the free servers queue behind each other. A continuous batch takes new
requests at the end of a step: half a step more when a replica runs.

**Bursts** raise what is above the fluid's own fixed point N = lambda S T(N) by (I + c_s^2) / (1 + c_s^2) g (Zhang and Zwart 2008:
heavy traffic of processor sharing; 1 for Poisson arrivals), and a clump of beta others by
S T'(N) beta / (2 (1 - lambda S T'(N))) per request. A link is T(n) = n: time per byte 1 / (1 - u) for Poisson arrivals. With
e = lambda S T'(N) (a link's u) the time per unit of work varies from request to request by e^2 / (N (1 - e) (2 - e)) of its mean
squared: u / (2 - u) on a link, exact for exponential work (Coffman, Muntz and Trotter 1970).
"""

from typing import Any, NamedTuple

import numpy as np

from serving.stages.network import Pool
from serving.stages.step_law import Hinges, hinges, law_slope, law_time
from serving.waiting import CLOSEST
from workloads.numeric import Array, namespace

#: Most nodes of the sum over the number present.
NODES = 129
#: The first of them, which are 0, 1, 2, ... requests present.
EXACT = 8
#: Loads of finite buffers beyond this answer as if they were this.
MOST_LOAD = 50.0


class PoolState(NamedTuple):
    """A pool in steady state, [...]. `wait_s`, `wait_square`: mean and mean square of the wait before service; `unit_s`:
    seconds in service per unit of work; `batch_slope_s`: seconds more per unit of weight above the mean one (batches);
    `in_service`: requests being served; `batch`: size of the batch that a request is in; `rest_s`: part of the wait that is for
    the end of a running batch; `unit_scv`: squared coefficient of variation of `unit_s` from request to request; `busy`: share of
    the time that a server works; `last`: probability of all full and nobody waiting, over that of as many or fewer; `spread`:
    (I + c_s^2) / 2 g of the wait (0 for kinds without)."""

    wait_s: Array
    wait_square: Array
    unit_s: Array
    batch_slope_s: Array
    in_service: Array
    batch: Array
    rest_s: Array
    unit_scv: Array
    busy: Array
    last: Array
    spread: Array


def delay_state(rate: Array, work: Array) -> PoolState:
    """Nobody waits."""
    nothing = 0.0 * rate
    return PoolState(
        nothing,
        nothing,
        1.0 + nothing,
        nothing,
        rate * work,
        1.0 + nothing,
        nothing,
        nothing,
        nothing,
        nothing,
        nothing,
    )


def link_state(
    pool: Pool, rate: Array, work: Array, load: Array, scv: Array, dispersion: Array, clump: Array
) -> PoolState:
    """Shared evenly by all transfers under way."""
    xp = namespace(pool, rate, load)
    nothing = 0.0 * rate
    free = xp.maximum(1.0 - load, CLOSEST)
    stretch = 1.0 + (load * _burst(xp, load, scv, dispersion) + 0.5 * clump) / free
    unit = xp.where(load < 1.0, stretch, xp.inf) / pool.bandwidth_bytes_per_s
    u = xp.minimum(load, 1.0)
    return PoolState(
        nothing, nothing, unit, nothing, rate * work * unit, 1.0 + nothing, nothing, u / (2.0 - u), u, nothing, nothing
    )


def servers_state(
    pool: Pool, rate: Array, work: Array, load: Array, scv: Array, piece: Array, dispersion: Array, clump: Array
) -> PoolState:
    """First come, first served by m servers."""
    xp = namespace(pool, rate, work, load)
    m = 1.0 * pool.servers * pool.line
    offered = xp.minimum(load, MOST_LOAD) * m
    present = _present(xp, m, m, xp.log(xp.maximum(offered, 1e-12)), None)
    offered = xp.minimum(load, 1.0 - CLOSEST) * pool.servers
    full = present.last / (present.total * xp.maximum(1.0 - load, CLOSEST) + present.last * xp.minimum(load, 1.0))
    wait, square = _wait(xp, full, piece / m, load, scv, dispersion)
    own = clump_wait(xp, work, m, load, clump)
    wait, square = wait + own, square + own * own + 2.0 * own * wait
    stuck = load >= 1.0
    nothing = 0.0 * rate
    return PoolState(
        xp.where(stuck, xp.inf, wait), xp.where(stuck, xp.inf, square), 1.0 + nothing, nothing, offered + nothing,
        1.0 + nothing, nothing, nothing, xp.minimum(load, 1.0) + nothing, present.last / present.total + nothing,
        _spread(xp, load, scv, dispersion) + nothing,
    )  # fmt: skip


def full_ratio(pool: Pool, load: Array) -> Array:
    """`PoolState.last` of servers at a load, which may be above 1."""
    xp = namespace(pool, load)
    m = xp.asarray(1.0 * pool.servers * pool.line)
    present = _present(xp, m, m, xp.log(xp.maximum(xp.minimum(load, MOST_LOAD) * m, 1e-12)), None)
    return present.last / present.total


def continuous_state(
    pool: Pool, rate: Array, work: Array, weight: Array, load: Array, scv: Array, piece: Array, dispersion: Array,
    clump: Array,
) -> PoolState:  # fmt: skip
    """Residents of mean `weight` that take `work` steps each in batches of up to `slots` on each replica."""
    xp = namespace(pool, rate, work, weight, load)
    m, slots = 1.0 * pool.servers * pool.line, 1.0 * pool.slots
    most = m * slots
    rate = rate * pool.line
    steps = xp.maximum(rate * work, 1e-12)
    # beyond the limit: as at the limit, where the wait is infinite anyway
    steps = steps * xp.minimum(1.0, (1.0 - CLOSEST) / xp.maximum(load, 1e-12))

    law = hinges(pool.law)
    wide = Hinges(law.base[..., None], law.slope[..., None], law.knots[..., None, :], law.rises[..., None, :])

    def seconds(n: Array) -> Array:
        return xp.log(law_time(wide, xp.maximum(n / m[..., None], 1.0) * weight[..., None]))

    present = _present(xp, most, m, xp.log(steps), seconds)
    free = xp.maximum(1.0 - load, CLOSEST)
    tail = present.last * xp.minimum(load, 1.0) / free
    whole = present.total + tail
    inside = (present.sum + most * tail) / whole
    full = (present.last + tail) / whole
    step = inside / steps
    # what bursts add above the fluid's own fixed point
    per_replica = xp.maximum(inside / m, 1.0)
    level = law_time(law, per_replica * weight)
    slope = law_slope(law, per_replica * weight) * weight / m * xp.where(inside > m, 1.0, 0.0)
    elastic = xp.minimum(steps * slope, 1.0 - 1e-3)
    smooth = xp.minimum(steps * level, inside)
    above = (inside - smooth) * (_burst(xp, load, scv, dispersion) - 1.0) * (1.0 - full)
    step = step + xp.maximum(above / steps, 0.0) + slope * 0.5 * clump / (1.0 - elastic)
    held = law_time(law, slots * weight)
    wait, square = _wait(xp, full, piece * held / most, load, scv, dispersion)
    own = clump_wait(xp, work * held, most, load, clump)
    running = 1.0 - present.below / whole
    join = 0.5 * running * level
    wait, square = wait + own + join, square + (own + join) ** 2 + 2.0 * (own + join) * wait + join * join / 3.0
    stuck = load >= 1.0
    nothing = 0.0 * rate
    return PoolState(
        xp.where(stuck, xp.inf, wait), xp.where(stuck, xp.inf, square), step, nothing, inside / pool.line, inside / m + nothing,
        nothing, elastic * elastic / (xp.maximum(inside, 1e-9) * (1.0 - elastic) * (2.0 - elastic)),
        (present.working + m * tail) / whole / m, present.last / present.total, _spread(xp, load, scv, dispersion) + nothing,
    )  # fmt: skip


def clump_wait(xp: Any, service: Array, servers: Array, load: Array, clump: Array) -> Array:
    """Mean seconds that members of a clump queue behind each other, [...]: those beyond the servers that are free."""
    beyond = xp.maximum(clump - (servers - 1.0) * xp.maximum(1.0 - load, 0.0), 0.0)
    return service / servers * 0.5 * beyond * beyond / xp.maximum(clump, 1e-12)


def _wait(xp: Any, full: Array, per_slot: Array, load: Array, scv: Array, dispersion: Array) -> tuple[Array, Array]:
    u = xp.clip(load, 1e-9, 1.0 - CLOSEST)
    wait = full * per_slot / (1.0 - u) * _spread(xp, load, scv, dispersion)
    return wait, 2.0 * wait * wait / xp.maximum(full, 1e-12)


def _spread(xp: Any, load: Array, scv: Array, dispersion: Array) -> Array:
    """(I + c_s^2) / 2 g, see the module."""
    u = xp.clip(load, 1e-9, 1.0 - CLOSEST)
    return 0.5 * (dispersion + scv) * _regular(xp, u, scv, dispersion)


def _burst(xp: Any, load: Array, scv: Array, dispersion: Array) -> Array:
    """What bursts make of the excess present in processor sharing, [...]: 1 for Poisson arrivals (Zhang and Zwart 2008)."""
    u = xp.clip(load, 1e-9, 1.0 - CLOSEST)
    return (dispersion + scv) / (1.0 + scv) * _regular(xp, u, scv, dispersion)


def _regular(xp: Any, u: Array, scv: Array, dispersion: Array) -> Array:
    """Kraemer and Langenbach-Belz's factor for arrivals more even than Poisson ones."""
    below = xp.maximum(1.0 - dispersion, 0.0)
    spread = xp.maximum(dispersion + scv, 1e-6)
    return xp.exp(-xp.minimum(2.0 * (1.0 - u) * below * below / (3.0 * u * spread), 60.0))


class _Present(NamedTuple):
    """Sums of unnormalised pi over n <= most: all of it, n pi, at `most`, of n below the number of replicas, and
    of the replicas that work."""

    total: Array
    sum: Array
    last: Array
    below: Array
    working: Array


def _present(xp: Any, most: Array, replicas: Array, log_rate: Array, log_seconds: Any) -> _Present:
    """The birth-death law at nodes 0..most; `log_rate`: ln(lambda S) (or ln of the offered servers, without `log_seconds`)."""
    own = namespace(most, replicas)  # NumPy where counts are plain numbers: the nodes are then constants
    try:
        count = min(int(np.max(np.asarray(most))) + 1, NODES)
    except Exception:  # a traced number of slots
        count = NODES
    g = np.arange(count) * 1.0
    most = own.asarray(most)[..., None] * 1.0
    wide = own.maximum(most - (count - 1.0), 0.0)
    # few at a time are counted exactly: at light load nearly all of the law is at 0 and 1
    beyond = np.maximum(g - EXACT, 0.0) / max(count - 1.0 - EXACT, 1.0)
    n = own.minimum(g + wide * beyond**2, most)
    gap = n[..., 1:] - n[..., :-1]
    zero = 0.0 * n[..., :1]
    weight = 0.5 * (own.concatenate([zero + 1.0, gap], axis=-1) + own.concatenate([gap, zero], axis=-1))
    # the end node stands for its own half and, as every integer does, half a step beyond
    at_end = n >= most
    first_end = at_end & (own.concatenate([zero, 1.0 * (n[..., :-1] >= most)], axis=-1) < 0.5)
    weight = own.where(first_end, weight + 0.5, own.where(at_end, 0.0, weight))
    factorial = _gammaln(own)(n + 1.0)
    level = n * log_rate[..., None] - factorial
    if log_seconds is not None:
        f = log_seconds(n)
        rise = gap * 0.5 * (f[..., 1:] + f[..., :-1]) + 0.5 * (f[..., 1:] - f[..., :-1])
        rise = xp.where(gap > 0.0, rise, 0.0)
        level = level + xp.concatenate([0.0 * f[..., :1], xp.cumsum(rise, axis=-1)], axis=-1)
    top = xp.max(level, axis=-1, keepdims=True)
    pi = xp.exp(level - top) * weight
    last = xp.sum(xp.where(first_end, xp.exp(level - top), 0.0), axis=-1)
    some = xp.sum(xp.where(n < replicas[..., None] - 0.5, pi, 0.0), axis=-1)
    working = xp.sum(xp.minimum(n, replicas[..., None]) * pi, axis=-1)
    return _Present(xp.sum(pi, axis=-1), xp.sum(n * pi, axis=-1), last, some, working)


def _gammaln(xp: Any) -> Any:
    if xp is np:
        from scipy.special import gammaln
    else:
        from jax.scipy.special import gammaln
    return gammaln
