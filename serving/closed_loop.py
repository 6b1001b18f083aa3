"""The closed-loop benchmark engines are measured with: N requests in flight, all sent at once at the start.

Prompt and output lengths are uniform in [1 - spread, 1] x nominal; each completion sends the next request until
`waves` x N have been sent. The starting burst is part of the mean time to first token. An engine whose clients stay
in step (`KnownEngine.cohorts`) sees every wave as a burst: its lengths are taken at their mean.
"""

from dataclasses import replace

import numpy as np

from serving.engines import KnownEngine
from serving.phase_law import PhaseLaw
from serving.replay import Served, replay
from serving.requests import Requests

WAVES, SPREAD = 10, 0.2
#: Output tokens a replay of one point may take; longer benchmarks are replayed with fewer waves and the means of
#: the first wave and of the later ones weighed as in the whole (at least 3 waves).
MOST_TOKENS = 4e5


def closed_loop(
    law: PhaseLaw,
    known: KnownEngine,
    concurrency: int,
    input_tokens: int,
    output_tokens: int,
    *,
    calibrated: bool = True,
    kv_tokens: float = float("inf"),
    waves: int = WAVES,
    seed: int = 0,
) -> tuple[float, float]:
    """(mean time to first token, mean time per output token) in seconds of the benchmark on one replica."""
    engine = known.calibrated() if calibrated else known.engine
    tokens = max(engine.max_batched_tokens, input_tokens if engine.batching != "mixed" else 1)
    engine = replace(engine, max_batched_tokens=tokens, kv_tokens=max(kv_tokens, float(engine.block_tokens)))
    few = int(np.clip(MOST_TOKENS / (concurrency * output_tokens), min(3, waves), waves))
    generator, count = np.random.default_rng(seed), few * concurrency
    low = 1.0 - SPREAD
    draw = np.full((2, count), 1.0 - 0.5 * SPREAD) if known.cohorts else generator.uniform(low, 1.0, (2, count))
    prompts, outputs = np.ceil(draw * np.array([[input_tokens], [output_tokens]]))
    served = replay(Requests.of(0.0, prompts, outputs), law, engine, concurrency=concurrency)
    return _mean(served, "ttft_s", concurrency, waves), _mean(served, "tpot_s", concurrency, waves)


def _mean(served: Served, metric: str, concurrency: int, waves: int) -> float:
    """Mean of `metric`, the first wave counting 1 / waves; NaN if a request was refused."""
    if served.refused.any():
        return float("nan")
    values = getattr(served, metric)
    first, later = values[:concurrency].mean(), values[concurrency:]
    return float(first / waves + (1.0 - 1.0 / waves) * later.mean()) if len(later) else float(first)
