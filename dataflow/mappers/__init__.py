"""Mappers: exhaustive, random, annealing and gradient search over the mappings of a layer or of a whole network.

Imports the models of `dataflow`; no model imports a mapper. Holds no cost formulas of its own.
"""

from dataflow.mappers.candidates import Candidates, Combination
from dataflow.mappers.compiled_objective import compiled_energy_delay
from dataflow.mappers.constraints import Constraints
from dataflow.mappers.exhaustive import SearchResult, energy_delay, exhaustive_search, latency, valid_splits
from dataflow.mappers.gradient import GradientResult, gradient_search
from dataflow.mappers.kept import Keeper, Kept, pareto_front
from dataflow.mappers.neighbours import improve
from dataflow.mappers.network_design import Design, Network, Score, score, score_mappings, split_table
from dataflow.mappers.network_optimum import Optimum, network_optimum
from dataflow.mappers.network_sampling import SamplingResult, anneal_network, random_network_search
from dataflow.mappers.sampling import anneal, random_search
from dataflow.mappers.space import MapSpace, map_space

__all__ = [
    "Candidates",
    "Combination",
    "Constraints",
    "Design",
    "GradientResult",
    "Keeper",
    "Kept",
    "MapSpace",
    "Network",
    "Optimum",
    "SamplingResult",
    "Score",
    "SearchResult",
    "anneal",
    "anneal_network",
    "compiled_energy_delay",
    "energy_delay",
    "exhaustive_search",
    "gradient_search",
    "improve",
    "latency",
    "map_space",
    "network_optimum",
    "pareto_front",
    "random_network_search",
    "random_search",
    "score",
    "score_mappings",
    "split_table",
    "valid_splits",
]
