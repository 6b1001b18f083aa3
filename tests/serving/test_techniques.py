"""Serving techniques as laws: each is the plain law exactly where it does nothing, and helps or hurts where it should."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hardware
import workloads
from composition import iteration_time as pass_time
from composition import operator_models
from composition.offload import Device, HandOver
from dataflow import near_memory_time, systolic_time
from roofline import operator_bound
from roofline.phase import phase_time
from serving import (
    Engine,
    Lengths,
    closed_form_law,
    iteration_time,
    replay,
    speculative_law,
    steady_state,
    tokens_per_step,
)
from serving.closed_form_law import Knots
from serving.phase_law import at_contexts, iteration_time_scalar, slice_time
from serving.replay import Deployment
from serving.requests import Requests
from serving.stages import Network, Pool, RequestClass, Stage, chain, law_time, steady_network
from serving.techniques import (
    Adapters,
    SharedPrefix,
    early_exit_law,
    fused_attention_law,
    offloaded_decode_law,
    tokens_per_tree_step,
    tree_law,
    tree_nodes,
    with_adapters,
    with_shared_prefix,
)
from workloads import Batch, Parallelism

MODEL, CHIP = workloads.load("llama-3.1-8b"), hardware.load("h100_sxm")
KNOTS = Knots(2048, 8192, 256)


def built(rewrite=None, model=MODEL):
    return closed_form_law(model, CHIP, Parallelism(), operator_bound, knots=KNOTS, rewrite=rewrite)


@pytest.fixture(scope="module")
def law():
    return built()


def same(one, other) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one.tables, other.tables))


def step_s(law, n=64.0, context=4096.0, prompt=0.0):
    return float(iteration_time(law, prompt, 0.5 * prompt, n, context, n))


@settings(max_examples=30, deadline=None)
@given(a=st.floats(0.0, 1.0), levels=st.integers(0, 8), children=st.integers(1, 4))
def test_a_tree_of_single_children_is_the_chain_and_more_children_accept_more(a, levels, children):
    chain = tokens_per_step(a, float(levels))
    assert tokens_per_tree_step(a, (1,) * levels) == pytest.approx(float(chain), rel=1e-9)
    wide = tokens_per_tree_step(a, (children,) * levels)
    assert chain - 1e-9 <= wide <= levels + 1.0 + 1e-9
    assert tree_nodes((children,) * levels) == sum(children**d for d in range(1, levels + 1))


def test_tokens_of_a_tree_are_those_of_drawn_ones():
    # Three children, then two: right with 0.4 each, given that the siblings before were wrong.
    right = np.random.default_rng(0).random((200_000, 2, 3)) < 0.4
    first, second = right[:, 0].any(axis=1), right[:, 1, :2].any(axis=1)
    assert tokens_per_tree_step(0.4, (3, 2)) == pytest.approx(1.0 + first.mean() + (first & second).mean(), rel=5e-3)


def test_the_law_of_a_tree_is_that_of_the_chain_and_grows_with_its_nodes(law):
    draft = early_exit_law(law, 0.25)
    chain, tree = speculative_law(law, 3.0, draft), tree_law(law, (1, 1, 1), draft)
    assert tree.tables.decode_s == pytest.approx(chain.tables.decode_s, rel=1e-12)
    assert same(tree_law(law, ()), law)
    assert same(early_exit_law(law, 1.0), law)
    plain = step_s(law)
    assert 0.25 * plain < step_s(draft) < 0.4 * plain  # a quarter of the layers, and the head
    bushy = tree_law(law, (4, 2), draft)
    assert step_s(bushy) > step_s(tree_law(law, (2, 2), draft)) > step_s(tree_law(law, (1, 1), draft)) > plain
    # Small batches have matrix units to spare for the extra nodes, large ones do not.
    gain = [tokens_per_tree_step(0.6, (3, 2)) * step_s(law, n) / step_s(tree_law(law, (3, 2), draft_share=0.05), n)
            for n in (1.0, 250.0)]  # fmt: skip
    assert gain[0] > 1.5 > gain[1]
    with pytest.raises(ValueError, match=r"branching\[1\]: 0"):
        tree_law(law, (2, 0))
    with pytest.raises(ValueError, match=r"share: 1\.5"):
        early_exit_law(law, 1.5)


def test_adapters_cost_nothing_where_there_are_none_and_more_the_more_are_hit(law):
    table = MODEL.phase(Batch.decode_of(64, 2048), Parallelism())
    for none in (Adapters(0, 8), Adapters(16, 0), Adapters(16, 8, share=0.0)):
        assert with_adapters(table, Batch.decode_of(64, 2048), none) is table
        assert same(built(none.rewrite), law)
    one, many = built(Adapters(16, 1).rewrite), built(Adapters(16, 64).rewrite)
    assert step_s(law) < step_s(one) < step_s(many)
    assert step_s(built(Adapters(64, 64).rewrite)) > step_s(many)
    assert step_s(built(Adapters(16, 64, popularity=1.5).rewrite)) < step_s(many)  # favourites share their weights
    prompt = [step_s(x, 0.0, prompt=2048.0) for x in (one, many)]
    assert prompt[1] == pytest.approx(prompt[0])  # one prompt has one adapter, however many there are


def test_adapters_by_hand():
    batch = Batch.decode_of(8, 100)
    table = with_adapters(MODEL.phase(batch, Parallelism()), batch, Adapters(16, 4, targets=("o_proj",)))
    found = {entry.name: entry for entry in table.entries()}
    shrink, expand = found["o_proj decode shrink"], found["o_proj decode expand"]
    hit = 4 * (1 - 0.75**8)
    assert float(np.ravel(shrink.operator.batch)[0]) == pytest.approx(hit)
    assert float(np.ravel(shrink.operator.reads["b"])[0]) == pytest.approx(hit * 4096 * 16 * 2)
    assert float(np.ravel(expand.operator.flops)[0]) == pytest.approx(2 * 8 * 4096 * 16)
    assert float(np.ravel(shrink.count)[0]) == 32
    with pytest.raises(ValueError, match=r"adapters\.share: 2"):
        with_adapters(table, batch, Adapters(16, 4, share=2.0))


def test_a_shared_prefix_is_read_once_and_without_one_nothing_changes(law):
    for none in (SharedPrefix(0), SharedPrefix(1024, group=1)):
        assert same(built(none.rewrite), law)
    shared = [step_s(built(SharedPrefix(p).rewrite)) for p in (512, 1024, 4000)]
    assert step_s(law) > shared[0] > shared[1] > shared[2]
    assert step_s(built(SharedPrefix(1024, group=4).rewrite)) > shared[1]  # more groups, more reading
    alone = built(SharedPrefix(1024).rewrite)
    assert step_s(alone, n=1.0) == step_s(law, n=1.0)  # one sequence shares with nobody
    assert step_s(alone, n=0.0, prompt=512.0) == step_s(law, n=0.0, prompt=512.0)
    # By hand: 64 sequences read 1024 of their 4097 positions once instead of 64 times, and write and merge partial outputs.
    batch = Batch.decode_of(64, 4096)
    plain = MODEL.phase(batch, Parallelism())
    split = with_shared_prefix(plain, SharedPrefix(1024))
    saved = 63 * 1024 * 2 * 8 * 128 * 2
    outputs = 64 * 32 * 128 * 2
    added = 32 * (
        outputs * (1 + 1 + 3)
    )  # queries read and outputs written once more, and the map: two read, one written
    assert float(np.ravel(plain.bytes - split.bytes)[0]) == pytest.approx(32 * saved - added)
    assert float(np.ravel(split.total("flops", ("attention",)))[0]) == pytest.approx(
        float(np.ravel(plain.total("flops", ("attention",)))[0])
    )


def test_windows_keep_their_operator():
    model = workloads.load("gpt-oss-20b")
    table = model.phase(Batch.decode_of(16, 4096), Parallelism())
    split = with_shared_prefix(table, SharedPrefix(1024))

    def attended(table):
        found = [e for e in table.entries() if e.name == "attention_decode"]
        return {float(np.ravel(e.operator.window)[0]): float(np.ravel(e.operator.kv_tokens)[0]) for e in found}

    assert attended(table) == {0.0: 4097.0, 128.0: 4097.0}
    assert attended(split) == {0.0: 3073.0, 128.0: 4097.0}
    assert float(phase_time(split, CHIP).total_s.ravel()[0]) < float(phase_time(table, CHIP).total_s.ravel()[0])


def test_fused_attention_hides_the_shorter_of_two_and_never_an_iteration_of_one_kind(law):
    assert iteration_time(fused_attention_law(law, 0.0), 512.0, 256.0, 64.0, 4096.0, 64.0) == iteration_time(
        law, 512.0, 256.0, 64.0, 4096.0, 64.0
    )
    half, whole = fused_attention_law(law, 0.5), fused_attention_law(law, 1.0)
    mixed = [step_s(x, prompt=1024.0) for x in (law, half, whole)]
    assert mixed[0] > mixed[1] > mixed[2]
    assert mixed[1] == pytest.approx(0.5 * (mixed[0] + mixed[2]))
    for x in (half, whole):
        assert step_s(x) == step_s(law)
        assert step_s(x, n=0.0, prompt=512.0) == step_s(law, n=0.0, prompt=512.0)
    # The slice, the compiled form and the replay's form agree.
    point = (700.0, 350.0, 40.0, 3000.0, 40.0)
    seconds = float(iteration_time(half, *point))
    cut = at_contexts(half, 350.0, 3000.0)
    assert float(slice_time(cut, 700.0, 40.0, 40.0)) == pytest.approx(seconds)
    assert iteration_time_scalar(half.tables, 0.0, 0.0, *point, 0.0, 0.5) == pytest.approx(seconds)
    slope = jax.jit(jax.grad(lambda f: iteration_time(replace(law, attention_overlap=f), *point)))(jnp.asarray(0.5))
    assert float(slope) == pytest.approx(2.0 * (seconds - float(iteration_time(law, *point))))
    with pytest.raises(ValueError, match=r"overlap: 1\.2"):
        fused_attention_law(law, 1.2)


def test_steady_state_and_replay_see_the_fused_kernel(law):
    lengths, engine = Lengths.uniform(4000, 100), Engine(max_sequences=64, max_batched_tokens=1024)
    load = Requests(np.arange(60) * 0.12, np.full(60, 4000), np.full(60, 100), np.zeros(60, int), np.zeros(60))
    served = [replay(load, x, engine, Deployment()).tpot_s.mean() for x in (law, fused_attention_law(law, 1.0))]
    fluid = [
        float(steady_state(x, engine, lengths, rate_per_s=8.0).tpot_s) for x in (law, fused_attention_law(law, 1.0))
    ]
    assert served[1] < served[0]
    assert fluid[1] < fluid[0]


def test_offloaded_steps_are_those_of_home_where_nothing_may_move_and_serve_more_where_it_may():
    chip, model = hardware.load("npu_128x128_pim"), workloads.load("opt-1.3b")
    npu = Device("npu", chip, operator_models(systolic_time))
    banks = Device("pim", chip, operator_models(lambda op, chip: near_memory_time(op, chip, handover=False)))
    knots, far = (1.0, 16.0, 64.0), HandOver(latency_s=1e9)
    home = offloaded_decode_law(model, (npu, banks), far, 1000.0, side_by_side=False, knots=knots)
    lone = offloaded_decode_law(model, (npu,), HandOver(), 1000.0, knots=knots)
    assert home.seconds == pytest.approx(lone.seconds, rel=1e-12)
    step = pass_time(model, chip, Batch.decode_of(16, 1000), models=npu.models)
    launch = float(step.terms["launch"])
    assert float(law_time(home, 16.0)) == pytest.approx(float(step.mean_s) - launch)
    near = offloaded_decode_law(model, (npu, banks), HandOver(5e-7, 936e9), 1000.0, knots=knots)
    assert all(a < b for a, b in zip(near.seconds[1:], home.seconds[1:]))

    def served(law):
        pool = Pool(name="decode", kind="continuous", slots=64, law=law)
        stages = chain(Stage(name="decode", pool="decode", work=100.0))
        return steady_network(
            Network(classes=(RequestClass(name="chat", rate_per_s=1.0, stages=stages),), pools=(pool,))
        )

    assert served(near).scale > 1.5 * served(home).scale
    with pytest.raises(ValueError, match="context_tokens: -1"):
        offloaded_decode_law(model, (npu,), far, -1.0)
