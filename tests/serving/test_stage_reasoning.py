"""Reasoning stages and the load within a promised time: enumeration, draws, limits that must hold exactly."""

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from serving.stages import (
    Network,
    Pool,
    RequestClass,
    Stage,
    best_of_accuracy,
    linear_law,
    load_for,
    longest_of,
    majority_accuracy,
    reasoning_stages,
    revised_accuracy,
    steady_network,
)
from serving.stages.linear_systems import solved

DECODE = Stage(name="decode", pool="gpu", work=100.0, scv=1.0)


def network(rate: Any = 2.0, **options):
    return Network(
        classes=(
            RequestClass(
                name="a",
                rate_per_s=rate,
                stages=reasoning_stages(Stage(name="prefill", pool="prompts", work=0.05), DECODE, **options),
            ),
        ),
        pools=(
            Pool(name="prompts"),
            Pool(name="gpu", kind="continuous", servers=2.0, slots=64.0, law=linear_law(0.01, 2e-4)),
            Pool(name="judge", kind="batch", slots=16.0, law=linear_law(0.002, 0.01)),
        ),
    )


@pytest.mark.parametrize("scv", [0.1, 0.5, 1.0])
def test_the_longest_of_some_lengths(scv):
    one = longest_of(100.0, scv, 1.0)
    assert float(one.mean) == pytest.approx(100.0, rel=1e-9)
    assert float(one.scv) == pytest.approx(scv, rel=0.05)
    draws = np.random.default_rng(0).gamma(1.0 / scv, 100.0 * scv, (40_000, 8)).max(axis=1)
    found = longest_of(100.0, scv, np.array([8.0, 16.0]))
    assert float(found.mean[0]) == pytest.approx(draws.mean(), rel=0.01)
    assert float(found.scv[0]) == pytest.approx(draws.var() / draws.mean() ** 2, rel=0.06)
    assert found.mean[1] > found.mean[0]


@pytest.mark.parametrize(("samples", "rivals"), [(1, 3), (3, 2), (5, 3), (6, 2)])
def test_a_majority_is_counted_over_all_outcomes(samples, rivals):
    p, expected = 0.37, 0.0
    for votes in product(range(rivals + 1), repeat=samples):
        count = np.bincount(votes, minlength=rivals + 1)
        chance = p ** count[0] * ((1 - p) / rivals) ** (samples - count[0])
        expected += chance * (count[0] == count.max()) / np.sum(count == count.max())
    assert float(majority_accuracy(p, samples, rivals)) == pytest.approx(expected, rel=1e-12)


def test_accuracy_at_its_limits():
    p, n = np.array([0.1, 0.4, 0.9]), np.array([[1.0], [4.0], [32.0]])
    np.testing.assert_allclose(best_of_accuracy(p, n, 0.0), np.broadcast_to(p, (3, 3)), rtol=1e-9)
    np.testing.assert_allclose(best_of_accuracy(p, n, 30.0), 1.0 - (1.0 - p) ** n, rtol=1e-3)
    assert np.all(np.diff(best_of_accuracy(0.3, 8.0, np.linspace(0.0, 4.0, 9))) > 0.0)
    assert float(majority_accuracy(0.4, 31, 4)) > 0.6 > 0.2 > float(majority_accuracy(0.1, 31, 4))
    assert float(revised_accuracy(0.3, 0.0, 0.2, 0.1)) == pytest.approx(0.3)
    assert float(revised_accuracy(0.3, 100.0, 0.2, 0.1)) == pytest.approx(2.0 / 3.0)
    assert float(revised_accuracy(0.3, 5.0, 0.0, 0.0)) == pytest.approx(0.3)
    slope = jax.grad(lambda x: best_of_accuracy(x, 4.0, 1.5) + majority_accuracy(x, 3, 2))(0.4)
    ends = [float(best_of_accuracy(x, 4.0, 1.5) + majority_accuracy(x, 3, 2)) for x in (0.399, 0.401)]
    assert float(slope) == pytest.approx((ends[1] - ends[0]) / 2e-3, rel=1e-4)


def test_reasoning_without_any_is_prefill_and_decode():
    plain, none = network(), network(samples=1, thoughts=0)
    assert [s.name for s in none.classes[0].stages] == ["prefill", "decode"]
    assert float(steady_network(plain).e2e_s[0]) == float(steady_network(none).e2e_s[0])
    thinking, sampling = network(thoughts=3), network(samples=4.0, reward=Stage(name="judge", pool="judge"))
    base = steady_network(plain)
    for heavier in (thinking, sampling):
        state = steady_network(heavier)
        assert float(state.e2e_s[0]) > float(base.e2e_s[0])
        assert float(state.scale) < float(base.scale)
    # four samples take the time of the longest, three thoughts that of four in line
    light = [float(steady_network(n.scaled(1e-6)).e2e_s[0]) for n in (plain, sampling, thinking)]
    assert light[0] < light[1] < light[2]
    with pytest.raises(ValueError, match=r"thoughts: 1\.5"):
        network(thoughts=1.5)


def test_the_load_for_a_time_just_meets_it():
    many = network(np.array([1.0, 5.0]))
    target = 2.0 * float(steady_network(network(1e-6)).e2e_s[0])
    factor = load_for(many, target)
    np.testing.assert_allclose(steady_network(many.scaled(factor)).e2e_s[:, 0], target, rtol=1e-4)
    np.testing.assert_allclose(factor[0], 5.0 * factor[1], rtol=1e-5)
    first = load_for(many, 0.12, metric=lambda state: state.stage_s[..., 0])
    np.testing.assert_allclose(steady_network(many.scaled(first)).stage_s[:, 0], 0.12, rtol=1e-4)
    assert float(load_for(network(), 1e-3)) == 0.0
    assert float(load_for(network(), 1e9)) == pytest.approx(0.999 * float(steady_network(network()).scale))
    with pytest.raises(ValueError, match="did you mean 'e2e_s'"):
        load_for(network(), 1.0, metric="e2es")
    servers = Network(
        classes=(RequestClass(name="a", rate_per_s=1.0, stages=(Stage(name="s", pool="p", work=0.5, scv=1.0),)),),
        pools=(Pool(name="p"),),
    )
    # M/M/1: 1 / (mu - x) = T
    assert float(load_for(servers, 2.0)) == pytest.approx(1.5, rel=1e-4)
    slope = jax.jit(jax.grad(lambda t: load_for(servers, t)))(jnp.asarray(2.0))
    assert float(slope) == pytest.approx(0.25, rel=1e-3)


def test_small_systems_and_their_derivatives():
    random = np.random.default_rng(0)
    flows = random.uniform(0.0, 0.3, (50, 5, 5)) * random.integers(0, 2, (50, 5, 5))
    flows = flows / np.maximum(flows.sum(-1, keepdims=True) * 1.05, 1.0)
    right, system = random.normal(size=(50, 5)), np.eye(5) - flows
    exact = np.linalg.solve(system, right[..., None])[..., 0]
    compiled = jax.jit(jax.value_and_grad(lambda f: jnp.sum(solved(jnp.eye(5) - f, right) ** 2)))
    value, slope = compiled(jnp.asarray(flows))
    assert float(value) == pytest.approx(float(np.sum(exact**2)), rel=1e-12)
    turned = np.linalg.solve(np.swapaxes(system, -1, -2), 2.0 * exact[..., None])
    np.testing.assert_allclose(slope, turned * exact[:, None, :], rtol=1e-9, atol=1e-12)
