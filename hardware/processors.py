"""The processors of this machine that this process may use."""

import os


def usable_cores() -> int:
    """Cores that this process may run on, at least one: its affinity where the system has one, else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
