"""Eviction policies against their replay, contention, bytes of blocks, tiers in a network file."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import workloads
from ridgeline.stage_network_file import read_network
from serving import che_hit_rate
from serving.stages import (
    check_network,
    contended_law,
    hit_rate,
    kv_block_bytes,
    lfu_hit_rate,
    linear_law,
    memory_tier,
    moved_watts,
    replay_cache,
    steady_network,
    tier_traffic,
    ttl_hit_rate,
)

ZIPF = 1.0 / np.arange(1, 2001) ** 0.9
RATES = 100.0 * ZIPF / ZIPF.sum()  # per second


@pytest.fixture(scope="module")
def references():
    random = np.random.default_rng(0)
    blocks = random.choice(len(RATES), 200_000, p=RATES / RATES.sum())
    return blocks, np.cumsum(random.exponential(1.0 / RATES.sum(), len(blocks)))


@pytest.mark.parametrize(("policy", "ttl_s"), [("lru", np.inf), ("lfu", np.inf), ("ttl", 5.0), ("ttl", 60.0)])
def test_closed_forms_are_the_replay(references, policy, ttl_s):
    blocks, when = references
    for capacity in (50, 400):
        seen = replay_cache(blocks, capacity, policy, time_s=when, ttl_s=ttl_s)[50_000:].mean()
        assert float(hit_rate(RATES, capacity, policy, ttl_s=ttl_s)) == pytest.approx(seen, abs=0.015)


def test_policies_at_their_limits():
    capacity = np.array([1.0, 30.0, 700.0, 1900.0])
    lru, lfu = che_hit_rate(RATES, capacity), lfu_hit_rate(RATES, capacity)
    ttl = ttl_hit_rate(RATES, capacity, 8.0)
    assert np.all(ttl <= lru + 1e-9)
    assert np.all(lru <= lfu + 1e-9)
    np.testing.assert_allclose(ttl_hit_rate(RATES, capacity, 1e9), lru, rtol=1e-5)
    free = float(np.sum(RATES * -np.expm1(-8.0 * RATES)) / RATES.sum())
    assert float(ttl_hit_rate(RATES, 2000.0, 8.0)) == pytest.approx(free)
    assert float(lfu_hit_rate(RATES, 2000.0)) == pytest.approx(1.0)
    assert float(lfu_hit_rate(np.ones(10), 2.5)) == pytest.approx(0.25)
    slope = jax.jit(jax.grad(lambda t: ttl_hit_rate(RATES, 2000.0, t)))(8.0)
    ends = [float(ttl_hit_rate(RATES, 2000.0, t)) for t in (7.99, 8.01)]
    assert float(slope) == pytest.approx((ends[1] - ends[0]) / 0.02, rel=1e-3)
    with pytest.raises(ValueError, match=r"policy: 'lfru' is unknown; did you mean 'lfu'|policy: 'lfru' is unknown"):
        hit_rate(RATES, 10.0, "lfru")
    with pytest.raises(ValueError, match="ttl_s: 0; expected seconds above 0"):
        ttl_hit_rate(RATES, 10.0, 0.0)
    with pytest.raises(ValueError, match="capacity: 0; expected at least one block"):
        replay_cache(np.arange(3), 0)


def test_a_small_cache_by_hand():
    blocks = np.array([1, 2, 1, 3, 1, 2, 3])
    np.testing.assert_array_equal(replay_cache(blocks, 2, "lru"), [0, 0, 1, 0, 1, 0, 0])
    # block 1 is used most and stays; 2 comes back for 3, which has been used as often and longer ago
    np.testing.assert_array_equal(replay_cache(blocks, 2, "lfu"), [0, 0, 1, 0, 1, 0, 0])
    np.testing.assert_array_equal(replay_cache(np.array([1, 1, 2, 3, 1]), 2, "lfu"), [0, 1, 0, 0, 1])
    np.testing.assert_array_equal(replay_cache(np.array([1, 1, 2, 3, 1]), 2, "lru"), [0, 1, 0, 0, 0])
    times = np.array([0.0, 1.0, 2.0, 9.0])
    np.testing.assert_array_equal(replay_cache(np.array([1, 2, 1, 1]), 5, "ttl", time_s=times, ttl_s=3.0), [0, 0, 1, 0])


def test_what_stays_in_place_moves_less():
    tiers = (memory_tier("device", capacity_bytes=4e8), memory_tier("host", capacity_bytes=4e9))
    load: Any = {"block_bytes": 1e7, "blocks_per_request": 4.0, "requests_per_s": 5.0}
    lru = tier_traffic(tiers, lambda n: hit_rate(RATES, n), **load)
    lfu = tier_traffic(tiers, lambda n: hit_rate(RATES, n, "lfu"), **load, moves=False)
    assert lfu.found[0] > lru.found[0]
    assert float(lfu.down_bytes_per_s.sum()) == 0.0 < float(lru.down_bytes_per_s.sum())
    assert 0.0 < float(moved_watts(tiers, lfu)) < float(moved_watts(tiers, lru))


def test_traffic_takes_bandwidth_from_the_step():
    law = linear_law(0.01, 1e-4)
    assert contended_law(law, 0.0, 3e12).seconds == law.seconds
    half = contended_law(law, 1.5e12, 3e12)
    np.testing.assert_allclose(half.seconds, 2.0 * np.array(law.seconds))
    np.testing.assert_allclose(contended_law(law, 1.5e12, 3e12, 0.0).seconds, law.seconds)
    assert np.all(np.isinf(contended_law(law, 3e12, 3e12).seconds))


def test_an_8_bit_cache_has_blocks_of_half_the_bytes():
    model = workloads.load("llama-3.1-8b")
    assert float(kv_block_bytes(model, 512.0)) == 512.0 * 131072.0
    assert float(kv_block_bytes(model, 512.0, "fp8")) == 256.0 * 131072.0


FILE = Path(__file__).parents[2] / "docs" / "networks" / "kv_tiers.toml"


def read(tmp_path, *changes):
    text = FILE.read_text("utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "network.toml"
    path.write_text(text, "utf-8")
    return read_network(path).network


def test_a_file_retrieves_from_its_tiers(tmp_path):
    network = read_network(FILE).network
    stages = {stage.name: stage for stage in network.classes[0].stages}
    assert [p.name for p in network.pools if p.kind == "link"] == ["host", "ssd"]
    assert list(stages) == ["retrieve_host", "retrieve_ssd", "prefill", "decode"]
    # what is found is not computed again, and what is found nearer does not travel
    rates = 1.0 / np.arange(1, 400_001) ** 0.9
    cuts = np.cumsum([40e9, 256e9, 7.68e12]) / (512.0 * 131072.0)
    within = hit_rate(rates, cuts)
    assert stages["prefill"].work == pytest.approx(1.0 - float(within[-1]))
    np.testing.assert_allclose(
        [stages["retrieve_host"].work, stages["retrieve_ssd"].work], 6.0 * 512.0 * 131072.0 * np.diff(within), rtol=1e-6
    )
    best = read(tmp_path, ('policy = "lru"', 'policy = "lfu"'))
    assert float(best.classes[0].stages[2].work) < stages["prefill"].work
    short = read(tmp_path, ('policy = "lru"', 'policy = "ttl"\nttl = "1 s"'))
    assert float(short.classes[0].stages[-2].work) > stages["prefill"].work
    small = read(tmp_path, ('kv_dtype = "bf16"', 'kv_dtype = "fp8"'))
    assert float(steady_network(small).e2e_s[0]) < float(steady_network(network).e2e_s[0])
    check_network(replace(network, classes=network.classes))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'capacity = "256 GB"',
            'capacity = "1 MB"',
            r"tiers\.host\.capacity: .*at least one block of 6\.71e\+07 bytes",
        ),
        ("[tiers.host]", "[tiers.hots]", r"tiers\.hots\.kind: 'hots' is unknown; did you mean 'host'"),
        ('policy = "lru"', 'policy = "lfru"', r"stages\.retrieve\.retrieve\.policy: 'lfru' is unknown"),
        ('policy = "lru"', 'policy = "ttl"', r"stages\.retrieve\.retrieve\.ttl: missing"),
        ('feeds = "prefill"', 'feeds = "prefil"', r"feeds: 'prefil' is no stage of this class; did you mean 'prefill'"),
        ('kind = "ssd"', 'kind = "ssdd"', r"tiers\.ssd\.kind: 'ssdd' is unknown; did you mean 'ssd'"),
        ("sharers = 1", "sharers = 0", r"tiers\.ssd\.sharers: 0"),
        ("blocks = 6", "", r"stages\.retrieve\.retrieve\.blocks: missing"),
    ],
)
def test_bad_tiers_of_a_file_are_named(tmp_path, old, new, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, (old, new))


def test_every_snippet_of_the_page_runs():
    names: dict = {}
    for snippet in re.findall(r"```python\n(.*?)```", (FILE.parents[1] / "memory_tiers.md").read_text("utf-8"), re.S):
        exec(compile(snippet, "docs/memory_tiers.md", "exec"), names)
    assert names["rates"]["lru"] == pytest.approx(names["seen"], abs=0.015)
    assert names["found"]["fp8"].found[0] > names["found"]["bf16"].found[0]
    assert names["law"].seconds[0] > 6e-3
