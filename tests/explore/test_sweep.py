"""Sweeps: the same answer however they are cut, stopped, resumed or distributed, and clear words when there is none."""

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import explore.sweep_folder
from explore import Problem, Space, categorical, constraint, integer, load_sweep, logarithmic, sweep
from explore.plots import pareto_plot

SPACE = Space(
    {
        "rate": logarithmic(1.0, 100.0, points=40).bind("machine.rate"),
        "width": integer(1, 25).bind("machine.width"),
        "kind": categorical(["plain", "wide"]),
    }
)


def metrics(subjects, rounding):
    machine = subjects["machine"]
    gain = 1.0 if subjects["kind"] == "plain" else 1.5
    time_s = rounding.ceil(100.0 / machine["width"]) / (machine["rate"] * gain)
    return {
        "time_s": jnp.where(machine["rate"] > 90.0, jnp.nan, time_s),
        "area": machine["width"] * machine["rate"] ** 0.5 * gain**2,
        "reason": jnp.where(machine["rate"] > 90.0, 3.0, 0.0),
    }


def problem(**changes):
    options = {
        "space": SPACE, "subjects": {"machine": {"rate": 1.0, "width": 1.0}, "kind": "plain"}, "evaluate": metrics,
        "minimise": ("time_s", "area"), "constraints": (constraint("area", "<= 120"),), "reasons": {3: "too hot"},
        "name": "toy",
    }  # fmt: skip
    return Problem(**{**options, **changes})


def same_front(one, other):
    pd.testing.assert_frame_equal(one.front, other.front)
    pd.testing.assert_frame_equal(one.best, other.best)
    assert one.counts == other.counts


def test_the_front_is_that_of_all_points():
    result = sweep(problem(), points="all", chunk=300)
    frame = result.to_frame()
    assert len(frame) == SPACE.grid_points == result.counts["points"]
    good = frame[(frame["area"] <= 120) & frame["time_s"].notna()]
    assert result.counts["feasible"] == len(good)
    assert result.counts["answered"] == frame["time_s"].notna().sum()
    assert result.reasons == {"too hot": int(frame["time_s"].isna().sum())}
    for _, row in result.front.iterrows():
        better = good[(good["time_s"] <= row["time_s"]) & (good["area"] <= row["area"])]
        assert len(better[(better["time_s"] < row["time_s"]) | (better["area"] < row["area"])]) == 0
    assert result.best["time_s"].iloc[0] == good["time_s"].min()
    assert result.quantiles.loc["time_s", "p50"] == pytest.approx(good["time_s"].median(), rel=0.05)


def test_chunks_and_executors_do_not_change_the_answer(tmp_path):
    whole = sweep(problem())
    same_front(sweep(problem(), chunk=77), whole)
    with ThreadPoolExecutor(3) as pool:
        same_front(sweep(problem(), chunk=128, executor=pool), whole)
    recorded = sweep(problem(), chunk=100, folder=tmp_path / "run", points="all")
    same_front(recorded, whole)
    assert len(recorded.to_frame()) == SPACE.grid_points
    same_front(load_sweep(tmp_path / "run"), whole)


def test_a_grid_becomes_a_labelled_dataset():
    dataset = sweep(problem(), points="all", chunk=300).to_dataset()
    assert dataset["time_s"].dims == ("rate", "width", "kind")
    value = dataset["time_s"].sel(width=10, kind="wide").isel(rate=0)
    assert float(value) == pytest.approx(10.0 / 1.5)


def test_an_interrupt_leaves_a_valid_part_and_resumes(tmp_path):
    whole = sweep(problem(), chunk=64)
    calls = []

    class Stopping(ThreadPoolExecutor):
        def submit(self, *arguments, **options):
            calls.append(1)
            if len(calls) == 9:
                raise KeyboardInterrupt
            return super().submit(*arguments, **options)

    with Stopping(1) as pool:
        part = sweep(problem(), chunk=64, folder=tmp_path / "run", executor=pool)
    assert not part.complete
    assert 0 < part.done < part.total
    assert (tmp_path / "run" / "front.parquet").is_file()
    done = sweep(problem(), chunk=64, folder=tmp_path / "run")
    assert done.complete
    same_front(done, whole)


def test_an_interrupt_before_anything_is_known_says_so():
    class Stopping(ThreadPoolExecutor):
        def submit(self, *arguments, **options):
            raise KeyboardInterrupt

    with Stopping(1) as pool, pytest.raises(KeyboardInterrupt, match="before the first of 32 chunks"):
        sweep(problem(), chunk=64, executor=pool)


