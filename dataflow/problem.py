"""A layer as a tensor contraction: named dimensions, and tensors whose ranks are affine sums of dimensions.

`out[projection] += product(in[projection])` over the box of all dimensions. Sizes and coefficients (strides,
dilations) are arrays, so one `Problem` may stand for every layer of a network; names and projections are static.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

import jax
import numpy as np

from workloads.numeric import Array

#: One term of a rank: (dimension, coefficient); the coefficient is a number or the name of one in
# `Problem.coefficients`.
Term = tuple[str, float | str]


@dataclass(frozen=True)
class Tensor:
    """An operand. `ranks[r]` is the sum of `coefficient * index(dimension)` that addresses its r-th rank.

    A dimension appears in at most one rank of a tensor. `output` marks the tensor that is accumulated (exactly one).
    """

    name: str
    ranks: tuple[tuple[Term, ...], ...]
    output: bool = False

    @property
    def dimensions(self) -> frozenset[str]:
        """The dimensions that this tensor depends on ("relevant" dimensions)."""
        return frozenset(dim for rank in self.ranks for dim, _ in rank)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Problem:
    """A contraction. `sizes[d]` and `coefficients[c]` are arrays that broadcast; the rest is static.

    `padding` does not enlarge traffic models beyond the padded input: the halo of a padded convolution is counted as
    words.
    """

    sizes: dict[str, Array]
    coefficients: dict[str, Array] = field(default_factory=dict)
    dimensions: tuple[str, ...] = field(default=(), metadata={"static": True})
    tensors: tuple[Tensor, ...] = field(default=(), metadata={"static": True})
    name: str = field(default="problem", metadata={"static": True})

    @property
    def output(self) -> Tensor:
        """The accumulated tensor."""
        return next(t for t in self.tensors if t.output)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The operands that are only read."""
        return tuple(t for t in self.tensors if not t.output)

    @property
    def macs(self) -> Array:
        """Multiply-accumulates, the product of all sizes, [...]."""
        total: Array = 1.0
        for dim in self.dimensions:
            total = total * self.sizes[dim]
        return total

    def coefficient(self, value: float | str) -> Array:
        """The number behind a term's coefficient."""
        return self.coefficients[value] if isinstance(value, str) else value

    def tensor(self, name: str) -> Tensor:
        """The tensor called `name`; ValueError with the nearest known name."""
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise ValueError(unknown("tensor", name, [t.name for t in self.tensors]))


def unknown(kind: str, name: object, known: Iterable[str], path: str = "") -> str:
    """The one-line message for a name that is not known, with the nearest known one."""
    names = list(known)
    near = get_close_matches(str(name), names, 1, 0.4)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"{path + ': ' if path else ''}unknown {kind} {str(name)[:80]!r}{hint} (known: {', '.join(names)})"


def problem(
    tensors: Iterable[Tensor],
    sizes: Mapping[str, Array],
    coefficients: Mapping[str, Array] | None = None,
    name: str = "problem",
) -> Problem:
    """A checked `Problem`.

    Raises ValueError (one line, with the field's path) for: no or several outputs, a size that is not a positive
    integer, a tensor that names an unknown dimension or coefficient, one dimension in two ranks of a tensor, a
    negative coefficient.
    """
    tensors, coefficients = tuple(tensors), dict(coefficients or {})
    for dim, size in sizes.items():
        _positive_integers(size, f"problem.sizes.{dim}")
    for label, value in coefficients.items():
        _positive_integers(value, f"problem.coefficients.{label}")
    outputs = [t.name for t in tensors if t.output]
    if len(outputs) != 1:
        raise ValueError(
            f"problem.tensors: {len(outputs)} outputs ({', '.join(outputs) or 'none'}), expected exactly one"
        )
    names = [t.name for t in tensors]
    if len(set(names)) != len(names):
        raise ValueError(f"problem.tensors: duplicate name in {', '.join(names)}")
    for tensor in tensors:
        seen: set[str] = set()
        for r, rank in enumerate(tensor.ranks):
            for dim, coefficient in rank:
                path = f"problem.tensors.{tensor.name}.ranks[{r}]"
                if dim not in sizes:
                    raise ValueError(unknown("dimension", dim, sizes, path))
                if isinstance(coefficient, str) and coefficient not in coefficients:
                    raise ValueError(unknown("coefficient", coefficient, coefficients, path))
                if not isinstance(coefficient, str):
                    _positive_integers(coefficient, f"{path}.{dim}")
                if dim in seen:
                    raise ValueError(
                        f"{path}: dimension '{dim}' already addresses {tensor.name}; expected one rank for each"
                    )
                seen.add(dim)
    unused = set(sizes) - {dim for t in tensors for dim in t.dimensions}
    if unused:
        raise ValueError(f"problem.sizes.{sorted(unused)[0]}: dimension addresses no tensor")
    return Problem(dict(sizes), coefficients, tuple(sizes), tensors, name)


