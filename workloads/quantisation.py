"""Number formats of weights and matrix units, per part of a model."""

from dataclasses import dataclass, replace

from workloads.dtypes import canonical_dtype

#: Parts whose weights may be stored in different formats.
PARTS = ("attention", "dense", "experts", "shared_experts", "lm_head")

#: Formats whose products run in the activation's format: only the weights are narrow.
WEIGHT_ONLY = ("mxfp4", "int4", "int8_weight")


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """Storage format of the weights of each part; an empty string means the model's own dtype.

    Formats in `WEIGHT_ONLY` compute in the model's dtype; all others (fp8, fp8_block, nvfp4, int8) compute in their
    own format and need their input quantised dynamically. Embedding, router, norms and biases always stay in the
    model's dtype.
    """

    attention: str = ""
    dense: str = ""
    experts: str = ""
    shared_experts: str = ""
    lm_head: str = ""

    def weight_dtype(self, part: str, dtype: str) -> str:
        """Storage format of the weights of `part` in a model of `dtype`."""
        return getattr(self, part) or dtype

    def compute_dtype(self, part: str, dtype: str) -> str:
        """Format the matrix unit computes `part` in."""
        stored = self.weight_dtype(part, dtype)
        return dtype if stored in WEIGHT_ONLY else stored


def uniform(dtype: str) -> Quantisation:
    """All matrices but lm_head in `dtype`, as the common quantised checkpoints are."""
    name = canonical_dtype(dtype)
    return replace(Quantisation(), attention=name, dense=name, experts=name, shared_experts=name)
