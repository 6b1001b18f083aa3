"""From a file, folder or mapping to a `TransformerModel`."""

import json
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from workloads.dtypes import canonical_dtype
from workloads.huggingface.checked_fields import CheckedFields
from workloads.huggingface.families import FAMILIES
from workloads.huggingface.quantisation_config import read_quantisation
from workloads.transformer import TransformerModel

#: No configuration is larger; anything bigger is another file by mistake.
LARGEST_BYTES = 4 * 2**20


def read_config_file(path: str | Path, name: str = "") -> TransformerModel:
    """The model described by a `config.json` or by the folder that holds it (`hf_quant_config.json` beside it is
    honoured).

    Raises `ValueError` (one line: path, value, expectation) for anything that is not a configuration of a known
    family, and `FileNotFoundError` where there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "config.json"
    raw = _load(path)
    side = path.parent / "hf_quant_config.json"
    if path.name == "config.json" and side.is_file() and isinstance(raw, dict) and "quantization_config" not in raw:
        quantised = _load(side)
        inner = quantised.get("quantization") if isinstance(quantised, dict) else None
        if isinstance(inner, dict):
            raw["quantization_config"] = {"quant_method": "modelopt", **inner}
    label = name or (path.parent.name if path.name == "config.json" else path.stem.split("--")[-1])
    return read_config(raw, name=label or "model", path=path.name)


def read_config(raw: Any, name: str = "model", path: str = "config") -> TransformerModel:
    """The model described by the mapping `raw` (a parsed `config.json`). `path` is how errors call it. Raises
    `ValueError`."""
    outer = CheckedFields(raw, path)
    fields, notes = outer, ()
    family = outer.text("model_type")
    text = outer.inside("text_config")
    quantised = outer.inside("quantization_config")
    if text is not None:
        fields, notes = text, ("text model only: the vision and audio towers of the checkpoint are left out",)
        family = text.text("model_type", family)
        outer.ignore("tie_word_embeddings", "dtype", "torch_dtype", "model_type", "mm_projector_type")
        outer.finish()
        merged = {k: raw[k] for k in ("tie_word_embeddings", "dtype", "torch_dtype") if raw.get(k) is not None}
        text.raw = {**merged, **text.raw}
        if raw.get("tie_word_embeddings") is not None:
            text.raw["tie_word_embeddings"] = raw["tie_word_embeddings"]
        quantised = quantised or text.inside("quantization_config")
    if family not in FAMILIES:
        near = get_close_matches(family, FAMILIES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        known = ", ".join(sorted(FAMILIES))
        raise ValueError(f"{fields.path}.model_type: {family!r} is not a known family{hint} (known: {known})")
    fields.ignore("model_type", "quantization_config", "text_config")
    dtype = fields.text("torch_dtype", fields.text("dtype", "bfloat16"))
    try:
        dtype = canonical_dtype(dtype)
    except ValueError as error:
        raise ValueError(f"{fields.path}.torch_dtype: {error}") from None
    model = FAMILIES[family](fields, name)
    fields.finish()
    quantisation = read_quantisation(quantised) if quantised else model.quantisation
    return replace(
        model, dtype=dtype, quantisation=quantisation, source=f"{path} ({family})", notes=(*notes, *model.notes)
    )


def _load(path: Path) -> Any:
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: not a regular file; expected a config.json or the folder that holds one")
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        raise ValueError(f"{path.name}: {size} bytes; expected a configuration of at most {LARGEST_BYTES} bytes")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path.name}: not valid JSON at line {error.lineno} column {error.colno} ({error.msg})"
        ) from None
    except (UnicodeDecodeError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else "not UTF-8"
        raise ValueError(f"{path.name}: not a JSON text file ({reason})") from None
    except ValueError:  # the parser's own limit on digits
        raise ValueError(f"{path.name}: holds a number of thousands of digits; expected a configuration") from None
