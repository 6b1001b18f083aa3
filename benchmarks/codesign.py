"""Co-design of a decode accelerator: does gradient search reach what 10^7 points and a local search find, at 1 % of the cost?

    python benchmarks/codesign.py                  # 10 seeds of gradient search, 10^5 evaluations each
    python benchmarks/codesign.py --best-known     # 10^7 Sobol points, then local search from the best

The problem is `docs/spaces/decode_chip.toml`: Llama-3.1-70B in decode on a chip within 814 mm2, 700 W and a price, fourteen
numbers of the chip and two of its deployment, most output tokens per second and device. A derivative counts as five evaluations.
Ratios are to the larger of `BEST_KNOWN` and what the run itself finds; nothing here passes or fails.

2026-11-21, two shared cores: `--best-known` 1292.42 (10,079,688 evaluations, 222 s); the ten seeds of gradient search 1580.66 to
1586.17, all within 0.4 % of the best known and 22 % above what 10^7 points and a local search find, with 70,701 to 85,417
evaluations each (24,341 to 40,947 and 8,639 to 9,741 with a derivative) in 92 to 246 s.
"""

import argparse
from pathlib import Path

from explore import SearchResult, search
from ridgeline.space_file import read_space

SPACE = Path(__file__).resolve().parent.parent / "docs" / "spaces" / "decode_chip.toml"
#: Best objective found by anything so far, output tokens per second and device: gradient search, seed 0, on 2026-11-21.
BEST_KNOWN = 1586.17


def main() -> None:
    """Print one line per search."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", nargs="?", type=Path, default=SPACE)
    parser.add_argument("--best-known", action="store_true", help="Sobol points and local search instead")
    parser.add_argument("--points", type=int, default=10_000_000)
    parser.add_argument("--budget", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=10)
    given = parser.parse_args()
    problem, _, _ = read_space(given.space)
    (metric,) = problem.objectives
    print(f"{problem.name}: {len(problem.space.names)} parameters, {metric}", flush=True)
    if given.best_known:
        # Half of a "sobol" search's budget are points, half local search, which ends early where all has settled.
        searches = [("sobol", 2 * given.points, 0)]
    else:
        searches = [("gradient", given.budget, seed) for seed in range(given.seeds)]
    found = []
    for method, budget, seed in searches:
        result = search(problem, method=method, budget=budget, seed=seed).require_feasible()
        found.append(result)
        report(result, metric, seed)
    known = max(BEST_KNOWN, *(float(result.best[metric]) for result in found), 0.0)
    ratios = [float(result.best[metric]) / known for result in found]
    print(f"best known {known:.6g}; of it: worst {min(ratios):.4f}, best {max(ratios):.4f}")
    print(f"within 1 %: {sum(ratio >= 0.99 for ratio in ratios)} of {len(ratios)}")
    best = max(found, key=lambda result: float(result.best[metric]))
    print(best.best.to_string())


def report(result: SearchResult, metric: str, seed: int) -> None:
    """One line of a search."""
    value = float(result.best[metric])
    ratio = f", {value / BEST_KNOWN:.4f} of the best known" if BEST_KNOWN else ""
    print(
        f"{result.method} seed {seed}: {value:.6g}{ratio}; {result.evaluations} evaluations and {result.gradients} with a "
        f"derivative, {result.cost} in all, {result.seconds:.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
