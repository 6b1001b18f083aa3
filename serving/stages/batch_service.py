"""A pool that serves whatever waits as one batch: batch size, wait and time in service in closed form.

A free server takes all that waits, at most B items, and serves them together in T(b) = time of a step at their weights; an
arrival that finds a server free starts at once, alone. With m servers and interval tau(b) = T(b) / m between two starts,
items of rate lambda in clumps of 1 + beta, long-time dispersion I:

    starts        arrivals (1 - f) lambda (1 - P) / (1 + beta) that find a server free, and the next batch of one that ends unless
                  nothing is there, N_0; both together are lambda / b, so that   b (1 - f) (1 - P) = (1 + beta) N_0     (a root)
    busy          u  = lambda E T / (m b),   all m of them  P = u^(sqrt(2 (m + 1)) - 1)     (Sakasegawa 1977)
    next batch    Bin(b, f) + A, f: share that comes straight back; A: what came in tau, if all were busy, P^ = P / u
                  E A = P^ a,   E A^2 = P^ (I a + (1 + (m - 1) / (m + 1)) a^2),   a = (1 - f) lambda tau
    nothing there N_0 = (1 - f)^b (1 - P^ (1 - E exp(-a / (1 + beta))))
    variance      v (1 - (f + P^ a s / (m tau))^2) = var A + f (1 - f) b + (1 + beta) N_0 ((1 + beta) (1 - N_0) - 2 (f b + E A)),
                  s = tau'(b): its own length is one of the m that an interval is made of
    wait          P (E[T^2] / E[T] / (m + 1) + Q / lambda),      in service   T(b + v / b): items see large batches

Means over the batch size take three points (b, b +- sqrt(3 v)). Several servers do not keep even distances: with starts thrown
at random into each other's services, intervals have variance (m - 1) / (m + 1) and the first of m ends after T / (m + 1). Q items
are left over from full batches: Lindley's recursion with increment (1 - f) lambda tau(B) + Bin(B, f) - B
(`serving.waiting.budget_backlog`). What comes straight back is there when the next batch starts, and waits for none.
Source of the one-server case with B unlimited: Inoue, Queueing analysis of GPU-based inference servers with dynamic batching,
Performance Evaluation 2021 (exact bounds; here closed by two moments).
"""

from typing import Any

from serving.implicit_root import increasing_root
from serving.stages.network import Pool
from serving.stages.shared_service import PoolState
from serving.stages.step_law import hinges, law_slope, law_time
from serving.waiting import CLOSEST, budget_backlog
from workloads.numeric import Array, namespace


def batch_state(
    pool: Pool, rate: Array, weight: Array, load: Array, staying: Array, dispersion: Array, clump: Array
) -> PoolState:
    """Steady state of a batch pool, [...], at `rate` items per second of mean `weight`, of which a share `staying` comes straight
    from its own batches."""
    xp = namespace(pool, rate, weight, load)
    m, slots = 1.0 * pool.servers, 1.0 * pool.slots
    flow = xp.maximum(rate * xp.minimum(1.0, (1.0 - CLOSEST) / xp.maximum(load, 1e-12)), 1e-12)
    lone = xp.minimum(1.0 + clump, slots)
    law = hinges(pool.law)
    theta = (law, m, slots, weight, flow, lone, dispersion, staying)
    shape = 0.0 * (m + weight + flow + lone + dispersion + slots + staying + law_time(law, weight))
    # below the root at one item, above it at a full batch: the load is below 1
    size = increasing_root(_excess, 1.0 + shape, slots + shape, theta, (shape - 1.0, shape + 1.0))
    time, square_time, variance, busy, every, _ = _moments(size, theta)
    busy, every = xp.minimum(busy, 1.0), xp.minimum(every, 1.0)
    rest = every * square_time / time / (m + 1.0)
    full = law_time(law, slots * weight) / m
    came = (1.0 - staying) * flow * full
    spread = dispersion * came + staying * (1.0 - staying) * slots
    left = budget_backlog(came + staying * slots, spread, slots, 1.0 + clump)
    behind = every * left / flow
    seen = xp.minimum(size + variance / size, slots)
    served = law_time(law, seen * weight)
    square = every * square_time * 2.0 / ((m + 1.0) * (m + 2.0)) + 2.0 * rest * behind + 2.0 * behind * behind
    stuck = load >= 1.0
    return PoolState(
        xp.where(stuck, xp.inf, rest + behind), xp.where(stuck, xp.inf, square), served / weight,
        law_slope(law, seen * weight), flow * served, seen, rest,
        0.0 * rest, busy, 0.0 * rest, 0.0 * rest,
    )  # fmt: skip


def _moments(size: Array, theta: Any) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Mean and mean square of the seconds of a batch, variance of its size, share of time that a server works and that all do,
    probability that nothing is there when one ends."""
    law, m, slots, weight, flow, lone, dispersion, staying = theta
    xp = namespace(theta, size)
    outside = flow * (1.0 - staying)
    middle = law_time(law, size * weight)
    slope = law_slope(law, size * weight) * weight

    def all_busy(time: Array) -> tuple[Array, Array, Array]:
        # above 1 where the root is sought among batches too small to carry the flow
        busy = flow * time / (m * size)
        share = xp.maximum(busy, 1e-12) ** (xp.sqrt(2.0 * (m + 1.0)) - 2.0)
        return busy, busy * share, share

    share = xp.minimum(all_busy(middle)[2], 1.0)
    a = outside * middle / m
    nothing = _nothing(xp, size, staying, share, xp.exp(-a / lone))
    uneven = (m - 1.0) / (m + 1.0)
    came = share * a
    spread = share * (dispersion * a + (1.0 + uneven) * a * a) - came * came
    spread = spread + staying * (1.0 - staying) * size
    spread = spread + lone * nothing * (lone * (1.0 - nothing) - 2.0 * (staying * size + came))
    steep = xp.minimum(staying + share * outside * slope / (m * m), 0.999)
    variance = xp.maximum(spread, 0.0) / (1.0 - steep * steep)
    variance = xp.minimum(variance, xp.maximum((slots - size) * (size - 1.0), 0.0))
    step = xp.sqrt(xp.maximum(3.0 * variance, 1e-12))
    low, high = xp.clip(size - step, 1.0, slots), xp.clip(size + step, 1.0, slots)
    at = [law_time(law, n * weight) for n in (low, size, high)]
    time = (at[0] + 4.0 * at[1] + at[2]) / 6.0
    square = (at[0] ** 2 + 4.0 * at[1] ** 2 + at[2] ** 2) / 6.0
    busy, every, share = all_busy(time)
    x = outside * time / (m * lone)
    wider = 0.5 * (outside / (m * lone)) ** 2 * (square - time * time)
    nothing = _nothing(xp, size, staying, xp.minimum(share, 1.0), xp.exp(-x + xp.minimum(wider, 0.5 * x)))
    return time, square, variance, busy, every, nothing


def _nothing(xp: Any, size: Array, staying: Array, share: Array, none_came: Array) -> Array:
    return (1.0 - staying) ** size * (1.0 - share * (1.0 - none_came))


def _excess(size: Array, theta: Any) -> Array:
    _, _, _, _, _, lone, _, staying = theta
    _, _, _, _, every, nothing = _moments(size, theta)
    return size * (1.0 - staying) * (1.0 - every) - lone * nothing
