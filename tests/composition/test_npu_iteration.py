"""One iteration of GPT-3 175B on systolic NPUs: trends over parallelism, and the limits in which it must equal simpler sums."""

import numpy as np
import pytest

import hardware
import workloads
from composition import Deployment, EngineOverheads, iteration_time, operator_models
from ridgeline.kernel_estimators import chip_estimator
from roofline import phase_time
from workloads import Batch, Parallelism
from workloads.operators import Transfer

NPU, MODEL = hardware.load("npu_128x128"), workloads.load("gpt3-175b")
KERNELS = chip_estimator()
PROMPT = Batch.prefill_of(1, 2048)


def ask(batch=PROMPT, pieces=1, **degrees):
    return iteration_time(
        MODEL, NPU, batch, Deployment(parallelism=Parallelism(**degrees), microbatches=pieces),
        models=operator_models(KERNELS, name="systolic array"), overheads=EngineOverheads(start_s=0.0),
    )  # fmt: skip


def test_one_npu_is_the_plain_sum_of_its_kernels():
    alone = ask()
    table = MODEL.phase(PROMPT, Parallelism())
    assert float(alone.mean_s) == pytest.approx(float(phase_time(table, NPU, estimator=KERNELS).total_s), rel=1e-12)
    assert alone.terms["communication"] == alone.terms["pipeline"] == 0.0
    assert set(alone.provenance.values()) == {"systolic array"}
    # 2 x 174.6e9 weights per token at 32.8 TFLOP/s are 21.8 s; the arrays reach 97 % of it.
    weights = 96 * 12 * 12288**2
    assert float(alone.terms["matrix"]) == pytest.approx(2 * weights * 2048 / 32.768e12, rel=0.05)


def test_more_tensor_parallelism_computes_less_and_communicates_more():
    tp = np.array([1, 2, 4, 8, 16, 32, 48, 96])
    found = ask(tp=tp)
    for part in ("matrix", "attention"):
        assert np.all(np.diff(found.terms[part]) <= 0.0), part
    assert found.terms["matrix"][-1] < found.terms["matrix"][0] / 90
    assert np.all(np.diff(found.terms["communication"]) > 0.0)
    assert np.all(np.diff(found.mean_s) < 0.0)
    efficiency = found.mean_s[0] / (tp * found.mean_s)
    assert np.all(np.diff(efficiency) < 0.0)  # each further NPU helps less
    assert np.isnan(ask(tp=64).mean_s)  # 96 heads


def test_a_pipeline_keeps_the_latency_of_one_micro_batch_plus_hops():
    pp = np.array([1, 2, 8, 16, 96])
    found = ask(pp=pp)
    hop = KERNELS(Transfer(payload_bytes=2048 * 12288 * 2.0), NPU).total_s
    assert found.mean_s == pytest.approx(found.mean_s[0] + (pp - 1) * hop, rel=1e-9)
    assert found.terms["matrix"] == pytest.approx(found.terms["matrix"][0] / pp)
    # Many micro-batches fill it: the bubble's share falls, to (pp - 1) / (m + pp - 1) of the busy time.
    few, many = (ask(Batch.prefill_of(m, 2048), m, pp=8) for m in (2, 64))
    assert many.mean_s / 64 < 0.5 * few.mean_s / 2
    assert float(many.terms["pipeline"] / many.mean_s) == pytest.approx(7 / 71, rel=0.01)


def test_hybrids_lie_between_and_the_count_pays_off_in_throughput():
    for count in (16, 32, 96):
        latency = [float(ask(tp=tp, pp=count // tp).mean_s) for tp in (1, 4, 8, 16)]
        assert latency == sorted(latency, reverse=True)
    sixty_four = [ask(Batch.prefill_of(64, 2048), 64, tp=8, pp=pp).mean_s for pp in (2, 4, 8, 16)]
    assert np.all(np.diff(np.ravel(sixty_four)) < 0.0)
    assert 4.5 < float(sixty_four[0] / sixty_four[-1]) < 8.0  # 16 to 128 NPUs


def test_near_memory_shortens_a_decode_step_by_its_attention_alone():
    step = Batch.decode_of(64, 2047)
    pim = hardware.load("npu_128x128_pim")
    models = operator_models(KERNELS)
    deployment = Deployment(parallelism=Parallelism(tp=16))
    plain, near = (iteration_time(MODEL, chip, step, deployment, models=models) for chip in (NPU, pim))
    assert near.terms["attention"] < 0.2 * plain.terms["attention"]
    for part in ("matrix", "memory-bound", "communication"):
        assert float(near.terms[part]) == float(plain.terms[part])
    prompts = [float(iteration_time(MODEL, chip, PROMPT, deployment, models=models).mean_s) for chip in (NPU, pim)]
    assert prompts[0] == prompts[1]
