"""How a model runs on a group of devices: degrees of parallelism, what overlaps with what, micro-batches."""

from typing import NamedTuple

from composition.argument_checks import check_number
from workloads import Parallelism
from workloads.numeric import Array


class Deployment(NamedTuple):
    """Numbers may be arrays and broadcast; `parallelism` carries tp, pp, ep, dp and sequence parallelism.

    `microbatches`: pieces a pass is cut into to fill the pipeline. `communication_overlap`: share of the shorter of compute
    and collectives that hides behind the longer (0: kernels and collectives take turns). `communication_demand`: sum of
    the shares of a common resource (cores, memory) both would use at once; beyond 1 they slow each other.
    `attention_overlap`: the same share between prefill and decode attention of a mixed batch (0: two kernels, 1: perfectly
    fused, as POD-Attention aims at). `rank_deviation`: relative deviation between data-parallel ranks that wait for each other
    (expert parallelism across them). `kv_dtype`: format of the cache ("": the model's).

    Source of the fusion: Kamath et al., "POD-Attention", ASPLOS 2025.
    """

    parallelism: Parallelism = Parallelism()
    microbatches: Array = 1
    communication_overlap: Array = 0.0
    communication_demand: Array = 1.0
    attention_overlap: Array = 0.0
    rank_deviation: Array = 0.0
    kv_dtype: str = ""

    def check(self) -> None:
        """`ValueError` naming the first field that is out of range."""
        if not isinstance(self.parallelism, Parallelism):
            raise ValueError(f"deployment.parallelism: {self.parallelism!r}; expected a Parallelism")
        check_number("deployment.microbatches", self.microbatches, least=1.0)
        check_number("deployment.communication_demand", self.communication_demand, least=0.0)
        check_number("deployment.rank_deviation", self.rank_deviation, least=0.0)
        for name in ("communication_overlap", "attention_overlap"):
            check_number(f"deployment.{name}", getattr(self, name), least=0.0, most=1.0)
