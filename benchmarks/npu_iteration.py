"""One iteration of GPT-3 175B, sequences of 2048 tokens, on 16 to 128 systolic NPUs: predicted time, parts, and the cost of asking.

    python benchmarks/npu_iteration.py [--chip npu_128x128] [--model gpt3-175b] [--tokens 2048] [--prompts 64]

Three passes under tensor, pipeline and hybrid parallelism: one prompt, many prompts as micro-batches of one, and a decode step of
as many sequences. The last column is the wall clock of our answer, one point asked alone; the last lines give that of all points
asked as one sweep. LLMServingSim's published run times for one such iteration are 9 to 70 seconds (Cho et al., IISWC 2024).
`fits`: weights and the cache of all sequences in the chips' memory.
Degrees that cannot split 96 heads and 96 layers (tensor 64 and 128, pipeline 128) have no row; hybrids of these counts have.
"""

import argparse
import time

import numpy as np

import hardware
import workloads
from composition import Deployment, PhaseEstimate, iteration_time, operator_models
from ridgeline.kernel_estimators import chip_estimator
from workloads import Batch, Parallelism, TransformerModel

COUNTS = (16, 32, 48, 64, 96, 128)
PARTS = ("matrix", "attention", "memory-bound", "communication", "pipeline")
REPEATS = 5


def layouts(model: TransformerModel) -> list[tuple[int, int, int]]:
    """(NPUs, tensor, pipeline) whose degrees divide the model: pure ones and hybrids with tensor groups of 4 to 32."""
    found = []
    for count in COUNTS:
        for tp in sorted({1, 4, 8, 16, 32, count} & set(range(1, count + 1))):
            pp = count // tp
            whole = model.phase(Batch.prefill_of(1, 1), Parallelism(tp=tp, pp=pp))
            if tp * pp == count and bool(np.all(whole.divisible)):
                found.append((count, tp, pp))
    return found


def main() -> None:
    """Ask every point, print its parts, time the asking."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chip", default="npu_128x128")
    parser.add_argument("--model", default="gpt3-175b")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--prompts", type=int, default=64)
    asked = parser.parse_args()
    chip, model = hardware.load(asked.chip), workloads.load(asked.model)
    models = operator_models(chip_estimator(), name="systolic array")
    passes = {
        "one prompt": (Batch.prefill_of(1, asked.tokens), 1),
        f"{asked.prompts} prompts as micro-batches": (Batch.prefill_of(asked.prompts, asked.tokens), asked.prompts),
        f"decode step of {asked.prompts}": (Batch.decode_of(asked.prompts, asked.tokens - 1), 1),
    }

    def ask(batch: Batch, tp, pp, pieces: int) -> PhaseEstimate:
        deployment = Deployment(parallelism=Parallelism(tp=tp, pp=pp), microbatches=pieces)
        return iteration_time(model, chip, batch, deployment, models=models)

    points = layouts(model)
    tp, pp = (np.array([point[i] for point in points]) for i in (1, 2))
    print(f"{model.name} on {chip.name}, {asked.tokens} tokens; seconds")
    for title, (batch, pieces) in passes.items():
        print(f"\n{title}")
        cached = model.memory(Batch.decode_of(batch.requests, asked.tokens), Parallelism(tp=tp, pp=pp)).total_bytes
        needed = np.broadcast_to(cached, tp.shape)
        print(
            f"{'NPUs':>5} {'tp x pp':>9} {'total':>10} "
            + " ".join(f"{part:>13}" for part in PARTS)
            + "  fits   asked, ms"
        )
        for (count, a, b), weight in zip(points, needed):
            spent = []
            for _ in range(REPEATS):
                start = time.perf_counter()
                found = ask(batch, a, b, pieces)
                spent.append(time.perf_counter() - start)
            parts = " ".join(f"{float(found.terms[part]):13.4f}" for part in PARTS)
            fits = "yes" if weight <= chip.dram.capacity_bytes else "no"
            print(
                f"{count:5d} {f'{a} x {b}':>9} {float(found.mean_s):10.4f} {parts} {fits:>5} {1e3 * min(spent):12.2f}"
            )
        start = time.perf_counter()
        ask(batch, tp, pp, pieces)
        print(f"all {len(points)} points as one sweep: {1e3 * (time.perf_counter() - start):.2f} ms")


if __name__ == "__main__":
    main()
