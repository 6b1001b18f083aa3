"""Loss of replicas: a pool serves with fewer for a while; who was being served there starts anew. What it does to times and
promises.

The course has m - n servers from `at_s` until `repair_s` later; the share n / m of those in service goes back to the queue.
Before and after are steady states; while it lasts, the steady state of m - n servers is where the course would end, if there is
one.

**Times of requests.** Who comes at t takes X + e(t) - e(0): X gamma distributed as in the steady state before (mean and deviation
of `steady_network`), e(t) the mean of the course. So the loss moves the distribution and does not widen it; who stood in service
on the lost replica and took longer is counted as one who comes then. Goodput: served within the limit, by when they come.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import gammainc

from composition.argument_checks import check_number
from serving.dynamics.course import NetworkCourse, network_course
from serving.stages.network import Network
from serving.stages.steady_network import SteadyNetwork, answerable, steady_network


@dataclass(frozen=True, kw_only=True)
class ReplicaLoss:
    """`count` replicas of a pool are lost at `at_s` and back `repair_s` later."""

    pool: str
    at_s: float
    repair_s: float
    count: int = 1


@dataclass(frozen=True)
class LossCourse:
    """`course`, the steady state `before` and that `reduced` to what is left. Per class: `e2e_p99_s` of who comes in the whole
    course, and `worst_p99_s` at the worst moment; `goodput_per_s` [times, classes] and `goodput_share` of all who come (of those
    with a limit; 1 without). `peak_queue` of the pools that lose replicas; `recovered_s`: when the mean time of every class stays
    within 10 % of what it was before (infinite: not in this course)."""

    course: NetworkCourse
    before: SteadyNetwork
    reduced: SteadyNetwork
    e2e_p99_s: np.ndarray
    worst_p99_s: np.ndarray
    goodput_per_s: np.ndarray
    goodput_share: np.ndarray
    peak_queue: dict[str, float]
    recovered_s: float


def loss_course(
    network: Network,
    losses: tuple[ReplicaLoss, ...],
    *,
    duration_s: float,
    limits_s: dict[str, float] | None = None,
    steps: int = 400,
    edges_s: Any = None,
    factors: Any = None,
) -> LossCourse:
    """Course of `network`, from its steady state, with `losses`; `limits_s` of the end-to-end time of classes by name."""
    servers, restarted = loss_schedule(network, losses, duration_s, steps)
    course = network_course(
        network,
        duration_s=duration_s,
        steps=steps,
        edges_s=edges_s,
        factors=factors,
        servers=servers,
        restarted=restarted,
    )
    before = steady_network(network)
    left = network
    for name, counts in servers.items():
        left = left.replace(f"pools.{name}.servers", max(float(counts.min()), 1.0))
    mean, deviation = np.asarray(before.e2e_s), np.asarray(before.e2e_deviation_s)
    if not np.all(np.isfinite(mean)):
        raise ValueError("network: not stable before a replica is lost; expected rates that it holds")
    late = np.maximum(course.e2e_s - course.e2e_s[0], 0.0)
    limits = np.array([(limits_s or {}).get(c.name, np.inf) for c in network.classes])
    within = _within(limits - late, mean, deviation)
    goodput = course.rate_per_s * within
    total = np.maximum(course.rate_per_s.sum(axis=0), 1e-300)
    p99 = [_quantile(late[:, i], course.rate_per_s[:, i], mean[i], deviation[i]) for i in range(len(mean))]
    index = {pool.name: j for j, pool in enumerate(answerable(network).pools)}
    return LossCourse(
        course, before, steady_network(left), np.array(p99), np.asarray(before.e2e_p99_s) + late.max(axis=0), goodput,
        goodput.sum(axis=0) / total, {name: float(course.waiting[:, index[name]].max()) for name in servers},
        _recovered(course, losses),
    )  # fmt: skip


def loss_schedule(
    network: Network, losses: tuple[ReplicaLoss, ...], duration_s: float, steps: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Servers of each pool that loses some [steps], and the share of those in service that starts anew [steps, pools]."""
    names = [pool.name for pool in answerable(network).pools]
    pools = {pool.name: pool for pool in network.pools}
    begins = np.arange(steps) * duration_s / steps
    servers: dict[str, np.ndarray] = {}
    restarted = np.zeros((steps, len(names)))
    for loss in losses:
        where = f"pools.{loss.pool}.failure"
        if loss.pool not in pools or pools[loss.pool].kind not in ("servers", "batch", "continuous"):
            raise ValueError(f"{where}: {loss.pool!r} is no pool with servers (known: {', '.join(pools)})")
        check_number(f"{where}.at_s", loss.at_s, least=0.0)
        check_number(f"{where}.repair_s", loss.repair_s, least=0.0)
        have = servers.setdefault(loss.pool, np.full(steps, float(pools[loss.pool].servers)))
        out = (begins >= loss.at_s - 1e-9) & (begins < loss.at_s + loss.repair_s - 1e-9)
        if not out.any():
            continue
        first = int(np.argmax(out))
        if not 1 <= loss.count <= have[out].min():
            raise ValueError(
                f"{where}.count: {loss.count!r}; expected from 1 to the {have[out].min():g} servers there are"
            )
        restarted[first, names.index(loss.pool)] += loss.count / have[first]
        have[out] -= loss.count
    return servers, np.minimum(restarted, 1.0)


def _within(limit: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """P(gamma of that mean and deviation <= limit)."""
    shape = (mean / np.maximum(deviation, 1e-9 * mean)) ** 2
    finite = np.isfinite(limit)
    return np.where(finite, gammainc(shape, shape * np.maximum(np.where(finite, limit, 0.0), 0.0) / mean), limit > 0.0)


def _quantile(late: np.ndarray, weight: np.ndarray, mean: float, deviation: float, share: float = 0.99) -> float:
    low, high = 0.0, mean + 50.0 * deviation + float(late[np.isfinite(late)].max(initial=0.0))
    weight = weight / max(float(weight.sum()), 1e-300)
    for _ in range(60):
        middle = 0.5 * (low + high)
        if float(weight @ _within(middle - late, np.asarray(mean), np.asarray(deviation))) < share:
            low = middle
        else:
            high = middle
    return high


def _recovered(course: NetworkCourse, losses: tuple[ReplicaLoss, ...]) -> float:
    after = course.time_s >= max((loss.at_s for loss in losses), default=0.0)
    slow = np.any(course.e2e_s > 1.1 * course.e2e_s[0], axis=1) & after
    if not slow.any():
        return max((loss.at_s for loss in losses), default=0.0)
    last = int(np.flatnonzero(slow)[-1])
    return float(course.time_s[last + 1]) if last + 1 < len(course.time_s) else float("inf")
