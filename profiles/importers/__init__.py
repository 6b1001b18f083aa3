"""Readers of the measurement files people have: each turns a file into rows of the store, kind by kind.

What may live here: one format per module, ending in `Import`. What may not: the store itself, fits, models.
"""

from profiles.importers.aiconfigurator import read_aiconfigurator
from profiles.importers.imported import FORMATS, Import, ImportReport, Records, import_file
from profiles.importers.llmservingsim import read_llmservingsim
from profiles.importers.neusight import read_neusight
from profiles.importers.plain_csv import read_plain_csv
from profiles.importers.vidur import read_vidur

__all__ = [
    "FORMATS",
    "Import",
    "ImportReport",
    "Records",
    "import_file",
    "read_aiconfigurator",
    "read_llmservingsim",
    "read_neusight",
    "read_plain_csv",
    "read_vidur",
]
