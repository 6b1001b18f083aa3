"""Which number of a stage network matters, and by how much: d ln metric / d ln number, by automatic differentiation.

One reverse pass through the steady state gives the elasticities of every number; roots and fixed points inside carry their
implicit derivatives; it is compiled first, which pays for many calls or many numbers. Secants need no compiler. Counts (servers,
slots) and knots have none: they are compared, not differentiated.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hardware.paths import get_path, numeric_paths, set_path
from serving.stages.network import END, Network, check_network
from serving.stages.steady_network import SteadyNetwork, steady_network
from workloads.numeric import Array

_COUNTS = ("servers", "slots", "buffer", "line")


def network_elasticities(
    network: Network, metric: str = "e2e_s", index: int = 0, *, paths: tuple[str, ...] | None = None
) -> dict[str, float]:
    """Elasticity of `metric` (a field of `SteadyNetwork`; entry `index` of its last axis) in each number above 0, by dotted path,
    largest first. `paths`: only these. A probability changes at the cost of its siblings."""
    names = _numbers(network, metric, paths)

    def of(logs: Array) -> Array:
        changed = network
        for i, name in enumerate(names):
            changed = _scaled(changed, name, jnp.exp(logs[i]))
        answer = getattr(steady_network(normalised(changed)), metric)
        return jnp.log(answer if jnp.ndim(answer) == 0 else answer[..., index])

    slopes = np.asarray(jax.jit(jax.grad(of))(jnp.zeros(len(names))))
    found = {name: float(slope) for name, slope in zip(names, slopes)}
    return dict(sorted(found.items(), key=lambda item: -abs(item[1])))


def network_secants(
    network: Network, metric: str = "e2e_s", index: int = 0, *, paths: tuple[str, ...] | None = None, step: float = 1e-3
) -> dict[str, float]:
    """`network_elasticities` as secants over numbers times exp(-step) and exp(step): two evaluations each, nothing to compile."""
    found = {}
    for path in _numbers(network, metric, paths):
        ends = []
        for sign in (-1.0, 1.0):
            changed = normalised(_scaled(network, path, np.exp(sign * step)))
            answer = np.asarray(getattr(steady_network(changed, checked=False), metric))
            ends.append(float(np.log(answer if answer.ndim == 0 else answer[index])))
        found[path] = (ends[1] - ends[0]) / (2.0 * step)
    return dict(sorted(found.items(), key=lambda item: -abs(item[1])))


def _numbers(network: Network, metric: str, paths: tuple[str, ...] | None) -> list[str]:
    """Paths of the numbers that have an elasticity, all or those of `paths`. A step law is one: all its seconds together."""
    check_network(network)
    if metric not in SteadyNetwork._fields:
        raise ValueError(f"metric: {metric!r} is unknown (known: {', '.join(SteadyNetwork._fields)})")
    known = [path for path, value in numeric_paths(network).items() if _has_one(path, value)]
    used = {pool.name for pool in network.pools if pool.kind in ("batch", "continuous")}
    known += [f"pools.{name}.law.seconds" for name in used]
    for path in paths or ():
        if path not in known:
            raise ValueError(f"paths: {path!r} has no elasticity (numbers above 0 that are no counts have)")
    return sorted(known) if paths is None else list(paths)


def _scaled(network: Network, path: str, factor: Array) -> Network:
    value = get_path(network, path)
    return set_path(network, path, tuple(v * factor for v in value) if isinstance(value, tuple) else value * factor)


def normalised(network: Network) -> Network:
    """The network with the probabilities of every stage divided by their sum."""
    for c in network.classes:
        for stage in c.stages:
            if len(stage.next) > 1:
                total = sum(stage.next.values())
                table = {name: p / total for name, p in stage.next.items()}
                network = set_path(network, f"classes.{c.name}.stages.{stage.name}.next", table)
    return network


def _has_one(path: str, value: Any) -> bool:
    parts = path.split(".")
    if parts[-1] in _COUNTS or "law" in parts or np.ndim(value) > 0 or not 0.0 < float(value) < np.inf:
        return False
    return not (parts[-2] == "next" and (parts[-1] == END or float(value) == 1.0))
