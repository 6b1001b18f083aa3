"""Models by name, path or mapping."""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from workloads.convolutional import CONVOLUTIONAL
from workloads.diffusion import DIFFUSION
from workloads.huggingface import read_config, read_config_file
from workloads.image_model import ImageModel
from workloads.transformer import TransformerModel

Model = TransformerModel | ImageModel


def load(model: "str | Path | Mapping[str, Any] | Model") -> Model:
    """A model from a built-in name, a `config.json`, a folder that holds one, or a parsed mapping of one.

    A description is returned as it is. Names do not distinguish case or "_" from "-". Raises `ValueError` (nearest
    known name and how many there are) for an unknown name and for a file that is not a configuration of a known family.
    """
    if isinstance(model, Mapping):
        return read_config(dict(model))
    if not isinstance(model, (str, Path)):
        if not hasattr(model, "parameters"):
            raise ValueError(f"model: {model!r}; expected a name, a path or a mapping")
        return model
    if isinstance(model, str) and not model.strip():
        raise ValueError(f"model: {model!r} is empty; expected a name, a path or a mapping")
    key = str(model).lower().replace("_", "-")
    if key in model_names():
        return _built_in(key)
    path = Path(model)
    try:
        exists = path.exists()
    except (OSError, ValueError):
        exists = False
    if exists:
        if path.is_dir() and not (path / "config.json").is_file():
            raise ValueError(f"model: folder {str(model)!r} holds no config.json")
        return read_config_file(path)
    if path.suffix == ".json" or len(path.parts) > 2:
        raise ValueError(f"model: no file {str(model)!r}")
    near = get_close_matches(key, model_names(), 1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown model {str(model)[:80]!r}{hint} ({len(model_names())} known: ridgeline models)")


@lru_cache(maxsize=1)
def model_names() -> tuple[str, ...]:
    """Names of the built-in models, sorted."""
    return tuple(sorted((*_transformers(), *CONVOLUTIONAL, *DIFFUSION)))


@cache
def _built_in(name: str) -> Model:
    if name in CONVOLUTIONAL:
        return CONVOLUTIONAL[name](name)
    if name in DIFFUSION:
        return DIFFUSION[name](name)
    entry = dict(_transformers()[name])
    source = entry.pop("source")
    built = read_config(entry, name=name, path=f"catalogue.{name}")
    return replace(built, source=source)


@lru_cache(maxsize=1)
def _transformers() -> dict[str, dict[str, Any]]:
    text = files("workloads").joinpath("catalogue/transformers.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
