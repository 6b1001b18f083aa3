"""A pool that serves whatever waits as one batch: batch size, wait and time in service in closed form.

A free server takes all that waits, at most B items, and serves them together in T(b) = time of a step at their weights; an
arrival that finds a server free starts at once, alone. With m servers and interval tau(b) = T(b) / m between two starts,
items of rate lambda in clumps of 1 + beta, long-time dispersion I:

    next batch:   b' = what came in tau(b), or one clump where nothing did
    mean          b  = lambda tau(b) + (1 + beta) P_0                (a root; T is linear around it with slope s)
    variance      v  = I lambda tau / (1 - (lambda s)^2)
    nothing came  P_0 = E exp(-lambda tau / (1 + beta)) = exp(-x + (lambda s / (1 + beta))^2 v / 2),  x = lambda tau / (1 + beta)
    busy          u  = lambda T(b) / (m b),   all m of them  P = u^(sqrt(2 (m + 1)) - 1)     (Sakasegawa 1977)
    wait          P T (1 + (s v / T b)...) / (m + 1) + Q / lambda,     in service   T(b + v / b): items see large batches

The rest of a running batch is E[T^2] / 2 E[T] for one server and the first of m to end for several; Q items are left over from
full batches: Lindley's recursion with increment lambda tau(B) - B (`serving.waiting.budget_backlog`).
Source of the one-server case with B unlimited: Inoue, Queueing analysis of GPU-based inference servers with dynamic batching,
Performance Evaluation 2021 (exact bounds; here closed by two moments).
"""

from typing import Any

from serving.implicit_root import increasing_root
from serving.stages.network import Pool
from serving.stages.shared_service import PoolState
from serving.stages.step_law import law_slope, law_time
from serving.waiting import CLOSEST, budget_backlog
from workloads.numeric import Array, namespace


def batch_state(pool: Pool, rate: Array, weight: Array, load: Array, dispersion: Array, clump: Array) -> PoolState:
    """Steady state of a batch pool, [...], at `rate` items per second of mean `weight`; `batch` is the mean size of a batch."""
    xp = namespace(pool, rate, weight, load)
    m, slots = xp.asarray(pool.servers) * 1.0, xp.asarray(pool.slots) * 1.0
    flow = xp.maximum(rate * xp.minimum(1.0, (1.0 - CLOSEST) / xp.maximum(load, 1e-12)), 1e-12)
    lone = xp.minimum(1.0 + clump, slots)
    theta = (pool.law, m, weight, flow, lone, dispersion)
    shape = 0.0 * (m + weight + flow + lone + dispersion + slots + law_time(pool.law, weight))
    size = increasing_root(_excess, 1.0 + shape, slots + shape, theta)
    time, slope, variance, _ = _moments(size, theta)
    variance = xp.minimum(variance, xp.maximum((slots - size) * size, 0.0))
    busy = xp.minimum(flow * time / (m * size), 1.0)
    every = xp.where(m > 1.0, xp.maximum(busy, 1e-12) ** (xp.sqrt(2.0 * (m + 1.0)) - 1.0), busy)
    rest = every * time * (1.0 + slope * slope * variance / (time * time)) / (m + 1.0)
    full = law_time(pool.law, slots * weight) / m
    left = budget_backlog(flow * full, dispersion * flow * full, slots, 1.0 + clump)
    behind = left / flow
    wait = rest + behind
    seen = xp.minimum(size + variance / size, slots)
    served = law_time(pool.law, seen * weight)
    square = every * time * time * 2.0 / ((m + 1.0) * (m + 2.0)) + 2.0 * rest * behind + 2.0 * behind * behind
    stuck = load >= 1.0
    return PoolState(
        xp.where(stuck, xp.inf, wait), xp.where(stuck, xp.inf, square), served / weight,
        law_slope(pool.law, seen * weight), flow * served, seen,
    )  # fmt: skip


def _moments(size: Array, theta: Any) -> tuple[Array, Array, Array, Array]:
    """Seconds of a batch, their slope per item, variance of the size and probability that nothing came meanwhile."""
    law, m, weight, flow, lone, dispersion = theta
    xp = namespace(theta, size)
    time = law_time(law, size * weight)
    slope = law_slope(law, size * weight) * weight
    came = flow * time / m
    steep = xp.minimum(flow * slope / m, 0.999)
    variance = dispersion * came / (1.0 - steep * steep)
    nothing = xp.exp(-came / lone + xp.minimum(0.5 * (steep / lone) ** 2 * variance, 0.5 * came / lone))
    return time, slope, variance, nothing


def _excess(size: Array, theta: Any) -> Array:
    _, m, _, flow, lone, _ = theta
    time, _, _, nothing = _moments(size, theta)
    return size - flow * time / m - lone * nothing
