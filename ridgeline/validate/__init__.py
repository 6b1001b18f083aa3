"""Scorers behind `ridgeline validate`: one module per level, each comparing predictions with a folder of measurements.

Shared: `scores` (formulas), `report` (rows, JSON, table, progress), `tables` (checked reading), `levels` (discovery).
No model and no fitted constant lives here.
"""

from ridgeline.validate.levels import known_levels, load_level
from ridgeline.validate.report import Validation, print_rows, track, write_json
from ridgeline.validate.scores import IntervalScores, Scores, score, score_intervals, spearman

__all__ = [
    "IntervalScores",
    "Scores",
    "Validation",
    "known_levels",
    "load_level",
    "print_rows",
    "score",
    "score_intervals",
    "spearman",
    "track",
    "write_json",
]
