"""The survey's VIDUR table from closed-form kernels: Llama-2-7B on one A100, Poisson arrivals at 2 requests/s.

Prompt plus output is uniform in 128 .. 512 tokens, prompt : output = 20 : 1; the published row is one draw (seed 42), here
the mean of many. TPOT counts decode time over generated tokens, as VIDUR does. Prints predicted, published and their ratio.

    PYTHONPATH=. python benchmarks/vidur_table.py
"""

from collections.abc import Sequence

import numpy as np

import hardware
import workloads
from serving import Engine, PhaseLaw, Requests, closed_form_law, replay
from tiles import tile_estimator
from workloads import Parallelism
from workloads.transformer import TransformerModel

RATE_PER_S, SHORTEST, LONGEST, PROMPT_SHARE = 2.0, 128, 512, 20.0 / 21.0
NAMES = ("mean E2E", "p99 E2E", "mean TTFT", "mean TPOT")
#: Scheduler: engine, requests, published seconds.
TABLE = {
    "vLLM": (
        Engine(batching="prefill_first", max_sequences=128, max_batched_tokens=4096),
        200,
        (0.177, 0.314, 0.027, 0.0093),
    ),
    "Sarathi": (Engine(batching="mixed", max_sequences=128, max_batched_tokens=512), 50, (0.158, 0.262, 0.025, 0.0090)),
}


def law() -> PhaseLaw:
    """Closed-form law of the deployment."""
    model = workloads.load("llama-2-7b")
    assert isinstance(model, TransformerModel)
    return closed_form_law(model, hardware.load("a100_sxm"), Parallelism(), tile_estimator("vllm"))


def row(made: PhaseLaw, engine: Engine, count: int, seeds: Sequence[int]) -> np.ndarray:
    """The four figures, seconds, mean over `seeds`."""
    found = []
    for seed in seeds:
        total = np.random.default_rng(seed).integers(SHORTEST, LONGEST + 1, count)
        prompts = np.maximum(np.round(PROMPT_SHARE * total), 1)
        outputs = np.maximum(total - prompts, 1)
        served = replay(Requests.poisson(RATE_PER_S, prompts, outputs, seed), made, engine)
        decode_s = (served.e2e_s - served.ttft_s) / outputs
        found.append((served.e2e_s.mean(), np.percentile(served.e2e_s, 99), served.ttft_s.mean(), decode_s.mean()))
    return np.mean(found, axis=0)


def main() -> None:
    """Print the table."""
    made = law()
    for name, (engine, count, published) in TABLE.items():
        for label, value, truth in zip(NAMES, row(made, engine, count, range(100)), published):
            print(
                f"{name:8s} {label:10s} {1e3 * value:7.1f} ms  published {1e3 * truth:7.1f} ms  {value / truth - 1.0:+.1%}"
            )


if __name__ == "__main__":
    main()
