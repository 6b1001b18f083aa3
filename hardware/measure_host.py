"""This machine as a chip: its own matrix, vector and stream rates, cache sizes and launch overhead, measured in
seconds.

Lets anyone hold predictions against reality without a GPU. Rates are the best of repeated runs on all cores that this
process may use; environment limits on threads (`OMP_NUM_THREADS`, ...) are part of what is measured.
"""

import datetime
import os
import platform
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np

from hardware.accelerator import Accelerator, MemoryLevel
from hardware.paths import get_path, numeric_paths
from hardware.processors import usable_cores

_SYSFS = Path("/sys/devices/system/cpu")


def measure_host(
    budget_s: float = 5.0, progress: Callable[[str], None] | None = None, *, threads: int | None = None
) -> Accelerator:
    """This machine as an `Accelerator` named "host", every measured number of kind `measured` with date and method.

    `budget_s`: rough duration, shared between the measurements; `progress` is told what is being measured; `threads`: how many
    copy at once, where the libraries were limited to as many (default: all cores this process may use).
    Includes: NumPy and JAX matrix products, fused vector arithmetic, copies over working sets, a tiny jitted call.
    Excludes: power, price, links (unknown). DRAM capacity and, where the system reports them, cache sizes are read,
    not timed.
    """
    say = progress or (lambda _: None)
    slot = budget_s / 8.0
    cores = usable_cores()
    cores = min(cores, threads or cores)
    say("matrix rates")
    matrix = {
        "fp32": max(matrix_rate("float32", slot), jax_matrix_rate("float32", slot)),
        "fp64": matrix_rate("float64", slot),
        "bf16": jax_matrix_rate("bfloat16", slot),
    }
    say("vector rate")
    vector = {"fp32": vector_rate(slot)}
    say("stream bandwidth")
    sizes = [2**p for p in range(17, 29)]
    rates = {size: stream_rate(size, cores, 2.0 * slot / len(sizes)) for size in sizes}
    say("launch overhead")
    launch_s = launch_overhead(min(slot, 0.5))
    capacities = reported_caches(cores) or {"l2": cache_step(rates) * cores}
    levels = [
        MemoryLevel(
            name=name,
            capacity_bytes=float(capacity),
            bandwidth_bytes_per_s=rate_within(rates, capacity / cores),
        )
        for name, capacity in capacities.items()
    ]
    dram = MemoryLevel(
        name="dram",
        capacity_bytes=float(physical_memory()),
        bandwidth_bytes_per_s=rates[sizes[-1]],
    )
    chip = Accelerator(
        name="host",
        vendor=platform.machine(),
        architecture=processor(),
        matrix_flops_per_s=matrix,
        vector_flops_per_s=vector,
        memory=(dram, *levels),
        cores=float(cores),
        clock_hz=clock(),
        launch_latency_s=launch_s,
        devices_per_node=1.0,
    )
    return _with_provenance(_rounded(chip), bool(reported_caches(cores)))


def matrix_rate(dtype: str, budget_s: float) -> float:
    """Best FLOP/s of NumPy's square matrix product, over sizes that double until the budget is spent."""
    return _best_over_sizes(lambda n: _numpy_product(n, dtype), budget_s)


def jax_matrix_rate(dtype: str, budget_s: float) -> float:
    """Best FLOP/s of a jitted JAX matrix product on the CPU, over sizes that double until the budget is spent."""
    return _best_over_sizes(lambda n: _jax_product(n, dtype), budget_s)


def vector_rate(budget_s: float) -> float:
    """Best fp32 FLOP/s of a jitted chain of 64 fused multiply-adds per element on a cache-sized array."""
    import jax

    def chain(x):
        for _ in range(64):
            x = x * 0.999 + 0.001
        return x

    with jax.default_device(jax.devices("cpu")[0]):
        x = jax.numpy.ones(2**18, dtype="float32")
        call = jax.jit(chain)
        return 128.0 * x.size / _best(lambda: call(x).block_until_ready(), budget_s)


def launch_overhead(budget_s: float) -> float:
    """Median seconds from a jitted one-element call to its result."""
    import jax

    with jax.default_device(jax.devices("cpu")[0]):
        x = jax.numpy.ones(1, dtype="float32")
        call = jax.jit(lambda v: v + 1.0)
        return float(np.median(_times(lambda: call(x).block_until_ready(), budget_s)))


def stream_rate(working_set_bytes: int, cores: int, budget_s: float) -> float:
    """Bytes/s that `cores` threads read plus write, copying inside a working set of `working_set_bytes` each."""
    half = working_set_bytes // 16
    buffers = [(np.zeros(half), np.ones(half)) for _ in range(cores)]
    target, source = buffers[0]
    once = min(_times(lambda: np.copyto(target, source), budget_s / 8.0))
    repeats = max(1, int(budget_s / 4.0 / max(once * cores, 1e-9)))
    barrier = Barrier(cores + 1)

    def work(pair: tuple[np.ndarray, np.ndarray]) -> None:
        barrier.wait()
        for _ in range(repeats):
            np.copyto(pair[0], pair[1])

    best = 0.0
    with ThreadPoolExecutor(cores) as pool:
        for _ in range(3):
            jobs = [pool.submit(work, pair) for pair in buffers]
            barrier.wait()
            start = time.perf_counter()
            for job in jobs:
                job.result()
            best = max(best, cores * repeats * 16.0 * half / (time.perf_counter() - start))
    return best


