"""Speed of stage networks: configurations per second in closed form, cost of a gradient, events per second and memory of a replay.

    python benchmarks/bench_stages.py [--configurations 10000] [--requests 1000000]

Seven stages of one class on four pools (servers, batch, link, continuous) with a loop; rates, step times and lengths vary. Times
are the best of five.
"""

import argparse
import resource
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from serving.stages import (
    Network,
    Pool,
    RequestClass,
    Stage,
    StepLaw,
    chain,
    linear_law,
    replay_network,
    roofline_law,
    steady_network,
)


def example() -> Network:
    """Retrieval and generation with a second turn for every third request."""
    stages = chain(
        Stage(name="prepare", pool="cpu", work=0.004, scv=1.0),
        Stage(name="embed", pool="search"),
        Stage(name="find", pool="search", work=2.0),
        Stage(name="prefill", pool="gpu", work=4.0, weight=16.0),
        Stage(name="send", pool="wire", work=2e8, scv=0.5),
        Stage(name="decode", pool="gpu", work=200.0, scv=1.0),
        Stage(name="check", pool="cpu", work=0.02),
    )
    last = replace(stages[-1], next={"prefill": 0.3, "end": 0.7})
    return Network(
        classes=(RequestClass(name="chat", rate_per_s=6.0, stages=(*stages[:-1], last)),),
        pools=(
            Pool(name="cpu", servers=4.0),
            Pool(name="search", kind="batch", slots=32.0, law=roofline_law(0.002, 0.01, 0.001)),
            Pool(name="wire", kind="link", bandwidth_bytes_per_s=1e10, latency_s=1e-5),
            Pool(name="gpu", kind="continuous", servers=2.0, slots=48.0, law=linear_law(0.008, 0.0002)),
        ),
    )


def varied(network: Network, factors) -> Network:
    """The network with rates, the law of every batch and the decode steps times `factors` [..., 3]."""
    load, speed, steps = factors[..., 0], factors[..., 1], factors[..., 2]
    pools = tuple(replace(p, law=StepLaw(p.law.knots, tuple(speed * s for s in p.law.seconds))) for p in network.pools)
    changed = replace(network.scaled(load), pools=pools)
    return changed.replace("classes.chat.stages.decode.work", 200.0 * steps)


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
    network = example()
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
