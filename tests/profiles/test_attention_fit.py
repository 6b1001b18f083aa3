"""Fitting attention constants: recovery of known constants, few-shot calibration, folds and samples of the tables."""

import numpy as np
import pandas as pd
import pytest

import hardware
from profiles.attention_families import family_rows, few_shot, fit_family, predict_s, write_family
from profiles.attention_fit import BOUNDS, GENERIC_PLAN, PLANS, FamilyPlan, KernelPlan, kernels_from, parameters_of
from profiles.attention_points import attention_points, sampled_rows, shape_fold
from tiles.attention_constants import WHEN_FIELDS, AttentionConstants, family_from_dict, load_family
from tiles.attention_kernels import DecodeKernel, Kernel, PrefillKernel, When

ONE_KERNEL = FamilyPlan((KernelPlan("split", {}),), (KernelPlan("flash", {}),))
TRUTH = AttentionConstants(
    architecture="hopper",
    stack="vllm",
    decode=(Kernel("split", When(), DecodeKernel(launch_s=6e-6, block_s=2.5e-6, dram_efficiency=0.8)),),
    prefill=(Kernel("flash", When(), PrefillKernel(launch_s=9e-6, efficiency=0.5, q_passes=3.0)),),
)


def made_up_rows(n=400, seed=0):
    """Rows whose latencies are those of `TRUTH`, plus the cases an importer meets."""
    rng = np.random.default_rng(seed)
    decode = np.arange(n) % 2 == 0
    kv_heads = rng.choice([1, 2, 8], n)
    length = 2.0 ** rng.integers(4, 14, n)
    frame = pd.DataFrame(
        {
            "gpu": "h100_sxm",
            "dtype": "bfloat16",
            "kv_dtype": "bfloat16",
            "op": np.where(decode, "generation_attention", "context_attention"),
            "sw_version": "vllm-0.0",
            "batch": 2.0 ** rng.integers(0, 6, n),
            "q_len": np.where(decode, 1.0, length),
            "kv_len": length,
            "heads": 1.0 * kv_heads * rng.choice([1, 4, 8], n),
            "kv_heads": 1.0 * kv_heads,
            "head_dim": rng.choice([64.0, 128.0, 256.0], n),
            "window_size": 0.0,
            "latency_us": 1.0,
        }
    )
    frame["phase"] = np.where(decode, "decode", "prefill")
    frame["latency_us"] = predict_s(frame, lambda gpu, software: TRUTH) * 1e6
    return frame


def test_constants_are_recovered_from_the_times_they_made():
    frame = made_up_rows()
    family, fits = fit_family(frame, ("hopper", "vllm"), ONE_KERNEL)
    assert fits["decode"].fit.errors.mape < 0.01
    assert fits["prefill"].fit.errors.mape < 0.01
    assert family.decode[0].constants.launch_s == pytest.approx(6e-6, rel=0.1)
    assert family.decode[0].constants.dram_efficiency == pytest.approx(0.8, rel=0.03)
    assert family.prefill[0].constants.efficiency == pytest.approx(0.5, rel=0.05)


def test_few_points_improve_on_the_prior_and_say_how_sure_they_are():
    frame = made_up_rows()
    prior = load_family("generic", "generic")
    prior = AttentionConstants(
        architecture="hopper", stack="vllm", decode=prior.decode[-1:], prefill=prior.prefill[-1:], gpus=prior.gpus
    )
    shots = frame.iloc[:48].reset_index(drop=True)
    rest = frame.iloc[48:].reset_index(drop=True)
    measured = rest["latency_us"].to_numpy() * 1e-6
    fitted = few_shot(shots, prior, ONE_KERNEL)
    before = np.median(np.abs(predict_s(rest, lambda g, s: prior) / measured - 1.0))
    after = np.median(np.abs(predict_s(rest, lambda g, s: fitted) / measured - 1.0))
    assert after < 0.6 * before
    assert fitted.log_sigma["decode"] > 0.0