def rate_within(rates: dict[int, float], capacity_bytes: float) -> float:
    """The rate at the largest working set that fills at most 3/4 of `capacity_bytes` (the smallest one if none
    does).
    """
    fitting = [size for size in rates if size <= 0.75 * capacity_bytes]
    return rates[max(fitting, default=min(rates))]


def cache_step(rates: dict[int, float]) -> float:
    """Last-level cache bytes: the largest working set still nearer (in ratio) to the best rate than to the far one."""
    sizes = sorted(rates)
    middle = (max(rates.values()) * rates[sizes[-1]]) ** 0.5
    return float(max(size for size in sizes if rates[size] >= middle))


def reported_caches(cores: int) -> dict[str, float]:
    """Cache levels beyond the first that the system reports, farthest first, bytes over all instances; {} if it does
    not.
    """
    found: dict[str, float] = {}
    for index in sorted(_SYSFS.glob("cpu0/cache/index*"), reverse=True):
        try:
            level = int((index / "level").read_text())
            size = (index / "size").read_text().strip()
            sharers = sum(_span(part) for part in (index / "shared_cpu_list").read_text().strip().split(","))
            unit = {"K": 2**10, "M": 2**20, "G": 2**30}.get(size[-1], 1)
            capacity = float(size.rstrip("KMG")) * unit
        except (OSError, ValueError, IndexError):
            continue
        if level >= 2 and capacity > 0:
            found[f"l{level}"] = capacity * max(1.0, cores / max(sharers, 1))
    return found


def physical_memory() -> int:
    """Bytes of main memory, as the system reports it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        raise ValueError(
            "measure-host: the system does not report its memory size; write a chip file by hand"
        ) from None


def processor() -> str:
    """The processor's model name."""
    for line in _cpuinfo():
        if line.startswith(("model name", "Model")):
            return " ".join(line.partition(":")[2].split())
    return " ".join((platform.processor() or platform.machine()).split())


def clock() -> float:
    """Hertz: the maximum, else the present frequency, that the system reports; NaN if none."""
    try:
        return float((_SYSFS / "cpu0/cpufreq/cpuinfo_max_freq").read_text()) * 1e3
    except (OSError, ValueError):
        found = [line.partition(":")[2] for line in _cpuinfo() if line.startswith("cpu MHz")]
        return float(found[0]) * 1e6 if found else float("nan")


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []


def _span(part: str) -> int:
    first, _, last = part.partition("-")
    return int(last or first) - int(first) + 1


def _numpy_product(n: int, dtype: str) -> Callable[[], object]:
    a = np.random.default_rng(0).standard_normal((n, n)).astype(dtype)
    out = np.empty_like(a)
    return lambda: np.matmul(a, a, out=out)


def _jax_product(n: int, dtype: str) -> Callable[[], object]:
    import jax

    with jax.default_device(jax.devices("cpu")[0]):
        a = jax.numpy.asarray(np.random.default_rng(0).standard_normal((n, n)), dtype=dtype)
        call = jax.jit(jax.numpy.matmul)
        call(a, a).block_until_ready()
    return lambda: call(a, a).block_until_ready()


def _best_over_sizes(product: Callable[[int], Callable[[], object]], budget_s: float) -> float:
    end, best, n = time.perf_counter() + budget_s, 0.0, 256
    while n <= 8192:
        seconds = _best(product(n), budget_s / 6.0)
        best = max(best, 2.0 * n**3 / seconds)
        if time.perf_counter() + 8.0 * seconds > end:
            break
        n *= 2
    return best


def _times(call: Callable[[], object], budget_s: float) -> list[float]:
    call()
    end, times = time.perf_counter() + budget_s, []
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def _best(call: Callable[[], object], budget_s: float) -> float:
    return max(min(_times(call, budget_s)), 1e-9)


def _rounded(chip: Accelerator) -> Accelerator:
    """Times and rates to four digits: no measurement here is better than that."""
    timed = [path for path in numeric_paths(chip) if "_per_s" in path or path in ("launch_latency_s", "clock_hz")]
    return chip.replace({path: float(f"{get_path(chip, path):.4g}") for path in timed})


def _with_provenance(chip: Accelerator, caches_reported: bool) -> Accelerator:
    import jax

    date = datetime.date.today().isoformat()
    tools = f"NumPy {np.__version__}, JAX {jax.__version__}, {platform.system()}"
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    where = f"measured {date} on {chip.architecture}, {tools}{load}"
    read = f"reported by the operating system {date}"

    def entries(paths: Iterable[str], source: str) -> list[tuple[str, str, str]]:
        return [(path, "measured", source) for path in paths]

    sized = [f"memory.{level.name}.capacity_bytes" for level in chip.memory]
    rated = [f"memory.{level.name}.bandwidth_bytes_per_s" for level in chip.memory]
    told = ["cores", "devices_per_node", sized[0], *(["clock_hz"] if chip.clock_hz == chip.clock_hz else [])]
    provenance = [
        *entries((f"matrix_flops_per_s.{d}" for d in chip.matrix_flops_per_s), f"best square matrix product; {where}"),
        *entries((f"vector_flops_per_s.{d}" for d in chip.vector_flops_per_s), f"multiply-adds in cache; {where}"),
        *entries(sized[1:], read if caches_reported else f"step of the copy rate; {where}"),
        *entries(rated, f"copies by all cores, read plus write; {where}"),
        *entries(["launch_latency_s"], f"median of a one-element jitted call; {where}"),
        *entries(told, read),
    ]
    return chip.replace(provenance=tuple(provenance))
