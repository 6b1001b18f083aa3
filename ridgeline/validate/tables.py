"""Reading measured tables with their columns checked (see `profiles.measured_table`)."""

from profiles.measured_table import FLAG, NUMBER, TEXT, find_table, measured_or_nan, read_table

__all__ = ["FLAG", "NUMBER", "TEXT", "find_table", "measured_or_nan", "read_table"]
