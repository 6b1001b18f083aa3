"""Attention apart from feed-forward: the course of micro-batches event by event, the plain law as a limit, chips and links."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hardware
import workloads
from roofline.phase import operator_bound
from serving import Engine, Lengths, closed_form_law, iteration_time, steady_state
from serving.closed_form_law import Knots
from serving.experts import Group, attention_ffn_law, exchange_s, is_feed_forward, round_trip
from serving.phase_law import part_time
from workloads import Parallelism

FEW = Knots(512, 4096, 128)


def course(attention_s, feed_forward_s, transfer_s, head_s, layers, micro_batches, steps=12):
    """Seconds of a step in the long run: stations serve one micro-batch at a time, whoever came first."""
    work = (attention_s / layers, transfer_s / layers, feed_forward_s / layers, transfer_s / layers)
    free, ready = [0.0] * 4, [(0.0, 0, j) for j in range(micro_batches)]
    ends = []
    while len(ends) < steps * micro_batches:
        time, done, j = min(ready)  # who came first; of those the one that is behind
        ready.remove((time, done, j))
        station = done % 4
        last = (done + 1) % (4 * layers) == 0
        end = max(time, free[station]) + work[station]
        free[station] = end
        if last:  # the head is the attention group's
            end = max(end, free[0]) + head_s
            free[0] = max(free[0], end) if head_s else free[0]
            ends.append(end)
        ready.append((end, done + 1, j))
    ends.sort()
    half = len(ends) // 2
    return (ends[-1] - ends[half - 1]) / (len(ends) - half) * micro_batches


@settings(deadline=None, max_examples=25)
@given(*(st.floats(0.2, 2.0) for _ in range(2)), st.floats(0.0, 1.0), st.integers(1, 4), st.sampled_from([6, 12]))
def test_a_round_is_the_course_of_its_micro_batches(attention_s, feed_forward_s, transfer_s, micro_batches, layers):
    law = float(round_trip(attention_s, feed_forward_s, transfer_s, micro_batches=micro_batches).step_s)
    seen = course(attention_s, feed_forward_s, transfer_s, 0.0, layers, micro_batches)
    assert law == pytest.approx(seen, rel=0.005)
    head_s = 0.1 * attention_s
    head = round_trip(attention_s, feed_forward_s, transfer_s, micro_batches=micro_batches, head_s=head_s)
    seen = course(attention_s, feed_forward_s, transfer_s, head_s, layers, micro_batches)
    assert 0.9 * seen < float(head.step_s) < 1.01 * seen


def test_what_bounds_a_round():
    for parts, m, bound in (
        ((2.0, 1.0, 0.1), 2, 0),
        ((1.0, 2.0, 0.1), 2, 1),
        ((1.0, 1.0, 2.0), 4, 2),
        ((1.0, 1.0, 0.5), 1, 3),
    ):
        found = round_trip(*parts, micro_batches=m)
        assert int(found.bound) == bound
        assert float(max(found[2:])) <= 1.0
    assert float(round_trip(2.0, 1.0, 0.1, micro_batches=2).attention_busy) == 1.0
    slope = jax.grad(lambda f: round_trip(1.0, f, 0.1, micro_batches=3.0).step_s)(2.0)
    assert float(slope) == 3.0
    assert exchange_s(64.0, 4096.0, 8.0, 4.0, 8.0, hardware.load("h100_sxm").scale_up) > 0.0


@pytest.fixture(scope="module")
def moe():
    return workloads.load("qwen3-30b-a3b"), hardware.load("h100_sxm")


def split(moe, attention=None, experts=None, chips=None, link=None, **changes):
    model, chip = moe
    first, second = chips or (chip, chip)
    return attention_ffn_law(
        model, Group(chip=first, parallelism=attention or Parallelism()),
        Group(chip=second, parallelism=experts or Parallelism()), link, operator_bound, knots=FEW, **changes,
    )  # fmt: skip


def decode_s(law, n=64.0, context=1000.0):
    return float(iteration_time(law, 0.0, 0.0, n, context, n))


@pytest.mark.parametrize("name", ["qwen3-30b-a3b", "llama-3.1-8b", "deepseek-v3"])
def test_on_the_same_chips_one_after_the_other_it_is_the_plain_law(name, moe):
    model = workloads.load(name)
    assert isinstance(model, workloads.TransformerModel)
    layout = Parallelism(tp=8) if name.startswith("deepseek") else Parallelism()
    plain = closed_form_law(model, moe[1], layout, operator_bound, knots=FEW)
    same = split((model, moe[1]), layout, layout)
    for part, expected in zip(same.tables, plain.tables):
        np.testing.assert_allclose(part, expected, rtol=1e-9, atol=1e-15)
    parts = [
        closed_form_law(model, moe[1], layout, operator_bound, knots=FEW, only=keep)
        for keep in (is_feed_forward, lambda n: not is_feed_forward(n))
    ]
    assert 0.0 < decode_s(parts[0]) < decode_s(plain)
    assert decode_s(parts[0]) + decode_s(parts[1]) == pytest.approx(decode_s(plain))


def test_groups_links_and_micro_batches(moe):
    chip = moe[1]
    four = (Parallelism(dp=4), Parallelism(dp=4, ep=4))
    free = split(moe, *four)
    linked = split(moe, *four, link=chip.scale_up)
    assert decode_s(linked) > decode_s(free)
    assert decode_s(split(moe, *four, link=chip.scale_out)) > decode_s(linked)
    # two micro-batches overlap the groups where there is work for both, four hide the way round
    times = [decode_s(split(moe, *four, link=chip.scale_up, micro_batches=m), 128.0, 4000.0) for m in (1, 2)]
    assert times[1] < times[0]
    # a chip with more bandwidth for attention helps where contexts are long
    fast = hardware.load("h200_sxm")
    mixed = split(moe, *four, chips=(fast, chip))
    assert decode_s(mixed, 128.0, 4000.0) < decode_s(free, 128.0, 4000.0)
    # an iteration at a knot is the round trip of its parts
    attention, experts = (
        closed_form_law(moe[0], chip, Parallelism(), operator_bound, knots=FEW, only=keep)
        for keep in (lambda n: not is_feed_forward(n), is_feed_forward)
    )
    head = float(part_time(attention.tables, "head", 32.0))
    expected = round_trip(
        decode_s(attention, 32.0, 1024.0) - head, decode_s(experts, 32.0), micro_batches=2, head_s=head
    )
    two = split(moe, micro_batches=2)
    assert decode_s(two, 64.0, 1024.0) == pytest.approx(float(expected.step_s), rel=1e-9)


def test_it_serves_requests(moe):
    lengths = Lengths.uniform(300, 100)
    unit = split(moe, Parallelism(dp=2), Parallelism(dp=2, ep=2), link=moe[1].scale_up, micro_batches=2)
    slow = split(moe, Parallelism(dp=2), Parallelism(dp=2, ep=2), link=moe[1].scale_out, micro_batches=2)
    quick, late = (steady_state(x, Engine(), lengths, rate_per_s=2.0) for x in (unit, slow))
    assert quick.tpot_s < late.tpot_s
    with pytest.raises(ValueError, match="micro_batches: 0"):
        split(moe, micro_batches=0)
