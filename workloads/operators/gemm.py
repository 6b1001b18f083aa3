"""Dense and grouped matrix multiplication."""

from dataclasses import dataclass

import jax
import numpy as np

from workloads.dtypes import element_bytes, weight_element_bytes
from workloads.numeric import Array, namespace
from workloads.operators.operator import Operator, static


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Gemm(Operator):
    """`batch` independent products out[m, n] = A[m, k] @ B[k, n]. `dtype` is what the matrix unit computes in.

    FLOPs: 2 m n k per product. Bytes: A, B and out once each, in `dtype`, `weight_dtype` and `out_dtype` (empty:
    `dtype`). Excludes: dynamic quantisation of A (see `Quantise`), bias, epilogues.
    """

    m: Array
    n: Array
    k: Array
    batch: Array = 1
    dtype: str = static("bf16")
    weight_dtype: str = static("")
    out_dtype: str = static("")

    kind = "gemm"
    unit = "matrix"

    @property
    def flops(self) -> Array:
        return 2.0 * self.batch * self.m * self.n * self.k

    @property
    def reads(self) -> dict[str, Array]:
        return {
            "a": 1.0 * self.batch * self.m * self.k * element_bytes(self.dtype),
            "b": 1.0 * self.batch * self.k * self.n * weight_element_bytes(self.weight_dtype or self.dtype),
        }

    @property
    def writes(self) -> dict[str, Array]:
        return {"out": 1.0 * self.batch * self.m * self.n * element_bytes(self.out_dtype or self.dtype)}


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class GroupedGemm(Operator):
    """One matrix product per expert held by this device: rows routed to expert e multiply its [k, n] weight.

    `tokens`: tokens that reach the router, each choosing `top_k` of `experts` (all experts of the model); this device
    holds `local_experts` of them (its share of the rows is top_k * tokens * local_experts / experts in expectation).
    `power_law`: exponent a of the expert popularity p_i ~ i^-a; 0 is uniform routing.
    FLOPs: 2 n k per routed row. Bytes: the expected number of *distinct* experts hit, times their weights, plus rows in
    and out. Excludes: permutation, activation, routing. `dtype` as in `Gemm`.
    """

    tokens: Array
    experts: Array
    top_k: Array
    n: Array
    k: Array
    local_experts: Array
    power_law: Array = 0.0
    dtype: str = static("bf16")
    weight_dtype: str = static("")
    out_dtype: str = static("")

    kind = "grouped_gemm"
    unit = "matrix"

    @property
    def rows(self) -> Array:
        """Expected routed rows on this device, [...]."""
        return 1.0 * self.tokens * self.top_k * self.local_experts / self.experts

    @property
    def active_experts(self) -> Array:
        """Expected number of this device's experts that receive at least one token, experts dealt at random, [...].

        Uniform: local (1 - (1 - k / E)^T). Power law: the mean over 64 popularity quantiles x of the same with k / E
        scaled by x^-a / mean(x^-a), at most 1.
        """
        xp = namespace(self.tokens, self.experts, self.top_k, self.power_law)
        chosen = 1.0 * self.top_k / self.experts
        if xp is np and not np.any(self.power_law):
            return self.local_experts * (1.0 - np.maximum(1.0 - chosen, 0.0) ** (1.0 * self.tokens))
        quantile = (np.arange(64) + 0.5) / 64
        rank = quantile * xp.asarray(1.0 * self.experts)[..., None] + 0.5  # 1 .. E when E = 64
        weight = rank ** -xp.asarray(1.0 * self.power_law)[..., None]
        share = xp.asarray(chosen)[..., None] * weight / xp.mean(weight, axis=-1, keepdims=True)
        hit = 1.0 - xp.maximum(1.0 - share, 0.0) ** xp.asarray(1.0 * self.tokens)[..., None]
        return self.local_experts * xp.mean(hit, axis=-1)

    @property
    def flops(self) -> Array:
        return 2.0 * self.rows * self.n * self.k

    @property
    def reads(self) -> dict[str, Array]:
        weight = weight_element_bytes(self.weight_dtype or self.dtype)
        return {
            "a": self.rows * self.k * element_bytes(self.dtype),
            "b": self.active_experts * self.k * self.n * weight,
        }

    @property
    def writes(self) -> dict[str, Array]:
        return {"out": self.rows * self.n * element_bytes(self.out_dtype or self.dtype)}
