"""Which settings keep the levels, and in which order; what to say where none does."""

from typing import Any

from ridgeline.serve_levels import LEVELS, Levels, Load


def ranked(seen: Any, levels: Levels, load: Load, where: str, sort: str = "goodput") -> Any:
    """Settings that keep the levels, best first (`sort`: goodput per chip or cost); `ValueError` with the nearest miss if there
    is none."""
    stable = seen[seen["stable"]]
    if not len(stable):
        row = seen.loc[seen["most_per_s"].idxmax()]
        raise ValueError(
            f"load: {load} is unstable in every setting on {where}; expected less than the largest limit of "
            f"{row['most_per_s']:.4g} requests/s ({words(row)}, {row['limit']})"
        )
    good = stable[stable["slack"] <= 1.0 + 1e-9]
    if not len(good):
        row = stable.loc[stable["slack"].idxmin()]
        reach = f"at {load}" if load.given else "even under a light load"
        raise ValueError(
            f"levels: no setting on {where} keeps {levels} {reach}; the nearest miss is {words(row)}: {_times(row, levels)}"
        )
    goodput = "good_requests_per_s_per_gpu" if levels.tails else "requests_per_s_per_gpu"
    keys = {goodput: False, "slack": True, "max_sequences": True}
    if sort == "cost" and good["usd_per_million_output_tokens"].notna().any():
        keys = {"usd_per_million_output_tokens": True} | keys
    order = good.sort_values(list(keys), ascending=list(keys.values()), kind="stable")
    return order.drop(columns=["stable"]).reset_index(drop=True)


def words(row: Any) -> str:
    """A setting in words."""
    own = f"tp {row['tp']} ep {row['ep']} dp {row['dp']} x {row['replicas']}"
    if row["mode"] == "aggregated":
        return f"{own} replicas, {row['max_sequences']} sequences, {row['max_batched_tokens']} tokens"
    pool = f"tp {row['prefill_tp']} ep {row['prefill_ep']} dp {row['prefill_dp']} x {row['prefill_replicas']}"
    return f"prompts on {pool} {row['prefill_chip']}, decoding on {own} {row['chip']}, {row['max_sequences']} sequences"


def _times(row: Any, levels: Levels) -> str:
    columns = ("ttft_s", "tpot_s", "ttft_p99_s", "tpot_p99_s")
    return ", ".join(
        f"{name.upper()} {row[column]:.4g} s".replace("P99", "p99")
        for name, column, level in zip(LEVELS, columns, levels[:4])
        if level < float("inf")
    )
