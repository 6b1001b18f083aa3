"""Lengths of requests as weighted classes: what a prompt asks for, how much of it is cached, how many tokens it gets.

A class k stands for a share w_k of all requests with prompt I_k, of which c_k tokens are found in the prefix cache, and
output O_k. The prompt computes P_k = max(I_k - c_k, 1) tokens and gives the first output token; S_k = O_k - 1 decode
steps follow, the j-th of them behind I_k + j positions. Means over requests weigh by w, means over prompt tokens by w P,
means over what decodes at a moment by w S: long outputs are seen more often (size bias), so that the mean context of a
decoding sequence is

    c_n = sum w S (I + (S - 1) / 2) / sum w S        and of a prompt token    c_p = sum w P (c + P / 2) / sum w P.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from scipy.special import ndtri

from serving.requests import Requests
from workloads.numeric import Array, namespace

#: Classes a distribution is cut into, of equal share.
CLASSES = 32


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Lengths:
    """Arrays [..., classes] in tokens, leading axes over configurations; `share` sums to 1 over the classes.
    `tokens_per_step`: output tokens of one decode step, 1 but for speculative decoding [...]."""

    share: Array
    input_tokens: Array
    output_tokens: Array
    cached_tokens: Array = 0.0
    tokens_per_step: Array = 1.0

    @classmethod
    def of(
        cls, input_tokens: Array, output_tokens: Array, cached_tokens: Array = 0.0, share: Array | None = None
    ) -> "Lengths":
        """Classes from arrays [..., classes], or one class from numbers; shares equal unless given (then they are scaled
        to sum to 1). `ValueError` names the field with a value that no request has."""
        xp = namespace(input_tokens, output_tokens, cached_tokens, share)
        prompt, output = xp.asarray(input_tokens) * 1.0, xp.asarray(output_tokens) * 1.0
        cached = xp.asarray(cached_tokens) * 1.0
        if xp is np:
            for name, values, least in (
                ("input_tokens", prompt, 1),
                ("output_tokens", output, 1),
                ("cached_tokens", cached, 0),
            ):
                bad = ~(np.isfinite(values) & (values >= least))
                if bad.any():
                    raise ValueError(f"lengths.{name}: {np.ravel(values)[np.ravel(bad)][0]}; expected at least {least}")
        prompt, output, cached = (xp.reshape(a, (1,)) if a.ndim == 0 else a for a in (prompt, output, cached))
        shape = np.broadcast_shapes(prompt.shape, output.shape, cached.shape)
        part = xp.ones(shape[-1]) if share is None else xp.asarray(share) * 1.0
        if xp is np and not (np.all(part >= 0.0) and np.all(part.sum(-1) > 0.0)):
            raise ValueError("lengths.share: expected shares of at least 0 that sum to more than 0")
        return cls(part / xp.sum(part, axis=-1, keepdims=True), prompt, output, xp.minimum(cached, prompt))

    @classmethod
    def of_requests(cls, requests: Requests) -> "Lengths":
        """One class per distinct triple of lengths in a trace."""
        triples = np.stack([requests.input_tokens, requests.output_tokens, requests.cached_tokens], axis=1)
        distinct, count = np.unique(triples, axis=0, return_counts=True)
        return cls.of(*distinct.T.astype(float), share=count)

    def binned(self, prompts: int = 8, outputs: int = 4) -> "Lengths":
        """At most `prompts` x `outputs` classes of about equal share: cut by computed prompt tokens, each part by output tokens,
        the means of each. Of one distribution [classes]; means over all are kept, squares a little smaller."""
        names = ("share", "input_tokens", "output_tokens", "cached_tokens")
        values = np.stack([np.broadcast_to(getattr(self, name), self.share.shape) for name in names])

        def cut(part: np.ndarray, by: np.ndarray, pieces: int) -> list[np.ndarray]:
            part = part[:, np.argsort(by, kind="stable")]
            middle = (np.cumsum(part[0]) - 0.5 * part[0]) / part[0].sum()
            at = np.minimum((middle * pieces).astype(int), pieces - 1)
            return [part[:, at == i] for i in np.unique(at)]

        parts = [
            piece
            for part in cut(values, values[1] - values[3], prompts)
            for piece in cut(part, part[2], outputs)
            if piece[0].sum() > 0.0
        ]
        total = np.array([part[0].sum() for part in parts])
        means = [np.array([(part[0] * part[i]).sum() for part in parts]) / total for i in (1, 2, 3)]
        return Lengths(total, *means, tokens_per_step=self.tokens_per_step)

    @classmethod
    def uniform(cls, input_tokens: float, output_tokens: float, low: float = 0.8, classes: int = CLASSES) -> "Lengths":
        """Both lengths uniform in [low, 1] of the given, independent of each other."""
        u, v = _pairs(classes)
        return cls.of(input_tokens * (low + (1.0 - low) * u), output_tokens * (low + (1.0 - low) * v))

    @classmethod
    def lognormal(
        cls, mean_input: float, cv_input: float, mean_output: float, cv_output: float, classes: int = CLASSES
    ) -> "Lengths":
        """Independent lognormal lengths of given means and coefficients of variation, at least one token each."""
        u, v = _pairs(classes)
        sides = []
        for mean, cv, at in ((mean_input, cv_input, u), (mean_output, cv_output, v)):
            sigma = np.sqrt(np.log1p(cv * cv))
            values = np.exp(sigma * ndtri(at))
            sides.append(np.maximum(mean * values / values.mean(), 1.0))
        return cls.of(*sides)

    @classmethod
    def histogram(cls, input_tokens: Array, output_tokens: Array, counts: Array) -> "Lengths":
        """A joint histogram: `counts` [inputs, outputs] over the bins' centres."""
        prompt, output = np.meshgrid(np.asarray(input_tokens, float), np.asarray(output_tokens, float), indexing="ij")
        counts = np.asarray(counts, float)
        if counts.shape != prompt.shape:
            raise ValueError(f"lengths.counts: shape {counts.shape}; expected {prompt.shape} (inputs, outputs)")
        kept = counts > 0.0
        return cls.of(prompt[kept], output[kept], share=counts[kept])

    @property
    def computed_tokens(self) -> Array:
        """Prompt tokens that are computed, [..., classes]."""
        return namespace(self).maximum(self.input_tokens - self.cached_tokens, 1.0)

    @property
    def steps(self) -> Array:
        """Decode steps, [..., classes]; the last step may yield more tokens than are left."""
        rest = self.output_tokens - 1.0
        tokens = namespace(self).asarray(self.tokens_per_step)[..., None]
        return namespace(self).where(rest > 0.0, rest / tokens + 0.5 * (1.0 - 1.0 / tokens), 0.0)

    def mean(self, values: Array) -> Array:
        """Mean of `values` [..., classes] over requests, [...]."""
        xp = namespace(self, values)
        return xp.sum(self.share * values, axis=-1)


