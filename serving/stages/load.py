"""How much load a stage network takes within a promised time.

Times rise with the load, so that the largest factor x on all rates at which a time of the steady state meets its target is a root,

    time(x rates) = target,      0 < x < scale       scale: what the network holds at all (`SteadyNetwork.scale`),

found for all configurations at once and differentiated implicitly.
"""

from collections.abc import Callable
from typing import Any

import jax

from hardware.paths import nearest
from serving.implicit_root import increasing_root
from serving.stages.network import Network, check_network
from serving.stages.steady_network import SteadyNetwork, steady_network
from workloads.numeric import Array, namespace

#: Least and largest share of what the network holds that is answered.
LEAST, MOST = 1e-3, 0.999


def load_for(
    network: Network,
    target_s: Array,
    *,
    metric: str | Callable[[SteadyNetwork], Array] = "e2e_s",
    request_class: int = 0,
) -> Array:
    """Largest factor on all rates of `network` at which `metric` meets `target_s`, [...]: a time of a class (e2e_s, e2e_p99_s, ...)
    or a function of the steady state (`lambda state: state.stage_s[..., 0]`). 0 where it is missed at next to no load, at most
    99.9 % of what the network holds. Differentiable."""
    if isinstance(metric, str) and metric not in SteadyNetwork._fields:
        raise ValueError(f"metric: {metric!r} is unknown{nearest(metric, SteadyNetwork._fields)}")
    xp = namespace(network, target_s)
    if xp is not jax.numpy:
        check_network(network)
    theta = jax.tree_util.tree_map(lambda leaf: leaf * 1.0, (network, xp.asarray(target_s)))

    def over(log_factor: Array, theta: Any) -> Array:
        net, target = theta
        state = steady_network(net.scaled(xp.exp(log_factor)), checked=False)
        time = metric(state) if callable(metric) else getattr(state, metric)[..., request_class]
        return xp.log(time / target)

    held = steady_network(theta[0], checked=False).scale
    held = held + 0.0 * over(xp.log(LEAST * held), theta)
    low, high = xp.log(LEAST * held), xp.log(MOST * held)
    found = xp.exp(increasing_root(over, low, high, theta))
    return xp.where(over(low, theta) > 0.0, 0.0, found)
