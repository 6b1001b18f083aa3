"""Readers of Hugging Face `config.json`: one table of families, one checked way to read fields.

What may live here: keys of published configurations and what they mean. What may not: numbers of particular models.
"""

from workloads.huggingface.config_file import read_config, read_config_file
from workloads.huggingface.families import FAMILIES

__all__ = ["FAMILIES", "read_config", "read_config_file"]
