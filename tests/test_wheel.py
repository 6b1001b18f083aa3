"""The wheel a user installs: built from this checkout, installed into an empty environment, used from another folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*command, cwd, **environment):
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")} | environment
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (built,) = out.glob("ridgeline-*.whl")
    return built


def test_wheel_holds_packages_and_data_but_no_tests(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert {"ridgeline", "hardware", "workloads", "roofline"} <= tops
    assert not {"tests", "notebooks", "benchmarks", "docs"} & tops
    assert "ridgeline/py.typed" in names
    assert "hardware/catalogue/h100_sxm.toml" in names
    assert "roofline/ridgeline.mplstyle" in names


def test_installed_wheel_answers_from_another_folder(wheel, tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    python = tmp_path / "env" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "--constraint", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    command = [tmp_path / "env" / "bin" / "ridgeline", "predict", "llama-3.1-8b", "--on", "h100_sxm", "--batch", "8"]
    assert "decode" in run(*command, "--plot", tmp_path / "roofline.png", cwd=tmp_path)
    assert (tmp_path / "roofline.png").stat().st_size > 10_000
    where = run(python, "-c", "import hardware; print(hardware.__file__)", cwd=tmp_path)
    assert str(tmp_path) in where
