"""Timing operators with PyTorch: on a GPU by CUDA graphs and events with the L2 cache flushed, else on the processor.

PyTorch is an optional extra (`ridgeline[torch]`). A GPU's name becomes the catalogue's; an unknown GPU must be named
by the user.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]  # an optional extra

import hardware
from hardware.measure_host import physical_memory
from profiles.measure import Unsupported
from profiles.measure_kernels import kernel
from profiles.store_checks import HOST
from workloads.operators import Operator

DTYPES = {
    "bf16": "bfloat16", "fp16": "float16", "fp32": "float32", "fp64": "float64", "int8": "int8", "fp8": "float8_e4m3fn",
}  # fmt: skip
FLUSH_BYTES = 256 << 20
WARM_UP = 3
#: Releases from 2.5 on take grouped heads as they are.
GROUPS_HEADS = tuple(int(n) for n in torch.__version__.split(".")[:2]) >= (2, 5)
#: Where operators may run.
PLACES = ("auto", "cpu", "cuda")


class TorchBackend:
    """Runs operators with PyTorch on the first GPU, or on the processor. `device`: name in the store where it is not
    recognised. `place`: cuda, cpu, or auto (a GPU if there is one); `ValueError` for a GPU that is not there."""

    def __init__(self, device: str = "", *, flush: bool = True, place: str = "auto") -> None:
        if place not in PLACES:
            raise ValueError(f"place: {place!r}; expected one of {', '.join(PLACES)}")
        self.gpu = place != "cpu" and torch.cuda.is_available()
        if place == "cuda" and not self.gpu:
            raise ValueError("place: PyTorch finds no GPU here; expected one for 'cuda'")
        self._place = torch.device("cuda" if self.gpu else "cpu")
        self.device = device or (_catalogue_name(torch.cuda.get_device_name()) if self.gpu else HOST)
        where = f"cu{torch.version.cuda}" if self.gpu else "cpu"
        self.stack = f"torch-{torch.__version__.split('+')[0]}-{where}"
        self.memory_bytes = 0.8 * torch.cuda.mem_get_info()[0] if self.gpu else 0.5 * physical_memory()
        self.library = _Torch(self._place)
        self._flushed = torch.zeros(FLUSH_BYTES // 4 if flush else 1, device=self._place)

    def prepare(self, op: Operator) -> Callable[[], Any]:
        try:
            run = kernel(op, self.library)
            run()
        except RuntimeError as error:
            raise Unsupported(" ".join(str(error).split())[:100]) from None
        return self._captured(run) if self.gpu else run

    def samples_s(self, run: Callable[[], Any], repeats: int) -> np.ndarray:
        for _ in range(WARM_UP):
            run()
        return self._gpu_samples(run, repeats) if self.gpu else self._cpu_samples(run, repeats)

    def _captured(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """A replay of `run` as a CUDA graph, or `run` itself where it cannot be captured."""
        stream = torch.cuda.Stream()
        try:
            with torch.cuda.stream(stream):
                run()
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                run()
        except RuntimeError:
            torch.cuda.synchronize()
            return run
        return graph.replay

    def _gpu_samples(self, run: Callable[[], Any], repeats: int) -> np.ndarray:
        times = []
        for _ in range(repeats):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._flushed.add_(1.0)
            start.record()
            run()
            stop.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(stop) * 1e-3)
        return np.array(times)

    def _cpu_samples(self, run: Callable[[], Any], repeats: int) -> np.ndarray:
        times = []
        for _ in range(repeats):
            self._flushed.add_(1.0)
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return np.array(times)


def _catalogue_name(name: str) -> str:
    try:
        return hardware.load(name).name
    except ValueError:
        raise ValueError(f"unknown GPU {name!r}; say which chip it is with --device") from None


class _Torch:
    """The array functions of PyTorch."""

    def __init__(self, place: Any) -> None:
        self.place = place
        self._seen: dict[tuple[int, int], Any] = {}

    def _dtype(self, name: str) -> Any:
        found = getattr(torch, DTYPES.get(name, ""), None)
        if found is None:
            raise Unsupported(f"PyTorch has no format {name}")
        return found

    def random(self, shape: tuple[int, ...], dtype: str) -> Any:
        values = torch.randn(shape, device=self.place, dtype=torch.float32)
        return values.to(self._dtype(dtype))

    def indices(self, count: int, below: int) -> Any:
        return torch.randint(below, (count,), device=self.place)

    def compiled(self, function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
        return lambda: function(*arguments)

    def matmul(self, a: Any, b: Any, out: str) -> Any:
        if a.element_size() > 1:
            return torch.matmul(a, b).to(self._dtype(out))
        if a.dim() != 2:
            raise Unsupported("no batched 8-bit product")
        if a.dtype == torch.int8:
            return torch._int_mm(a, b).to(self._dtype(out))
        if not hasattr(torch, "_scaled_mm"):
            raise Unsupported("this PyTorch has no 8-bit product")
        one = torch.ones((), device=self.place)
        return torch._scaled_mm(a, b.t().contiguous().t(), scale_a=one, scale_b=one, out_dtype=self._dtype(out))

    def softmax(self, x: Any) -> Any:
        return torch.softmax(x, -1)

    def normalise(self, x: Any, weight: Any, flavour: str) -> Any:
        if flavour == "layer":
            return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, weight)
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * weight

    def attention(self, q: Any, k: Any, v: Any, causal: bool) -> Any:
        groups = q.shape[2] // k.shape[2]
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        prefix = k.shape[2] > q.shape[2]
        options = (
            {"attn_mask": self._after_prefix(q.shape[2], k.shape[2])} if causal and prefix else {"is_causal": causal}
        )
        # Kernels that share a kv head among its query heads read it once; older releases need copies.
        if groups > 1 and GROUPS_HEADS:
            options["enable_gqa"] = True
        elif groups > 1:
            k, v = (x.repeat_interleave(groups, 1) for x in (k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, **options)

    def _after_prefix(self, queries: int, keys: int) -> Any:
        """Which keys each query of a chunk behind a prefix sees; kept, so that no run pays for it."""
        if (queries, keys) not in self._seen:
            every = torch.ones(queries, keys, dtype=torch.bool, device=self.place)
            self._seen[queries, keys] = every.tril(keys - queries)
        return self._seen[queries, keys]

    def conv2d(self, x: Any, w: Any, stride: int, padding: int, dilation: int, groups: int) -> Any:
        return torch.nn.functional.conv2d(x, w, None, stride, padding, dilation, groups)

    def quantise(self, x: Any, out: str) -> Any:
        scale = x.abs().amax(-1, keepdim=True).float() / 127.0
        return (x / scale).to(self._dtype(out)), scale

    def elementwise(self, name: str, operands: list[Any]) -> Any:
        functions = {"silu_mul": "silu", "gelu": "gelu", "relu": "relu", "tanh": "tanh"}
        first = getattr(torch.nn.functional, functions[name]) if name in functions else None
        result = first(operands[0]) if first else (operands[0] + 1 if len(operands) == 1 else operands[0])
        for other in operands[1:]:
            result = result * other if name in ("silu_mul", "mul") else result + other
        return result

    def take(self, table: Any, rows: Any) -> Any:
        return table.index_select(0, rows)

    def rotate(self, x: Any, table: Any) -> Any:
        a, b = x.chunk(2, -1)
        return x * table + torch.cat([-b, a], -1) * table
