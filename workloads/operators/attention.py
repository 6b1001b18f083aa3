"""Softmax attention over a key/value cache, and recurrent (linear) attention."""

from dataclasses import dataclass

import jax

from workloads.dtypes import element_bytes
from workloads.numeric import Array, namespace
from workloads.operators.operator import Operator, static


def attended_pairs(query_tokens: Array, kv_tokens: Array, window: Array = 0, *, causal: bool = True) -> Array:
    """(query, key) pairs of one head and one sequence: sum over queries i = 1..q of min(prefix + i, window).

    The q queries are the last of kv_tokens positions (prefix = kv - q). `window` = most keys one query may see, itself
    included; 0 is unlimited. Without `causal` every query sees min(kv, window) keys. Arguments broadcast; exact for
    integers. Check: q = 3, kv = 5, window = 4 gives 3 + 4 + 4 = 11.
    """
    xp = namespace(query_tokens, kv_tokens, window)
    q, kv = 1.0 * query_tokens, 1.0 * kv_tokens
    limit = xp.where(xp.asarray(window) > 0, xp.minimum(1.0 * window, kv), kv)
    if not causal:
        return q * limit
    prefix = kv - q
    growing = xp.clip(limit - prefix, 0.0, q)
    return growing * prefix + growing * (growing + 1.0) / 2.0 + (q - growing) * limit


