"""Laws of stages: vector search, memory tiers, power. Limits that must hold exactly, monotone behaviour, bad input."""

import os
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import hardware
from explore import Ownership, hourly_cost
from ridgeline.serve_energy import node_voltage, serving_cost
from serving import che_hit_rate, read_blocks
from serving.stages import (
    DevicePower,
    Hnsw,
    IvfPq,
    Network,
    Pool,
    RequestClass,
    SearchDevice,
    Stage,
    accelerator_device,
    at_clock,
    break_even_tokens_per_s,
    chain,
    clock_under_cap,
    cpu_device,
    decode_law,
    frequency_for,
    index_bytes,
    law_time,
    linear_law,
    memory_tier,
    network_at_clock,
    network_energy,
    prefill_law,
    replay_network,
    retrieval_stages,
    roofline_law,
    search_law,
    search_time,
    sharded,
    steady_network,
    tier_traffic,
    usual_machine,
)

DATA = Path(os.environ.get("RIDGELINE_DATA", Path(__file__).parents[3] / "shared" / "data"))
TRACES = DATA / "serving" / "traces"
INDEX = IvfPq(vectors=1e8, dimensions=128, lists=16384, probes=32, code_bytes=16)


def test_a_scan_of_all_lists_by_one_query_is_the_whole_database():
    device = SearchDevice(bandwidth_bytes_per_s=1e11, flops_per_s=1e20, lookups_per_s=1e20)
    everything = replace(INDEX, probes=INDEX.lists)
    assert float(search_time(everything, device).total_s) == pytest.approx(float(index_bytes(everything)) / 1e11)
    # lists that several queries want are read once, so that many queries read no more
    assert float(search_time(everything, device, 64.0).memory_s) == pytest.approx(
        float(search_time(everything, device).memory_s)
    )


def test_compute_counts_centroids_tables_and_codes():
    device = SearchDevice(bandwidth_bytes_per_s=1e30, flops_per_s=1e9, lookups_per_s=1e9)
    flops = 2 * 128 * (16384 + 256 * 32)
    lookups = 1e8 * 32 / 16384 * 16
    assert float(search_time(INDEX, device, 3.0).compute_s) == pytest.approx(3.0 * (flops + lookups) / 1e9)


def test_a_graph_walk_is_its_hops_until_threads_or_bandwidth_are_short():
    graph = Hnsw(vectors=1e7, dimensions=96, links=16, ef=100)
    hops = np.log(1e7) / np.log(16) + 100
    slow = SearchDevice(bandwidth_bytes_per_s=1e30, flops_per_s=1e30, latency_s=1e-7, threads=8.0)
    for queries, rounds in ((1, 1), (8, 1), (32, 4)):
        assert float(search_time(graph, slow, queries).total_s) == pytest.approx(rounds * hops * 1e-7)
    assert float(search_time(graph, replace(slow, bandwidth_bytes_per_s=1e9), 32).memory_s) > 0.01


def test_search_laws_never_lose_by_larger_batches_and_know_what_fits():
    for device in (cpu_device(64), accelerator_device(hardware.load("h100_sxm"))):
        for index in (INDEX, Hnsw(vectors=1e7, dimensions=128)):
            law = search_law(index, device)
            batches = np.array([1.0, 3.0, 30.0, 300.0])
            assert np.all(np.diff(law_time(law, batches)) >= 0.0)
            assert np.all(np.diff(law_time(law, batches) / batches) <= 1e-12)
    large = replace(INDEX, vectors=1e10)
    chip = accelerator_device(hardware.load("h100_sxm"))
    assert np.isnan(search_time(large, chip).total_s)
    with pytest.raises(ValueError, match=r"index: 2\.4e"):
        search_law(large, chip)
    assert float(index_bytes(sharded(large, 8.0))) < 0.13 * float(index_bytes(large))


def test_laws_between_knots():
    law = roofline_law(0.001, 0.01, 0.002)
    np.testing.assert_allclose(law_time(law, np.array([0.0, 5.0, 6.0, 50.0])), [0.011, 0.011, 0.013, 0.101])
    np.testing.assert_allclose(law_time(linear_law(0.1, 0.2), np.array([0.0, 7.0])), [0.1, 1.5])


def test_a_decode_law_is_the_phase_law_at_its_knots(tiny_phase_law):
    law = decode_law(tiny_phase_law, 100.0, (1, 2, 4))
    np.testing.assert_allclose(law_time(law, np.array([1.0, 2.0, 4.0])), [0.011, 0.012, 0.014])
    prompts = prefill_law(tiny_phase_law, 50.0, (1, 2, 4))
    np.testing.assert_allclose(law_time(prompts, np.array([1.0, 2.0, 4.0])), [0.06, 0.11, 0.21])


