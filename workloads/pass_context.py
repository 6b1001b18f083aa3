"""What the builders of a layer's operators share: token counts on one device, degrees, formats."""

from collections.abc import Sequence
from typing import NamedTuple

from workloads.batch import Batch
from workloads.dtypes import element_bytes
from workloads.layers import GatedDeltaNet, GroupedQueryAttention, LatentAttention, MixtureOfExperts
from workloads.numeric import Array, namespace
from workloads.operator_table import Entry
from workloads.operators import Collective, Gemm, Normalisation, Quantise
from workloads.operators.operator import Operator
from workloads.parallelism import Parallelism, can_exceed
from workloads.quantisation import Quantisation

QUANTISED = ("fp8", "fp8_block", "nvfp4", "fp4", "int8")


class PassContext(NamedTuple):
    """One pass on one device. `batch` is the data-parallel rank's share; `tokens` its new tokens, [...]."""

    hidden: int
    dtype: str
    kv_dtype: str
    norm: str
    causal: bool
    quantisation: Quantisation
    batch: Batch
    tokens: Array
    parallelism: Parallelism

    @property
    def norm_rows(self) -> Array:
        """Rows of a normalisation over the hidden dimension (1 / tp of the tokens under sequence parallelism),
        [...]."""
        return self.tokens / self.parallelism.tp if self.parallelism.sequence_parallel else self.tokens

    def gemm(self, m: Array, n: Array, k: Array, part: str, batch: Array = 1) -> Gemm:
        """A product whose weight belongs to `part`; output in the model's dtype."""
        compute = self.quantisation.compute_dtype(part, self.dtype) if part else self.dtype
        weight = self.quantisation.weight_dtype(part, self.dtype) if part else self.dtype
        return Gemm(m=m, n=n, k=k, batch=batch, dtype=compute, weight_dtype=weight, out_dtype=self.dtype)

    def quantise(self, name: str, rows: Array, cols: Array, part: str, count: int, layers: str) -> list[Entry]:
        """Dynamic quantisation in front of a product of `part`, if its format needs one."""
        target = self.quantisation.compute_dtype(part, self.dtype)
        if target not in QUANTISED or target == self.dtype:
            return []
        return [Entry(name, Quantise(rows=rows, cols=cols, dtype=self.dtype, out_dtype=target), count, layers)]

    def normalise(
        self, name: str, rows: Array, cols: Array, residual: int, count: int, layers: str, flavour: str = ""
    ) -> Entry:
        """A normalisation of `rows` x `cols`."""
        operator = Normalisation(
            rows=rows, cols=cols, residual=residual, dtype=self.dtype, flavour=flavour or self.norm
        )
        return Entry(name, operator, count, layers)

    def collective(
        self, name: str, op: str, payload: Array, ranks: Array, count: Array, scope: str, layers: str
    ) -> list[Entry]:
        """A collective, left out where `ranks` is known to be 1 and counted 0 where it turns out to be."""
        if not can_exceed(ranks, 1):
            return []
        operator = Collective(payload_bytes=payload, ranks=ranks, op=op, scope=scope, dtype=self.dtype)
        return [Entry(name, operator, count if _is_plain(ranks) else count * _active(ranks), layers)]

    def tensor_parallel_sum(self, name: str, count: Array, layers: str) -> list[Entry]:
        """The all-reduce after a row-parallel product, or its reduce-scatter + all-gather under sequence
        parallelism."""
        p = self.parallelism
        payload = self.tokens * (self.hidden * element_bytes(self.dtype))
        ops = ("reduce_scatter", "all_gather") if p.sequence_parallel else ("all_reduce",)
        return [e for op in ops for e in self.collective(f"{name}_{op}", op, payload, p.tp, count, p.tp_scope, layers)]

    def divisible(self, spec: object) -> Array:
        """Whether the heads, widths and experts of `spec` divide by their degrees, [...]."""
        p = self.parallelism
        xp = namespace(p)
        tp, ep = xp.asarray(p.tp), xp.asarray(p.ep)
        if isinstance(spec, GroupedQueryAttention):
            kv = spec.kv_heads
            return (spec.heads % tp == 0) & ((kv % tp == 0) | (tp % kv == 0))
        if isinstance(spec, LatentAttention):
            return spec.heads % tp == 0
        if isinstance(spec, GatedDeltaNet):
            return (spec.key_heads % tp == 0) & (spec.value_heads % tp == 0)
        if isinstance(spec, MixtureOfExperts):
            shared = p.dispatches | (spec.shared_width % tp == 0)
            return (spec.experts % ep == 0) & (spec.width % p.expert_tp == 0) & shared
        return spec.width % tp == 0  # type: ignore[attr-defined]


def present(count: Array, amount: Array) -> Array:
    """`count` where `amount` > 0, else 0: an operator without rows is not launched."""
    if isinstance(amount, (int, float)):
        return count if amount > 0 else 0
    xp = namespace(amount)
    return count * xp.where(xp.asarray(amount) > 0, 1, 0)


def operator_entries(pairs: Sequence[tuple[str, Operator]], count: Array, layers: str) -> list[Entry]:
    """Entries for (name, operator) pairs that all run `count` times."""
    return [Entry(name, operator, count, layers) for name, operator in pairs]


def _is_plain(value: Array) -> bool:
    return isinstance(value, (int, float))


def _active(ranks: Array) -> Array:
    xp = namespace(ranks)
    return xp.where(xp.asarray(ranks) > 1, 1, 0)
