"""The constants of the training model, read from `constants/training.toml`, each with its source."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class TrainingConstants(NamedTuple):
    """`matrix_efficiency`: share of the estimator's rate that matrix products reach in training. `relative_deviation`: standard
    deviation of ln(measured / predicted) step time on publications left out; `zero3_deviation`: the same for ZeRO stage 3.
    `rank_deviation`: between ranks that wait for each other. `zero3_overlap`: share of the shorter of kernels and weight traffic
    that hides behind the longer; `zero3_live_parameters`: layers larger than this are gathered again after recomputation."""

    matrix_efficiency: float
    rank_deviation: float
    zero3_overlap: float
    zero3_live_parameters: float
    relative_deviation: float
    zero3_deviation: float


@cache
def training_constants() -> TrainingConstants:
    """The shipped constants."""
    table = tomllib.loads(files("composition").joinpath("constants/training.toml").read_text(encoding="utf-8"))
    return TrainingConstants(*(float(table[name]["value"]) for name in TrainingConstants._fields))
