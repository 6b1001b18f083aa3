"""A pool that serves whatever waits as one batch: batch size, wait and time in service in closed form.

A free server takes all that waits, at most B items, and serves them together in T(b) = time of a step at their weights; an
arrival that finds a server free starts at once, alone. With m servers and interval tau(b) = T(b) / m between two starts,
items of rate lambda in clumps of 1 + beta, long-time dispersion I:

    next batch    b' = what came in tau(b), with the share f of the last one that comes straight back; one clump where nothing did
    mean          b  = (1 - f) lambda E tau + f b + (1 + beta) P_0     (a root)
    variance      v  = (I a + (m - 1) / (m + 1) a^2 + f (1 - f) b) / (1 - (f + a s / tau)^2),   a = (1 - f) lambda tau, s = tau'(b)
    nothing came  P_0 = (1 - f)^b E exp(-(1 - f) lambda tau / (1 + beta))
    busy          u  = lambda E T / (m b),   all m of them  P = u^(sqrt(2 (m + 1)) - 1)     (Sakasegawa 1977)
    wait          P E[T^2] / E[T] / (m + 1) + Q / lambda,     in service   T(b + v / b): items see large batches

Means over the batch size take three points (b, b +- sqrt(3 v)). Several servers do not keep even distances: with starts thrown
at random into each other's services, intervals have variance (m - 1) / (m + 1) and the first of m ends after T / (m + 1). Q items
are left over from full batches: Lindley's recursion with increment lambda tau(B) - B (`serving.waiting.budget_backlog`). What
comes straight back is there when the next batch starts, and waits for none.
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


def batch_state(
    pool: Pool, rate: Array, weight: Array, load: Array, staying: Array, dispersion: Array, clump: Array
) -> PoolState:
    """Steady state of a batch pool, [...], at `rate` items per second of mean `weight`, of which a share `staying` comes straight
    from its own batches."""
    xp = namespace(pool, rate, weight, load)
    m, slots = xp.asarray(pool.servers) * 1.0, xp.asarray(pool.slots) * 1.0
    flow = xp.maximum(rate * xp.minimum(1.0, (1.0 - CLOSEST) / xp.maximum(load, 1e-12)), 1e-12)
    lone = xp.minimum(1.0 + clump, slots)
    theta = (pool.law, m, slots, weight, flow, lone, dispersion, staying)
    shape = 0.0 * (m + weight + flow + lone + dispersion + slots + staying + law_time(pool.law, weight))
    size = increasing_root(_excess, 1.0 + shape, slots + shape, theta)
    time, square_time, variance, _ = _moments(size, theta)
    busy = xp.minimum(flow * time / (m * size), 1.0)
    every = xp.where(m > 1.0, xp.maximum(busy, 1e-12) ** (xp.sqrt(2.0 * (m + 1.0)) - 1.0), busy)
    rest = every * square_time / time / (m + 1.0)
    full = law_time(pool.law, slots * weight) / m
    left = budget_backlog(flow * full, dispersion * (1.0 - staying) * flow * full, slots, 1.0 + clump)
    behind = left / flow
    seen = xp.minimum(size + variance / size, slots)
    served = law_time(pool.law, seen * weight)
    square = every * square_time * 2.0 / ((m + 1.0) * (m + 2.0)) + 2.0 * rest * behind + 2.0 * behind * behind
    stuck = load >= 1.0
    return PoolState(
        xp.where(stuck, xp.inf, rest + behind), xp.where(stuck, xp.inf, square), served / weight,
        law_slope(pool.law, seen * weight), flow * served, seen, rest,
        0.0 * rest, busy,
    )  # fmt: skip


def _moments(size: Array, theta: Any) -> tuple[Array, Array, Array, Array]:
    """Mean and mean square of the seconds of a batch, variance of its size, probability that nothing came meanwhile."""
    law, m, slots, weight, flow, lone, dispersion, staying = theta
    xp = namespace(theta, size)
    outside = flow * (1.0 - staying)
    slope = law_slope(law, size * weight) * weight
    came = outside * law_time(law, size * weight) / m
    steep = xp.minimum(staying + outside * slope / m, 0.999)
    uneven = (m - 1.0) / (m + 1.0)
    variance = (dispersion * came + uneven * came * came + staying * (1.0 - staying) * size) / (1.0 - steep * steep)
    variance = xp.minimum(variance, xp.maximum((slots - size) * (size - 1.0), 0.0))
    step = xp.sqrt(xp.maximum(3.0 * variance, 1e-12))
    low, high = xp.clip(size - step, 1.0, slots), xp.clip(size + step, 1.0, slots)
    at = [law_time(law, n * weight) for n in (low, size, high)]
    time = (at[0] + 4.0 * at[1] + at[2]) / 6.0
    square = (at[0] ** 2 + 4.0 * at[1] ** 2 + at[2] ** 2) / 6.0
    x = outside * time / (m * lone)
    spread = (outside / (m * lone)) ** 2 * (square - time * time)
    nothing = xp.exp(-x + xp.minimum(0.5 * spread, 0.5 * x)) * (1.0 - staying) ** size
    return time, square, variance, nothing


def _excess(size: Array, theta: Any) -> Array:
    _, m, _, _, flow, lone, _, staying = theta
    time, _, _, nothing = _moments(size, theta)
    return size - (flow * (1.0 - staying) * time / m + staying * size) - lone * nothing