SCRIPT = """
import sys, time
sys.path[:0] = {paths!r}
import test_sweep
from explore import sweep
import explore.sweep as module
slow = module.chunk_result
def chunk_result(*arguments):
    time.sleep(0.05)
    return slow(*arguments)
module.chunk_result = chunk_result
sweep(test_sweep.problem(), chunk=16, folder={folder!r})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_kill_at_any_moment_loses_nothing(tmp_path):
    folder = tmp_path / "run"
    code = SCRIPT.format(paths=[os.path.dirname(__file__), os.getcwd()], folder=str(folder))
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 120
    while not (folder / "state.npz").is_file() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "front.parquet").is_file()
    sweep(problem(), chunk=16, folder=folder)
    sweep(problem(), chunk=16, folder=tmp_path / "straight")
    assert (folder / "front.parquet").read_bytes() == (tmp_path / "straight" / "front.parquet").read_bytes()


def test_another_sweep_in_the_folder_is_refused(tmp_path):
    sweep(problem(), folder=tmp_path / "run")
    with pytest.raises(ValueError, match="holds a sweep with chunk"):
        sweep(problem(), folder=tmp_path / "run", chunk=50)
    other = Space({**SPACE.parameters, "width": integer(1, 24).bind("machine.width")})
    with pytest.raises(ValueError, match="holds a sweep with space"):
        sweep(problem(space=other), folder=tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty and no sweep"):
        sweep(problem(), folder=tmp_path / "full")


def test_a_full_disk_keeps_what_was_recorded(tmp_path, monkeypatch):
    sweep(problem(), chunk=64, folder=tmp_path / "straight")
    replace, calls = os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(explore.sweep_folder.os, "replace", full)
    with pytest.raises(OSError, match="what was recorded before is kept"):
        sweep(problem(), chunk=64, folder=tmp_path / "run")
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob("*.part"))
    done = sweep(problem(), chunk=64, folder=tmp_path / "run")
    assert done.complete
    left, right = (tmp_path / name / "front.parquet" for name in ("run", "straight"))
    assert left.read_bytes() == right.read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"constraints": (constraint("area", "<= 10"), constraint("area", ">= 20"))}, "contradict each other"),
        ({"constraints": (constraint("area", "<= 0.1"),)}, "no point meets area <= 0.1"),
        ({"constraints": (constraint("area", "<= 5"), constraint("time_s", "<= 0.1"))}, "exclude each other"),
        ({"minimise": ("tim_s",)}, "did you mean 'time_s'"),
        ({"minimise": (), "maximise": ()}, "no objective"),
        ({"constraints": (constraint("are", "<= 1"),)}, "did you mean 'area'"),
    ],
)
def test_problems_without_an_answer_say_why(changes, message):
    with pytest.raises(ValueError, match=message):
        sweep(problem(**changes))


def test_nan_everywhere_says_so():
    def nothing(subjects, rounding):
        return {"time_s": subjects["machine"]["rate"] * jnp.nan, "reason": 3.0 + 0.0 * subjects["machine"]["rate"]}

    with pytest.raises(ValueError, match=r"NaN everywhere \(too hot at 2000"):
        sweep(problem(evaluate=nothing, minimise=("time_s",), constraints=()))


@pytest.mark.parametrize("text", ["814", "<= many", "== 3", "<= inf", None])
def test_constraints_have_a_form(text):
    with pytest.raises(ValueError, match="expected"):
        constraint("area", text)


def test_a_front_tells_its_options_apart():
    result = sweep(problem(), points="all")
    result = replace(result, front=result.to_frame().dropna())
    ax = pareto_plot(result)
    assert {text.get_text() for text in ax.get_legend().get_texts()} == set(result.front["kind"])
    assert ax.get_title(loc="left") + ax.get_title() == "toy"


def test_points_in_the_chunks_of_two_dask_workers_one_of_which_dies(tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        seen = []

        def kill_one(*arguments, **options):
            seen.append(1)
            if len(seen) == 6:
                worker = next(iter(cluster.workers.values()))
                os.kill(worker.pid, signal.SIGKILL)
            return submit(*arguments, **options)

        submit, client.submit = client.submit, kill_one
        result = sweep(problem(), chunk=50, executor=client)
    same_front(result, sweep(problem(), chunk=50))
    assert np.isfinite(result.front["time_s"]).all()