def _pairs(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Midpoints of equal shares for two independent quantities: a lattice in the unit square."""
    at = (np.arange(classes) + 0.5) / classes
    golden = np.arange(classes) * 0.6180339887498949 % 1.0
    return at, at[np.argsort(np.argsort(golden))]


class Moments(NamedTuple):
    """What the fluid needs of the lengths, [...] each: mean and mean square of computed prompt tokens and of decode
    steps, mean contexts (positions) of a prompt token and a decoding sequence, the spread of the latter, and the mean
    over requests of the tokens in memory summed over its decode steps and at its end, and output tokens per step."""

    prompt: Array
    prompt_square: Array
    steps: Array
    steps_square: Array
    prompt_context: Array
    decode_context: Array
    decode_deviation: Array
    held: Array
    stored: Array
    final: Array
    tokens_per_step: Array


def moments(lengths: Lengths) -> Moments:
    """The moments of `lengths` over its classes."""
    xp = namespace(lengths)
    mean = lengths.mean
    prompt, cached = lengths.input_tokens, lengths.cached_tokens
    computed, steps, rest = lengths.computed_tokens, lengths.steps, lengths.output_tokens - 1.0
    tokens, decoding = mean(computed), mean(steps)
    some = xp.maximum(decoding, 1e-12)
    middle = prompt + 0.5 * (rest - 1.0)
    context = mean(steps * middle) / some
    square = mean(steps * (middle**2 + xp.maximum(rest * rest - 1.0, 0.0) / 12.0)) / some
    return Moments(
        prompt=tokens, prompt_square=mean(computed**2), steps=decoding, steps_square=mean(steps**2),
        prompt_context=mean(computed * (cached + 0.5 * computed)) / tokens, decode_context=context,
        decode_deviation=xp.sqrt(xp.maximum(square - context**2, 0.0) + 1e-12), held=mean(steps * (middle + 1.0)),
        stored=mean(prompt), final=mean(prompt + rest), tokens_per_step=xp.asarray(lengths.tokens_per_step) * 1.0,
    )  # fmt: skip