def chunked_pairs(query_tokens: Array, kv_tokens: Array, chunk: Array) -> Array:
    """(query, key) pairs where position p (from 0) sees the p mod chunk + 1 positions since the last multiple of
    `chunk`.

    Check: positions 3, 4, 5 with chunk 4 see 4 + 1 + 2 = 7.
    """
    xp = namespace(query_tokens, kv_tokens, chunk)

    def before(n: Array) -> Array:
        whole = xp.floor(1.0 * n / chunk)
        rest = n - whole * chunk
        return whole * chunk * (chunk + 1.0) / 2.0 + rest * (rest + 1.0) / 2.0

    return before(kv_tokens) - before(kv_tokens - query_tokens)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Attention(Operator):
    """Fused softmax(Q K^T) V of `sequences` equal requests: prefill, chunked prefill (kv > query) or decode (query =
    1).

    `kv_tokens` counts the new tokens too. `window`: most keys a query attends to (0 = all); with `sparsity` "window"
    they are the latest, with "chunk" those since the last
    multiple of `window` (> 0); with "top_k" they are chosen (DeepSeek sparse attention) and, for one query, only
    they are read. `shared_kv`: V is part of K, stored once (MLA in its absorbed form: kv_heads = 1, head_dim = rank
    + rope, value_dim = rank). `scores_only`: Q K^T summed over heads into one fp32 score per pair, values unused (the
    indexer of sparse attention). `backward`: the flash-attention gradient: S recomputed, dV, dP, dQ, dK = 2.5 x the
    forward work; q, k, v, o and do read, dq, dk, dv written; log-sum-exp rows left out. FLOPs: 2 (head_dim +
    value_dim) per attended pair and head. Bytes: Q, attended K and V, O once each; K and V in `kv_dtype`. Excludes:
    projections, RoPE, writing new keys and values (see `Elementwise`, `Gemm`).
    """

    sequences: Array
    query_tokens: Array
    kv_tokens: Array
    heads: Array
    kv_heads: Array
    head_dim: Array
    value_dim: Array = 0
    window: Array = 0
    dtype: str = static("bf16")
    kv_dtype: str = static("")
    causal: bool = static(True)
    shared_kv: bool = static(False)
    sparsity: str = static("window")
    scores_only: bool = static(False)
    backward: bool = static(False)

    kind = "attention"
    unit = "matrix"

    @property
    def values_dim(self) -> Array:
        """Value head size; `value_dim` = 0 means the same as `head_dim`, [...]."""
        xp = namespace(self.value_dim, self.head_dim)
        return xp.where(xp.asarray(self.value_dim) > 0, self.value_dim, self.head_dim)

    @property
    def pairs(self) -> Array:
        """Attended (query, key) pairs over all sequences, one head, [...]."""
        if self.sparsity == "chunk":
            return self.sequences * chunked_pairs(self.query_tokens, self.kv_tokens, self.window)
        return self.sequences * attended_pairs(self.query_tokens, self.kv_tokens, self.window, causal=self.causal)

    @property
    def keys_read(self) -> Array:
        """Distinct key positions that must be read per sequence, [...]."""
        xp = namespace(self.query_tokens, self.kv_tokens, self.window)
        if self.sparsity == "chunk":
            first = 1.0 * self.kv_tokens - self.query_tokens
            return self.kv_tokens - xp.floor(first / self.window) * self.window
        span = (
            self.query_tokens * xp.asarray(self.window)
            if self.sparsity == "top_k"
            else (self.query_tokens + xp.asarray(self.window) - 1)
        )
        return 1.0 * xp.where(xp.asarray(self.window) > 0, xp.minimum(span, self.kv_tokens), self.kv_tokens)

    @property
    def flops(self) -> Array:
        if self.scores_only:
            return 2.0 * self.pairs * self.heads * self.head_dim
        return (5.0 if self.backward else 2.0) * self.pairs * self.heads * (self.head_dim + self.values_dim)

    @property
    def reads(self) -> dict[str, Array]:
        per_key = self.sequences * self.keys_read * self.kv_heads * element_bytes(self.kv_dtype or self.dtype)
        query = 1.0 * self.sequences * self.query_tokens * self.heads * self.head_dim * element_bytes(self.dtype)
        reads = {"q": query, "k": per_key * self.head_dim}
        if not self.shared_kv and not self.scores_only:
            reads["v"] = per_key * self.values_dim
        if self.backward:
            reads["o_do"] = 2.0 * self._output_bytes
        return reads

    @property
    def writes(self) -> dict[str, Array]:
        if self.scores_only:
            return {"scores": self.pairs * element_bytes("fp32")}
        if self.backward:
            reads = self.reads
            return {f"d{name}": reads[name] for name in ("q", "k", "v") if name in reads}
        return {"o": self._output_bytes}

    @property
    def _output_bytes(self) -> Array:
        rows = 1.0 * self.sequences * self.query_tokens * self.heads
        return rows * self.values_dim * element_bytes(self.dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class LinearAttention(Operator):
    """Recurrent attention with a matrix state per head (gated delta rule, Mamba-2 / SSM scan): S <- a S + k (v - S^T
    k)^T.

    FLOPs per token and head: decay + delta + outer product + read-out = (1 + 2 + 2 + 2) key_dim value_dim = 7 d_k d_v
    (recurrent form; chunked kernels do more arithmetic to use the matrix unit). Bytes: q, k, v, o once; the state
    (fp32) read and written once per sequence. Excludes: projections, short convolution, gates.
    """

    sequences: Array
    tokens: Array
    heads: Array
    key_dim: Array
    value_dim: Array
    key_heads: Array = 0
    dtype: str = static("bf16")
    state_dtype: str = static("fp32")

    kind = "linear_attention"
    unit = "vector"

    @property
    def flops(self) -> Array:
        return 7.0 * self.sequences * self.tokens * self.heads * self.key_dim * self.value_dim

    @property
    def state_bytes(self) -> Array:
        """Bytes of recurrent state of all sequences, [...]."""
        return 1.0 * self.sequences * self.heads * self.key_dim * self.value_dim * element_bytes(self.state_dtype)

    @property
    def reads(self) -> dict[str, Array]:
        xp = namespace(self.key_heads, self.heads)
        key_heads = xp.where(xp.asarray(self.key_heads) > 0, self.key_heads, self.heads)
        size = element_bytes(self.dtype)
        tokens = 1.0 * self.sequences * self.tokens
        return {
            "qk": 2.0 * tokens * key_heads * self.key_dim * size,
            "v": tokens * self.heads * self.value_dim * size,
            "state": self.state_bytes,
        }

    @property
    def writes(self) -> dict[str, Array]:
        out = 1.0 * self.sequences * self.tokens * self.heads * self.value_dim * element_bytes(self.dtype)
        return {"o": out, "state": self.state_bytes}