@pytest.fixture
def tiny_phase_law():
    from serving import PhaseLaw
    from serving.phase_law import Tables

    line, flat = np.array([0.0, 1.0]), np.zeros((2, 2))
    return PhaseLaw(
        Tables(
            line, np.array([0.01, 0.011]), line, 0.0 * line, line, line, flat, line, line, flat, flat, line, 0.0 * line
        )
    )


def tiers(*sizes):
    return tuple(memory_tier(name, capacity_bytes=1e6 * size) for name, size in zip(("device", "host", "ssd"), sizes))


def test_tiers_share_what_one_cache_of_their_size_finds():
    rates = 1.0 / np.arange(1, 401) ** 0.9

    def hits(blocks):
        return che_hit_rate(rates, blocks)

    load = {"block_bytes": 1e6, "blocks_per_request": 4.0, "requests_per_s": 50.0}
    three = tier_traffic(tiers(40.0, 100.0, 160.0), hits, **load)
    assert float(three.found.sum() + three.missed) == pytest.approx(1.0)
    np.testing.assert_allclose(np.cumsum(three.found), [float(hits(np.array(n))) for n in (40.0, 140.0, 300.0)])
    # what goes up or is new pushes as much down, and the last tier forgets what is new
    np.testing.assert_allclose(three.down_bytes_per_s[1], 2e8 * (1.0 - three.found[0]))
    np.testing.assert_allclose(three.down_bytes_per_s[1] - three.down_bytes_per_s[2], three.up_bytes_per_s[1])
    whole = tier_traffic(tiers(300.0), hits, **load)
    assert float(whole.found[0]) == pytest.approx(float(three.found.sum()))
    assert float(whole.total_s) < float(three.total_s)
    crowded = tier_traffic(
        tuple(t.replace(sharers=1e3, capacity_bytes=1e3 * t.capacity_bytes) for t in tiers(40.0, 100.0)), hits, **load
    )
    assert not bool(crowded.stable)
    assert np.isinf(crowded.total_s)
    slope = jax.jit(jax.grad(lambda c: tier_traffic(tiers(c, 100.0), hits, **load).missed))(40.0)
    ends = [float(tier_traffic(tiers(40.0 + d, 100.0), hits, **load).missed) for d in (-0.1, 0.1)]
    assert float(slope) == pytest.approx((ends[1] - ends[0]) / 0.2, rel=1e-3)


def test_a_retrieval_in_a_network_is_its_bytes_over_the_links():
    found = tier_traffic(
        tiers(1.0, 2.0, 3.0), lambda blocks: blocks / 10.0, block_bytes=1e6, blocks_per_request=8.0, requests_per_s=1e-6
    )
    pools, stages = retrieval_stages(tiers(1.0, 2.0, 3.0), found, block_bytes=1e6, blocks_per_request=8.0)
    network = Network(classes=(RequestClass(name="a", rate_per_s=1e-6, stages=chain(*stages)),), pools=pools)
    expected = 8e6 * 0.2 / 55e9 + 1e-5 + 8e6 * 0.3 / 12e9 + 1e-4
    assert float(steady_network(network).e2e_s[0]) == pytest.approx(expected, rel=1e-6)
    assert float(break_even_tokens_per_s(memory_tier("host"), 131072.0)) == pytest.approx(55e9 / 131072.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"capacity_bytes": 1e5}, r"tiers\.host\.capacity_bytes: 100000\.0 .* at least one block"),
        ({"bandwidth_bytes_per_s": 0.0}, r"tiers\.host\.bandwidth_bytes_per_s"),
        ({"latency_s": -1.0}, r"tiers\.host\.latency_s"),
    ],
)
def test_bad_tiers_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        tier_traffic(
            (memory_tier("device"), memory_tier("host", **change)), lambda n: n / 1e9, block_bytes=1e6,
            blocks_per_request=1.0, requests_per_s=1.0,
        )  # fmt: skip
    with pytest.raises(ValueError, match="did you mean 'host'"):
        memory_tier("hos")


@pytest.mark.skipif(not TRACES.is_dir(), reason="RIDGELINE_DATA has no serving/traces")
@pytest.mark.parametrize("name", ["mooncake_conversation", "mooncake_synthetic"])
def test_che_is_within_two_points_of_least_recently_used_in_every_tier(name):
    trace = read_blocks(TRACES / f"{name}.parquet")
    cuts = len(np.unique(trace.blocks)) / 64.0 * 2.0 ** np.arange(6) * trace.block_tokens
    exact, che = trace.hit_rate(cuts), trace.che_hit_rate(cuts)
    np.testing.assert_allclose(che, exact, atol=0.02)
    np.testing.assert_allclose(np.diff(che), np.diff(exact), atol=0.02)


