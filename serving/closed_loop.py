"""The closed-loop benchmark engines are measured with: N requests in flight, all sent at once at the start.

Prompt and output lengths are uniform in [1 - spread, 1] x nominal; each completion sends the next request until
`waves` x N have been sent, every one of them after the engine's request overhead, exponentially distributed (its mean
is the constant). The starting burst is part of the mean time to first token. With equal lengths (spread 0) and an engine
that prefills first, all requests decode together and end together, so that every wave is a burst again; engines that mix
prompts with decoding, and the scatter of arrivals, break the waves up.
"""

from dataclasses import replace

import numpy as np

from serving.engines import KnownEngine
from serving.phase_law import PhaseLaw
from serving.replay import Deployment, Served, replay
from serving.requests import Requests

WAVES, SPREAD = 10, 0.2
#: Output tokens a replay of one point may take; longer benchmarks are replayed with fewer waves and the means of
#: the first wave and of the later ones weighed as in the whole (at least 3 waves).
MOST_TOKENS = 3e5


def closed_loop(
    law: PhaseLaw,
    known: KnownEngine,
    concurrency: int,
    input_tokens: int,
    output_tokens: int,
    *,
    calibrated: bool = True,
    kv_tokens: float = float("inf"),
    spread: float = SPREAD,
    replicas: int = 1,
    ranks: int = 1,
    intake: int = 1,
    waves: int = WAVES,
    seed: int = 0,
) -> tuple[float, float]:
    """(mean time to first token, mean time per output token) in seconds of the benchmark on `replicas` equal replicas
    that take requests in turn. `kv_tokens` of each; `ranks`: data-parallel ranks of each, evenly loaded, whose limits add up
    (`law` is that of all of them); `intake`: iterations between two looks at the queue."""
    engine = known.calibrated() if calibrated else known.engine
    tokens = max(engine.max_batched_tokens * ranks, input_tokens if engine.batching != "mixed" else 1)
    engine = replace(
        engine,
        max_batched_tokens=tokens,
        max_sequences=engine.max_sequences * ranks,
        kv_tokens=max(kv_tokens, float(engine.block_tokens)),
        intake_iterations=intake,
    )
    few = int(np.clip(MOST_TOKENS / (concurrency * output_tokens), min(3, waves), waves))
    generator, count = np.random.default_rng(seed), few * concurrency
    prompts, outputs = np.ceil(generator.uniform(1.0 - spread, 1.0, (2, count)) * [[input_tokens], [output_tokens]])
    delay_s = generator.exponential(1.0, count) * engine.overheads.request_s
    served = replay(
        Requests.of(0.0, prompts, outputs),
        law,
        engine,
        Deployment(replicas),
        concurrency=concurrency,
        delay_s=delay_s,
    )
    return _mean(served, "ttft_s", concurrency, waves), _mean(served, "tpot_s", concurrency, waves)


def _mean(served: Served, metric: str, concurrency: int, waves: int) -> float:
    """Mean of `metric`, the first wave counting 1 / waves; NaN if a request was refused."""
    if served.refused.any():
        return float("nan")
    values = getattr(served, metric)
    first, later = values[:concurrency].mean(), values[concurrency:]
    return float(first / waves + (1.0 - 1.0 / waves) * later.mean()) if len(later) else float(first)
