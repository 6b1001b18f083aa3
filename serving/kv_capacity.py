"""How many tokens' keys and values fit on a replica beside its weights."""

from hardware.accelerator import Accelerator
from workloads import Batch, Parallelism
from workloads.numeric import Array, namespace
from workloads.transformer import TransformerModel

#: Share of device memory an engine takes for itself (the usual default of the engines).
USABLE = 0.9
#: Memory sizes are printed in binary gigabytes: an "80 GB" H100 reports 81,559 MiB, a "180 GB" B200 183,359 MiB.
PRINTED_BYTES = 2.0**30 / 1e9


def kv_capacity_tokens(
    model: TransformerModel,
    chip: Accelerator,
    parallelism: Parallelism,
    *,
    context_tokens: Array = 1024.0,
    kv_dtype: str = "",
    usable: Array = USABLE,
    batched_tokens: Array = 8192.0,
) -> Array:
    """Tokens of cache of one deployment (all its data-parallel ranks together), in requests of `context_tokens` each,
    [...]; 0 or less where the weights alone do not fit. Leaves room for the activations of `batched_tokens`."""
    one = model.memory(Batch.decode_of(parallelism.dp, context_tokens), parallelism, kv_dtype=kv_dtype)
    live = model.memory(Batch.prefill_of(parallelism.dp, batched_tokens / parallelism.dp), parallelism).activation_bytes
    free = chip.dram.capacity_bytes * (PRINTED_BYTES * usable) - one.weights_bytes - live
    xp = namespace(one.kv_bytes, context_tokens)
    per_request = xp.maximum(one.kv_bytes + one.state_bytes, 1e-9)
    return free / per_request * context_tokens * parallelism.dp
