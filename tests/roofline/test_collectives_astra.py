"""The closed forms against runs of ASTRA-sim's analytical backends, to the cycle."""

from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from roofline.collectives_astra import GIB_PER_S, AstraSystem, astra_cycles
from roofline.collectives_astra_replay import replay_cycles
from roofline.relax import straight_through

GOLDENS = Path(__file__).parents[1] / "goldens" / "astra"
TOPOLOGIES = {"Switch": "switch", "Ring": "ring", "FullyConnected": "fully_connected"}
NAMES = {"direct": "direct", "halvingDoubling": "halving_doubling", "doubleBinaryTree": "tree"}


def golden(name):
    return pd.read_csv(GOLDENS / f"{name}.csv", comment="#")


def system(ranks, gib_per_s, latency_ns, splits=4, active=2, endpoint_ns=10, memory=3350):
    return AstraSystem(
        ranks, gib_per_s * GIB_PER_S * 1e9, latency_ns * 1e-9, splits, active, endpoint_ns * 1e-9, memory * 1e9
    )


def row_system(row):
    return system(row.npus, row.bw_GiBps, row.lat_ns, row.splits, row.active, row.endpoint, row.memGiBps)


@pytest.mark.parametrize("backend", ["aware", "unaware"])
def test_every_one_dimensional_row_to_the_cycle(backend):
    rows = golden(f"astra_1d_{backend}")
    assert len(rows) == 56
    found = [
        astra_cycles(r.op, r.bytes, row_system(r), topology=TOPOLOGIES[r.topology], congestion=backend == "aware")
        for r in rows.itertuples()
    ]
    assert [int(x) for x in found] == rows.cycles.tolist()


@pytest.mark.parametrize(
    ("op", "cycles"),
    [("all_reduce", 57_426), ("all_gather", 44_058), ("reduce_scatter", 28_950), ("all_to_all", 114_000)],
)
def test_one_mebibyte_on_eight_ranks(op, cycles):
    assert astra_cycles(op, 2**20, system(8, 400.0, 936.25)) == cycles


@pytest.mark.parametrize(
    ("ranks", "gib_per_s", "cycles"), [(2, 741.34, 574_289), (4, 741.34, 1_454_270), (8, 400.0, 3_307_886)]
)
def test_resnet50_gradients(ranks, gib_per_s, cycles):
    sizes = golden("resnet50_data_parallel_gradients")["bytes"].to_numpy()
    assert sizes.sum() == 102_011_648
    assert astra_cycles("all_reduce", sizes, system(ranks, gib_per_s, 936.25)).sum() == cycles


def test_several_dimensions_to_the_cycle():
    rows = golden("astra_multidim_and_algorithms").query("group == 'multidim'")
    assert len(rows) == 32
    for r in rows.itertuples():
        dimensions = [
            (system(int(p), float(b), float(t), r.splits, r.active, r.endpoint, r.memGBps), TOPOLOGIES[kind])
            for p, b, t, kind in zip(
                r.npus.split("x"), r.bw_GiBps.split("x"), r.lat_ns.split("x"), r.topology.split("x"), strict=True
            )
        ]
        assert replay_cycles(r.op, int(r.bytes), dimensions) == r.cycles


def test_replay_of_one_dimension_is_the_closed_form():
    for op in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"):
        one = system(8, 400.0, 936.25)
        assert replay_cycles(op, 2**20, [(one, "switch")]) == astra_cycles(op, 2**20, one, congestion=False)


def test_other_algorithms_to_the_cycle_except_queued_halving_doubling():
    rows = golden("astra_multidim_and_algorithms").query("group == 'alg'")
    assert len(rows) == 36
    missed = []
    for r in rows.itertuples():
        found = astra_cycles(
            r.op,
            r.bytes,
            system(int(r.npus), float(r.bw_GiBps), float(r.lat_ns), r.splits, r.active, r.endpoint, r.memGBps),
            algorithm=NAMES[r.alg],
            congestion=r.backend == "congestion_aware",
        )
        if found != r.cycles:
            missed.append((r.alg, r.bytes))
            assert 0.90 < found / r.cycles < 1.0
    assert missed == [("halvingDoubling", 67108864)] * 3


def test_gradient_and_broadcast():
    def cycles(bandwidth):
        return astra_cycles(
            "all_reduce",
            2.0**26,
            system(8, 400.0, 936.25)._replace(bandwidth_bytes_per_s=bandwidth),
            rounding=straight_through,
        )

    slope = jax.grad(cycles)(400e9)
    assert slope < 0.0
    assert slope == pytest.approx((cycles(4.1e11) - cycles(3.9e11)) / 2e10, rel=0.05)
    grid = astra_cycles("all_reduce", np.array([[2**20], [2**24]]), system(np.array([4, 8]), 400.0, 936.25))
    assert grid.shape == (2, 2)
    assert grid[0, 1] == 57_426


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="topology: 'Torus' is unknown"):
        astra_cycles("all_reduce", 1024, system(4, 1, 1), topology="Torus")
    with pytest.raises(ValueError, match="power of two"):
        astra_cycles("all_reduce", 1024, system(6, 1, 1), algorithm="tree")
