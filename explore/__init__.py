"""Design-space exploration: spaces, sweeps of any size, gradient search, elasticities, and what chips cost.

What may live here: which points to look at and what to keep of them; chip designs and their area, power and price. What may
not: kernel, phase or serving models and their names; an estimator comes as a function of subjects.
"""

from explore.area import RETICLE_MM2, AreaConstants, DieArea, area_constants, die_area, logic_transistors_per_core
from explore.constraints import Constraint, constraint
from explore.cost_fit import Comparison, area_errors, fit_area, fit_power, power_errors
from explore.die import Die, board_facts, die_facts, die_of, known_boards, known_dies, whole_die
from explore.elasticity import elasticities
from explore.gradient_search import Settings
from explore.ownership import (
    HourlyCost,
    Ownership,
    annuity,
    designed_chip,
    die_hourly_cost,
    embodied_gco2,
    gco2_per_hour,
    gco2_per_million_tokens,
    hourly_cost,
    price_usd,
    usd_per_million_tokens,
)
from explore.parameters import Parameter, categorical, continuous, integer, logarithmic
from explore.power import (
    Activity,
    Energy,
    Power,
    PowerConstants,
    clock_margin,
    energy_joules,
    idle_watts,
    mixes,
    operation_energy,
    peak_watts,
    power_at,
    power_constants,
    sustained_clock_hz,
)
from explore.problem import Evaluator, Problem
from explore.samples import Samples, samples
from explore.search import search
from explore.search_result import SearchResult
from explore.space import Space
from explore.sweep import sweep
from explore.sweep_result import SweepResult, load_sweep
from explore.technology import MemoryKind, ProcessNode, memory_kind, process_node
from explore.voltage import max_clock_hz, relative_voltage, supply_voltage
from explore.yields import (
    DieCost,
    PackageCost,
    die_cost,
    dies_per_wafer,
    harvested_yield,
    negative_binomial_yield,
    package_cost,
)

__all__ = [
    "RETICLE_MM2",
    "Activity",
    "AreaConstants",
    "Comparison",
    "Constraint",
    "Die",
    "DieArea",
    "DieCost",
    "Energy",
    "Evaluator",
    "HourlyCost",
    "MemoryKind",
    "Ownership",
    "PackageCost",
    "Parameter",
    "Power",
    "PowerConstants",
    "Problem",
    "ProcessNode",
    "Samples",
    "SearchResult",
    "Settings",
    "Space",
    "SweepResult",
    "annuity",
    "area_constants",
    "area_errors",
    "board_facts",
    "categorical",
    "clock_margin",
    "constraint",
    "continuous",
    "designed_chip",
    "die_area",
    "die_cost",
    "die_facts",
    "die_hourly_cost",
    "die_of",
    "dies_per_wafer",
    "elasticities",
    "embodied_gco2",
    "energy_joules",
    "fit_area",
    "fit_power",
    "gco2_per_hour",
    "gco2_per_million_tokens",
    "harvested_yield",
    "hourly_cost",
    "idle_watts",
    "integer",
    "known_boards",
    "known_dies",
    "load_sweep",
    "logarithmic",
    "logic_transistors_per_core",
    "max_clock_hz",
    "memory_kind",
    "mixes",
    "negative_binomial_yield",
    "operation_energy",
    "package_cost",
    "peak_watts",
    "power_at",
    "power_constants",
    "power_errors",
    "price_usd",
    "process_node",
    "relative_voltage",
    "samples",
    "search",
    "supply_voltage",
    "sustained_clock_hz",
    "sweep",
    "usd_per_million_tokens",
    "whole_die",
]
