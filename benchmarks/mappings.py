"""Mappings per second of exhaustive and random search, and the memory of a streamed one, in one run.

Run: `python benchmarks/mappings.py [--full]`. Two architectures: a three-level GEMM chip, and an Eyeriss-like one with a
convolution (halo). `objective`: the compiled model alone on valid mappings; `search`: enumeration, pruning, model, the
best ten and the front kept. `--full` streams 4 x 10^8 mappings of a larger GEMM (minutes) and reports peak memory.
"""

import argparse
import resource
import time

import numpy as np

import dataflow as df
from dataflow.mappers import Constraints, MapSpace, compiled_energy_delay, exhaustive_search, map_space, valid_splits

PICOJOULE = 1e-12
#: 4 x 10^8 splits, 1.9 x 10^7 of them valid.
LARGE = 1024


def storage(name, words, block, read_pj, write_pj, bandwidth=float("inf"), **more):
    joules = {"read_joules": read_pj, "write_joules": write_pj, "update_joules": write_pj}
    return df.Storage(
        name=name,
        capacity_words=words,
        block_words=block,
        read_words_per_cycle=bandwidth,
        write_words_per_cycle=bandwidth,
        **{key: value * PICOJOULE for key, value in joules.items()},
        **more,
    )


def gemm_space(size: int) -> MapSpace:
    chip = df.architecture(
        [
            storage("DRAM", float("inf"), 8, 512.0, 512.0, 8.0),
            storage("buffer", 2**17, 8, 18.2, 14.1, 64.0, fanout_x=16, fanout_y=16),
            storage("registers", 64, 1, 0.25, 0.25),
        ],
        df.Compute(mac_joules=0.2 * PICOJOULE),
    )
    orders = {"DRAM": ["M", "N", "K"], "buffer": ["M", "K", "N"], "registers": ["M", "N", "K"]}
    return map_space(df.gemm(size, size, size), chip, Constraints(order=orders))


def convolution_space() -> MapSpace:
    chip = df.architecture(
        [
            storage("DRAM", float("inf"), 8, 512.0, 512.0),
            storage("shared_glb", 131072, 8, 18.183829, 14.137929, 16.0, fanout_x=14, fanout_y=12),
            storage("ifmap_spad", 24, 2, 0.202442, 0.176713, 2.0, keeps=("Inputs",)),
            storage("weights_spad", 384, 2, 1.976602, 1.881657, 2.0, keeps=("Weights",)),
            storage("psum_spad", 16, 1, 0.2513, 0.2191, 2.0, keeps=("Outputs",)),
        ],
        df.Compute(mac_joules=0.207692 * PICOJOULE),
        clock_hz=200e6,
    )
    order = {"DRAM": ["M", "C", "P"], "shared_glb": list("MCNRSPQ"), "ifmap_spad": ["C"]}
    order |= {"weights_spad": ["C", "S"], "psum_spad": ["M"]}
    temporal = {"DRAM": ["M", "C", "P"], "ifmap_spad": [], "weights_spad": ["C", "S"], "psum_spad": ["M"]}
    rules = Constraints(spatial={"shared_glb": ["M", "C", "P", "R"]}, temporal=temporal, order=order)
    return map_space(df.conv2d(n=1, c=256, m=256, height=16, width=16, r=3, s=3), chip, rules)


def objective_rate(space: MapSpace, random_orders: bool, number: int = 2**18) -> str:
    """Mappings per second of the compiled objective on all cores, and per second of processor time (a busy machine)."""
    some = next(valid_splits(space, block=50_000))
    choice = some[np.arange(number) % len(some)]
    positions = next(iter(space.all_positions()))
    if random_orders:
        positions = np.random.default_rng(0).random((number, *positions.shape)).argsort(axis=-1)
    measure = compiled_energy_delay(space)
    measure(choice[:1], positions if positions.ndim == 2 else positions[:1])
    began, used = time.perf_counter(), time.process_time()
    measure(choice, positions)
    rates = number / (time.perf_counter() - began), number / (time.process_time() - used)
    return f"{rates[0]:,.0f} mappings/s, {rates[1]:,.0f} per processor second"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    gemm, convolution = gemm_space(128), convolution_space()
    print(f"GEMM, 3 levels: {objective_rate(gemm, False)} (objective)")
    print(f"GEMM, 3 levels, any loop order: {objective_rate(gemm, True)} (objective)")
    print(f"Eyeriss convolution: {objective_rate(convolution, False)} (objective)")
    print(f"Eyeriss convolution, any loop order: {objective_rate(convolution, True)} (objective)")
    streams = {"GEMM": gemm, "Eyeriss convolution": convolution}
    if options.full:
        streams["GEMM, large"] = gemm_space(LARGE)
    for name, space in streams.items():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = exhaustive_search(space, compiled=True, block=2**18, show_progress=options.full)
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        rates = f"{space.splits / found.seconds:,.0f}/s walked, {found.evaluated / found.seconds:,.0f}/s evaluated"
        front = len(found.kept.front["objectives"])
        print(f"{name}: {space.splits:,} mappings, {found.evaluated:,} fit, {found.seconds:.1f} s ({rates}),", end=" ")
        print(f"front {front}, peak memory {before / 1024:.0f} + {more:.0f} MiB")


if __name__ == "__main__":
    main()
