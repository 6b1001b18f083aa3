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


#: Runs the command line with nothing importable but the wheel, what it declares without extras, and Python itself.
ALONE = """
import importlib.metadata as metadata, re, sys
from packaging.requirements import Requirement

declared, left = set(), ["ridgeline"]
while left:
    name = re.sub("[-_.]+", "-", left.pop()).lower()
    if name not in declared:
        declared.add(name)
        wanted = (Requirement(each) for each in metadata.requires(name) or ())
        left += [each.name for each in wanted if not each.marker or each.marker.evaluate({"extra": ""})]
owners = metadata.packages_distributions()
undeclared = {
    package for package, names in owners.items() if not declared & {re.sub("[-_.]+", "-", n).lower() for n in names}
} - {"packaging"}


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in undeclared:
            raise ModuleNotFoundError(f"{name} is not among the declared dependencies", name=name)


assert "pytest" in undeclared and "numpy" not in undeclared
sys.meta_path.insert(0, Refuse())
import hardware
from ridgeline.cli import main
assert hardware.__file__.startswith(sys.argv.pop(1)), hardware.__file__
main()
"""


def test_installed_wheel_answers_from_another_folder_with_declared_dependencies_only(wheel, tmp_path):
    installed = tmp_path / "installed"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", installed, wheel, cwd=tmp_path)
    asked = ("predict", "llama-3.1-8b", "--on", "h100_sxm", "--batch", "8", "--plot", tmp_path / "roofline.png")
    assert "decode" in run(sys.executable, "-c", ALONE, installed, *asked, cwd=tmp_path, PYTHONPATH=str(installed))
    assert (tmp_path / "roofline.png").stat().st_size > 10_000
