"""Design-space exploration: spaces, sweeps of any size, gradient search, elasticities, and what chips cost.

Lives here: which points to look at and what to keep of them. Not here: what a point costs in time (an estimator, given as a
function of subjects), nor any estimator's name.
"""

from explore.constraints import Constraint, constraint
from explore.elasticity import elasticities
from explore.gradient_search import Settings
from explore.parameters import Parameter, categorical, continuous, integer, logarithmic
from explore.problem import Evaluator, Problem
from explore.samples import Samples, samples
from explore.search import search
from explore.search_result import SearchResult
from explore.space import Space
from explore.sweep import sweep
from explore.sweep_result import SweepResult, load_sweep

__all__ = [
    "Constraint",
    "Evaluator",
    "Parameter",
    "Problem",
    "Samples",
    "SearchResult",
    "Settings",
    "Space",
    "SweepResult",
    "categorical",
    "constraint",
    "continuous",
    "elasticities",
    "integer",
    "load_sweep",
    "logarithmic",
    "samples",
    "search",
    "sweep",
]
