"""Pools that follow their load: replicas that are ordered, start up, serve and are given back, on the course of a network.

Every `period_s` the autoscaler of a pool wants

    by load     ceil(offered / target)     offered: servers that what came in the last period keeps busy
    by queue    one more while more than `queue` wait per replica that serves, one less when nobody would wait and the load
                on the rest were below `target`

between `least` and `most`. What is missing is ordered at once and serves after `start_up_s`; what is too much stops at once, at the
earliest `cooldown_s` after the last change of what is wanted (who is in service there is finished first). Replicas are paid for
from order to stop. Without start-up, cooldown and with a period of one step the pool has what `needed` says in every step after the
one that showed it, and constant rates end in the steady state with that many servers.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from composition.argument_checks import check_number
from serving.dynamics.course import Course, NetworkCourse, chosen, prepared, reported
from serving.dynamics.fluid_step import Seen, again_waiting, step
from serving.dynamics.replica_loss import ReplicaLoss, loss_schedule
from serving.stages.network import Network
from serving.stages.traffic import flatten, pool_rate, pool_sums, traffic

#: Counts of servers between which a course can change; each has curves of its own.
MOST_LEVELS = 1024


@dataclass(frozen=True, kw_only=True)
class Autoscaler:
    """Autoscaler of one pool, see the module; `queue`: None scales by load."""

    pool: str
    least: int = 1
    most: int = 16
    target: float = 0.7
    queue: float | None = None
    period_s: float = 15.0
    start_up_s: float = 60.0
    cooldown_s: float = 120.0


@dataclass(frozen=True)
class ScaledCourse:
    """`course`; replicas that serve, that are `paid` for and that are `needed` at the load of the moment, by name of the pool
    [times]; `replica_hours` paid and `extra_hours` beyond those needed (negative where replicas come late), by name."""

    course: NetworkCourse
    serving: dict[str, np.ndarray]
    paid: dict[str, np.ndarray]
    needed: dict[str, np.ndarray]
    replica_hours: dict[str, float]
    extra_hours: dict[str, float]


class _Pool:
    """State of one autoscaler: replicas that serve, orders (times at which they serve), last change."""

    def __init__(self, scaler: Autoscaler, j: int, serving: int, per_server: float):
        self.scaler, self.j, self.serving, self.per_server = scaler, j, serving, per_server
        self.orders: list[float] = []
        self.changed, self.looked, self.work = -np.inf, 0.0, 0.0

    def see(self, now: float, dt: float, work: float, waiting: float) -> None:
        """What came in the step that ends now."""
        s = self.scaler
        self.work += work * dt
        if now - self.looked < s.period_s - 1e-9 * dt:
            return
        offered = self.work / (now - self.looked) / self.per_server
        self.looked, self.work = now, 0.0
        have = self.serving + len(self.orders)
        wanted = self.wanted(offered)
        if s.queue is not None:
            wanted = have
            if waiting > s.queue * max(self.serving, 1):
                wanted += not self.orders
            elif have > 1 and waiting <= s.queue and offered / (have - 1) < s.target:
                wanted -= 1
        wanted = min(max(wanted, s.least), s.most)
        if wanted > have:
            self.orders += [now + s.start_up_s] * (wanted - have)
            self.changed = now
        elif wanted < have and now - self.changed >= s.cooldown_s - 1e-9:
            late = min(have - wanted, len(self.orders))
            self.orders = self.orders[: len(self.orders) - late]
            self.serving -= have - wanted - late
            self.changed = now

    def wanted(self, offered: float) -> int:
        """Replicas for so much work, in servers."""
        return int(np.clip(np.ceil(offered / self.scaler.target - 1e-6), self.scaler.least, self.scaler.most))

    def begin(self, now: float) -> None:
        """Orders that serve from now on."""
        self.serving += sum(ready <= now + 1e-9 for ready in self.orders)
        self.orders = [ready for ready in self.orders if ready > now + 1e-9]


def autoscaled_course(
    network: Network,
    scalers: tuple[Autoscaler, ...],
    *,
    duration_s: float,
    edges_s: Any = None,
    factors: Any = None,
    steps: int = 400,
    start: str = "steady",
    fluctuations: bool = True,
    losses: tuple[ReplicaLoss, ...] = (),
) -> ScaledCourse:
    """Course of `network` with autoscalers, which begin with the servers of the network (see `network_course` for the rest) and
    count on lost replicas to come back. The servers it finds can be given to `network_course`, which is differentiable."""
    by_name = {scaler.pool: scaler for scaler in scalers}
    pools = {pool.name: pool for pool in network.pools}
    first = {}
    for name, scaler in by_name.items():
        where = f"pools.{name}.autoscale"
        if name not in pools or pools[name].kind not in ("servers", "batch", "continuous"):
            raise ValueError(f"{where}: {name!r} is no pool with servers (known: {', '.join(pools)})")
        check_number(f"{where}.least", scaler.least, least=1)
        check_number(f"{where}.most", scaler.most, least=scaler.least)
        check_number(f"{where}.target", scaler.target, least=0.0, above=True)
        if scaler.queue is not None:
            check_number(f"{where}.queue", scaler.queue, least=0.0)
        check_number(f"{where}.period_s", scaler.period_s, least=0.0)
        check_number(f"{where}.start_up_s", scaler.start_up_s, least=0.0)
        check_number(f"{where}.cooldown_s", scaler.cooldown_s, least=0.0)
        if not scaler.least <= int(pools[name].servers) <= scaler.most:
            raise ValueError(
                f"{where}: {int(pools[name].servers)} servers at the start; expected from {scaler.least} to {scaler.most}"
            )
        first[name] = float(pools[name].servers)
    left, restarted = loss_schedule(network, losses, duration_s, steps)
    first |= {name: float(counts[0]) for name, counts in left.items() if name not in by_name}
    most = max([scaler.most for scaler in scalers] + [int(pools[name].servers) for name in left], default=1)
    least = 0 if left else min((scaler.least for scaler in scalers), default=1)
    if most - least >= MOST_LEVELS:
        greedy = next((n for n, s in by_name.items() if s.most == most), next(iter(left or first)))
        raise ValueError(
            f"pools.{greedy}: from {least} to {most:g} servers in time; expected at most {MOST_LEVELS} counts"
        )
    levels = np.arange(least, most + 1.0)
    course = prepared(network, duration_s, edges_s, factors, steps, start, fluctuations, levels, first)
    lost = np.zeros((steps, len(course.network.pools)))
    for j, pool in enumerate(course.network.pools):
        if pool.name in left:
            lost[:, j] = float(pool.servers) - left[pool.name]
    return _run(course, by_name, lost, restarted)


def _run(course: Course, by_name: dict[str, Autoscaler], lost: np.ndarray, restarted: np.ndarray) -> ScaledCourse:
    network, dt = course.network, course.dt
    flat, count = course.setting.flat, len(network.pools)
    weight = traffic(network, flatten(network)).mean_weight
    steps = len(lost)
    counts = np.array([float(pool.servers) for pool in network.pools]) - lost
    states, seen, paid, needed = [course.state], [], np.array(counts), np.array(counts)
    controlled = [
        _Pool(by_name[pool.name], j, int(pool.servers), float(pool_rate(pool, weight[j]) / pool.servers))
        for j, pool in enumerate(network.pools)
        if pool.name in by_name
    ]
    for i in range(steps):
        for one in controlled:
            one.begin(i * dt)
            counts[i, one.j], paid[i, one.j] = max(one.serving - lost[i, one.j], 0), one.serving + len(one.orders)
        state = again_waiting(states[-1], restarted[i, flat.pool_of])
        state, found = step(chosen(course, counts[i]), state, course.rates[i], dt)
        states.append(state)
        seen.append(found)
        work = pool_sums(np, flat, found.arriving * course.setting.amount, count)
        waiting = pool_sums(np, flat, state.waiting, count)
        for one in controlled:
            needed[i, one.j] = one.wanted(work[one.j] / one.per_server)
            one.see((i + 1) * dt, dt, work[one.j], waiting[one.j])
    whole = [jax.tree_util.tree_map(lambda *x: np.stack(x), *rows) for rows in (states, seen)]
    answer = reported(course, counts, restarted, whole[0], Seen(*whole[1]))

    def named(values: np.ndarray) -> dict[str, np.ndarray]:
        return {one.scaler.pool: np.append(values[:1, one.j], values[:, one.j]) for one in controlled}

    hours = {one.scaler.pool: float(paid[:, one.j].sum()) * dt / 3600.0 for one in controlled}
    extra = {one.scaler.pool: float((paid - needed)[:, one.j].sum()) * dt / 3600.0 for one in controlled}
    return ScaledCourse(answer, named(counts), named(paid), named(needed), hours, extra)
