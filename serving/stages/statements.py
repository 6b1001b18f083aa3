"""What a steady state says in words: which pool limits, which queues grow and when their buffers are full."""

import numpy as np

from serving.stages.network import Network
from serving.stages.steady_network import SteadyNetwork, answerable


def check_stable(network: Network, state: SteadyNetwork) -> None:
    """`ValueError` naming the pool that cannot take what is offered and the rates the network holds; one configuration."""
    if bool(state.stable):
        return
    network = answerable(network)
    firm = np.where([pool.when_full == "shed" for pool in network.pools], 0.0, np.asarray(state.offered))
    j = int(np.argmax(firm))
    pool, offered, scale = network.pools[j], float(state.offered[j]), float(np.minimum(state.scale, 1.0 / firm[j]))
    rates = ", ".join(f"{c.name} {float(c.rate_per_s) * scale:.4g}" for c in network.classes)
    raise ValueError(
        f"pools.{pool.name}: unstable: offered {offered:.4g} times what it can do; the network holds {scale:.4g} of the rates "
        f"({rates} requests/s)"
    )


def backpressure(network: Network, state: SteadyNetwork) -> list[str]:
    """One line for the bottleneck and one per queue that grows: how fast, when its buffer is full, what passes; one network."""
    network = answerable(network)
    j = int(state.bottleneck)
    scale = float(state.scale)
    verb = "limits the network at" if bool(state.stable) else "limits the network to"
    lines = [f"{network.pools[j].name} {verb} {scale:.3g} times these rates"]
    if not np.isfinite(scale):
        lines = ["no pool limits the network"]
    for pool, growth, passed in zip(network.pools, np.asarray(state.growth_per_s), np.asarray(state.passed)):
        if passed < 1.0 and pool.when_full == "shed":
            lines.append(f"{pool.name} sheds {100.0 * (1.0 - passed):.3g} % of what comes to it")
        elif passed < 1.0:
            line = f"{pool.name} lets {100.0 * passed:.3g} % through; its queue grows by {growth:.3g} requests/s"
            room = float(np.asarray(pool.buffer))
            if np.isfinite(room):
                line += f" and fills its buffer of {room:g} in {room / growth:.3g} s"
            lines.append(line)
    return lines
