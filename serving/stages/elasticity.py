"""Which number of a stage network matters, and by how much: d ln metric / d ln number, by automatic differentiation.

One reverse pass through the steady state gives the elasticities of every number; roots and fixed points inside carry their
implicit derivatives. Counts (servers, slots) and knots have none: they are compared, not differentiated.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hardware.paths import numeric_paths, set_path
from serving.stages.network import END, Network, check_network
from serving.stages.steady_network import SteadyNetwork, steady_network
from workloads.numeric import Array

_COUNTS = ("servers", "slots", "buffer")


def network_elasticities(
    network: Network, metric: str = "e2e_s", index: int = 0, *, paths: tuple[str, ...] | None = None
) -> dict[str, float]:
    """Elasticity of `metric` (a field of `SteadyNetwork`; entry `index` of its last axis) in each number above 0, by dotted path,
    largest first. `paths`: only these. A probability changes at the cost of leaving or, where nothing leaves, of its siblings."""
    check_network(network)
    if metric not in SteadyNetwork._fields:
        raise ValueError(f"metric: {metric!r} is unknown (known: {', '.join(SteadyNetwork._fields)})")
    values = {path: value for path, value in numeric_paths(network).items() if _counts(path, value)}
    if paths is not None:
        unknown = [path for path in paths if path not in values]
        if unknown:
            raise ValueError(f"paths: {unknown[0]!r} has no elasticity (numbers above 0 that are no counts have)")
        values = {path: values[path] for path in paths}
    names = list(values)

    def of(logs: Array) -> Array:
        changed = network
        for i, name in enumerate(names):
            changed = set_path(changed, name, values[name] * jnp.exp(logs[i]))
        answer = getattr(steady_network(normalised(changed)), metric)
        return jnp.log(answer if jnp.ndim(answer) == 0 else answer[..., index])

    slopes = np.asarray(jax.jit(jax.grad(of))(jnp.zeros(len(names))))
    found = {name: float(slope) for name, slope in zip(names, slopes)}
    return dict(sorted(found.items(), key=lambda item: -abs(item[1])))


def normalised(network: Network) -> Network:
    """The network with the probabilities of every stage divided by their sum."""
    for c in network.classes:
        for stage in c.stages:
            if len(stage.next) > 1:
                total = sum(stage.next.values())
                table = {name: p / total for name, p in stage.next.items()}
                network = set_path(network, f"classes.{c.name}.stages.{stage.name}.next", table)
    return network


def _counts(path: str, value: Any) -> bool:
    parts = path.split(".")
    if parts[-1] in _COUNTS or "knots" in parts or np.ndim(value) > 0 or not 0.0 < float(value) < np.inf:
        return False
    return not (parts[-2] == "next" and (parts[-1] == END or float(value) == 1.0))