def served(rate=4.0):
    stage = Stage(name="decode", pool="gpu", work=100.0, scv=1.0)
    return Network(
        classes=(RequestClass(name="a", rate_per_s=rate, stages=(stage,)),),
        pools=(Pool(name="gpu", kind="continuous", servers=2.0, slots=32.0, law=linear_law(0.01, 0.0003)),),
    )


POWER = {"gpu": DevicePower(idle_watts=100.0, active_watts=600.0, devices_per_server=4.0, clock_share=0.4)}


def test_energy_is_idle_power_at_rest_and_active_power_when_busy():
    idle = network_energy(served(1e-9), steady_network(served(1e-9)), POWER)
    assert float(idle.total_watts) == pytest.approx(800.0, rel=1e-6)
    busy = served(0.999 * 4.0 * float(steady_network(served()).scale))
    state = steady_network(busy)
    full = network_energy(busy, state, POWER, tokens_per_request=100.0, machine=usual_machine())
    assert float(full.device_watts[0]) == pytest.approx(4800.0, rel=1e-3)
    machine = usual_machine()
    assert float(full.machine_watts.sum()) == pytest.approx(sum(machine.active_watts.values()), rel=1e-3)
    assert float(full.joules_per_million_tokens) == pytest.approx(1e4 * float(full.joules_per_request))
    # the whole machine's rated power
    assert sum(machine.active_watts.values()) + 8 * 700.0 == pytest.approx(10200.0)
    seen = replay_network(served(), 30_000)
    state = steady_network(served())
    assert float(state.busy[0]) <= 1.0
    assert float(state.in_service[0]) == pytest.approx(float(seen.in_service[0]), rel=0.03)


def test_the_clock_for_a_target_just_meets_it():
    network = served()
    nominal = float(steady_network(network).e2e_s[0])
    ratio = float(frequency_for(network, POWER, 1.2 * nominal))
    assert 0.3 < ratio < 1.0
    slow = steady_network(network_at_clock(network, POWER, ratio))
    assert float(slow.e2e_s[0]) == pytest.approx(1.2 * nominal, rel=1e-6)
    assert np.isnan(frequency_for(network, POWER, 0.9 * nominal))
    assert float(frequency_for(network, POWER, 100.0 * nominal)) == pytest.approx(0.3)
    same = steady_network(network_at_clock(network, POWER, 1.0))
    assert float(same.e2e_s[0]) == pytest.approx(nominal, rel=1e-12)
    slowed = at_clock(POWER["gpu"], ratio)
    assert float(slowed.active_watts) < 600.0
    assert float(at_clock(POWER["gpu"], 1.0).active_watts) == pytest.approx(600.0)
    voltage = node_voltage("5nm")
    assert float(voltage(1.0)) == pytest.approx(1.0)
    assert float(voltage(0.9)) < 1.0
    with pytest.raises(ValueError, match=r"devices\.gpus: no pool; did you mean 'gpu'"):
        frequency_for(network, {"gpus": POWER["gpu"]}, 1.0)


def test_a_power_cap_sets_the_clock():
    network = served()
    free = float(network_energy(network, steady_network(network), POWER).total_watts)
    assert float(clock_under_cap(network, POWER, 1.01 * free)) == 1.0
    ratio = float(clock_under_cap(network, POWER, 0.9 * free))
    assert 0.3 < ratio < 1.0
    slower = network_at_clock(network, POWER, ratio)
    drawn = network_energy(slower, steady_network(slower), {name: at_clock(p, ratio) for name, p in POWER.items()})
    assert float(drawn.total_watts) == pytest.approx(0.9 * free, rel=1e-6)
    assert float(steady_network(slower).e2e_s[0]) > float(steady_network(network).e2e_s[0])
    assert np.isnan(clock_under_cap(network, POWER, 0.01 * free))
    with pytest.raises(ValueError, match="cap_watts"):
        clock_under_cap(network, POWER, 0.0)


def test_cost_is_capital_and_energy_of_ownership():
    network, terms = served(), Ownership()
    energy = network_energy(network, steady_network(network), POWER)
    cost = serving_cost(network, energy, POWER, {"gpu": 30000.0}, tokens_per_s=1000.0, terms=terms)
    hour = hourly_cost(30000.0, 600.0, terms)
    capital = 8.0 * float(hour.total_usd - hour.energy_usd) / terms.utilisation / 3600.0 * 1e3
    assert float(cost.capital_usd) == pytest.approx(capital)
    kwh = float(energy.total_watts) * terms.pue / 3.6e6 * 1e3
    assert float(cost.energy_usd) == pytest.approx(kwh * terms.usd_per_kwh)
    assert float(cost.gco2) == pytest.approx(kwh * terms.gco2_per_kwh)
    dirty = serving_cost(network, energy, POWER, {}, tokens_per_s=1000.0, terms=terms, embodied_gco2=2e5)
    assert float(dirty.gco2) > float(cost.gco2)
    assert float(dirty.capital_usd) == 0.0
