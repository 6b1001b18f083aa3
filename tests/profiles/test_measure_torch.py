"""The PyTorch backend, on the processor: every operator kind runs or says why not, and computes what it should."""

import json

import numpy as np
import pytest

from profiles.measure import Unsupported, measure_plan
from profiles.plan import plan_measurements, read_plan
from profiles.store import Store
from ridgeline.cli import main
from workloads import Batch
from workloads.operators import (
    Attention,
    Conv2d,
    Elementwise,
    Gather,
    Gemm,
    GroupedGemm,
    Normalisation,
    Quantise,
    RotaryEmbedding,
    Softmax,
)

torch = pytest.importorskip("torch", reason="PyTorch is an optional extra", exc_type=ImportError)
HEADS = {"heads": 8.0, "kv_heads": 2.0, "head_dim": 16.0, "dtype": "fp32"}


@pytest.fixture(scope="module")
def backend():
    from profiles.measure_torch import TorchBackend

    return TorchBackend(flush=False, place="cpu")


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (Gemm(m=8.0, n=64.0, k=32.0), (8, 64)),
        (Gemm(m=8.0, n=64.0, k=32.0, batch=3.0, dtype="fp16"), (3, 8, 64)),
        (Gemm(m=32.0, n=64.0, k=32.0, dtype="int8", out_dtype="bf16"), (32, 64)),
        (GroupedGemm(tokens=16.0, experts=8.0, top_k=2.0, n=32.0, k=64.0, local_experts=8.0), (8, 4, 32)),
        (Attention(sequences=2.0, query_tokens=1.0, kv_tokens=33.0, **HEADS), (2, 8, 1, 16)),
        (Attention(sequences=2.0, query_tokens=7.0, kv_tokens=33.0, **HEADS), (2, 8, 7, 16)),
        (Attention(sequences=2.0, query_tokens=7.0, kv_tokens=7.0, value_dim=8.0, **HEADS), (2, 8, 7, 8)),
        (Softmax(rows=4.0, cols=9.0), (4, 9)),
        (Normalisation(rows=4.0, cols=16.0, flavour="layer"), (4, 16)),
        (Gather(rows=5.0, cols=16.0), (5, 16)),
        (RotaryEmbedding(tokens=4.0, heads=2.0, rotary_dim=16.0), (4, 2, 16)),
        (Elementwise(elements=64.0, inputs=2.0, name="experts_silu_mul"), (64,)),
        (
            Conv2d(
                batch=1.0, channels=4.0, filters=8.0, height=9.0, width=9.0, kernel_h=3.0, kernel_w=3.0, dtype="fp32"
            ),
            (1, 8, 9, 9),
        ),
    ],
)
def test_operators_run_and_are_timed(backend, op, shape):
    run = backend.prepare(op)
    assert tuple(run().shape) == shape
    assert (backend.samples_s(run, 3) > 0.0).all()


def test_fused_operators_give_both_results(backend):
    total, normal = backend.prepare(Normalisation(rows=4.0, cols=16.0, residual=1.0))()
    assert total.shape == normal.shape == (4, 16)
    values, scale = backend.prepare(Quantise(rows=4.0, cols=16.0, out_dtype="int8"))()
    assert values.dtype == torch.int8
    assert scale.shape == (4, 1)


def test_a_chunk_behind_a_prefix_sees_the_prefix_and_itself(backend):
    from profiles.measure_torch import _Torch

    library = _Torch(torch.device("cpu"))
    q, k, v = (library.random((1, n, 4, 8), "fp32") for n in (3, 5, 5))
    last = library.attention(q[:, 2:], k, v, False)
    torch.testing.assert_close(library.attention(q, k, v, True)[:, :, 2:], last)
    first = library.attention(q[:, :1], k[:, :3], v[:, :3], False)
    torch.testing.assert_close(library.attention(q, k, v, True)[:, :, :1], first)


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        (Gemm(m=8.0, n=64.0, k=32.0, dtype="nvfp4"), "no format nvfp4"),
        (Gemm(m=8.0, n=64.0, k=32.0, weight_dtype="int4"), "int4 weights"),
        (Gemm(m=8.0, n=64.0, k=32.0, batch=2.0, dtype="int8"), "batched 8-bit"),
        (Attention(sequences=1.0, query_tokens=1.0, kv_tokens=33.0, **HEADS, window=8.0), "windowed"),
    ],
)
def test_what_cannot_run_says_why(backend, op, reason):
    with pytest.raises(Unsupported, match=reason):
        backend.prepare(op)


def test_a_plan_goes_through_into_the_store_and_resumes(tmp_path, backend):
    batches = (Batch.decode_of(np.array([1.0, 4.0]), 64.0), Batch.prefill_of(1.0, np.array([32.0])))
    plan = plan_measurements(["qwen3-0.6b"], batches=batches)
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    store = Store(tmp_path / "store")
    report = measure_plan(read_plan(path), store, backend, repeats=1, limit=12)
    assert report.measured == 12
    assert measure_plan(read_plan(path), store, backend, repeats=1, limit=1).known == 12
    rows = store.summary()
    assert rows["rows"].sum() == 13
    assert rows["stack"].str.match(r"torch-\d").all()
    assert (rows["device"] == "host").all()


def test_command(tmp_path, capsys):
    plan = {**json.loads(plan_measurements(["qwen3-0.6b"], batches=(Batch.decode_of(1.0, 64.0),)).to_json())}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan))
    arguments = ["measure", "--list", str(path), "--store", str(tmp_path / "s"), "--repeats", "1", "--limit", "2"]
    for extra, code in ((["--place", "cpu"], 0), (["--place", "tpu"], 2)):
        with pytest.raises(SystemExit) as end:
            main([*arguments, "--backend", "torch", "--no-flush", *extra])
        assert end.value.code == code
    said = capsys.readouterr()
    assert "2 measured" in said.out
    assert "expected auto, cpu or cuda" in said.err
