"""The gap between levels: how far the whole is from the sum of its parts, and which terms it is made of.

    gamma = |T_level - sum_k T_k_hat| / sum_k T_k_hat

    T_meas - sum T_k_hat = [sum T_k - sum T_k_hat]          kernel-model error
                         + [T_model - sum T_k]              inter-kernel overhead (launch, host, sync) or overlap (negative)
                         + communication + queueing + ...   as far as known
                         + the rest                         unexplained

gamma > 0 alone does not mean overhead, so the signed value is kept, and whether the level's time was measured (total gap) or
itself predicted (structural gap).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from composition.argument_checks import check_number, check_shapes
from workloads.numeric import Array


class GapTerm(NamedTuple):
    """One term of the attribution, seconds, [...]."""

    name: str
    seconds: Array


class Gap(NamedTuple):
    """A gap at one boundary. `level_s`: time of the level; `parts_s`: sum of its predicted parts; `terms` sum to the
    difference.

    `measured`: whether `level_s` is a measurement (total gap) or a prediction (structural gap).
    """

    boundary: str
    level_s: Array
    parts_s: Array
    terms: tuple[GapTerm, ...]
    measured: bool

    @property
    def difference_s(self) -> Array:
        """Level minus parts, seconds, signed, [...]."""
        return self.level_s - self.parts_s

    @property
    def signed(self) -> Array:
        """Signed gap ratio, [...]: positive where the level takes longer than the parts say."""
        return self.difference_s / self.parts_s

    @property
    def gamma(self) -> Array:
        """Gap ratio, [...]."""
        return abs(self.signed)

    def shares(self) -> dict[str, Array]:
        """Each term relative to the parts, [...]; they sum to `signed`."""
        return {term.name: term.seconds / self.parts_s for term in self.terms}

    def to_frame(self) -> Any:
        """A pandas frame with one row per term (scalar gaps): seconds and share of the parts."""
        import pandas as pd

        rows = [(t.name, float(t.seconds), float(t.seconds / self.parts_s)) for t in self.terms]
        return pd.DataFrame(rows, columns=["term", "seconds", "share_of_parts"])


def gap(
    boundary: str,
    *,
    level_s: Array,
    parts_predicted_s: Array,
    parts_measured_s: Array | None = None,
    explained_s: Mapping[str, Array] | None = None,
    measured: bool = True,
) -> Gap:
    """The gap at `boundary` ("kernel->phase", "phase->model", "model->system") with an attribution that adds up.

    `parts_predicted_s`: sum of the parts' predictions. `parts_measured_s`: sum of their measurements, where there are any;
    its difference to the predictions is the kernel-model error. `explained_s`: further known terms by name ("launch",
    "communication", "queueing"). What is left is "unexplained". Raises `ValueError` for a term name that is reserved,
    negative times, parts of no time, and shapes that do not broadcast.
    """
    check_number("level_s", level_s, least=0.0, nan=True)
    check_number("parts_predicted_s", parts_predicted_s, least=0.0, above=True, nan=True)
    if parts_measured_s is not None:
        check_number("parts_measured_s", parts_measured_s, least=0.0, nan=True)
    known_s = {f"explained_s.{name}": seconds for name, seconds in (explained_s or {}).items()}
    measured_s = {} if parts_measured_s is None else {"parts_measured_s": parts_measured_s}
    check_shapes(level_s=level_s, parts_predicted_s=parts_predicted_s, **measured_s, **known_s)
    explained = dict(explained_s or {})
    for name in ("kernel error", "unexplained"):
        if name in explained:
            raise ValueError(f"explained_s.{name}: reserved; it follows from the other arguments")
    terms = [GapTerm(name, seconds) for name, seconds in explained.items()]
    if parts_measured_s is not None:
        terms.insert(0, GapTerm("kernel error", parts_measured_s - parts_predicted_s))
    known = sum((term.seconds for term in terms), start=0.0)
    terms.append(GapTerm("unexplained", level_s - parts_predicted_s - known))
    return Gap(boundary, level_s, parts_predicted_s, tuple(terms), measured)
