"""Batch composition: which requests one forward pass holds, as groups of equal requests."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax

from workloads.numeric import Array, namespace


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PrefillGroup:
    """`requests` equal requests that each process `tokens` new prompt tokens behind `prefix_tokens` already cached.

    A chunk of a chunked prefill is the same thing: `tokens` is the chunk, `prefix_tokens` what earlier chunks cached.
    """

    requests: Array
    tokens: Array
    prefix_tokens: Array = 0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DecodeGroup:
    """`requests` equal requests that each generate `tokens` (1; more when drafts are verified) behind `context_tokens`
    already in the cache; attention covers `context_tokens + tokens` positions."""

    requests: Array
    context_tokens: Array
    tokens: Array = 1


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """One forward pass: prefill groups and decode groups. Every number may be an array; all of them broadcast
    together."""

    prefill: tuple[PrefillGroup, ...] = ()
    decode: tuple[DecodeGroup, ...] = ()

    @classmethod
    def of(cls, prefill: Iterable[Any] = (), decode: Iterable[Any] = ()) -> "Batch":
        """A batch from one entry per request; equal requests are merged.

        `prefill`: prompt lengths, or pairs (new tokens, cached prefix tokens). `decode`: context lengths. Plain
        numbers only. Raises `ValueError` for negative or non-numeric lengths and for prompts without tokens.
        """
        pairs = []
        for index, entry in enumerate(prefill):
            tokens, prefix = entry if isinstance(entry, (tuple, list)) and len(entry) == 2 else (entry, 0)
            _check(f"prefill[{index}].tokens", tokens, 1)
            _check(f"prefill[{index}].prefix_tokens", prefix, 0)
            pairs.append((tokens, prefix))
        contexts = list(decode)
        for index, context in enumerate(contexts):
            _check(f"decode[{index}].context_tokens", context, 0)
        return cls(
            tuple(PrefillGroup(n, tokens, prefix) for (tokens, prefix), n in Counter(pairs).items()),
            tuple(DecodeGroup(n, context) for context, n in Counter(contexts).items()),
        )

    @classmethod
    def prefill_of(cls, requests: Array, tokens: Array, prefix_tokens: Array = 0) -> "Batch":
        """`requests` equal prompts of `tokens` new tokens."""
        return cls(prefill=(PrefillGroup(requests, tokens, prefix_tokens),))

    @classmethod
    def decode_of(cls, requests: Array, context_tokens: Array) -> "Batch":
        """`requests` requests that generate one token each behind `context_tokens`."""
        return cls(decode=(DecodeGroup(requests, context_tokens),))

    @property
    def requests(self) -> Array:
        """Requests in the batch, [...]."""
        return sum((g.requests for g in (*self.prefill, *self.decode)), start=0)

    @property
    def tokens(self) -> Array:
        """New tokens the pass processes, [...]."""
        return sum((g.requests * g.tokens for g in (*self.prefill, *self.decode)), start=0)

    @property
    def logit_rows(self) -> Array:
        """Rows that need logits: the last token of every prefill request and all decoded tokens, [...]."""
        prefill = sum((1 * g.requests for g in self.prefill), start=0)
        return prefill + sum((g.requests * g.tokens for g in self.decode), start=0)

    @property
    def cached_tokens(self) -> Array:
        """Tokens whose keys and values are in memory at the end of the pass, all requests, [...]."""
        prefill = sum((g.requests * (g.prefix_tokens + g.tokens) for g in self.prefill), start=0)
        return prefill + sum((g.requests * (g.context_tokens + g.tokens) for g in self.decode), start=0)

    def scaled(self, factor: Array) -> "Batch":
        """The same lengths with `factor` times the requests."""
        return Batch(
            tuple(PrefillGroup(g.requests * factor, g.tokens, g.prefix_tokens) for g in self.prefill),
            tuple(DecodeGroup(g.requests * factor, g.context_tokens, g.tokens) for g in self.decode),
        )

    def share(self, ranks: Array) -> "Batch":
        """What one of `ranks` balanced data-parallel ranks runs: 1 / ranks of every group, and at least one request.

        The share is a mean and may be fractional; the idle time of ranks that got fewer requests is not modelled.
        """
        if isinstance(ranks, int) and ranks == 1:
            return self
        total = self.requests
        xp = namespace(ranks, total)
        least = 1.0 / xp.maximum(1.0 * xp.asarray(total), 1.0)
        return self.scaled(xp.maximum(1.0 / xp.asarray(ranks), least))


def _check(path: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or (not hasattr(value, "__index__") and not isinstance(value, float)):
        raise ValueError(f"{path}: {value!r} is not a number of tokens")
    if not value >= least:
        raise ValueError(f"{path}: {value!r}; expected at least {least}")
