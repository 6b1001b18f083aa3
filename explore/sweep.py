"""Sweeps of any size: chunks of a numbered sequence of points through one compiled function, reduced as they come.

Memory stays that of a few chunks; what is kept is the Pareto front, the best points, the distribution of each objective and
counts, or, with `points="all"`, every point in partitioned Parquet. A sweep with a folder records each finished chunk and goes
on from there after any interruption; the answer does not depend on the order or the place in which chunks are done.
"""

import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from explore.constraints import pair_counts
from explore.problem import REASON, Evaluator, Problem
from explore.reductions import Points, Reduction
from explore.samples import Samples, samples
from explore.sweep_folder import SweepFolder, write_part
from explore.sweep_result import SweepResult, result_of
from hardware.processors import usable_cores

#: Points per chunk: large enough that a chunk takes a good share of a second, small enough to be a few tens of MB.
CHUNK = 2**17
#: Best points kept, by the first objective.
KEEP = 100
MOST_CHUNKS = 10**7
#: Chunks in flight per worker.
_AHEAD = 2
_REASONS = 256


class Plan(NamedTuple):
    """What every chunk needs to know besides its problem and points. `parts`: folder for all points, or empty; `in_memory`:
    whether a chunk brings all its points back."""

    chunk: int
    keep: int
    resolution: float
    parts: str
    in_memory: bool


