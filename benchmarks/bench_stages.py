"""Speed of stage networks: configurations per second in closed form, cost of a gradient, events per second and memory of a replay.

    python benchmarks/bench_stages.py [--configurations 10000] [--requests 1000000]

A network of eleven stages on eight pools of all kinds (`docs/networks/rag.toml`); rates, works and step times vary. Times are the
best of five.
"""

import argparse
import resource
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ridgeline.stage_network_file import read_network
from serving.stages import Network, StepLaw, replay_network, steady_network

FILE = Path(__file__).parents[1] / "docs" / "networks" / "rag.toml"


def varied(network: Network, factors) -> Network:
    """The network with rates, the law of every batch and the decode steps times `factors` [..., 3]."""
    load, speed, steps = factors[..., 0], factors[..., 1], factors[..., 2]
    pools = tuple(replace(p, law=StepLaw(p.law.knots, tuple(speed * s for s in p.law.seconds))) for p in network.pools)
    changed = replace(network.scaled(load), pools=pools)
    return changed.replace("classes.chat.stages.decode.work", 250.0 * steps)


def best(call, repeats: int = 5) -> float:
    """Least seconds of a call."""
    call()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configurations", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=1_000_000)
    arguments = parser.parse_args()
    network = read_network(FILE).network
    factors = np.random.default_rng(0).uniform(0.5, 1.1, (arguments.configurations, 3))
    count = arguments.configurations
    plain = best(lambda: steady_network(varied(network, factors)), 2)
    print(f"NumPy: {1e6 * plain / count:.1f} us per configuration")
    mean = jax.jit(lambda f: steady_network(varied(network, f)).e2e_s[..., 0])
    gradient = jax.jit(jax.grad(lambda f: jnp.sum(steady_network(varied(network, f)).e2e_s[..., 0])))
    on_device = jnp.asarray(factors)
    forward = best(lambda: mean(on_device).block_until_ready())
    backward = best(lambda: gradient(on_device).block_until_ready())
    print(
        f"JAX, compiled: {1e6 * forward / count:.1f} us per configuration; with its gradient {backward / forward:.2f} times that"
    )
    replay_network(network, 1000)
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = replay_network(network, arguments.requests)
    spent, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    speed = f"{seen.events:,} events in {spent:.1f} s ({seen.events / spent / 1e6:.2f} million per second)"
    memory = f"{(after - before) / 1024:.0f} MiB more memory, {seen.most_in_flight} requests in flight at most"
    print(f"replay: {arguments.requests:,} requests, {speed}; {memory}")


if __name__ == "__main__":
    main()
