"""A sweep on disk: what it is (`sweep.json`), how far it is (`state.npz`), and all its points where asked (`points/*.parquet`).

Files are written beside their place and moved there, so that a kill or a full disk at any moment leaves the last whole state.
"""

import io
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from explore.problem import Problem
from explore.reductions import Reduction
from explore.samples import Samples

FORMAT = "ridgeline sweep 1"
#: Share of the time that recording may take; a state is recorded after every chunk unless it is large.
_SHARE = 0.05


@dataclass
class SweepFolder:
    """An open folder. `done` [chunks]: which are finished; `state`: the reduction over them."""

    path: Path
    done: np.ndarray
    state: Reduction | None
    _cost_s: float = 0.0
    _last_s: float = -1e9

    @property
    def parts(self) -> Path:
        """The folder of the Parquet parts."""
        return self.path / "points"

    @classmethod
    def open(
        cls, folder: Any, problem: Problem, sequence: Samples, chunk: int, keep: int, resolution: float, points: str
    ) -> "SweepFolder":
        """The folder, new or as an interrupted sweep left it; `ValueError` if it holds a different sweep or something else."""
        path = Path(folder)
        described = {
            "format": FORMAT, "problem": problem.name, "model": problem.fingerprint(), "space": problem.space.fingerprint(),
            "parameters": list(problem.space.names), "minimise": list(problem.minimise), "maximise": list(problem.maximise),
            "constraints": [f"{one} ({one.limit!r})" for one in problem.constraints], "method": sequence.method, "count":
            sequence.count, "seed": sequence.seed, "chunk": chunk, "keep": keep, "resolution": resolution, "points": points,
        }  # fmt: skip
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path}: a file; expected a folder for the sweep")
        known = path / "sweep.json"
        if known.is_file():
            _same(path, read_json(known), described)
        elif path.is_dir() and any(path.iterdir()):
            raise ValueError(f"{path}: not empty and no sweep; expected a new folder or that of an interrupted sweep")
        else:
            path.mkdir(parents=True, exist_ok=True)
            write_whole(known, (json.dumps(described, indent=1) + "\n").encode())
        if points == "all":
            (path / "points").mkdir(exist_ok=True)
        total = -(-sequence.count // chunk)
        recorded = path / "state.npz"
        if not recorded.is_file():
            return cls(path, np.zeros(total, dtype=bool), None)
        sizes = np.minimum(chunk, sequence.count - chunk * np.arange(total))
        try:
            with np.load(recorded, allow_pickle=False) as arrays:
                done = np.unpackbits(arrays["done"]).astype(bool)[:total]
                state = Reduction.from_arrays(dict(arrays), problem.minimise, problem.maximise, keep, resolution)
            _check_state(state, problem, int(sizes[done].sum()) if len(done) == total else -1)
            lost = [
                i
                for i in map(int, np.flatnonzero(done))
                if points == "all" and not part_path(path / "points", i).is_file()
            ]
        except Exception as error:  # a damaged archive fails in as many ways as it has readers
            raise ValueError(f"{recorded}: unreadable ({error}); remove the folder to start again") from None
        if lost:
            raise ValueError(f"{part_path(path / 'points', lost[0])}: missing; remove the folder to start again")
        return cls(path, done, state)

    def record(self, state: Reduction, done: np.ndarray, *, finally_: bool = False) -> None:
        """Write the state; large ones not after every chunk. `OSError` (a full disk) leaves the one before."""
        if not finally_ and time.monotonic() - self._last_s < self._cost_s / _SHARE:
            return
        begun = time.monotonic()
        buffer = io.BytesIO()
        np.savez(buffer, done=np.packbits(done), **state.to_arrays())  # type: ignore[arg-type]
        write_whole(self.path / "state.npz", buffer.getvalue())
        self._last_s = time.monotonic()
        self._cost_s = self._last_s - begun


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all; `OSError` says what the disk has kept."""
    beside = path.with_name(path.name + ".part")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise OSError(
            error.errno, f"{error.strerror or error}; what was recorded before is kept in {path.parent}", str(path)
        ) from None


def _check_state(state: Reduction, problem: Problem, seen: int) -> None:
    """`ValueError` unless the state is that of `seen` points of `problem`."""
    if int(state.counts[0]) != seen:
        raise ValueError(f"{int(state.counts[0])} points counted, {seen} recorded as done")
    wanted = {"index", *problem.space.names, *problem.metric_names}
    for name, table in (("front", state.front), ("best", state.best)):
        lengths = {len(values) for values in table.values()}
        if set(table) != wanted or len(lengths) != 1:
            raise ValueError(f"{name}: not the columns of this problem, all of one length")
    if set(state.histograms) != set(problem.objectives):
        raise ValueError("no distribution of each objective")


def part_path(folder: Path, number: int) -> Path:
    """The file of all points of chunk `number`."""
    return folder / f"part-{number:08d}.parquet"


def write_part(folder: str, number: int, columns: dict[str, np.ndarray]) -> None:
    """All points of one chunk as `part-<number>.parquet`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), buffer)
    write_whole(part_path(Path(folder), number), buffer.getvalue())


def read_json(path: Path) -> dict[str, Any]:
    """An object from a JSON file; `ValueError` with the path otherwise."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: unreadable ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object")
    return found


def _same(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name, value in wanted.items():
        if found.get(name) != value:
            raise ValueError(
                f"{path}: holds a sweep with {name} {found.get(name)!r}, not {value!r}; give another folder, or the same sweep"
            )
