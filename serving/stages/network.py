"""What a stage network is: request classes that walk through stages, and the pools of devices the stages run on.

A class of requests arrives at a rate and enters at one of its stages. A stage asks its pool for some work and then goes on
to the next stage, one of several by probability, `END` among them: chains, branches (a cache that hits or not) and
loops (thoughts, tool calls, turns) are all `next` tables. Pools:

| kind | what the work of a stage is | who shares |
|---|---|---|
| `delay` | seconds | nobody waits: fixed times, calls to what others run |
| `servers` | seconds on one of `servers` | first come, first served |
| `link` | bytes over `bandwidth_bytes_per_s`, after `latency_s` | all that is on the link shares it evenly |
| `batch` | weight of one item | a free server takes what waits, at most `slots` items; T(sum of weights) |
| `continuous` | steps | up to `slots` residents of each of `servers` replicas take a step each in T(sum of weights); others wait |

Every number may be an array [...], one entry per configuration; names, kinds and who follows whom are structure.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from hardware.accelerator import static
from hardware.paths import nearest, set_path
from serving.stages.step_law import StepLaw, check_law, extended
from workloads.numeric import Array, namespace

KINDS = ("delay", "servers", "link", "batch", "continuous")
#: What becomes of a request that comes to a full buffer.
WHEN_FULL = ("wait", "block", "shed")
#: How a router chooses.
POLICIES = ("random", "round_robin", "shortest_queue", "least_work", "prefix", "slo", "user")
#: Where a request goes that leaves.
END = "end"


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Pool:
    """Devices that stages share, see the module. `law`: step time of a batch or continuous pool. `buffer`: requests that
    may wait. `when_full`, what becomes of one that comes then: "wait" (it waits all the same; `backpressure` says when), "block"
    (it stays where it was, in the way of what comes behind it) or "shed" (it is lost), see `serving.stages.finite_buffers`.
    `line`: times its servers that wait in one line with them (what a router makes of it)."""

    name: str = static("")
    kind: str = static("servers")
    servers: Array = 1.0
    slots: Array = 1.0
    law: StepLaw = field(default_factory=StepLaw)
    bandwidth_bytes_per_s: Array = 1.0
    latency_s: Array = 0.0
    buffer: Array = float("inf")
    when_full: str = static("wait")
    line: Array = 1.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Stage:
    """One visit of a request to a pool: mean `work` in the pool's unit with squared coefficient of variation `scv` (0 fixed,
    1 exponential; gamma between and beyond), `weight` in the law of a batch, probabilities of what is `next` (sum 1).
    `split`: how evenly its requests go there, see `serving.stages.routers`."""

    name: str = static("")
    pool: str = static("")
    work: Array = 1.0
    scv: Array = 0.0
    weight: Array = 1.0
    split: str = static("random")
    next: dict[str, Array] = field(default_factory=lambda: {END: 1.0})


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class RequestClass:
    """Requests of one kind: `rate_per_s` with squared coefficient of variation of gaps `burstiness`; the first of `stages`
    is where they enter."""

    name: str = static("")
    rate_per_s: Array = 1.0
    burstiness: Array = 1.0
    stages: tuple[Stage, ...] = ()


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Router:
    """Sends what comes to the stages on it (`Stage.pool` names it) to one of `pools`, all of one kind, by `policy`; see
    `serving.stages.routers`. `shares`: of the pools (none: by what each can do). Policy "prefix": a share `hit_rate` has its prefix
    on one of the pools, where `hit_work` of the work is left; it goes elsewhere when `overflow` wait there. Policy "slo":
    `limits_s` of mean time in the stage for each class, by name, on the cheapest pool by `cost`; `class_shares`: of the pools for
    a class by name, before `shares`."""

    name: str = static("")
    policy: str = static("random")
    pools: tuple[str, ...] = static(())
    shares: tuple[Array, ...] = ()
    hit_rate: Array = 0.0
    hit_work: Array = 1.0
    overflow: Array = float("inf")
    limits_s: dict[str, Array] = field(default_factory=dict)
    cost: tuple[Array, ...] = ()
    class_shares: dict[str, tuple[Array, ...]] = field(default_factory=dict)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Network:
    """Request classes on pools, some behind routers. `replace("pools.gpu.slots", 64)` changes a number or puts an array in its
    place."""

    classes: tuple[RequestClass, ...] = ()
    pools: tuple[Pool, ...] = ()
    routers: tuple[Router, ...] = ()

    def replace(self, path: str, value: Any) -> "Network":
        """A copy with the value at dotted `path` replaced (`classes.chat.stages.decode.work`)."""
        return set_path(self, path, value)

    def scaled(self, factor: Array) -> "Network":
        """A copy with all rates times `factor`."""
        return replace(self, classes=tuple(replace(c, rate_per_s=c.rate_per_s * factor) for c in self.classes))


def stacked_pools(pools: list[Pool]) -> Pool:
    """Pools of one kind as one whose numbers have a last axis over them; laws get as many knots as the longest has."""
    longest = max(len(pool.law.knots) for pool in pools)
    laws = [extended(pool.law, longest) for pool in pools]

    def stacked(values: list[Array]) -> Array:
        xp = namespace(values)
        return xp.stack(xp.broadcast_arrays(*(xp.asarray(v) * 1.0 for v in values)), axis=-1)

    numbers = {
        name: stacked([getattr(pool, name) for pool in pools])
        for name in ("servers", "slots", "bandwidth_bytes_per_s", "latency_s", "line")
    }
    law = StepLaw(
        tuple(stacked([law.knots[i] for law in laws]) for i in range(longest)),
        tuple(stacked([law.seconds[i] for law in laws]) for i in range(longest)),
    )
    return Pool(kind=pools[0].kind, law=law, **numbers)


def chain(*stages: Stage) -> tuple[Stage, ...]:
    """The stages one after the other: each goes to the following one, the last to `END`."""
    following = [*(stage.name for stage in stages[1:]), END]
    return tuple(replace(stage, next={name: 1.0}) for stage, name in zip(stages, following))


def check_network(network: Network) -> Network:
    """`network`, if it can be answered; `ValueError` with the path of the first field that cannot."""
    if not network.pools:
        raise ValueError("pools: none; expected at least one")
    if not network.classes:
        raise ValueError("classes: none; expected at least one")
    _unique("pools", [pool.name for pool in network.pools])
    _unique("classes", [c.name for c in network.classes])
    _unique("pools and routers", [x.name for x in (*network.pools, *network.routers)])
    for router in network.routers:
        _check_router(router, {pool.name: pool for pool in network.pools}, f"routers.{router.name}")
    for pool in network.pools:
        _check_pool(pool, f"pools.{pool.name}")
    known = [c.name for c in network.classes]
    for router in network.routers:
        for name in router.limits_s:
            if name not in known:
                raise ValueError(
                    f"routers.{router.name}.limits_s.{name}: no class{nearest(name, known)} (known: {', '.join(known)})"
                )
    pools = {x.name for x in (*network.pools, *network.routers)}
    for c in network.classes:
        _check_class(c, pools, f"classes.{c.name}")
    _check_circles(network)
    if not np.any(sum(np.asarray(c.rate_per_s, dtype=float) for c in network.classes) > 0.0):
        raise ValueError("classes: all rates are 0; expected one above 0")
    return network


def _check_pool(pool: Pool, path: str) -> None:
    if pool.kind not in KINDS:
        raise ValueError(
            f"{path}.kind: {pool.kind!r} is unknown{nearest(pool.kind, KINDS)} (known: {', '.join(KINDS)})"
        )
    if pool.kind in ("servers", "batch", "continuous"):
        _whole(f"{path}.servers", pool.servers)
    if pool.kind in ("batch", "continuous"):
        _whole(f"{path}.slots", pool.slots)
        check_law(pool.law, f"{path}.law")
    if pool.kind == "link":
        _positive(f"{path}.bandwidth_bytes_per_s", pool.bandwidth_bytes_per_s)
        _positive(f"{path}.latency_s", pool.latency_s, zero=True)
    if pool.when_full not in WHEN_FULL:
        known = f"{nearest(pool.when_full, WHEN_FULL)} (known: {', '.join(WHEN_FULL)})"
        raise ValueError(f"{path}.when_full: {pool.when_full!r} is unknown{known}")
    if pool.when_full != "wait" and pool.kind in ("delay", "link"):
        raise ValueError(f"{path}.when_full: {pool.when_full!r}; a {pool.kind} has no buffer, expected 'wait'")
    if np.any(~(np.asarray(pool.buffer, dtype=float) >= 0.0)):
        raise ValueError(f"{path}.buffer: {pool.buffer!r}; expected requests, 0 or more")


def _check_router(router: Router, pools: dict[str, Pool], path: str) -> None:
    if router.policy not in POLICIES:
        known = f"{nearest(router.policy, POLICIES)} (known: {', '.join(POLICIES)})"
        raise ValueError(f"{path}.policy: {router.policy!r} is unknown{known}")
    if not router.pools:
        raise ValueError(f"{path}.pools: none; expected at least one")
    for name in router.pools:
        if name not in pools:
            raise ValueError(
                f"{path}.pools: {name!r} is no pool{nearest(name, pools)} (known: {', '.join(sorted(pools))})"
            )
    kinds = {pools[name].kind for name in router.pools}
    if len(kinds) > 1 or len(set(router.pools)) < len(router.pools):
        raise ValueError(f"{path}.pools: {', '.join(router.pools)}; expected different pools of one kind")
    for field_name, values in (("shares", router.shares), ("cost", router.cost)):
        if values and len(values) != len(router.pools):
            raise ValueError(
                f"{path}.{field_name}: {len(values)} numbers; expected one for each of {len(router.pools)} pools"
            )
    if router.shares:
        total = np.asarray(sum(np.asarray(x, dtype=float) for x in router.shares))
        if np.any(np.asarray(router.shares, dtype=float) < 0.0) or np.any(np.abs(total - 1.0) > 1e-6):
            raise ValueError(f"{path}.shares: sum to {float(np.max(total)):g}; expected shares of 0 or more with sum 1")
    if router.policy == "slo" and not router.cost:
        raise ValueError(f"{path}.cost: missing; expected one number for each pool")
    if np.any(~((np.asarray(router.hit_rate) >= 0.0) & (np.asarray(router.hit_rate) <= 1.0))):
        raise ValueError(f"{path}.hit_rate: {router.hit_rate!r}; expected a share in [0, 1]")
    _positive(f"{path}.hit_work", router.hit_work)
    for name, value in (("overflow", router.overflow), *((f"limits_s.{c}", x) for c, x in router.limits_s.items())):
        if np.any(~(np.asarray(value, dtype=float) > 0.0)):
            raise ValueError(f"{path}.{name}: {value!r}; expected a number above 0")


def _check_class(c: RequestClass, pools: set[str], path: str) -> None:
    _positive(f"{path}.rate_per_s", c.rate_per_s, zero=True)
    _positive(f"{path}.burstiness", c.burstiness, zero=True)
    if not c.stages:
        raise ValueError(f"{path}.stages: none; expected at least one")
    names = [stage.name for stage in c.stages]
    _unique(f"{path}.stages", names)
    for stage in c.stages:
        where = f"{path}.stages.{stage.name}"
        if stage.pool not in pools:
            known = f"{nearest(stage.pool, pools)} (known: {', '.join(sorted(pools))})"
            raise ValueError(
                f"{where}.pool: {stage.pool!r} is no pool{known}" if stage.pool else f"{where}.pool: missing{known}"
            )
        _positive(f"{where}.work", stage.work)
        _positive(f"{where}.scv", stage.scv, zero=True)
        _positive(f"{where}.weight", stage.weight)
        for name, probability in stage.next.items():
            if name != END and name not in names:
                raise ValueError(f"{where}.next.{name}: no stage of this class{nearest(name, [*names, END])}")
            value = np.asarray(probability, dtype=float)
            if np.any(~((value >= 0.0) & (value <= 1.0))):
                raise ValueError(f"{where}.next.{name}: {probability!r}; expected a probability in [0, 1]")
        total = np.asarray(sum(np.asarray(p, dtype=float) for p in stage.next.values()))
        if np.any(np.abs(total - 1.0) > 1e-6):
            worst = float(total.flat[np.argmax(np.abs(total - 1.0))])
            raise ValueError(f"{where}.next: probabilities sum to {worst:g}; expected 1 (with {END!r} for leaving)")
    _check_exits(c, path)


def _check_exits(c: RequestClass, path: str) -> None:
    leaves = {END}
    for _ in c.stages:
        leaves |= {
            s.name for s in c.stages if any(n in leaves and np.all(np.asarray(p) > 0.0) for n, p in s.next.items())
        }
    caught = [stage.name for stage in c.stages if stage.name not in leaves]
    if caught:
        raise ValueError(f"{path}.stages.{caught[0]}.next: a cycle without exit; expected a way to {END!r}")


def _check_circles(network: Network) -> None:
    """Pools that keep a place while they wait for each other come to a standstill."""
    kind = {pool.name: pool.kind for pool in network.pools}
    blocks = {pool.name for pool in network.pools if pool.when_full == "block"}
    after: dict[str, set[str]] = {name: set() for name in blocks}
    for c in network.classes:
        on = {stage.name: stage.pool for stage in c.stages}
        for stage in c.stages:
            if stage.pool in blocks and kind[stage.pool] in ("servers", "batch", "continuous"):
                after[stage.pool] |= {on[name] for name in stage.next if on.get(name) in blocks}
    for first in sorted(blocks):
        seen, ahead = set(), set(after[first])
        while ahead:
            name = ahead.pop()
            if name == first:
                raise ValueError(
                    f"pools.{first}.when_full: 'block' in a circle of pools that block; expected one 'wait' or 'shed'"
                )
            if name not in seen:
                seen.add(name)
                ahead |= after[name]


def _unique(path: str, names: list[str]) -> None:
    for name in names:
        if not name or "." in name or name == END:
            raise ValueError(f"{path}: {name!r}; expected a name without dots that is not {END!r}")
        if names.count(name) > 1:
            raise ValueError(f"{path}.{name}: given twice; expected names that differ")


def _positive(path: str, value: Array, *, zero: bool = False) -> None:
    numbers = np.asarray(value, dtype=float)
    if np.any(~((numbers > 0.0) | (zero & (numbers == 0.0)))) or np.any(np.isinf(numbers)):
        raise ValueError(f"{path}: {value!r}; expected a finite number {'of 0 or more' if zero else 'above 0'}")


def _whole(path: str, value: Array) -> None:
    numbers = np.asarray(value, dtype=float)
    if np.any(~((numbers >= 1.0) & (numbers == np.floor(numbers)) & np.isfinite(numbers))):
        raise ValueError(f"{path}: {value!r}; expected a whole number, at least 1")
