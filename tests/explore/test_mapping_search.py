"""Mappings and hardware through `explore.search`: the mapper's answer, what it cost, and refusals."""

import numpy as np
import pytest

from dataflow.mappers import Network
from explore import search
from explore.plots import convergence_plot
from ridgeline.mapping_search import MappingProblem

# Two layers of ResNet: R, S, P, Q, C, K, N.
NETWORK = Network(
    np.array([[3, 3, 14, 14, 64, 64, 1], [1, 1, 14, 14, 64, 256, 1]], float),
    np.ones((2, 2)),
    np.array([2.0, 1.0]),
    ("a", "b"),
)


def test_the_mapper_answers_with_the_accounting_of_every_search():
    problem = MappingProblem(network=NETWORK)
    descended, drawn = (search(problem, method=method, budget=4000, seed=1) for method in ("gradient", "random"))
    for found in (descended, drawn):
        assert found.cost <= 4000
        best = found.require_feasible().best
        assert best["energy_delay"] == pytest.approx(best["energy_joules"] * best["cycles"])
        assert found.history["best"].iloc[-1] == pytest.approx(best["energy_delay"])
        assert len(best["mappings"].splitlines()) == 2
        assert best["edge"] >= 1.0
    assert descended.gradients > 0
    assert descended.best["energy_delay"] < drawn.best["energy_delay"]
    assert np.all(np.diff(descended.history["evaluations"]) > 0)
    assert convergence_plot({"gradient": descended, "random": drawn}).lines


@pytest.mark.parametrize(
    ("options", "message"), [({"method": "sobol"}, "known: gradient, random"), ({"budget": 500}, "at least")]
)
def test_bad_searches_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        search(MappingProblem(network=NETWORK), **options)
