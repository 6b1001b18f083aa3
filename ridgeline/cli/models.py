"""`ridgeline models` and `ridgeline operators`: what can be predicted, and what predictions are made of."""

import json
from typing import Annotated, Any

import typer


def models(
    name: Annotated[str, typer.Argument(help="A built-in name, a config.json or a folder; empty lists all.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the built-in models, or describe one."""
    import workloads

    if name:
        details = _details(workloads.load(name))
        if as_json:
            typer.echo(json.dumps(details, indent=2))
            return
        _print_pairs(details)
        return
    rows = [_summary(known, workloads.load(known)) for known in workloads.model_names()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    _print_table(
        f"{len(rows)} built-in models (any config.json of a known family works as well)",
        ("model", "parameters", "active", "weights", "dtype", "KV/token"),
        [
            (
                row["name"],
                _scaled(row["parameters"]),
                _scaled(row["active_parameters"]),
                _scaled(row["weight_bytes"], "B"),
                row["dtype"],
                _scaled(row["kv_bytes_per_token"], "B") if row["kv_bytes_per_token"] else "-",
            )
            for row in rows
        ],
        right=(1, 2, 3, 5),
    )


def operators(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """List the operator kinds with their fields."""
    rows = [_operator(cls) for cls in _operator_classes()]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    _print_table(
        f"{len(rows)} operator kinds; sizes are counts of elements, tokens or rows, payloads are bytes",
        ("kind", "unit", "fields (may be arrays)", "options"),
        [(r["kind"], r["unit"], ", ".join(r["fields"]), ", ".join(r["options"])) for r in rows],
    )


def _operator_classes() -> list[type]:
    from workloads import operators as module

    classes = [getattr(module, name) for name in module.__all__]
    return [c for c in classes if isinstance(c, type) and c is not module.Operator]


def _operator(cls: Any) -> dict[str, Any]:
    from dataclasses import fields

    statics = [f.name for f in fields(cls) if f.metadata.get("static")]
    return {
        "kind": cls.kind,
        "class": cls.__name__,
        "unit": cls.unit,
        "fields": [
            f.name + (" (bytes)" if f.name.endswith("_bytes") else "") for f in fields(cls) if f.name not in statics
        ],
        "options": statics,
        "summary": " ".join((cls.__doc__ or "").split()).split(". ")[0],
    }


def _summary(name: str, model: Any) -> dict[str, Any]:
    quantisation = getattr(model, "quantisation", None)
    weights = quantisation.experts or quantisation.dense if quantisation else ""
    return {
        "name": name,
        "parameters": model.parameters,
        "active_parameters": model.active_parameters,
        "weight_bytes": model.weight_bytes,
        "dtype": weights or model.dtype,
        "kv_bytes_per_token": model.kv_bytes_per_token() if getattr(model, "causal", False) else 0,
        "source": model.source,
    }


def _details(model: Any) -> dict[str, Any]:
    from dataclasses import asdict

    details = _summary(model.name, model)
    if not hasattr(model, "layers"):
        return {**details, "stages": len(model.stages), "notes": list(model.notes)}
    details |= {
        "hidden_size": model.hidden_size,
        "vocab_size": model.vocab_size,
        "layer_count": model.layer_count,
        "mtp_layers": model.mtp_layers,
        "mtp_parameters": model.mtp_parameters,
        "max_context_tokens": model.max_context_tokens,
        "layers": [
            {
                "count": group.count,
                "attention": {"type": type(group.attention).__name__, **asdict(group.attention)},
                "feed_forward": {"type": type(group.feed_forward).__name__, **asdict(group.feed_forward)},
            }
            for group in model.layers
        ],
        "quantisation": {part: dtype for part, dtype in asdict(model.quantisation).items() if dtype},
        "notes": list(model.notes),
    }
    return details


def _print_pairs(details: dict[str, Any]) -> None:
    rows = []
    for key, value in details.items():
        if key == "layers":
            for group in value:
                for part in ("attention", "feed_forward"):
                    rows.append((f"{group['count']} x {part.replace('_', '-')}", _inline(group[part])))
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 1e6:
            rows.append((key, f"{_scaled(value, 'B' if key.endswith('bytes') else '')} ({value:,.0f})"))
        elif value not in ("", [], {}):
            rows.append((key, _inline(value)))
    _print_table(str(details["name"]), ("field", "value"), rows)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        shown = {k: v for k, v in value.items() if v not in ("", 0, None, False)}
        return ", ".join(f"{k}={_inline(v)}" if k != "type" else str(v) for k, v in shown.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _scaled(value: float, unit: str = "") -> str:
    for factor, prefix in ((1e12, "T"), (1e9, "G" if unit else "B"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.4g} {prefix}{unit}".strip()
    return f"{value:.4g} {unit}".strip()


def _print_table(
    title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]], right: tuple[int, ...] = ()
) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console().print(table)
