"""Sparse traffic: dense where nothing is sparse, monotone, differentiable, and equal to execution over all masks there are."""

import itertools
import json
import math
import os
from pathlib import Path

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import dataflow as df
from dataflow.density import Banded, EvenlySpread, Structured, Uniform, histogram, measured
from dataflow.sparse_walker import walk_sparse

SETTINGS = settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))
PROBLEMS = ("O[m,n] += A[m,k] * B[k,n]", "O[b,m] += A[b,k] * B[b,k,m]", "O[k,p] += A[k,r] * B[p+r]")


@st.composite
def cases(draw, text=None, depth=None):
    """A small problem and mapping; tensors that slide are spread over no instances."""
    text = text or draw(st.sampled_from(PROBLEMS))
    depth = depth or draw(st.integers(1, 3))
    dims = sorted({c for c in "bmnkpr" if c in text})
    loops = [[] for _ in range(depth)]
    sizes, budget = {}, 32
    for d in dims:
        size = 1
        for level in range(depth):
            for axis in ("", "X"):
                if axis and "p+r" in text and d in "pr":
                    continue
                bound = draw(st.sampled_from([1, 1, 2, 3] if axis == "" else [1, 1, 2]))
                if bound > 1 and size * bound <= budget:
                    loops[level].append((d, bound, axis))
                    size *= bound
        budget = max(1, budget // size)
        sizes[d] = size
    work = df.contraction(text, sizes)
    storage, keeps = [], {}
    for level in range(depth):
        timed = [loop for loop in loops[level] if not loop[2]]
        order = draw(st.permutations(range(len(timed))))
        loops[level] = [timed[i] for i in order] + [loop for loop in loops[level] if loop[2]]
        fan = math.prod(b for _, b, axis in loops[level] if axis)
        merge = draw(st.booleans())
        storage.append(df.Storage(name=f"L{level}", fanout_x=fan, multicast=merge, spatial_reduction=merge))
        keeps[f"L{level}"] = [t.name for t in work.tensors if level == 0 or draw(st.booleans())]
    chip = df.architecture(storage, df.Compute(mac_joules=1.0, holds_operands=draw(st.booleans())))
    return work, chip, df.mapping(work, chip, {f"L{i}": loops[i] for i in range(depth)}, keeps)


def extents(work, tensor):
    return [1 + sum(c * (work.sizes[d] - 1) for d, c in rank) for rank in work.tensor(tensor).ranks]


def all_masks(shape, nonzeros):
    """Every placement of `nonzeros` nonzeros, [placements, *shape]."""
    words = math.prod(shape)
    chosen = np.array(list(itertools.combinations(range(words), nonzeros)), dtype=int).reshape(
        math.comb(words, nonzeros), nonzeros
    )
    masks = np.zeros((len(chosen), words), dtype=bool)
    masks[np.arange(len(chosen))[:, None], chosen] = True
    return masks.reshape(-1, *shape)


def assert_walked(work, chip, made, sparse, masks):
    found, walked = df.sparse_counts(work, chip, made, sparse), walk_sparse(work, chip, made, sparse, masks)
    assert np.allclose(found.macs, walked.macs, atol=1e-9), (found.macs, walked.macs, made.to_text())
    for kinds, name in ((walked.served, "updates"), (walked.filled, "fills")):
        for level, tensors in kinds.items():
            for tensor, accesses in tensors.items():
                counted = found.words[level][tensor]
                kind = name if name == "fills" or work.tensor(tensor).output else "reads"
                form = np.array(getattr(counted, kind)) * counted.instances
                told = f"{level}.{tensor}.{kind}: closed form {form}, walked {accesses}\n{made.to_text()}\n{sparse}"
                assert np.allclose(form, accesses, atol=1e-9), told


@st.composite
def optimisations(draw, made, leaders, count):
    found = []
    for _ in range(draw(st.integers(1, count))):
        leader = draw(st.sampled_from(leaders))
        target = draw(st.sampled_from([t for t in ("A", "B", "O") if t != leader]))
        level = draw(st.sampled_from(made.levels))
        found.append((draw(st.sampled_from(df.ACTIONS)), level, target, [leader]))
    return found


@SETTINGS
@given(cases(), st.data())
def test_one_sparse_tensor_against_all_its_masks(case, data):
    work, chip, made = case
    shape = extents(work, "A")
    words = math.prod(shape)
    nonzeros = data.draw(st.integers(0, words if words <= 8 else 2 if words <= 16 else 1))
    level = data.draw(st.sampled_from(made.levels))
    compute = data.draw(st.sampled_from(["", "gating", "skipping"]))
    formats = {level: {"A": data.draw(st.sampled_from(["COO", "bitmask", "RLC"]))}} if data.draw(st.booleans()) else {}
    acts = data.draw(optimisations(made, ["A"], 2))
    sparse = df.sparsity(work, chip, {"A": nonzeros / words}, formats, acts, compute)
    assert_walked(work, chip, made, sparse, {"A": all_masks(shape, nonzeros)})


@SETTINGS
@given(cases(text=PROBLEMS[0]), st.data())
def test_two_sparse_tensors_against_all_pairs_of_masks(case, data):
    work, chip, made = case
    masks, densities = {}, {}
    for name in "AB":
        words = math.prod(extents(work, name))
        nonzeros = data.draw(st.integers(0, words if words <= 4 else 1))
        masks[name], densities[name] = all_masks(extents(work, name), nonzeros), nonzeros / words
    a, b = len(masks["A"]), len(masks["B"])
    masks = {"A": np.repeat(masks["A"], b, axis=0), "B": np.concatenate([masks["B"]] * a)}
    acts = data.draw(optimisations(made, ["A", "B"], 3))
    sparse = df.sparsity(work, chip, densities, {}, acts, data.draw(st.sampled_from(["", "gating", "skipping"])))
    assert_walked(work, chip, made, sparse, masks)


@SETTINGS
@given(cases(), st.data())
def test_density_of_one_is_dense(case, data):
    work, chip, made = case
    acts = data.draw(optimisations(made, ["A", "B"], 3))
    models = st.sampled_from([Uniform(1.0), EvenlySpread(1.0), Structured(4.0, 4.0)])
    formats = (
        {made.levels[0]: {"A": data.draw(st.sampled_from(["COO", "RLC", "CSR"]))}}
        if len(extents(work, "A")) > 1
        else {}
    )
    sparse = df.sparsity(work, chip, {"A": data.draw(models), "B": data.draw(models)}, formats, acts)
    dense, found = df.counts(work, chip, made), df.sparse_counts(work, chip, made, sparse)
    for level, tensors in dense.words.items():
        for tensor, counted in tensors.items():
            for kind in ("reads", "fills", "updates"):
                assert tuple(getattr(found.words[level][tensor], kind)) == (getattr(counted, kind), 0.0, 0.0)
    plain = df.evaluate_sparse(work, chip, made, df.sparsity(work, chip, optimisations=acts))
    before = df.evaluate(work, chip, made)
    assert (plain.cycles, plain.energy_joules, plain.edp) == (before.cycles, before.energy_joules, before.edp)


@SETTINGS
@given(cases(), st.data())
def test_more_nonzeros_never_mean_less_traffic(case, data):
    work, chip, made = case
    acts = data.draw(optimisations(made, ["A"], 3))
    model = data.draw(st.sampled_from([Uniform, EvenlySpread]))
    grid = np.linspace(0.0, 1.0, 9)
    sparse = df.sparsity(work, chip, {"A": model(grid)}, {made.levels[0]: {"A": "COO"}}, acts)
    found = df.evaluate_sparse(work, chip, made, sparse, check=False)
    for value in (found.cycles, found.energy_joules, found.counts.macs.actual):
        assert np.all(np.diff(np.broadcast_to(value, grid.shape)) >= -1e-9)
    for tensors in found.counts.words.values():
        for counted in tensors.values():
            for kind in ("reads", "fills", "updates"):
                assert np.all(np.diff(np.broadcast_to(getattr(counted, kind).actual, grid.shape)) >= -1e-9)


def test_structured_blocks_against_all_their_masks():
    rows, blocks, n, m = 2, 2, 2, 4
    block = all_masks((m,), n)
    picks = list(itertools.product(range(len(block)), repeat=rows * blocks))
    masks = np.array([block[list(pick)].reshape(rows, blocks * m) for pick in picks])
    model = Structured(float(n), float(m))
    whole = (float(rows), float(blocks * m))
    for a, b in itertools.product((1, 2), (1, 2, 4, 8)):
        tiles = masks.reshape(len(masks), rows // a, a, blocks * m // b, b).sum(axis=(2, 4))
        assert model.empty((a, b), whole) == pytest.approx(np.mean(tiles == 0), abs=1e-12)
        assert model.worst((a, b), whole) == tiles.max()
        assert model.mean(whole) == pytest.approx(tiles.mean() / (a * b))


@SETTINGS
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 5), st.data())
def test_banded_and_measured_count_tiles(rows, columns, half_width, data):
    mask = np.abs(np.arange(rows)[:, None] - np.arange(columns)) <= half_width
    a = data.draw(st.sampled_from([k for k in range(1, rows + 1) if rows % k == 0]))
    b = data.draw(st.sampled_from([k for k in range(1, columns + 1) if columns % k == 0]))
    tiles = mask.reshape(rows // a, a, columns // b, b).sum(axis=(1, 3))
    for model in (Banded(float(half_width), (rows, columns)), measured(mask)):
        assert model.empty((a, b), mask.shape) == pytest.approx(np.mean(tiles == 0), abs=1e-12)
        assert model.worst((a, b), mask.shape) >= tiles.max()
        assert model.mean(mask.shape) == pytest.approx(mask.mean())
    assert measured(mask).worst((a, b), mask.shape) == tiles.max()


def test_histogram_meets_what_was_measured():
    mask = np.random.default_rng(0).random((16, 16)) < 0.2
    tiles = {s: mask.reshape(-1, s).sum(axis=1) for s in (2, 4, 16)}
    model = histogram({s: np.bincount(held).tolist() for s, held in tiles.items()})
    for s, held in tiles.items():
        assert model.empty((s,), (256,)) == pytest.approx(np.mean(held == 0))
        assert model.worst((s,), (256,)) == pytest.approx(held.max())
    assert model.mean((256,)) == pytest.approx(mask.mean())


@SETTINGS
@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_formats_store_what_a_matrix_takes_up(rows, columns, data):
    work = df.gemm(rows, 1, columns)
    chip = df.architecture([df.Storage(name="DRAM")])
    made = df.mapping(work, chip, {"DRAM": [("M", rows), ("K", columns)]})
    words = rows * columns
    nonzeros = data.draw(st.integers(0, words if words <= 8 else 2))
    masks = all_masks((rows, columns), nonzeros)
    present = masks.any(axis=2).sum(axis=1).mean()
    expected = {
        ("UOP", "CP"): (rows + 1, nonzeros),
        ("CP", "CP"): (present, nonzeros),
        ("B", "B"): (rows, present * columns),
        ("U", "RLE"): (0.0, nonzeros),
        ("CP", "U"): (present, 0.0),
    }
    for kinds, entries in expected.items():
        sparse = df.sparsity(work, chip, {"Inputs": nonzeros / words}, {"DRAM": {"Inputs": kinds}})
        held = df.sparse_counts(work, chip, made, sparse).words["DRAM"]["Inputs"].occupancy
        assert [rank.entries for rank in held.ranks] == pytest.approx(list(entries))
        assert held.data_words == pytest.approx(present * columns if kinds == ("CP", "U") else nonzeros)
        assert held.data_words <= held.worst_data_words + 1e-9
        assert held.metadata_bits <= held.worst_metadata_bits + 1e-9


def test_long_runs_need_placeholders():
    work, chip = df.gemm(1, 1, 4096), df.architecture([df.Storage(name="DRAM")])
    made = df.mapping(work, chip, {"DRAM": [("K", 4096)]})
    ranks = [df.rank_format("RLE", bits=4.0, longest_run=15.0)]
    sparse = df.sparsity(work, chip, {"Inputs": 0.02}, {"DRAM": {"Inputs": ranks}})
    entries = df.sparse_counts(work, chip, made, sparse).words["DRAM"]["Inputs"].occupancy.ranks[0].entries
    rng, counted = np.random.default_rng(1), []
    for _ in range(400):
        places = np.flatnonzero(rng.permutation(4096) < 0.02 * 4096)
        runs = np.diff(np.concatenate([[-1], places])) - 1
        counted.append(len(places) + np.sum(runs // 16))
    assert entries == pytest.approx(np.mean(counted), rel=0.02)


def test_compressed_tiles_must_fit_and_skipping_saves_time_gating_does_not():
    work = df.gemm(16, 16, 16)
    chip = df.architecture([df.Storage(name="DRAM"), df.Storage(name="Buffer", capacity_words=600.0, read_joules=1.0)])
    made = df.mapping(work, chip, {"Buffer": [("M", 16), ("N", 16), ("K", 16)]})
    assert df.evaluate(work, chip, made).reason > 0
    formats = {"Buffer": {"Inputs": "bitmask", "Weights": "bitmask"}}
    densities = {"Inputs": 0.25, "Weights": 0.25}
    acts = [[(kind, "Buffer", "Weights", ["Inputs"])] for kind in df.ACTIONS]
    gated, skipped = (
        df.evaluate_sparse(work, chip, made, df.sparsity(work, chip, densities, formats, act)) for act in acts
    )
    fits = df.evaluate_sparse(work, chip, made, df.sparsity(work, chip, densities, formats, acts[0]))
    assert (gated.reason, skipped.reason, fits.reason) == (0, 0, 0)
    bare = df.sparsity(work, chip, densities, {}, acts[0])
    assert np.isnan(df.evaluate_sparse(work, chip, made, bare).cycles)
    only = [
        df.evaluate_sparse(work, chip, made, df.sparsity(work, chip, densities, {}, act), check=False) for act in acts
    ]
    assert (only[0].cycles, only[1].cycles) == (4096.0, 1024.0)
    assert only[0].energy_joules == pytest.approx(only[1].energy_joules)


def test_jit_vmap_and_gradient():
    work, chip = (
        df.gemm(8, 8, 8),
        df.architecture([df.Storage(name="DRAM", read_joules=1.0), df.Storage(name="B", read_joules=0.1)]),
    )
    made = df.mapping(work, chip, {"DRAM": [("M", 4), ("K", 2)], "B": [("M", 2), ("N", 8), ("K", 4)]})

    def joules(density):
        sparse = df.Sparsity(
            {"Inputs": Uniform(density)},
            {"DRAM": {"Inputs": df.tensor_format("CSR")}},
            optimisations=(df.Optimisation("skipping", "DRAM", "Weights", ("Inputs",)),),
        )
        return df.evaluate_sparse(work, chip, made, sparse).energy_joules

    eager = [joules(d) for d in (0.1, 0.3)]
    grid = jax.numpy.asarray([0.1, 0.3])
    assert np.allclose(jax.jit(jax.vmap(joules))(grid), eager)
    assert np.allclose(joules(np.asarray(grid)), eager)
    step = 1e-6
    assert jax.jit(jax.grad(joules))(0.3) == pytest.approx(
        (joules(0.3 + step) - joules(0.3 - step)) / (2 * step), rel=1e-4
    )


WORK = df.gemm(4, 4, 4)
CHIP = df.architecture([df.Storage(name="DRAM"), df.Storage(name="Buffer")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"densities": {"Inputs": 1.5}}, r"sparsity.densities.Inputs: 1.5, expected a share of nonzeros from 0 to 1"),
        ({"densities": {"Inputs": -0.1}}, r"sparsity.densities.Inputs: -0.1"),
        ({"densities": {"Input": 0.5}}, r"sparsity.densities: unknown tensor 'Input'; did you mean 'Inputs'"),
        ({"formats": {"Bufer": {"Inputs": "CSR"}}}, r"unknown level 'Bufer'; did you mean 'Buffer'"),
        ({"formats": {"Buffer": {"Inputs": "CSX"}}}, r"sparsity.formats.Buffer.Inputs: unknown format 'CSX'"),
        ({"formats": {"Buffer": {"Inputs": ["UOP", "XP"]}}}, r"Inputs.ranks\[1\]: unknown rank format 'XP'"),
        ({"formats": {"Buffer": {"Inputs": ["UOP", "CP", "B"]}}}, r"3 ranks, expected at most 2"),
        ({"optimisations": [("skip", "Buffer", "Inputs", ["Weights"])]}, r"unknown action 'skip'; did you mean"),
        ({"optimisations": [("skipping", "Buffer", "Inputs", ["Inputs"])]}, r"'Inputs' leads itself"),
        ({"optimisations": [("skipping", "Buffer", "Inputs", [])]}, r"optimisations\[0\].leaders: empty"),
        ({"optimisations": [("skipping", "Buffer")]}, r"expected \(action, level, target, leaders\)"),
        ({"compute": "sleeping"}, r"sparsity.compute: unknown action 'sleeping'"),
        ({"gated_energy_share": 2.0}, r"sparsity.gated_energy_share: 2.0"),
    ],
)
def test_bad_input_names_the_field(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        df.sparsity(WORK, CHIP, **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("unifrom", {"density": 0.5}, "unknown density model 'unifrom'; did you mean 'uniform'"),
        ("uniform", {"density": 2.0}, "density.density: 2.0, expected a share"),
        ("uniform", {}, "density.density: missing"),
        ("structured", {"n": 5, "m": 4}, "5:4, expected 0 <= n <= m"),
        ("banded", {"half_width": -1, "shape": (4, 4)}, "density.half_width: -1"),
        ("histogram", {"occupancies": {2: [1, 1, 1, 1]}}, "expected up to 3 counts"),
    ],
)
def test_bad_density_names_the_field(kind, values, message):
    with pytest.raises(ValueError, match=message):
        df.density_model(kind, **values)


def test_recorded_sparse_runs():
    folder = (
        Path(os.environ.get("RIDGELINE_DATA", Path(__file__).parents[3] / "shared" / "data")) / "dataflow" / "timeloop"
    )
    if not folder.is_dir():
        pytest.skip(f"no recorded runs at {folder}")
    from ridgeline.validate.dataflow_timeloop import points_of

    seen = 0
    for path in sorted(folder.glob("*sparseloop*.json")):
        record = json.loads(path.read_text())
        for _, metric, case, predicted, printed, _ in points_of(record, []):
            if not metric.startswith("energy of a level") and metric != "energy":
                assert predicted == pytest.approx(printed, rel=2e-5), (case, metric)
                seen += 1
    assert seen > 150
