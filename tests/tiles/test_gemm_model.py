"""Properties of the GEMM model: bounds, monotonicity, agreement of eager, compiled and mapped calls, derivatives."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hardware
from profiles.gemm_calibration import poolable
from roofline import Reason, exact, smooth, straight_through
from tiles.candidates import FAMILIES, family
from tiles.gemm import explain_gemm, gemm_time
from tiles.gemm_constants import (
    CONSTANT_NAMES,
    FP32_FLOP_JOULES,
    GemmConstants,
    energy_scale,
    gemm_constants,
    matrix_rate,
    shipped_sets,
)
from tiles.gemm_sweep import gemm_seconds
from tiles.wave import wave
from workloads.operators import Gemm

H100 = hardware.load("h100_sxm")
#: Constants of this test, so that a recalibration does not move it.
FIXED = GemmConstants(candidates="tuned", balance=0.5)
DIMENSION = st.integers(1, 16384)


def seconds(m, n, k, chip=H100, constants=FIXED, rounding=exact, **more):
    return gemm_time(Gemm(m=m, n=n, k=k, dtype="bf16"), chip, constants, rounding, **more).total_s


def scaled_dram(chip, factor):
    dram = replace(chip.dram, bandwidth_bytes_per_s=chip.dram.bandwidth_bytes_per_s * factor)
    return chip.replace(memory=(dram, *chip.memory[1:]))


@settings(deadline=None, max_examples=40)
@given(DIMENSION, DIMENSION, DIMENSION)
def test_cold_weights_never_beat_the_roofline_of_what_must_leave_dram(m, n, k):
    took = seconds(m, n, k)
    assert took >= 2.0 * m * n * k / matrix_rate(H100, "bf16")
    assert took >= 2.0 * n * k / H100.dram.bandwidth_bytes_per_s


@settings(deadline=None, max_examples=40)
@given(DIMENSION, DIMENSION, DIMENSION, st.floats(1.0, 4.0))
def test_more_bandwidth_or_faster_cores_are_never_slower(m, n, k, factor):
    base = seconds(m, n, k)
    assert seconds(m, n, k, scaled_dram(H100, factor)) <= base * (1 + 1e-12)
    rates = {name: rate * factor for name, rate in H100.matrix_flops_per_s.items()}
    faster = H100.replace(matrix_flops_per_s=rates, clock_hz=H100.clock_hz * factor)
    assert seconds(m, n, k, faster) <= base * (1 + 1e-12)
    wider = H100.replace(matrix_flops_per_s=rates, cores=H100.cores * factor)
    assert seconds(m, n, k, wider) <= base * (1 + 1e-9)


@settings(deadline=None, max_examples=40)
@given(DIMENSION, DIMENSION, DIMENSION)
def test_time_grows_with_work(m, n, k):
    base = seconds(m, n, k)
    assert seconds(2 * m, n, k) >= base * (1 - 1e-12)
    assert seconds(m, 2 * n, k) >= base * (1 - 1e-12)
    assert seconds(m, n, 4 * k) >= base * (1 - 1e-12)


@settings(deadline=None, max_examples=30)
@given(DIMENSION, DIMENSION, DIMENSION)
def test_more_candidates_are_never_slower(m, n, k):
    assert seconds(m, n, k) <= seconds(m, n, k, constants=replace(FIXED, candidates="tuned_unsplit")) * (1 + 1e-12)


def test_resident_weights_explain_a_time_below_the_cold_roofline():
    op = Gemm(m=1, n=2048, k=2048, dtype="bf16")
    cold, hot = explain_gemm(op, H100, FIXED), explain_gemm(op, H100, FIXED, weight_copies=1.0)
    assert hot.time.total_s < cold.time.total_s
    assert hot.terms.resident_bytes - cold.terms.resident_bytes == pytest.approx(2.0 * 2048 * 2048, rel=0.01)


def test_batch_multiplies_tiles_and_traffic():
    one = explain_gemm(Gemm(m=512, n=512, k=512, batch=1), H100, replace(FIXED, candidates="vector_square"))
    many = explain_gemm(Gemm(m=512, n=512, k=512, batch=8), H100, replace(FIXED, candidates="vector_square"))
    assert many.terms.tiles == 8 * one.terms.tiles == 128
    assert many.terms.l2_bytes == 8 * one.terms.l2_bytes


def test_tile_counts_match_a_walk_over_the_grid():
    told = explain_gemm(Gemm(m=300, n=500, k=64), H100, replace(FIXED, candidates="vector_square"))
    walked = sum(1 for _ in range(0, 300, 128) for _ in range(0, 500, 128))
    assert told.terms.tiles == walked
    assert told.terms.l2_bytes == walked * 64 * (128 + 128) * 2


def test_a_fixed_tile_library_pads_rows_to_its_cluster():
    library = replace(FIXED, candidates="cutlass", balance=0.0)
    assert seconds(129, 8192, 8192, constants=library) == pytest.approx(
        seconds(256, 8192, 8192, constants=library), rel=0.01
    )
    assert seconds(1025, 8192, 8192, constants=library) > 1.1 * seconds(1024, 8192, 8192, constants=library)


def test_compiled_and_mapped_calls_equal_the_eager_one():
    generator = np.random.default_rng(0)
    m, n, k = (generator.integers(1, 8192, 64).astype(float) for _ in range(3))
    eager = seconds(m, n, k)
    bare = H100.anonymous()
    compiled = jax.jit(lambda a, b, c: seconds(a, b, c, bare))(m, n, k)
    mapped = jax.vmap(lambda a, b, c: seconds(a, b, c, bare))(jnp.asarray(m), jnp.asarray(n), jnp.asarray(k))
    np.testing.assert_allclose(compiled, eager, rtol=1e-12)
    np.testing.assert_allclose(mapped, eager, rtol=1e-12)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_sweep_gives_the_same_seconds(name):
    generator = np.random.default_rng(3)
    m, n, k = (generator.integers(1, 4096, 50).astype(float) for _ in range(3))
    constants = replace(FIXED, candidates=name)
    swept = jax.jit(lambda m, n, k: gemm_seconds(Gemm(m=m, n=n, k=k), H100.anonymous(), constants))(m, n, k)
    np.testing.assert_allclose(swept, seconds(m, n, k, constants=constants), rtol=1e-12)


def test_broadcasting_over_chips_equals_one_call_each():
    clocks = np.array([1.0e9, 1.5e9, 2.0e9])
    together = seconds(777.0, 4096.0, 4096.0, H100.replace(clock_hz=clocks))
    alone = [seconds(777.0, 4096.0, 4096.0, H100.replace(clock_hz=clock)) for clock in clocks]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_smooth_mode_tends_to_the_exact_value_and_has_its_own_derivative():
    bare = H100.anonymous()

    def took(cores, temperature):
        return seconds(1000.0, 3000.0, 2000.0, bare.replace(cores=cores), rounding=smooth(temperature))

    assert float(took(jnp.asarray(132.0), 0.002)) == pytest.approx(float(seconds(1000.0, 3000.0, 2000.0)), rel=0.02)
    slope = jax.grad(took)(jnp.asarray(132.0), 0.1)
    step = 1e-3
    difference = (took(jnp.asarray(132.0 + step), 0.1) - took(jnp.asarray(132.0 - step), 0.1)) / (2 * step)
    assert float(slope) == pytest.approx(float(difference), rel=1e-3, abs=1e-12)


def test_a_format_without_a_rate_is_nan_with_a_reason():
    a100 = hardware.load("a100_sxm")
    answer = gemm_time(Gemm(m=np.ones(3), n=64, k=64, dtype="fp8"), a100, FIXED)
    assert np.isnan(answer.total_s).all()
    assert (answer.reason == Reason.UNSUPPORTED_DTYPE).all()
    with pytest.raises(ValueError, match="no matrix rate for dtype 'fp8'"):
        explain_gemm(Gemm(m=1, n=1, k=1, dtype="fp8"), a100, FIXED)


def test_a_chip_on_paper_is_answered_and_marked_uncalibrated():
    paper = H100.replace(name="paper", architecture="Imaginary", aliases=())
    told = explain_gemm(Gemm(m=4096, n=4096, k=4096), paper)
    assert told.provenance[0] == "datasheet"
    assert "mean of" in told.provenance[1]
    assert float(gemm_constants(paper, Gemm(m=1, n=1, k=1)).log_sigma) >= 0.3


@pytest.mark.parametrize("name", ["h200_sxm", "b300_sxm", "gb200", "rtx_pro_6000", "l4", "a40"])
def test_chips_never_measured_take_transferred_constants(name):
    constants = gemm_constants(hardware.load(name), Gemm(m=1, n=1, k=1), "some-new-stack-1.0")
    assert constants.kind == "transferred"
    assert constants.source.split()[0] in {"Hopper", "Blackwell", "Ada", "Ampere"}


def test_an_architecture_never_measured_gets_the_mean_of_the_others_scaled_to_its_cores():
    bf16 = Gemm(m=1, n=1, k=1)
    known = [entry for entry in shipped_sets() if entry["format"] == "bf16" and entry["n"] > 5000]
    others = [entry for entry in known if entry["architecture"] != "Blackwell"]
    guess = gemm_constants(hardware.load("b200_sxm"), bf16, "trtllm", others)
    truth = gemm_constants(hardware.load("b200_sxm"), bf16, "trtllm", known)
    assert (guess.kind, truth.kind, guess.step_bytes) == ("transferred", "fitted", 128.0)
    assert guess.source.startswith("mean of ")
    # Nothing among the others is above 70 bytes per clock: the law extrapolates to cores twice as fast.
    assert float(guess.l2_bytes_per_clock) == pytest.approx(float(truth.l2_bytes_per_clock), rel=0.3)
    assert float(guess.log_sigma) >= 2.0 * min(entry["log_sigma"] for entry in others)
    twice = replace(hardware.load("b200_sxm"), matrix_flops_per_s={"bf16": 2 * 2.25e15}, architecture="New", name="x")
    assert float(gemm_constants(twice, bf16, "trtllm", others).l2_bytes_per_clock) == pytest.approx(
        2.0 * float(guess.l2_bytes_per_clock), rel=0.02
    )


def test_batched_products_of_a_chip_never_measured_run_its_own_library_kernels():
    pooled = [entry for entry in shipped_sets() if entry["architecture"] == "any"]
    op = Gemm(m=1, n=1, k=1, batch=8, dtype="fp32")
    families = {
        name: gemm_constants(hardware.load(name), op, "torch2.1.0-cu121-eager-bmm", pooled).candidates
        for name in ("t4", "v100_pcie", "l4", "p100_pcie")
    }
    assert families == {
        "t4": "vector_batched",
        "v100_pcie": "vector_batched",
        "l4": "vector_square",
        "p100_pcie": "vector_wide",
    }


def test_rows_that_are_quantised_one_per_block_cost_a_floor_each():
    rows = replace(FIXED, quantise_bytes_per_clock=5.0, quantise_row_clocks=1700.0)
    thin, wide = (explain_gemm(Gemm(m=8192, n=64, k=k), H100, rows).quantise_s for k in (64, 16384))
    clock = H100.cores * H100.clock_hz
    assert float(thin) == pytest.approx(FIXED.quantise_s + 8192 * 1700.0 / clock)
    assert float(wide) == pytest.approx(FIXED.quantise_s + 8192 * 3.0 * 16384 / 5.0 / clock)


def test_every_shipped_set_names_known_constants_inside_their_bounds():
    from profiles.gemm_fit import BOUNDS

    assert len(shipped_sets()) >= 20
    for entry in shipped_sets():
        assert (
            set(CONSTANT_NAMES) - {"quantise_row_clocks", "step_bytes"} <= set(entry["values"]) <= set(CONSTANT_NAMES)
        )
        assert entry["candidates"] in FAMILIES
        assert {"date", "data_sha256", "n", "mape", "log_sigma", "chips"} <= set(entry)
        values = dict(entry["values"])
        assert values.pop("step_bytes", 128.0) in (64.0, 128.0)  # how the architecture copies tiles, never fitted
        process = 1.0 if entry["architecture"] == "any" else energy_scale(entry["architecture"])
        joules = FP32_FLOP_JOULES * process if entry["format"] == "fp32" else 0.0
        assert values.pop("flop_joules") == pytest.approx(joules)  # a property of the process, never fitted
        for name, value in values.items():
            lower, upper, _ = BOUNDS[name]
            unused = name in ("quantise_s", "quantise_row_clocks") and value == 0.0
            unused |= name in ("quantise_bytes_per_clock", "operand_bytes_per_clock") and value == float("inf")
            assert unused or lower * 0.999 <= value <= upper * 1.001


def test_feeding_operands_costs_small_tiles_of_vector_cores_most():
    op, fed = Gemm(m=4096, n=4096, k=4096, dtype="fp32"), {}
    for name in ("vector_square", "vector_wide"):
        bare = replace(FIXED, candidates=name, l2_bytes_per_clock=1e4, step_clocks=1.0)
        slowed = gemm_time(op, H100, replace(bare, operand_bytes_per_clock=37.0)).total_s
        fed[name] = float(slowed / gemm_time(op, H100, bare).total_s)
    assert 1.0 < fed["vector_square"] < fed["vector_wide"] < 2.0


def test_a_chip_that_cannot_hold_its_clock_does_not_speak_for_others():
    named = {
        name: poolable(hardware.load(name), "fp32", "torch2.1.0-cu121-eager-linear") for name in ("t4", "v100_pcie")
    }
    assert named == {"t4": False, "v100_pcie": True}
    l4 = gemm_constants(hardware.load("l4"), Gemm(m=1, n=1, k=1, dtype="fp32"))
    assert float(l4.flop_joules) == pytest.approx(FP32_FLOP_JOULES * energy_scale("Ada"))


def test_unknown_family_is_refused_by_name():
    with pytest.raises(ValueError, match="unknown family 'cublas'"):
        family("cublas")


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5000), st.integers(1, 300), st.floats(0.0, 1.0))
def test_waves_lie_between_balanced_and_whole(tiles, cores, balance):
    landing = wave(float(tiles), float(cores), balance)
    assert max(tiles / cores, 1.0) - 1e-9 <= landing.waves <= np.ceil(tiles / cores) + 1e-9
    assert 0.0 < landing.tail_fill <= 1.0


LEVERS = {
    "cores": lambda chip, x: chip.replace(
        cores=chip.cores * x, matrix_flops_per_s={name: rate * x for name, rate in chip.matrix_flops_per_s.items()}
    ),
    "clock": lambda chip, x: chip.replace(
        clock_hz=chip.clock_hz * x,
        matrix_flops_per_s={name: rate * x for name, rate in chip.matrix_flops_per_s.items()},
    ),
    "bandwidth": scaled_dram,
    "l2": lambda chip, x: chip.replace(
        memory=(
            chip.dram,
            *(replace(level, capacity_bytes=level.capacity_bytes * x) for level in chip.memory[1:]),
        )
    ),
}


#: Share of shapes whose slope lies within 30 % of the secant, by lever: the rest switch kernel or bottleneck in between.
CLOSE = {"bandwidth": 0.96, "clock": 0.97, "cores": 0.95, "l2": 0.94}


@pytest.mark.parametrize("lever", sorted(LEVERS))
def test_straight_through_slope_agrees_with_a_secant_over_one_wave(lever):
    """1,000 random shapes: sign and size (30 %) of d time / d ln(lever) against a secant over a change of one wave."""
    generator = np.random.default_rng(7)
    m, n, k = (np.exp(generator.uniform(np.log(low), np.log(16384), 1000)) // 1 for low in (16, 256, 256))
    bare, change = H100.anonymous(), LEVERS[lever]
    chosen = explain_gemm(Gemm(m=m, n=n, k=k), H100, FIXED, weight_copies=5.0)
    passes = np.asarray(chosen.terms.tiles) / 132
    # One wave more or less of the chosen kernel, or 20 % where the grid does not fill one; the L2 lever moves no wave,
    # and its capacity has kinks of its own.
    wave_share = np.where(passes > 1.0, 1.0 / np.maximum(passes, 1.0), 0.2)
    reach = np.minimum(wave_share, {"cores": 1.0, "l2": 0.02}.get(lever, 0.2))

    def total(log_factor):
        factor = jnp.exp(log_factor)
        chip = change(bare, factor)
        return gemm_time(
            Gemm(m=jnp.asarray(m), n=jnp.asarray(n), k=jnp.asarray(k)), chip, FIXED, straight_through, weight_copies=5.0
        ).total_s

    def kernel_and_bottleneck(log_factor):
        told = explain_gemm(Gemm(m=m, n=n, k=k), change(bare, np.exp(log_factor)), FIXED, weight_copies=5.0)
        t = told.terms
        longest = np.argmax([t.matrix_s, t.step_s, t.l2_s, t.dram_s, t.store_s], axis=0)
        return np.array([told.tile_m, told.tile_n, told.split, longest])

    compiled = jax.jit(total)
    zero = jnp.zeros(1000)
    _, slope = jax.jit(lambda x: jax.jvp(total, (x,), (jnp.ones(1000),)))(zero)
    secant = (np.asarray(compiled(zero + reach / 2)) - np.asarray(compiled(zero - reach / 2))) / reach
    slope, base = np.asarray(slope), np.asarray(compiled(zero))
    same = (kernel_and_bottleneck(reach / 2) == kernel_and_bottleneck(-reach / 2)).all(axis=0)
    # Where the lever moves the time by less than 2 % per e-fold, sign and ratio mean nothing.
    matters = (np.abs(secant) > 0.02 * base) | (np.abs(slope) > 0.02 * base)
    close = np.abs(slope - secant) <= 0.3 * np.maximum(np.abs(secant), np.abs(slope))
    same_sign = np.sign(slope) == np.sign(secant)
    assert same_sign[matters].mean() >= 0.995
    assert (matters & same).sum() > 150
    assert close[matters & same].mean() >= (0.94 if lever == "l2" else 0.98)
    # A grid that does not fill the chip gains from more cores only by a kernel of finer tiles, which no slope sees.
    judged = matters & (passes > 1.0) if lever == "cores" else matters
    assert judged.sum() > 200
    assert close[judged].mean() >= CLOSE[lever]


@pytest.mark.parametrize("rounding", [exact, straight_through, smooth(0.1)])
def test_a_grid_below_one_wave_takes_one_wave_and_no_slope(rounding):
    value, slope = jax.value_and_grad(lambda cores: wave(40.0, cores, rounding=rounding).waves)(jnp.asarray(132.0))
    assert float(value) == 1.0
    assert float(slope) == 0.0