def contraction(
    expression: str, sizes: Mapping[str, Array], coefficients: Mapping[str, Array] | None = None
) -> Problem:
    """A problem from text: `contraction("O[k,p] += W[k,c,r] * I[c,2*p+r]", {"k": 8, ...})`.

    Left of `+=` stands the output, right of it the operands, each with its ranks; a coefficient is an integer or a
    name from `coefficients`. Errors as in `problem`.
    """
    left, sep, right = expression.partition("+=")
    if not sep:
        raise ValueError(f"problem.expression: {expression!r}, expected 'OUT[...] += A[...] * B[...]'")
    operands = [_tensor(text, False) for text in re.findall(r"[^\[\]*]+\[[^\]]*\]", right)]
    rest = re.sub(r"[^\[\]*]+\[[^\]]*\]", "", right).replace("*", "").strip()
    if rest or not operands:
        raise ValueError(f"problem.expression: cannot read {rest or right.strip()!r}, expected 'A[...] * B[...]'")
    return problem([*operands, _tensor(left, True)], sizes, coefficients)


def gemm(m: Array, n: Array, k: Array) -> Problem:
    """`Outputs[m, n] += Inputs[m, k] * Weights[k, n]`."""
    return contraction("Outputs[M,N] += Weights[K,N] * Inputs[M,K]", {"M": m, "N": n, "K": k})


def batched_gemm(batch: Array, m: Array, n: Array, k: Array) -> Problem:
    """`Outputs[b, m, n] += Inputs[b, m, k] * Weights[b, k, n]`."""
    return contraction("Outputs[B,M,N] += Weights[B,K,N] * Inputs[B,M,K]", {"B": batch, "M": m, "N": n, "K": k})


def conv2d(
    n: Array,
    c: Array,
    m: Array,
    height: Array,
    width: Array,
    r: Array,
    s: Array,
    stride: Array = 1,
    dilation: Array = 1,
    padding: Array = 0,
) -> Problem:
    """A convolution in the dimensions N (batch), C (input channels), M (filters), P and Q (output), R and S (filter).

    `height` and `width` are the input's; P = (height + 2 padding - dilation (R - 1) - 1) // stride + 1, and Q alike.
    ValueError for a filter that reaches beyond the padded input.
    """
    sizes = {"N": n, "C": c, "M": m, "R": r, "S": s, **_output_size(height, width, r, s, stride, dilation, padding)}
    text = "Outputs[N,M,Q,P] += Weights[C,M,R,S] * Inputs[N,C,dilation*R+stride*P,dilation*S+stride*Q]"
    return contraction(text, sizes, {"stride": stride, "dilation": dilation})


def depthwise_conv2d(
    n: Array,
    c: Array,
    height: Array,
    width: Array,
    r: Array,
    s: Array,
    stride: Array = 1,
    dilation: Array = 1,
    padding: Array = 0,
) -> Problem:
    """A convolution of each channel with its own filter (dimensions N, C, P, Q, R, S; see `conv2d`)."""
    sizes = {"N": n, "C": c, "R": r, "S": s, **_output_size(height, width, r, s, stride, dilation, padding)}
    text = "Outputs[N,C,Q,P] += Weights[C,R,S] * Inputs[N,C,dilation*R+stride*P,dilation*S+stride*Q]"
    return contraction(text, sizes, {"stride": stride, "dilation": dilation})


