"""Disaggregated serving in closed form (`serving.disaggregated_state`) against its replay, on 108 deployments and loads.

Llama-3.1-8B on H100s: three engines x prompts of 150 to 4000 tokens (one of varying length) x 1 or 4 prompt workers x two token
budgets x loads of 0.3, 0.6 and 0.85 of the limit; 4000 Poisson requests each. Run: python benchmarks/pools_against_replay.py
"""

from itertools import product

import numpy as np

import hardware
import workloads
from serving import (
    Lengths,
    Limits,
    Requests,
    Wire,
    Workers,
    closed_form_law,
    disaggregated_draws,
    disaggregated_state,
    load_engine,
    replay_disaggregated,
)
from serving.closed_form_law import Knots
from tiles import tile_estimator
from workloads import Parallelism, TransformerModel

ENGINES = ("vllm", "sglang", "vllm-sync")
#: Prompt and output tokens, how far lengths fall below them, decode workers.
SHAPES = ((2000, 200, 0.0, 8), (150, 20, 0.0, 2), (4000, 40, 0.5, 8))
REQUESTS, SETTLED = 4000, slice(400, -200)


def main() -> None:
    """Print the errors of means and 99th percentiles."""
    model = workloads.load("llama-3.1-8b")
    assert isinstance(model, TransformerModel)
    chip = hardware.load("h100_sxm")
    law = closed_form_law(model, chip, Parallelism(), tile_estimator("vllm"), knots=Knots(16384, 8192, 1024))
    errors = []
    for name, (prompt, output, spread, decoders), prompts, budget in product(ENGINES, SHAPES, (1, 4), (2048, 8192)):
        engine = load_engine(name).calibrated()
        limits = Limits.of(engine)._replace(max_batched_tokens=float(budget), kv_tokens=400_000.0)
        pools = (
            Workers(law, engine, limits, prompts),
            Workers(law, engine, limits._replace(max_sequences=512.0), decoders),
            Wire(131072.0, 50e9, 50e9 * prompts),
        )
        lengths = Lengths.uniform(prompt, output, 1.0 - spread) if spread else Lengths.of(prompt, output)
        most = float(disaggregated_state(*pools, lengths, 1e-3).most_per_s)
        drawn = np.random.default_rng(0).uniform(1.0 - spread, 1.0, (2, REQUESTS))
        sizes = np.ceil(drawn * [[prompt], [output]])
        for load in (0.3, 0.6, 0.85):
            state = disaggregated_state(*pools, lengths, load * most)
            tail = disaggregated_draws(*pools, lengths, state)
            served = replay_disaggregated(Requests.poisson(load * most, *sizes, seed=1), *pools)
            ttft, tpot = served.ttft_s[SETTLED], served.tpot_s[SETTLED]
            errors.append([
                float(state.ttft_s) / ttft.mean(), float(state.tpot_s) / tpot.mean(),
                np.quantile(tail.ttft_s, 0.99) / np.quantile(ttft, 0.99),
                np.quantile(tail.tpot_s, 0.99) / np.quantile(tpot, 0.99),
            ])  # fmt: skip
    found = np.array(errors) - 1.0
    for name, column in zip(("mean TTFT", "mean TPOT", "p99 TTFT", "p99 TPOT"), found.T):
        size = np.abs(column)
        print(
            f"{name}: mean error {100 * size.mean():.1f} %, median {100 * np.median(size):.1f} %, bias "
            f"{100 * np.median(column):+.1f} % ({len(column)} deployments and loads)"
        )


if __name__ == "__main__":
    main()
