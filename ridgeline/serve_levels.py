"""What is asked of a deployment: service levels on times, the load, the chips there are."""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from hardware import Accelerator

#: Times a level may be on.
LEVELS = ("ttft", "tpot", "ttft p99", "tpot p99")


class Stock(NamedTuple):
    """Chips of one kind: how many, USD per hour of one (NaN: unknown), chips of a node."""

    chip: Accelerator
    count: int
    usd_per_hour: float
    node: int

    def __str__(self) -> str:
        return f"{self.count} x {self.chip.name}"


class Times(NamedTuple):
    """Seconds, arrays [...]: means and 99th percentiles (NaN where not asked) of the first token and of each further one."""

    ttft_s: np.ndarray
    tpot_s: np.ndarray
    ttft_p99_s: np.ndarray
    tpot_p99_s: np.ndarray


class Levels(NamedTuple):
    """Service levels in seconds, infinite where there is none, and how far off predictions may be (standard deviations
    of the logarithm)."""

    ttft_s: float
    tpot_s: float
    ttft_p99_s: float
    tpot_p99_s: float
    ttft_deviation: float
    tpot_deviation: float

    @property
    def tails(self) -> bool:
        """Whether any level is on a percentile."""
        return bool(min(self.ttft_p99_s, self.tpot_p99_s) < np.inf)

    @property
    def first_s(self) -> float:
        """What a request's first token may take: its strictest level, of the mean or the percentile."""
        return min(self.ttft_s, self.ttft_p99_s)

    @property
    def each_s(self) -> float:
        """What a request's further tokens may take each."""
        return min(self.tpot_s, self.tpot_p99_s)

    @property
    def deviations(self) -> tuple[float, float, float, float]:
        """Of each of `LEVELS`."""
        return self.ttft_deviation, self.tpot_deviation, self.ttft_deviation, self.tpot_deviation

    def ratios(self, times: Times) -> np.ndarray:
        """Times over their levels, [levels, ...]; 0 where there is no level."""
        return np.stack(
            [time / level if level < np.inf else np.zeros(np.shape(time)) for time, level in zip(times, self[:4])]
        )

    def slack(self, times: Times) -> tuple[np.ndarray, np.ndarray]:
        """The largest time over its level, and the name of that level."""
        ratios = self.ratios(times)
        return ratios.max(0), np.array(LEVELS)[ratios.argmax(0)]

    def mean_levels(self, times: Times) -> tuple[np.ndarray, np.ndarray]:
        """Levels of the means that bind where those asked for do, if percentiles keep their ratio to the mean."""
        ratios = self.ratios(times)
        some = np.maximum(ratios, 1e-9)
        return times.ttft_s / np.maximum(some[0], some[2]), times.tpot_s / np.maximum(some[1], some[3])

    def confidence(self, times: Times) -> np.ndarray:
        """The least of the probabilities that each level holds; NaN where deviations are unknown."""
        least = np.ones(np.shape(times.ttft_s))
        for ratio, deviation, level in zip(self.ratios(times), self.deviations, self[:4]):
            if level < np.inf:
                with np.errstate(divide="ignore", invalid="ignore"):
                    least = np.minimum(least, ndtr(-np.log(ratio) / deviation))
        return least

    def __str__(self) -> str:
        names = ("mean TTFT", "mean TPOT", "p99 TTFT", "p99 TPOT")
        return ", ".join(f"{name} {level:g} s" for name, level in zip(names, self[:4]) if level < np.inf)


class Load(NamedTuple):
    """What arrives: at most one of the two."""

    rate_per_s: float | None
    concurrency: int | None

    @property
    def given(self) -> bool:
        """Whether there is one, or the largest is sought."""
        return self.rate_per_s is not None or self.concurrency is not None

    def __str__(self) -> str:
        if self.rate_per_s is not None:
            return f"{self.rate_per_s:g} requests/s"
        return f"{self.concurrency} in flight" if self.concurrency is not None else "as much as the levels allow"