def grouped_conv2d(
    n: Array,
    groups: Array,
    c: Array,
    m: Array,
    height: Array,
    width: Array,
    r: Array,
    s: Array,
    stride: Array = 1,
    dilation: Array = 1,
    padding: Array = 0,
) -> Problem:
    """`groups` (G) independent convolutions; `c` and `m` are the channels and filters of one group (see `conv2d`)."""
    sizes = {"G": groups, "N": n, "C": c, "M": m, "R": r, "S": s}
    sizes |= _output_size(height, width, r, s, stride, dilation, padding)
    text = "Outputs[N,G,M,Q,P] += Weights[G,C,M,R,S] * Inputs[N,G,C,dilation*R+stride*P,dilation*S+stride*Q]"
    return contraction(text, sizes, {"stride": stride, "dilation": dilation})


def attention_qk(batch: Array, heads: Array, queries: Array, keys: Array, head_dim: Array) -> Problem:
    """`Scores[b, h, q, k] += Queries[b, h, q, d] * Keys[b, h, k, d]` (dimensions B, H, Q, K, D)."""
    sizes = {"B": batch, "H": heads, "Q": queries, "K": keys, "D": head_dim}
    return contraction("Scores[B,H,Q,K] += Queries[B,H,Q,D] * Keys[B,H,K,D]", sizes)


def attention_pv(batch: Array, heads: Array, queries: Array, keys: Array, head_dim: Array) -> Problem:
    """`Outputs[b, h, q, d] += Scores[b, h, q, k] * Values[b, h, k, d]` (dimensions B, H, Q, K, D)."""
    sizes = {"B": batch, "H": heads, "Q": queries, "K": keys, "D": head_dim}
    return contraction("Outputs[B,H,Q,D] += Scores[B,H,Q,K] * Values[B,H,K,D]", sizes)


def _output_size(height, width, r, s, stride, dilation, padding) -> dict[str, Array]:
    given = {"height": height, "width": width, "r": r, "s": s, "stride": stride, "dilation": dilation}
    for label, value in given.items():
        _positive_integers(value, f"problem.{label}")
    _positive_integers(padding, "problem.padding", least=0)
    height, width, r, s, stride, dilation, padding = (
        np.asarray(x) if isinstance(x, list | tuple) else x for x in (*given.values(), padding)
    )
    found = {}
    for dim, side, extent, kernel, size in (("P", "height", height, "r", r), ("Q", "width", width, "s", s)):
        room, reach = extent + 2 * padding, dilation * (size - 1) + 1
        if not isinstance(room, jax.Array) and not isinstance(reach, jax.Array) and np.any(np.asarray(reach > room)):
            where = f"{side} + 2 padding = {room}"
            raise ValueError(
                f"problem.{kernel}: {size} with dilation {dilation} spans {reach}, expected at most {where}"
            )
        found[dim] = (room - reach) // stride + 1
    return found


def _positive_integers(value: Array, path: str, least: int = 1) -> None:
    if isinstance(value, jax.Array):
        return
    try:
        values = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        values = np.asarray("ragged")
    wrong = values.dtype.kind not in "iuf" or not values.size
    if wrong or not np.all(np.isfinite(values) & (values >= least) & (values == np.floor(values))):
        raise ValueError(f"{path}: {repr(value)[:80]}, expected {'positive' if least else 'non-negative'} integers")


def _tensor(text: str, output: bool) -> Tensor:
    match = re.fullmatch(r"\s*(\w+)\s*\[([^\]]*)\]\s*", text)
    if not match:
        raise ValueError(f"problem.expression: cannot read {text.strip()!r}, expected 'NAME[rank,rank,...]'")
    ranks = tuple(tuple(_term(term) for term in rank.split("+")) for rank in match[2].split(",") if rank.strip())
    return Tensor(match[1], ranks, output)


def _term(text: str) -> Term:
    *coefficient, dim = (part.strip() for part in text.split("*"))
    if not coefficient:
        return dim, 1
    return dim, int(coefficient[0]) if coefficient[0].isdigit() else coefficient[0]