def sweep(
    problem: Problem,
    *,
    method: str = "grid",
    count: int | None = None,
    seed: int = 0,
    chunk: int = CHUNK,
    keep: int = KEEP,
    resolution: float = 0.0,
    points: str = "reduced",
    folder: Any = None,
    executor: Any = None,
    progress: bool = False,
) -> SweepResult:
    """Evaluate `problem` on `count` points by `method` (see `explore.samples`).

    `keep`: best points kept; `resolution`: relative size of the boxes that thin the front (0: the exact front). `points`:
    "reduced" or "all" (every point; in Parquet if there is a `folder`, else in memory). `folder`: where the state is
    recorded; an interrupted sweep of the same problem goes on, another one is refused. `executor`: a Dask `Client` or an
    executor of `concurrent.futures` (default: a thread per core). On Ctrl-C the result so far is returned, `complete` false;
    before the first chunk is done there is none, and `KeyboardInterrupt` says so.

    Raises `ValueError` if no point has an answer, or no point meets the constraints (naming which).
    """
    if points not in ("reduced", "all"):
        raise ValueError(f'points: {points!r}; expected "reduced" or "all"')
    if chunk < 1 or keep < 1 or not 0.0 <= resolution < 1.0:
        raise ValueError(
            f"chunk {chunk}, keep {keep}, resolution {resolution}; expected at least 1, at least 1 and in [0, 1)"
        )
    sequence = samples(problem.space, method, count, seed)
    chunk = min(chunk, sequence.count)
    if sequence.count / chunk > MOST_CHUNKS:
        raise ValueError(f"chunk: {chunk}; {sequence.count} points are more than {MOST_CHUNKS:,} chunks of it")
    store = SweepFolder.open(folder, problem, sequence, chunk, keep, resolution, points) if folder is not None else None
    plan = Plan(
        chunk,
        keep,
        resolution,
        str(store.parts) if store and points == "all" else "",
        points == "all" and store is None,
    )
    total = -(-sequence.count // chunk)
    done = store.done if store is not None else np.zeros(total, dtype=bool)
    running = _Running(store.state if store is not None else None)
    memory: dict[int, Points] = {}
    interrupted = False
    with _progress(progress, sequence.count, int(done.sum()) * chunk) as advance:
        try:
            for number, found in _chunks(problem, sequence, plan, np.flatnonzero(~done), executor, running):
                if points == "all" and found.points is not None:
                    memory[number] = found.points
                state = running.add(found.state)
                done[number] = True
                if store is not None:
                    store.record(state, done)
                advance(min(chunk, sequence.count - number * chunk))
        except KeyboardInterrupt:
            interrupted = True
        finally:
            if store is not None and running.state is not None:
                store.record(running.state, done, finally_=True)
    if running.state is None:
        raise KeyboardInterrupt(f"interrupted before the first of {total} chunks was done: nothing is known yet")
    kept = {n: np.concatenate([memory[i][n] for i in sorted(memory)]) for n in memory[min(memory)]} if memory else None
    result = result_of(
        problem, running.state, done=int(sum(min(chunk, sequence.count - i * chunk) for i in np.flatnonzero(done))),
        total=sequence.count, complete=bool(done.all()) and not interrupted, method=method, points=kept,
        folder=store.path if store is not None else None,
    )  # fmt: skip
    if store is not None:
        result.save(store.path)
    return result.require_feasible() if result.complete else result


class ChunkResult(NamedTuple):
    """The state of one chunk, and all its points where they are kept in memory."""

    state: Reduction
    points: Points | None


def chunk_result(
    evaluator: Evaluator, sequence: Samples, plan: Plan, number: int, hint: np.ndarray | None
) -> ChunkResult:
    """Evaluate and reduce chunk `number`."""
    problem = evaluator.problem
    start = number * plan.chunk
    stop = min(start + plan.chunk, sequence.count)
    columns = sequence.columns(start, stop)
    metrics = evaluator(columns, padded=plan.chunk)
    points: Points = {"index": np.arange(start, stop), **columns, **metrics}
    size = len(problem.constraints)
    pairs = pair_counts(problem.constraints, metrics) if size else np.zeros((0, 0), dtype=np.int64)
    reasons = np.zeros(_REASONS, dtype=np.int64)
    if REASON in metrics:
        reasons += np.bincount(np.clip(np.nan_to_num(metrics[REASON]), 0, _REASONS - 1).astype(int), minlength=_REASONS)
    state = Reduction.of(
        points, problem.feasible(metrics), problem.minimise, problem.maximise, keep=plan.keep,
        resolution=plan.resolution, pairs=pairs, reasons=reasons, hint=hint,
    )  # fmt: skip
    if plan.parts:
        write_part(plan.parts, number, {"index": points["index"], **problem.space.labels(columns), **metrics})
    return ChunkResult(state, points if plan.in_memory else None)


def _chunks(
    problem: Problem, sequence: Samples, plan: Plan, numbers: np.ndarray, executor: Any, running: "_Running"
) -> Iterator[tuple[int, ChunkResult]]:
    """Results of the chunks `numbers` as they finish."""
    if executor is None:
        evaluator = Evaluator(problem)
        threads = usable_cores()

        def submit(pool: Any, number: int) -> Any:
            return pool.submit(chunk_result, evaluator, sequence, plan, number, running.hint())

        workers, context = threads, ThreadPoolExecutor(threads)
    else:
        payload = _pickled((problem, sequence, plan))

        def submit(pool: Any, number: int) -> Any:
            return pool.submit(remote_chunk, payload, number, running.hint())

        workers, context = _workers(executor), nullcontext(executor)
    pending: dict[Any, int] = {}
    waiting = iter(numbers.tolist())
    with context as pool:
        try:
            while True:
                while len(pending) < _AHEAD * workers and (number := next(waiting, None)) is not None:
                    pending[submit(pool, number)] = number
                if not pending:
                    return
                for future in _first_done(pool, list(pending)):
                    number = pending.pop(future)
                    yield number, future.result()
        finally:
            for future in pending:
                future.cancel()


class _Running:
    """The state over the chunks merged so far."""

    def __init__(self, state: Reduction | None) -> None:
        self.state = state

    def add(self, found: Reduction) -> Reduction:
        self.state = found if self.state is None else self.state.merged(found)
        return self.state

    def hint(self) -> np.ndarray | None:
        """Losses that let chunks skip what is dominated already."""
        return None if self.state is None else self.state.hint()


def remote_chunk(payload: bytes, number: int, hint: np.ndarray | None) -> ChunkResult:
    """A chunk on another process, which compiles a problem once."""
    evaluator, sequence, plan = _unpickled(payload)
    return chunk_result(evaluator, sequence, plan, number, hint)


@lru_cache(maxsize=2)
def _unpickled(payload: bytes) -> tuple[Evaluator, Samples, Plan]:
    problem, sequence, plan = pickle.loads(payload)
    return Evaluator(problem), sequence, plan


def _pickled(thing: Any) -> bytes:
    try:
        import cloudpickle
    except ImportError:
        return pickle.dumps(thing)
    return cloudpickle.dumps(thing)


def _is_dask(executor: Any) -> bool:
    return type(executor).__module__.partition(".")[0] == "distributed"


def _workers(executor: Any) -> int:
    if _is_dask(executor):
        return max(1, sum(executor.nthreads().values()))
    if not isinstance(executor, Executor):
        raise ValueError(f"executor: {executor!r}; expected a Dask client or an executor of concurrent.futures")
    return int(getattr(executor, "_max_workers", None) or usable_cores())


def _first_done(pool: Any, futures: list[Any]) -> list[Any]:
    if _is_dask(pool):
        import distributed

        finished: Any = distributed.wait(futures, return_when="FIRST_COMPLETED")
        return list(finished.done)
    return list(wait(futures, return_when=FIRST_COMPLETED).done)


@contextmanager
def _progress(shown: bool, total: int, before: int) -> Iterator[Callable[[int], None]]:
    """What to call with the points of every chunk: a progress bar over `total` points, or nothing."""
    if not shown:
        yield lambda points: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("sweep"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TextColumn("{task.fields[rate]}"),
    )
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, completed=before, rate="")
        begun, seen = time.monotonic(), 0

        def advance(points: int) -> None:
            nonlocal seen
            seen += points
            rate = seen / max(time.monotonic() - begun, 1e-9)
            bar.update(task, advance=points, rate=f"{rate:,.0f} points/s")

        yield advance
