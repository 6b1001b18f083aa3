"""Error laws: how far measurements lie from predictions, by group and size, learned from data that no fit had seen.

With r = ln(measured / predicted) and t the predicted time, a law holds a spread s(t), piecewise linear in log10 t (short
kernels err more: launch, clock and cache effects are a larger share of them), and two quantiles of the normalised score
r / s(t). Normalised split conformal intervals follow,

    [t exp(low s(t)), t exp(high s(t))],

which hold `COVERAGE` of what is exchangeable with the residuals the law was learned from, whatever their distribution. For
composition the spread is split into an error `shared` by all kernels of a group on one chip and stack, and the private rest.

`basis` says how the constants behind the prediction were obtained: "fitted" (chip and stack measured; law learned on shapes
left out), "same generation" (another chip of the architecture measured), "other generation" (law learned on chips left
out), "datasheet" likewise.

Source: Lei et al., "Distribution-free predictive inference for regression", JASA 113, 2018 (locally weighted scores).
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from workloads.numeric import Array, namespace

#: Nominal coverage of the intervals.
COVERAGE = 0.9
#: log10 of the predicted seconds at which a spread is given; constant beyond the ends.
KNOTS = (-6.0, -5.5, -5.0, -4.5, -4.0, -3.5, -3.0, -2.0, -1.0, 0.0)
#: A law for any value of a field.
ANY = ""
#: Fields that laws are chosen by, besides level and basis; the first ones are given up first when none is known.
FIELDS = ("architecture", "op", "engine", "dtype", "family")
#: What a chip of a measured generation that was itself not measured adds to the spread of its generation, as a factor.
#: Measured: a model fitted to one Hopper chip erred 7.4 % there and 7.7-8.4 % on another (ratio 1.04-1.14).
SAME_GENERATION_FACTOR = 1.1


class LawKey(NamedTuple):
    """The group of a prediction. `family`: "gemm", "attention", "moe", ...; `op`: as recorded; `dtype`: canonical; `engine`:
    software without version; `architecture` of the cores; `ANY` where not known."""

    family: str = ANY
    op: str = ANY
    dtype: str = ANY
    engine: str = ANY
    architecture: str = ANY


@dataclass(frozen=True, kw_only=True)
class ErrorLaw:
    """One law. `spread` at `KNOTS`; `low`, `high`: quantiles of the normalised score; `shared`, `private`: standard deviations of
    ln(measured / predicted) between and within chips and stacks. `n` residuals of `chips`, learned under `split`.
    """

    level: str
    basis: str
    key: LawKey
    spread: tuple[float, ...]
    low: float
    high: float
    shared: float
    private: float
    n: int
    chips: tuple[str, ...] = ()
    split: str = ""

    def spread_at(self, time_s: Array) -> Array:
        """s(t), [...], for predicted seconds `time_s`."""
        xp = namespace(time_s)
        return xp.interp(xp.log10(xp.maximum(time_s, 1e-12)), xp.asarray(KNOTS), xp.asarray(self.spread))

    def interval(self, time_s: Array, scale: Array = 1.0) -> tuple[Array, Array]:
        """Bounds in seconds, [...] each, that hold the measurement with probability `COVERAGE`.

        `scale`: predicted relative deviation, [...], where the law's scores were divided by one (composed levels).
        """
        xp = namespace(time_s, scale)
        spread = self.spread_at(time_s) * scale
        return time_s * xp.exp(self.low * spread), time_s * xp.exp(self.high * spread)

    def private_at(self, time_s: Array) -> Array:
        """Relative deviation private to a shape of predicted seconds `time_s`, [...]."""
        return self.private * self.spread_at(time_s)

    def widened(self, factor: float) -> "ErrorLaw":
        """The law with all spreads times `factor`."""
        values = {**self.__dict__, "spread": tuple(factor * s for s in self.spread), "shared": factor * self.shared}
        return ErrorLaw(**values)


def choose_law(laws: "LawIndex", level: str, basis: str, key: LawKey) -> ErrorLaw | None:
    """The most specific of `laws` for a prediction of group `key` on constants of `basis`; None if the level has none.

    Fields are given up in the order of `FIELDS`. A basis without a law of its own takes the next less certain one that
    has; "same generation" takes the "fitted" law times `SAME_GENERATION_FACTOR` where it has none.
    """
    factor = 1.0
    own = (level, "same generation", LawKey(family=key.family))
    if basis == "same generation" and own not in laws.known:
        basis, factor = "fitted", SAME_GENERATION_FACTOR
    order = _LESS_CERTAIN.get(basis, _LESS_CERTAIN["datasheet"])
    wanted = _less_specific(key)
    own_family = [one for one in wanted if one.family]
    # Within a family first over the other bases: a family's own error says more than another family's.
    for keys in (own_family, [one for one in wanted if not one.family]):
        for stand_in in order:
            for one in keys:
                if (found := laws.known.get((level, stand_in, one))) is not None:
                    return found if factor == 1.0 else found.widened(factor)
    return None


#: Basis -> the bases whose laws may stand for it, in order.
_LESS_CERTAIN = {
    "fitted": ("fitted", "other generation"),
    "same generation": ("same generation", "other generation"),
    "few-shot": ("few-shot", "fitted", "other generation"),
    "other generation": ("other generation", "fitted", "same generation"),
    "datasheet": ("datasheet", "other generation", "fitted", "same generation"),
}


class LawIndex:
    """Laws by (level, basis, key), for many choices."""

    def __init__(self, laws: Iterable[ErrorLaw]) -> None:
        self.laws = tuple(laws)
        self.known = {(law.level, law.basis, law.key): law for law in self.laws}
        self._architectures: dict[tuple[str, str, str], set[str]] = {}
        for law in self.laws:
            if law.basis == "fitted" and law.key.architecture:
                for dtype in (law.key.dtype, ANY):
                    group = (law.level, law.key.family, dtype)
                    self._architectures.setdefault(group, set()).add(law.key.architecture)

    def measured_architectures(self, level: str, family: str, dtype: str) -> frozenset[str]:
        """Architectures with a fitted law of `family` and `dtype` (of any format if none has that one)."""
        own = self._architectures.get((level, family, dtype))
        return frozenset(own or self._architectures.get((level, family, ANY), ()))


def _less_specific(key: LawKey) -> list[LawKey]:
    """`key` and what is left of it when fields are given up one after the other."""
    keys = [key]
    for name in FIELDS:
        keys.append(keys[-1]._replace(**{name: ANY}))
    # The operator may be new while the chip is known, and an engine says more than a format alone.
    keys.insert(1, key._replace(op=ANY))
    keys.insert(-2, LawKey(family=key.family, engine=key.engine))
    return list(dict.fromkeys(keys))


def basis_of(kind: str, architecture: str, measured: Iterable[str]) -> str:
    """The basis of constants of `kind` ("fitted", "transferred", ...) for a chip of `architecture`, where chips of the
    architectures `measured` were fitted to."""
    if kind in ("fitted", "few-shot", "datasheet"):
        return kind
    kin = {architecture, {"Blackwell Ultra": "Blackwell"}.get(architecture, architecture)}
    return "same generation" if kin & set(measured) else "other generation"


def shipped_laws() -> LawIndex:
    """The laws in `constants/error_laws.toml` (or those of `replaced_laws`)."""
    return _replacement[-1] if _replacement else _read_laws()


_replacement: list[LawIndex] = []


@contextmanager
def replaced_laws(laws: Iterable[ErrorLaw]) -> Iterator[None]:
    """Use `laws` instead of the shipped ones inside a `with` block (learning the laws of composed levels)."""
    _replacement.append(LawIndex(laws))
    try:
        yield
    finally:
        _replacement.pop()


@cache
def _read_laws() -> LawIndex:
    text = files("profiles").joinpath("constants/error_laws.toml").read_text(encoding="utf-8")
    return LawIndex(laws_from(tomllib.loads(text).get("law", [])))


def laws_from(tables: Sequence[Mapping[str, Any]]) -> list[ErrorLaw]:
    """Laws of parsed TOML tables; `ValueError` naming an unknown or missing field."""
    laws = []
    for i, table in enumerate(tables):
        wanted = {*ErrorLaw.__dataclass_fields__, *LawKey._fields} - {"key"}
        if unknown := set(table) - wanted:
            raise ValueError(f"law[{i}].{min(unknown)}: unknown field (known: {', '.join(sorted(wanted))})")
        for name in ("level", "basis", "spread", "low", "high", "n"):
            if name not in table:
                raise ValueError(f"law[{i}].{name}: missing")
        if len(table["spread"]) != len(KNOTS):
            raise ValueError(f"law[{i}].spread: {len(table['spread'])} values; expected {len(KNOTS)}")
        key = LawKey(**{name: table[name] for name in LawKey._fields if name in table})
        values: dict[str, Any] = {name: value for name, value in table.items() if name not in LawKey._fields}
        values |= {"spread": tuple(values["spread"]), "chips": tuple(values.get("chips", ()))}
        complete: dict[str, Any] = {"shared": 0.0, "private": 1.0, **values}
        laws.append(ErrorLaw(**complete, key=key))
    return laws
