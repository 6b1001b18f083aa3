"""The phase law: vectorised, compiled and differentiable forms agree; limits hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hardware
import workloads
from roofline import operator_bound
from roofline.phase import phase_time
from serving import PhaseLaw, Tables, closed_form_law, iteration_time
from serving.closed_form_law import Knots
from serving.phase_law import as_tables, group_time_scalar, iteration_time_scalar
from workloads import Batch, Parallelism


def law_of(seed: int = 0) -> PhaseLaw:
    """Rising random tables."""
    generator = np.random.default_rng(seed)

    def rising(*shape):
        steps = generator.uniform(0.0, 1e-4, shape)
        for axis in range(len(shape)):
            steps = np.cumsum(steps, axis=axis)
        return steps

    knots = np.array([0.0, 1.0, 4.0, 64.0, 512.0])
    context = np.array([0.0, 128.0, 4096.0])
    grid = rising(5, 3)
    grid[0] = 0.0
    return PhaseLaw(
        as_tables(Tables(knots, rising(5), knots, rising(5), knots, context, grid, knots, context, 2.0 * grid,
                         3.0 * grid, knots, rising(5) * 0.1)),
        iteration_s=1e-3, sequence_s=1e-6,
    )  # fmt: skip


numbers = st.floats(0.0, 2000.0)


@settings(max_examples=60, deadline=None)
@given(numbers, st.floats(0.0, 9000.0), numbers, st.floats(0.0, 9000.0), numbers)
def test_compiled_form_equals_the_formula(prefill, attended, sequences, context, sampled):
    law = law_of()
    attended, context = (attended if prefill else 0.0), (context if sequences else 0.0)
    whole = float(iteration_time(law, prefill, attended, sequences, context, sampled))
    scalar = iteration_time_scalar(law.tables, 1e-3, 1e-6, prefill, attended, sequences, context, sampled)
    scalar += group_time_scalar(law.tables, prefill + sequences)
    assert whole == pytest.approx(scalar, rel=1e-12, abs=1e-15)


def test_jit_equals_eager_and_broadcasts():
    law = law_of(1)
    prefill = np.array([0.0, 3.0, 700.0])[:, None]
    sequences = np.array([0.0, 2.5, 80.0, 600.0])
    eager = iteration_time(law, prefill, 100.0, sequences, 300.0, sequences)
    compiled = jax.jit(iteration_time)(law, jnp.asarray(prefill), 100.0, jnp.asarray(sequences), 300.0, sequences)
    assert eager.shape == (3, 4)
    np.testing.assert_allclose(eager, compiled, rtol=1e-12)


def test_gradient_is_the_slope_between_knots():
    law = law_of(2)
    slope = jax.grad(lambda n: iteration_time(law, 0.0, 0.0, n, 300.0, n))(jnp.asarray(30.0))
    ends = [float(iteration_time(law, 0.0, 0.0, n, 300.0, n)) for n in (29.0, 31.0)]
    assert float(slope) == pytest.approx((ends[1] - ends[0]) / 2.0, rel=1e-6)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("dense_tokens", np.array([0.0, 2.0, 2.0, 3.0, 4.0]), "ascend"),
        ("dense_s", np.zeros(3), "shape"),
        ("head_s", np.full(5, np.nan), "finite"),
    ],
)
def test_bad_tables_are_named(part, value, message):
    with pytest.raises(ValueError, match=message):
        as_tables(law_of().tables._replace(**{part: value}))


def test_closed_form_law_is_exact_at_knots():
    model, chip = workloads.load("llama-3.1-8b"), hardware.load("h100_sxm")
    law = closed_form_law(model, chip, Parallelism(), operator_bound, knots=Knots(256, 4096, 64))
    for batch, arguments in (
        (Batch.decode_of(16.0, 1024.0), (0.0, 0.0, 16.0, 1024.0, 16.0)),
        (Batch.prefill_of(1.0, 128.0, 0.0), (128.0, 64.0, 0.0, 0.0, 1.0)),
    ):
        whole = float(phase_time(model.phase(batch, Parallelism()), chip).total_s)
        assert float(iteration_time(law, *arguments)) == pytest.approx(whole, rel=2e-3)


def test_data_parallel_ranks_have_prompts_of_their_own():
    model, chip = workloads.load("llama-3.1-8b"), hardware.load("h100_sxm")
    p = Parallelism(dp=4)
    law = closed_form_law(model, chip, p, operator_bound, knots=Knots(1024, 4096, 64))
    whole = float(phase_time(model.phase(Batch.prefill_of(4.0, 256.0, 0.0), p), chip).total_s)
    assert float(iteration_time(law, 1024.0, 128.0, 0.0, 0.0, 4.0)) == pytest.approx(whole, rel=2e-3)
    assert float(iteration_time(law.of_rank(4), 256.0, 128.0, 0.0, 0.0, 1.0)) == pytest.approx(whole, rel=2e-3)


def test_closed_form_law_refuses_what_does_not_divide():
    model, chip = workloads.load("llama-3.1-8b"), hardware.load("h100_sxm")
    with pytest.raises(ValueError, match="divide"):
        closed_form_law(model, chip, Parallelism(tp=3), operator_bound, knots=Knots(16, 256, 4))
