"""Training steps: hand cases, limits, monotonicity, and the published runs."""

import numpy as np
import pytest

import hardware
import workloads
from composition import training_time, zero3_time
from workloads import Parallelism

A100 = hardware.load("a100_sxm")
GPT = workloads.load("gpt3-13b")


def step(p=None, *, m=8, sequences=64, model=GPT, chip=A100, **options):
    parallelism = p or Parallelism(tp=4, pp=2, dp=1)
    table = model.training_step(sequences, 2048, parallelism, microbatches=m, recompute="full")
    return training_time(table, chip, parallelism, microbatches=m, **options)


def total(time):
    return float(np.ravel(time.total_s)[0])


def test_terms_add_up_to_the_step():
    t = step(Parallelism(tp=4, pp=2, dp=2), rank_deviation=0.01)
    parts = (t.kernels_s, t.communication_s, t.sends_s, t.bubble_s, t.gradients_s, t.optimiser_s, t.straggler_s)
    assert sum(float(np.ravel(x)[0]) for x in parts) == pytest.approx(total(t), rel=1e-12)
    assert sum(float(np.ravel(x)[0]) for x in t.kind_s.values()) == pytest.approx(float(np.ravel(t.kernels_s)[0]))


def test_bubble_is_that_of_one_forward_one_backward():
    t = step(Parallelism(tp=4, pp=4), m=8)
    work = t.kernels_s + t.communication_s + t.sends_s
    assert float(np.ravel(t.bubble_s / work)[0]) == pytest.approx(3 / 8)
    half = step(Parallelism(tp=4, pp=4), m=8, interleave=2)
    assert float(np.ravel(half.bubble_s)[0]) < float(np.ravel(t.bubble_s)[0])
    assert float(np.ravel(step(Parallelism(tp=4, pp=1)).bubble_s)[0]) == 0.0


def test_one_stage_one_rank_is_the_sum_of_its_operators():
    alone = Parallelism()
    t = step(alone, m=4, sequences=4)
    assert float(np.ravel(t.communication_s)[0]) == 0.0
    assert float(np.ravel(t.sends_s)[0]) == 0.0
    table = GPT.training_step(4, 2048, alone, microbatches=4, recompute="full")
    assert total(t) > float(np.ravel(table.flops)[0]) / 312e12


def test_better_chips_and_efficiency_are_never_slower():
    base = total(step())
    assert total(step(matrix_efficiency=0.5)) > base
    assert total(step(chip=A100.scaled(mem_bandwidth=2))) <= base
    assert total(step(chip=A100.scaled(matrix_flops=2))) < base
    assert total(step(rank_deviation=0.02)) == base  # one data-parallel rank has nobody to wait for
    two = Parallelism(tp=4, pp=2, dp=2)
    assert total(step(two, rank_deviation=0.02)) > total(step(two))
    assert total(step(two, gradient_overlap=1.0)) <= total(step(two))


def test_degrees_that_do_not_divide_are_not_a_number():
    assert np.isnan(total(step(Parallelism(tp=np.array([3]), pp=1))))


def test_sharded_weights_cost_communication_only_where_compute_does_not_hide_it():
    p = Parallelism(dp=64)
    table = GPT.training_step(256, 2048, p, microbatches=1, recompute="full", distributed_optimiser=True)
    free = zero3_time(table, A100, p, weight_bytes=1.0, microbatches=1)
    real = zero3_time(table, A100, p, weight_bytes=GPT.weight_bytes, microbatches=1)
    vast = zero3_time(table, A100, p, weight_bytes=100 * GPT.weight_bytes, microbatches=1)
    assert total(free) <= total(real) < total(vast)
    assert float(np.ravel(free.gradients_s)[0]) == 0.0


def test_context_parallelism_shares_the_work_of_long_sequences():
    p = Parallelism(tp=8, pp=1, dp=1)
    whole = GPT.training_step(4, 16384, p, microbatches=4)
    shared = GPT.training_step(4, 16384, p, microbatches=4, context_parallel=4)
    flops = [float(np.ravel(t.total("flops", ["gemm", "attention"]))[0]) for t in (whole, shared)]
    assert flops[1] == pytest.approx(flops[0] / 4, rel=0.01)


def test_a_shared_sequence_gathers_its_keys_and_values():
    p = Parallelism(tp=8, pp=1, dp=1)
    shared = GPT.training_step(4, 16384, p, microbatches=4, context_parallel=4)
    entries = {e.name: e for e in shared.entries() if e.name.startswith("context")}
    # Per layer: gathered for the forward pass, again for the backward pass, gradients scattered.
    ops = sorted(e.operator.op for e in entries.values())
    assert ops == ["all_gather", "all_gather", "reduce_scatter"]
    spec = GPT.layers[0].attention
    payload = 16384 * 2 * spec.kv_heads / 8 * spec.head_dim * 2
    assert all(float(np.ravel(e.operator.payload_bytes)[0]) == payload for e in entries.values())
    assert all(float(np.ravel(e.count)[0]) == 4 * GPT.layer_count for e in entries.values())
    alone = GPT.training_step(4, 16384, p, microbatches=4)
    assert not any(e.name.startswith("context") for e in alone.entries())


def test_sharded_weights_overlap_in_part_and_are_gathered_again_after_recomputation():
    p = Parallelism(dp=64)
    table = GPT.training_step(256, 2048, p, microbatches=1, recompute="full", distributed_optimiser=True)
    known = {"weight_bytes": GPT.weight_bytes, "microbatches": 1}
    whole, part, none = (total(zero3_time(table, A100, p, overlap=f, **known)) for f in (1.0, 0.5, 0.0))
    assert part == pytest.approx((whole + none) / 2)
    assert total(zero3_time(table, A100, p, gathers=3.0, overlap=0.0, **known)) > none
    waiting = zero3_time(table, A100, p, rank_deviation=0.02, **known)
    assert float(np.ravel(waiting.straggler_s)[0]) == pytest.approx(whole * 0.02 * 2.37, rel=0.02)
