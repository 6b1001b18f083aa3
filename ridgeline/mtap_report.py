"""The assessment protocol applied: tools whose predictions lie beside measurements, this one from its validation report.

Domains are never ranked against each other. D1 and D2 come from predictions and measurements of the same rows, D3 from what a tool
had not seen, D4 and D5 from a table of facts; what is not known stays open, and the score is an interval.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from composition import (
    DIMENSIONS,
    SURVEY_SCORES,
    ToolFacts,
    ToolScore,
    consistent_grades,
    grade_ranges,
    rank_stability,
    score_tool,
)
from composition.mtap import THRESHOLDS_VERSION
from composition.mtap_tables import LIMITS
from ridgeline.mtap_facts import read_facts, read_report
from ridgeline.validate import training
from ridgeline.validate.kernels_e2e import MODELS, STEM, e2e_points
from ridgeline.validate.tables import find_table

OWN = "Ridgeline"
EAGER, STEPS, SERVING = "whole models, eager fp32", "training steps", "serving, time per output token"
#: Columns of the eager models' table that hold other tools' predictions, microseconds.
_EAGER_TOOLS = {
    "NeuSight": "neusight_pred_us",
    "Habitat": "habitat_pred_us",
    "micro-benchmark model": "micro_pred_us",
    "plain roofline": "roofline_pred_us",
}


def report_text(data: Path, report: Path | None = None, facts: Path | None = None) -> str:
    """The Markdown of docs/mtap.md from measurements `data`, the JSON `report` of the validation page and the TOML `facts`
    (None: those of the checkout; see `ridgeline.mtap_facts`)."""
    own, known = read_report(report), read_facts(facts)
    scores: list[ToolScore] = []
    for (tool, domain), frame in predictions(data, known).items():
        scores.append(score_tool(tool, domain, frame, _facts(tool, domain, frame, known, own)))
    return _text(scores, known)


def predictions(data: Path, known: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """(tool, domain) -> frame of predicted and measured seconds, of every tool with predictions in `data` or `known`."""
    found: dict[tuple[str, str], Any] = {}
    kernels = data / "kernels" if (data / "kernels").is_dir() else data
    path = find_table(kernels, STEM)
    if path is not None:
        table: Any = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        points: Any = e2e_points(kernels)[0]
        plain = (table["mode"] == "inf") & (table["option"] == "none") & table["model_name"].isin(list(MODELS))
        contradictory = (table["gpu"] == "NVIDIA A100-PCIE-40GB") & table["model_name"].isin(
            ["bert_large", "gpt2_large"]
        )
        rows = plain & ~contradictory
        measured = table["latency_us"].to_numpy(float) * 1e-6
        found[OWN, EAGER] = points[["predicted", "measured"]][rows.to_numpy()]
        for tool, column in _EAGER_TOOLS.items():
            if column in table:
                frame = pd.DataFrame({"predicted": table[column].to_numpy(float) * 1e-6, "measured": measured})
                found[tool, EAGER] = frame[rows.to_numpy()]
    folder = data / "training" if (data / "training").is_dir() else data
    if find_table(folder, "training_measured") is not None:
        points = training.validate(data).points
        steps = points[points["op"].str.contains("korthikanti")]
        found[OWN, STEPS] = steps[["predicted", "measured"]]
    for entry in known.get("prediction", ()):
        frame = pd.DataFrame({name: np.array(entry[name], float) for name in ("predicted", "measured")})
        found[entry["tool"], entry["domain"]] = frame
    serving = data / "serving" if (data / "serving").is_dir() else data
    path = find_table(serving, "silicon_points")
    if path is not None:
        table = pd.read_parquet(path)
        table = table[table["clean"] & table["aic_tpot_ms"].notna()]
        found["aiconfigurator", SERVING] = pd.DataFrame(
            {"predicted": table["aic_tpot_ms"].astype(float), "measured": table["silicon_tpot_ms"].astype(float)}
        )
    path = find_table(serving / "vllm_runs", "requests")
    if path is not None:
        table = pd.read_parquet(path)
        found["LLMServingSim", SERVING] = pd.DataFrame(
            {"predicted": table["llmservingsim_tpot_s"], "measured": table["tpot_s"]}
        )
    return found


def _facts(tool: str, domain: str, frame: pd.DataFrame, known: Mapping[str, Any], own: Mapping[str, Any]) -> ToolFacts:
    entry = known.get("tool", {}).get(tool, {})
    values = {name: entry.get(name) for name in ("minutes", "device_lines")}
    values["left_out_mape"] = entry.get("left_out_mape") if domain == EAGER else None
    if tool == OWN:
        split = {EAGER: ("models", "gpu"), STEPS: ("training", "source")}.get(domain)
        values["left_out_mape"] = _mape(own, *split, domain) if split else None
    if domain in (EAGER, STEPS):
        gap = abs(frame["measured"] - frame["predicted"]) / frame["predicted"]
        values["gamma"] = float(gap.mean()) if gap.notna().any() else None
    return ToolFacts(**values, failures=tuple(entry.get("failures", ())))


def _mape(own: Mapping[str, Any], level: str, split: str, domain: str) -> float | None:
    """MAPE over the rows of `domain` in the validation report's run of `level` under `split`; None if it was not run."""
    for run in own["runs"]:
        if (run["level"], run["split"]) == (level, split):
            wanted = "e2e_model" if domain == EAGER else "korthikanti"
            for row in run["rows"]:
                if wanted in row["op"]:
                    return row["mape"]
            return run["rows"][0]["mape"]
    return None


