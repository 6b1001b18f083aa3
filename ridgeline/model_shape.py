"""Dense decoders by shape: layers, heads and head size in, a model of a given size out, and what a deployment makes of it.

    hidden        = heads * head size
    feed-forward  = what is left of the parameters after embeddings and attention, over 3 hidden layers, in multiples of 128

Limits: gated feed-forward networks, grouped-query attention, untied embeddings (Llama's proportions); no experts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ridgeline.objectives import ModelObjective
from roofline import Reason
from roofline.relax import Rounding, exact
from workloads import TransformerModel
from workloads.layers import FeedForward, GroupedQueryAttention, LayerGroup
from workloads.numeric import Array

#: Widths are multiples of this.
MULTIPLE = 128
#: Metrics of `ShapeObjective`: those of a model, then those of its shape.
METRICS = (
    "prefill_s",
    "decode_s",
    "request_s",
    "output_tokens_per_s",
    "output_tokens_per_s_per_device",
    "usd_per_million_tokens",
    "devices",
    "usd_per_hour",
    "memory_use",
    "reason",
    "parameters",
    "hidden_size",
    "feed_forward_width",
    "feed_forward_ratio",
    "width_per_layer",
)


def decoder(
    *, parameters: float, layers: int, heads: int, head_dim: int, kv_heads: int = 8, vocab_size: int = 128_256
) -> TransformerModel | None:
    """The decoder of this shape that has nearest to `parameters` parameters; None where heads do not share keys evenly or
    nothing is left for the feed-forward network."""
    hidden = heads * head_dim
    if heads % kv_heads:
        return None

    def of_width(width: int) -> TransformerModel:
        attention = GroupedQueryAttention(heads=heads, kv_heads=kv_heads, head_dim=head_dim, rotary_dim=head_dim)
        group = LayerGroup(indices=tuple(range(layers)), attention=attention, feed_forward=FeedForward(width=width))
        name = f"{layers} layers of {hidden}, {heads} heads, feed-forward {width}"
        return TransformerModel(name=name, hidden_size=hidden, vocab_size=vocab_size, layers=(group,))

    rest = parameters - of_width(0).parameters
    blocks = round(rest / (3.0 * hidden * layers) / MULTIPLE)
    return of_width(blocks * MULTIPLE) if blocks >= 1 else None


@dataclass(frozen=True, kw_only=True)
class ShapeObjective:
    """`ModelObjective` of decoders of about `parameters` parameters. Subjects: `layers`, `heads`, `head_dim`, and those of a model.

    Metrics besides the model's: parameters, hidden_size, feed_forward_width, feed_forward_ratio (over hidden_size),
    width_per_layer (hidden_size over layers). One call per shape, with NumPy.
    """

    parameters: float
    kv_heads: int = 8
    vocab_size: int = 128_256
    estimator: str = "tiles"
    stack: str = "vllm"

    def __call__(self, subjects: Mapping[str, Any], rounding: Rounding = exact) -> dict[str, Array]:
        names = ("layers", "heads", "head_dim")
        numbers = {name: value for name, value in subjects.items() if isinstance(value, np.ndarray)}
        count = len(next(iter(numbers.values())))
        shapes = np.stack([np.broadcast_to(subjects[name], (count,)) for name in names], axis=-1)
        found: dict[str, np.ndarray] = {}
        for shape in np.unique(shapes, axis=0):
            rows = np.flatnonzero(np.all(shapes == shape, axis=1))
            mine = {name: value[rows] if name in numbers else value for name, value in subjects.items()}
            for name, value in self._metrics(mine, *map(int, shape), rounding=rounding).items():
                found.setdefault(name, np.full(count, np.nan))[rows] = value
        found["reason"] = np.where(np.isnan(found["reason"]), Reason.NOT_DIVISIBLE.value, found["reason"])
        return found

    def _metrics(
        self, subjects: Mapping[str, Any], layers: int, heads: int, head_dim: int, *, rounding: Rounding
    ) -> dict[str, Any]:
        model = decoder(
            parameters=self.parameters, layers=layers, heads=heads, head_dim=head_dim, kv_heads=self.kv_heads,
            vocab_size=self.vocab_size,
        )  # fmt: skip
        if model is None:
            return dict.fromkeys(METRICS, np.nan)
        given = {name: value for name, value in subjects.items() if name not in ("layers", "heads", "head_dim")}
        width = model.layers[0].feed_forward.width
        return ModelObjective(model=model, estimator=self.estimator, stack=self.stack)(given, rounding) | {
            "parameters": model.parameters,
            "hidden_size": model.hidden_size,
            "feed_forward_width": width,
            "feed_forward_ratio": width / model.hidden_size,
            "width_per_layer": model.hidden_size / layers,
        }
