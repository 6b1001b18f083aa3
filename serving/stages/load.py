"""How much load a stage network takes within a promised time.

Times rise with the load, so that the largest factor x on all rates at which a time of the steady state meets its target is a root,

    time(x scale rates) = target,      0 < x < 1       scale: what the network holds at all (`SteadyNetwork.scale`),

found for all configurations at once and differentiated implicitly.
"""

from collections.abc import Callable
from typing import Any

import jax

from hardware.paths import nearest
from serving.implicit_root import increasing_root
from serving.stages.network import Network, check_network
from serving.stages.steady_network import SteadyNetwork, steady_network
from serving.stages.traffic import flatten, traffic
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

    def over(share: Array, theta: Any) -> Array:
        net, target = theta
        # nearly linear in the load: a queue's time is about 1 / (1 - load)
        held = steady_scale(net)
        state = steady_network(net.scaled(share * held), checked=False)
        time = metric(state) if callable(metric) else getattr(state, metric)[..., request_class]
        return 1.0 - target / time

    none = 0.0 * over(xp.asarray(LEAST), theta)
    ends = over(LEAST + none, theta), over(MOST + none, theta)
    share = increasing_root(over, LEAST + none, MOST + none, theta, ends)
    return xp.where(ends[0] > 0.0, 0.0, share * steady_scale(theta[0]))


def steady_scale(network: Network) -> Array:
    """Factor on all rates that the network just holds, [...], without its queues."""
    flat = flatten(network)
    most = namespace(network).max(traffic(network, flat).offered, axis=-1)
    return 1.0 / most
