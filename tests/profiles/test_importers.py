"""Importers: shapes and units come out right on small files in each format, and nothing disappears without a
reason."""

import numpy as np
import pandas as pd
import pytest

from profiles.importers import import_file, read_plain_csv
from profiles.store import Store

VIDUR = pd.DataFrame(
    {
        "time_stats.attn_pre_proj.median": [0.05, 0.06], "time_stats.attn_pre_proj.std": [0.005, 0.003],
        "time_stats.mlp_up_proj.median": [0.1, np.nan], "time_stats.add.median": [0.01, 0.012],
        "time_stats.mystery.median": [1.0, 1.0], "num_tokens": [8, 128], "num_tensor_parallel_workers": [2, 2],
        "n_head": 32, "n_kv_head": 8, "n_embd": 4096, "n_expanded_embd": 14336, "use_gated_mlp": True,
    }
)  # fmt: skip


def test_vidur_lines_hold_many_operators(tmp_path):
    path = tmp_path / "mlp.csv"
    VIDUR.to_csv(path, index=False)
    store = Store(tmp_path / "store")
    report = import_file(store, path, "vidur", device="a100_sxm")
    assert (report.rows, report.added, len(report.all_refused())) == (7, 5, 2)
    rows = store.read("gemm", where={"kernel": "attn_pre_proj"}).sort_values("m")
    assert list(rows["n"]) == [3072, 3072]  # (32 + 2 x 8) heads of 128 on 2 devices
    assert list(rows["k"]) == [4096, 4096]
    assert np.allclose(rows["latency_s"], [5e-5, 6e-5])
    assert np.allclose(rows["spread"], [0.1, 0.05])
    assert list(store.read("gemm", where={"kernel": "mlp_up_proj"})["n"]) == [14336]


def test_aiconfigurator_gemm_says_what_it_includes(tmp_path):
    path = tmp_path / "gemm.parquet"
    frame = pd.DataFrame(
        {
            "gpu": "h100_sxm", "op": "gemm", "sw_version": "trtllm-1.3.0rc20", "dtype": ["bfloat16", "fp8", "fp9", "sq"],
            "m": [1, 64, 64, 64], "n": 4096, "k": 4096, "batch": 1, "kernel_source": "torch_flow",
            "latency_us": [9.0, 20.0, 20.0, -3.0],
        }
    )  # fmt: skip
    frame.to_parquet(path)
    store = Store(tmp_path / "store")
    report = import_file(store, path, "aiconfigurator")
    assert (report.added, len(report.all_refused())) == (2, 2)
    assert sorted(report.all_refused()["row"]) == [2, 3]
    assert store.read("gemm", where={"dtype": "fp8"})["includes"].tolist() == ["quantise"]
    assert "refused 1 rows, latency_s: not positive" in str(report)


def test_llmservingsim_layers_become_operators(tmp_path):
    path = tmp_path / "tables.parquet"
    base = {"hw": "RTXPRO6000", "model": "meta-llama/Llama-3.1-8B", "tp": 2, "time_us": 50.0}
    columns = ["layer", "tokens", "prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "sequences"]
    lines = [
        {"table": "dense", "layer": "qkv_proj", "tokens": 16.0},
        {"table": "attention", "prefill_chunk": 64.0, "kv_prefill": 128.0, "n_decode": 0.0, "kv_decode": 0.0},
        {"table": "attention", "prefill_chunk": 64.0, "kv_prefill": 128.0, "n_decode": 4.0, "kv_decode": 512.0},
        {"table": "per_sequence", "layer": "sampler", "sequences": 4.0},
        {"table": "dense", "layer": "qkv_proj", "tokens": 16.0, "model": "no/such-model"},
    ]
    pd.DataFrame([{**dict.fromkeys(columns), **base, **line} for line in lines]).to_parquet(path)
    store = Store(tmp_path / "store")
    report = import_file(store, path, "llmservingsim")
    assert (report.added, len(report.all_refused())) == (3, 2)
    assert store.read("gemm")[["m", "n", "k"]].iloc[0].tolist() == [16, 3072, 4096]
    assert store.read("attention")[["query_tokens", "kv_tokens"]].iloc[0].tolist() == [64, 192]
    assert store.read("mixed_attention")["decode_sequences"].tolist() == [4]


def test_neusight_files(tmp_path):
    path = tmp_path / "bmm.csv"
    columns = {"OPName": ["bmm", "softmax", "blur"], "Device": "Tesla T4", "B": [8, 512, 1], "M": [128, 0, 0]}
    frame = pd.DataFrame({**columns, "N": 128, "K": 64, "H": 1024, "Latency": [0.4, 0.2, 0.1]})
    frame.to_csv(path, index=False)
    store = Store(tmp_path / "store")
    report = import_file(store, path, "neusight")
    assert (report.added, len(report.all_refused())) == (2, 1)
    assert store.read("gemm", device="t4")["latency_s"].tolist() == pytest.approx([4e-4])
    assert store.read("softmax")[["rows", "cols"]].iloc[0].tolist() == [512, 1024]


def test_plain_csv_with_a_mapping(tmp_path):
    path = tmp_path / "mine.csv"
    pd.DataFrame({"M": [1, 2, "x"], "N": 64, "K": 64, "t": [3.0, "bad", 4.0]}).to_csv(path, index=False)
    mapping = {"M": "m", "N": "n", "K": "k", "t": "latency_s"}
    constants = {"device": "h100_sxm", "stack": "torch-2.4"}
    store = Store(tmp_path / "store")
    report = import_file(store, path, "csv", kind="gemm", columns=mapping, unit="us", constants=constants)
    assert (report.added, len(report.all_refused())) == (1, 2)
    assert store.read("gemm")["latency_s"].tolist() == pytest.approx([3e-6])
    with pytest.raises(ValueError, match="unit"):
        read_plain_csv(path, "gemm", mapping, "minutes")
    with pytest.raises(ValueError, match="did you mean"):
        read_plain_csv(path, "gemm", {"M": "mm", "t": "latency_s"}, "us")
    with pytest.raises(ValueError, match="which column holds"):
        read_plain_csv(path, "gemm", {"M": "m"}, "us")


def test_unknown_formats_and_files_are_named(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="did you mean 'vidur'"):
        import_file(store, tmp_path / "x.csv", "vidour")
    with pytest.raises(ValueError, match="no such file"):
        import_file(store, tmp_path / "x.csv", "neusight")
    (tmp_path / "y.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column"):
        import_file(store, tmp_path / "y.csv", "vidur", device="h100_sxm")
