"""The store: what goes in comes out, once; what is wrong is refused by row, with its reason and count."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.store import Store, shape_hashes
from profiles.store_schema import KINDS, canonical, kind_of


def gemms(**changes: object) -> pd.DataFrame:
    """Four plausible GEMMs on an H100, with columns replaced."""
    rows = pd.DataFrame({"m": [1, 16, 256, 4096], "n": 4096, "k": 4096, "latency_s": [9e-6, 1e-5, 2e-5, 2.5e-4]})
    return rows.assign(**{"device": "h100_sxm", "stack": "torch-2.4", "source": "here", **changes})


def test_rows_come_back_in_canonical_form(tmp_path):
    store = Store(tmp_path / "store")
    report = store.append("gemm", gemms(device="NVIDIA H100 80GB HBM3", dtype="bfloat16"))
    assert (report.offered, report.added, report.duplicates, len(report.refused)) == (4, 4, 0, 0)
    rows = store.read("gemm", device="h100_sxm", stack="torch-2.4", where={"dtype": "bf16", "n": 4096})
    assert list(rows["m"]) == [1, 16, 256, 4096]
    assert set(rows["device_name"]) == {"NVIDIA H100 80GB HBM3"}
    assert set(rows["weight_dtype"]) == {"bf16"}
    assert np.allclose(rows["latency_s"], gemms()["latency_s"])
    assert store.kinds() == ("gemm",)
    assert store.summary()["rows"].sum() == 4


def test_duplicates_are_counted_and_repeats_kept(tmp_path):
    store = Store(tmp_path)
    twice = pd.concat([gemms(), gemms(device="H100_SXM")], ignore_index=True)
    report = store.append("gemm", twice)
    assert (report.added, report.duplicates, report.repeats) == (4, 4, 0)
    report = store.append("gemm", gemms())
    assert (report.added, report.duplicates) == (0, 4)
    report = store.append("gemm", gemms(latency_s=[1.1e-5, 1.2e-5, 2.2e-5, 2.7e-4]))
    assert (report.added, report.repeats, report.duplicates) == (4, 4, 0)
    median = store.read("gemm", median=True)
    assert len(median) == 4
    assert median["latency_s"].iloc[0] == pytest.approx(1e-5)
    assert (median["spread"] > 0).all()
    assert set(median["n_repeats"]) == {2}


@pytest.mark.parametrize(
    ("changes", "column", "reason"),
    [
        ({"latency_s": [np.nan, -1e-6, 0.0, 2.5e-4]}, "latency_s", "not"),
        ({"latency_s": [1e-5, 1e-5, 1e-5, 1e-12]}, "latency_s", "outside"),
        ({"stack": ["torch-2.4", "torhc-2.4", "", "torch-2.4"]}, "stack", "unknown stack"),
        ({"device": ["h100_sxm", "h100-sxm", "h100_sxm", "h100_sxm"]}, "device", "did you mean 'h100_sxm'"),
        ({"m": [1, 0, -3, np.nan]}, "m", "expected more than 0"),
        ({"m": [1, 16, "many", 4096]}, "m", "expected more than 0"),
        ({"dtype": ["bf16", "bf17", "bf16", "bf16"]}, "dtype", "unknown dtype"),
    ],
)
def test_bad_rows_are_refused_one_by_one(tmp_path, changes, column, reason):
    store = Store(tmp_path)
    report = store.append("gemm", gemms(**changes))
    assert len(report.refused) > 0
    assert report.added + len(report.refused) == 4
    assert set(report.refused["column"]) == {column}
    assert report.refused["reason"].str.contains(reason).all()
    assert sum(report.reasons().values()) == len(report.refused)
    assert len(store.read("gemm")) == report.added


def test_refused_rows_keep_their_numbers(tmp_path):
    rows = gemms(latency_s=[1e-5, np.inf, 1e-5, -1.0])
    rows.index = [10, 11, 12, 13]
    refused = Store(tmp_path).append("gemm", rows).refused
    assert list(refused["row"]) == [11, 13]
    assert list(refused["value"]) == ["inf", "-1.0"]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (gemms().rename(columns={"latency_s": "latency_us"}), "latency_s in seconds"),
        (gemms().rename(columns={"m": "mm"}), "did you mean 'm'"),
        (gemms().drop(columns="stack"), "stack missing"),
        (gemms(latency_s=[9.0, 10.0, 20.0, 250.0]), "slower than its roofline"),
        (gemms(latency_s=[9e-8, 1e-8, 2e-8, 2.5e-8], m=4096), "faster than its roofline"),
    ],
)
def test_wrong_columns_and_units_are_refused_as_a_whole(tmp_path, frame, message):
    store = Store(tmp_path)
    with pytest.raises(ValueError, match=message):
        store.append("gemm", frame)
    assert store.kinds() == ()


def test_unknown_kind_names_the_nearest(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'gemm'"):
        Store(tmp_path).append("gem", gemms())


def test_a_file_with_another_unit_in_the_store_is_refused(tmp_path):
    store = Store(tmp_path)
    store.append("gemm", gemms())
    part = next(tmp_path.glob("gemm-*.parquet"))
    table = pq.read_table(part)
    pq.write_table(table.rename_columns(["latency_us" if c == "latency_s" else c for c in table.column_names]), part)
    with pytest.raises(ValueError, match="another unit"):
        store.read("gemm")


def test_a_foreign_file_is_named(tmp_path):
    path = tmp_path / "gemm-00000.parquet"
    path.write_text("no parquet")
    with pytest.raises(ValueError, match="not a Parquet file"):
        Store(tmp_path).read("gemm")
    pq.write_table(pa.table({"m": [1.0]}), path)
    with pytest.raises(ValueError, match="no file of a store"):
        Store(path).kinds()


def test_parts_merge_without_loss(tmp_path):
    store = Store(tmp_path)
    for m in range(1, 41):
        store.append("gemm", gemms(m=[m, m + 100, m + 200, m + 300]))
    before = store.data_hash("gemm")
    assert len(list(tmp_path.glob("gemm-*.parquet"))) < 40
    store.compact("gemm")
    assert len(list(tmp_path.glob("*"))) == 1
    assert len(store.read("gemm")) == 160
    assert store.data_hash("gemm") == before


def test_own_devices_and_stacks_can_be_registered(tmp_path):
    store = Store(tmp_path, devices=["my_npu"], stacks=["mylib"])
    assert store.append("gemm", gemms(device="my_npu", stack="mylib-1.0")).added == 4
    assert len(store.read("gemm", device="my_npu")) == 4


@given(
    m=st.integers(1, 10**6),
    n=st.integers(1, 10**5),
    dtype=st.sampled_from(["bf16", "fp8", "nvfp4"]),
    out=st.sampled_from(["", "bf16"]),
)
@settings(max_examples=30, deadline=None)
def test_equal_operators_have_equal_hashes(m, n, dtype, out):
    rows = gemms(m=m, n=n, dtype=dtype, out_dtype=out)
    spec = kind_of("gemm")
    hashes = shape_hashes("gemm", canonical(spec, rows))
    assert len(set(hashes)) == 1
    spelt = shape_hashes("gemm", canonical(spec, rows.assign(weight_dtype=dtype, out_dtype=out or dtype, m=float(m))))
    assert set(spelt) == set(hashes)
    other = shape_hashes("gemm", canonical(spec, rows.assign(m=m + 1)))
    assert not set(other) & set(hashes)


def test_every_operator_kind_round_trips(tmp_path):
    store = Store(tmp_path)
    for kind in KINDS.values():
        fields = {name: 8.0 for name, default in kind.fields.items() if default is None}
        row = pd.DataFrame({**fields, "device": "host", "stack": "jax-1", "latency_s": 1e-5}, index=[0])
        assert store.append(kind.name, row).added == 1, kind.name
        if kind.operator is not None:
            op = kind.operator_of(store.read(kind.name))
            assert np.all(np.isfinite(op.bytes)), kind.name
    assert set(store.kinds()) == set(KINDS)
