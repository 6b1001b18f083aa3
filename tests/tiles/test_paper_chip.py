"""A chip of a few numbers still predicts, and says what was assumed."""

import hardware
from tiles.estimator import tile_estimator
from tiles.paper_chip import completed
from workloads import Attention, Elementwise, Gemm

SHORT = hardware.load(
    {
        "name": "paper",
        "matrix": {"bf16": "1000 TFLOP/s"},
        "memory": {"dram": {"capacity": "80 GB", "bandwidth": "3 TB/s"}},
    }
)


def test_missing_numbers_are_assumed_and_marked():
    chip = completed(SHORT)
    assert chip.cores > 1
    assert chip.level("l2").capacity_bytes > 0
    kinds = {path: kind for path, kind, _ in chip.provenance}
    assert kinds["cores"] == kinds["memory.l2.capacity_bytes"] == "assumed"
    assert completed(chip) is chip
    h100 = hardware.load("h100_sxm")
    assert completed(h100) is h100


def test_a_short_chip_answers_every_kind_above_its_bound():
    ops = (
        Gemm(m=256, n=4096, k=4096),
        Attention(sequences=8, query_tokens=1, kv_tokens=2048, heads=32, kv_heads=8, head_dim=128),
        Elementwise(elements=1e7, inputs=2),
    )
    for op in ops:
        assert tile_estimator()(op, SHORT).total_s > op.flops / 1e15
