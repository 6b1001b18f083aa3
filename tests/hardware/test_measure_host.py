"""The host as a chip: plausible, sourced, readable again. No absolute timing is asserted."""

import platform

import pytest

from hardware import dump, load, numeric_paths
from hardware.measure_host import cache_step, measure_host, rate_within


@pytest.fixture(scope="module")
def host():
    stages = []
    chip = measure_host(0.8, stages.append)
    assert len(stages) == 4
    return chip


def test_every_measured_number_is_positive_and_sourced(host):
    numbers = {path: value for path, value in numeric_paths(host).items() if value == value}
    assert all(value > 0 for value in numbers.values())
    assert {"matrix_flops_per_s.fp32", "matrix_flops_per_s.fp64", "vector_flops_per_s.fp32", "cores"} <= set(numbers)
    for path in numbers:
        kind, source = host.origin(path)
        assert kind == "measured"
        assert source.startswith(("reported", "best", "multiply", "copies", "step", "median"))


def test_memory_gets_smaller_towards_the_cores(host):
    capacities = [level.capacity_bytes for level in host.memory]
    assert capacities == sorted(capacities, reverse=True)
    assert host.memory[0].name == "dram"
    assert len(host.memory) >= 2


def test_the_written_file_reads_back_and_names_no_host(host, tmp_path):
    path = tmp_path / "host.toml"
    path.write_text(dump(host))
    assert repr(load(path)) == repr(load(load(path)))
    assert numeric_paths(load(path)) == pytest.approx(numeric_paths(host), nan_ok=True)
    if len(platform.node()) > 3:
        assert platform.node() not in path.read_text()


def test_rate_within_takes_the_largest_set_that_fits():
    rates = {1: 9.0, 2: 8.0, 4: 3.0, 8: 1.0}
    assert rate_within(rates, 3.0) == 8.0
    assert rate_within(rates, 100.0) == 1.0
    assert rate_within(rates, 0.5) == 9.0


def test_cache_step_finds_where_the_rate_falls():
    rates = {2**p: 50e9 if p <= 20 else 10e9 for p in range(15, 28)}
    assert cache_step(rates) == 2**20
