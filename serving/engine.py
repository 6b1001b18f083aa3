"""What a serving engine is allowed to do: batching policy, limits, memory for keys and values, and its own overheads."""

import math
from dataclasses import dataclass

BATCHING = ("mixed", "prefill_first", "static")
ADMISSION = ("fcfs", "shortest_first", "priority")
ROUTERS = ("round_robin", "least_loaded")


@dataclass(frozen=True)
class Overheads:
    """Time an engine adds to the kernels', seconds. `iteration_s` per iteration and `sequence_s` per sequence sampled
    in it stop the device; `layer_s` per layer is what the host needs to launch the kernels of an iteration with prompts
    one by one (such iterations are in no captured graph and take at least that long); `request_s` (tokenising, routing,
    network) passes before a request reaches the queue; `token_s` (detokenising, streaming) between the end of an
    iteration and the client. `imbalance`: decode attention over
    contexts of unequal length takes the time of the mean context plus `imbalance` standard deviations."""

    iteration_s: float = 0.0
    sequence_s: float = 0.0
    request_s: float = 0.0
    token_s: float = 0.0
    imbalance: float = 0.0
    layer_s: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, int | float) and not 0.0 <= value < math.inf:
                raise ValueError(f"overheads.{name}: {value!r}; expected a finite number of at least 0")


@dataclass(frozen=True)
class Engine:
    """Policies and limits of one replica.

    `batching`: "mixed" (vLLM v1, Sarathi: decoding sequences first, the rest of the token budget for prompts, in
    chunks where `chunked`; unchunked it is Orca's), "prefill_first" (vLLM v0: iterations of whole prompts stop decoding)
    or "static" (a batch runs until all of it is done). `lookahead`: the engine plans an iteration while the one before
    still runs (asynchronous scheduling), so that arrivals and freed slots are seen one iteration late. `intake_iterations`:
    decoding iterations between two looks at what has arrived (SGLang's scheduler-recv-interval); after prompts, and when
    nothing runs, it looks at once. `kv_tokens`: tokens whose keys and values fit in memory, allocated in blocks of
    `block_tokens`; `watermark`: share of blocks that admission leaves free. When blocks run out, the youngest request is
    preempted and recomputed, unless memory for the whole output is set aside at admission (`reserve_output`, TensorRT-LLM's
    guarantee of no eviction).
    """

    batching: str = "mixed"
    max_sequences: int = 256
    max_batched_tokens: int = 8192
    chunked: bool = True
    lookahead: bool = False
    intake_iterations: int = 1
    kv_tokens: float = math.inf
    block_tokens: int = 16
    watermark: float = 0.0
    reserve_output: bool = False
    admission: str = "fcfs"
    overheads: Overheads = Overheads()

    def __post_init__(self) -> None:
        for name, known in (("batching", BATCHING), ("admission", ADMISSION)):
            if getattr(self, name) not in known:
                raise ValueError(f"engine.{name}: {getattr(self, name)!r} is unknown (known: {', '.join(known)})")
        for name in ("max_sequences", "max_batched_tokens", "block_tokens", "intake_iterations"):
            if not 1 <= getattr(self, name) < 2**53:
                raise ValueError(f"engine.{name}: {getattr(self, name)!r}; expected at least 1 (and below 2^53)")
        if not self.kv_tokens >= self.block_tokens:
            raise ValueError(
                f"engine.kv_tokens: {self.kv_tokens!r}; expected at least one block of {self.block_tokens}"
            )
        if not 0.0 <= self.watermark < 1.0:
            raise ValueError(f"engine.watermark: {self.watermark!r}; expected a share in [0, 1)")

    @property
    def kv_blocks(self) -> int:
        """Whole blocks that fit."""
        return int(min(self.kv_tokens, 2.0**50) // self.block_tokens)