def test_folds_keep_every_row_of_a_head_combination_together():
    frame = made_up_rows()
    fold = shape_fold(frame)
    assert frame.assign(fold=fold).groupby(["heads", "kv_heads", "head_dim"])["fold"].nunique().max() == 1
    assert set(fold) <= set(range(4))
    assert len(set(fold)) > 1


def test_a_sample_has_rows_of_every_slice():
    frame = made_up_rows()
    frame.loc[:2, "window_size"] = 128.0
    rows = sampled_rows(frame, 100)
    assert len(set(rows)) == len(rows)
    assert 90 <= len(rows) <= 110
    assert (frame.iloc[rows]["window_size"] == 128.0).any()
    assert list(sampled_rows(frame, 1000)) == list(range(len(frame)))


def test_unknown_formats_and_operators_appear_in_no_record():
    frame = made_up_rows(20)
    frame.loc[0, "dtype"] = "float7"
    frame.loc[1, "op"] = "something_else"
    seen = np.concatenate([p.rows for p in attention_points(frame)])
    assert sorted(seen) == list(range(2, 20))
    predicted = predict_s(frame, lambda gpu, software: TRUTH)
    assert np.isnan(predicted[:2]).all()
    assert np.isfinite(predicted[2:]).all()


def test_a_latent_attention_row_is_absorbed_in_decode_and_full_in_prefill():
    frame = made_up_rows(2).assign(heads=16.0, kv_heads=0.0, head_dim=0.0)
    frame["op"] = ["generation_mla", "context_mla"]
    decode, prefill = sorted(attention_points(frame), key=lambda p: p.phase)
    assert decode.op.shared_kv
    assert (decode.op.kv_heads, decode.op.head_dim, decode.op.value_dim) == (1.0, 576.0, 512.0)
    assert list(prefill.op.kv_heads) == [16.0]
    assert (prefill.op.head_dim, prefill.op.value_dim) == (192.0, 128.0)


@pytest.mark.parametrize("key", [*PLANS, ("generic", "generic")])
def test_every_plan_starts_inside_its_bounds_and_ends_with_a_default(key):
    plan = PLANS.get(key, GENERIC_PLAN)
    for phase in ("decode", "prefill"):
        parameters = parameters_of(phase, plan)
        assert len({p.name for p in parameters}) == len(parameters)
        assert all(p.lower <= p.initial <= p.upper for p in parameters)
        kernels = kernels_from(phase, plan, {p.name: p.initial for p in parameters})
        assert kernels[-1].when == When()
        assert all(set(k.when) <= set(WHEN_FIELDS) for k in getattr(plan, phase))
    assert all(low < high for low, high in BOUNDS.values())


def test_a_family_file_round_trips(tmp_path):
    import tomllib

    text = {"n": 1, "mape": 0.1, "log_sigma": 0.1}
    table = {
        "architecture": "hopper",
        "stack": "vllm",
        "gpus": ["h100_sxm"],
        "software": ["vllm-0"],
        "date": "2026-01-01",
        "data": "made up",
    }
    for phase, base in (("decode", {"launch_s": 6.25e-06}), ("prefill", {"efficiency": 0.5})):
        table[phase] = {
            "fit": text,
            "base": base,
            "kernels": [{"name": "only", "when": {"windowed": True}, "lone": 0.5}],
        }
    write_family(table, tmp_path / "a.toml")
    family = family_from_dict(tomllib.loads((tmp_path / "a.toml").read_text()))
    assert family.decode[0] == Kernel("only", When(windowed=True), DecodeKernel(launch_s=6.25e-6, lone=0.5))
    assert family.prefill[0].constants.efficiency == 0.5


def test_rows_are_grouped_into_families():
    frame = pd.concat([made_up_rows(4), made_up_rows(4).assign(gpu="l40s", sw_version="trtllm-9")], ignore_index=True)
    assert [key for key, _ in family_rows(frame)] == [("ada", "trtllm"), ("hopper", "vllm")]
    assert hardware.load("l40s").architecture == "Ada"