def _text(scores: list[ToolScore], known: Mapping[str, Any]) -> str:
    weights = ", ".join(f"{name} {weight}" for name, weight in DIMENSIONS.items())
    lines = [
        "# Assessment protocol (MTAP)",
        "",
        "Written by `ridgeline mtap --out docs/mtap.md` from measurements, the predictions of each tool on the same rows, the",
        f"validation report and `docs/mtap_facts.toml`. Thresholds version {THRESHOLDS_VERSION}. S = sum of weight x grade, grades",
        "0 Fail, 1 Low, 2 Medium, 3 High; weights " + weights + ".",
        "A dash is a dimension without evidence: the score is then an interval. Scores of different domains are not comparable.",
        "",
        "Limits for grades 3 / 2 / 1: D1 MAPE 5 / 15 / 50 % with rank correlation 0.95 / 0.85 / 0.5 and largest error",
        "25 / 60 % / any;",
        "; ".join(f"{name} " + " / ".join(f"{x:g}" for x in limits) for name, limits in LIMITS.items())
        + " (D2 gamma, D3 left-out MAPE, D4 minutes, D5 lines).",
    ]
    for domain in dict.fromkeys(score.domain for score in scores):
        own = [score for score in scores if score.domain == domain]
        lines += ["", f"## {domain}", "", "| tool | " + " | ".join(DIMENSIONS) + " | S | evidence |"]
        lines += ["|---" * (len(DIMENSIONS) + 3) + "|"]
        for score in sorted(own, key=lambda s: -(s.score.low + s.score.high)):
            cells = ["-" if score.grades[name] is None else str(score.grades[name]) for name in DIMENSIONS]
            evidence = "; ".join(f"{name} {text}" for name, text in score.evidence.items())
            lines.append(f"| {score.tool} | {' | '.join(cells)} | {_score(score)} | {evidence} |")
        stable = _stability(own)
        if stable:
            lines += [
                "",
                "Share of weightings (each weight perturbed by up to a quarter) in which a tool keeps its rank, over the",
            ]
            lines += [
                "dimensions that all have: " + ", ".join(f"{tool} {share:.0%}" for tool, share in stable.items()) + "."
            ]
    lines += ["", "## The survey's scores, re-computed", ""]
    lines += [
        "Totals as published; the grades behind them were not, so all that are consistent are listed as ranges.",
        "",
    ]
    lines += [
        "| tool | S | consistent grade vectors | " + " | ".join(DIMENSIONS) + " |",
        "|---" * (len(DIMENSIONS) + 3) + "|",
    ]
    for tool, total in SURVEY_SCORES.items():
        if total.known:
            found = consistent_grades(total)
            ranges = [f"{low}-{high}" for low, high in grade_ranges(found).values()]
            lines.append(f"| {tool} | {total.low:g} | {len(found)} | {' | '.join(ranges)} |")
        else:
            lines.append(
                f"| {tool} | [{total.low:g}, {total.high:g}] | 1 (D1 not measured, the rest 0) | - | 0 | 0 | 0 | 0 |"
            )
    lines += ["", "## Facts used", ""]
    for tool, entry in known.get("tool", {}).items():
        for name in ("minutes", "device_lines", "left_out_mape"):
            if name in entry:
                lines.append(
                    f"- {tool}, {name.replace('_', ' ')}: {entry[name]:g} ({entry.get(name + '_source', 'no source')})"
                )
    for entry in known.get("prediction", ()):
        lines.append(f"- {entry['tool']}, predictions: {entry['source']}")
    return "\n".join(lines) + "\n"


def _score(score: ToolScore) -> str:
    low, high = score.score
    return f"{low:.1f}" if score.score.known else f"[{low:.1f}, {high:.1f}]"


def _stability(scores: list[ToolScore]) -> dict[str, float]:
    """Rank stability over the dimensions every tool of the domain has; empty where there is nothing to rank."""
    common = [name for name in DIMENSIONS if all(score.grades[name] is not None for score in scores)]
    if len(scores) < 2 or not common:
        return {}
    return rank_stability(
        {s.tool: {name: int(s.grades[name] or 0) if name in common else 0 for name in DIMENSIONS} for s in scores}
    )
