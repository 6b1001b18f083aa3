"""Chrome / Perfetto traces of schedules: JSON trace events that chrome://tracing and ui.perfetto.dev show.

A stream called "stage 0: kernels" is the row "kernels" of the process "stage 0"; streams without a colon are rows of one process.
Times are microseconds, as the format has them. Source: Trace Event Format, Google, 2016.
"""

import json
from pathlib import Path
from typing import Any

from composition.execution_graph import ExecutionGraph, Schedule


def chrome_trace(
    graph: ExecutionGraph, schedule: Schedule, *, process: str = "pass", start_s: float = 0.0, first_pid: int = 1
) -> list[dict[str, Any]]:
    """Trace events of `schedule` (scalar durations): one complete event per node with its slack and attributes, and names of the
    processes and rows. `start_s` shifts everything; `process` names what has no process of its own and leads the others.
    `first_pid`: number of the first process; traces that are joined into one file need different ones (see `next_pid`).
    """
    if schedule.start_s.ndim != 1:
        raise ValueError(f"chrome_trace: durations of shape {schedule.start_s.shape}; expected one per node")
    processes: dict[str, int] = {}
    threads: dict[tuple[str, str], int] = {}
    events, names = [], []
    critical = set(schedule.critical(graph))
    for i, node in enumerate(graph.nodes):
        left, colon, right = node.stream.partition(": ")
        owner, row = (f"{process} {left}", right) if colon else (process, node.stream or "other")
        if owner not in processes:
            processes[owner] = first_pid + len(processes)
            names.append(_name("process_name", processes[owner], 0, owner))
        if (owner, row) not in threads:
            threads[owner, row] = len(threads) + 1
            names.append(_name("thread_name", processes[owner], threads[owner, row], row))
        events.append(
            {
                "name": node.name,
                "ph": "X",
                "ts": (start_s + float(schedule.start_s[i])) * 1e6,
                "dur": float(schedule.finish_s[i] - schedule.start_s[i]) * 1e6,
                "pid": processes[owner],
                "tid": threads[owner, row],
                "cat": str((node.attributes or {}).get("kind", "node")),
                "args": {
                    **dict(node.attributes or {}),
                    "slack_us": float(schedule.slack_s[i]) * 1e6,
                    "critical": node.name in critical,
                },
            }
        )
    return names + events


def next_pid(events: list[dict[str, Any]]) -> int:
    """The first process number that `events` do not use."""
    return 1 + max((event["pid"] for event in events), default=0)


def write_chrome_trace(events: list[dict[str, Any]], path: str | Path) -> None:
    """Write trace events as a file that Perfetto opens."""
    Path(path).write_text(json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}), encoding="utf-8")


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}
