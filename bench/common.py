"""How the benches measure: variants taken in turn, medians, ratios; see README.md."""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from ipr.ops import IMPLEMENTATION, _library

os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler says whenever it starts and stops

# By default glibc returns tensors of more than 32 MB to the system; the first touch of their new pages costs
# several times what writing to them does.
WARM = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(1 << 30),
}


class Timing(NamedTuple):
    """Of one variant, in ms."""

    median: float
    lower_quartile: float
    upper_quartile: float


class Variant(NamedTuple):
    """What is timed. Both get the number of the input set; what ``prepare`` does is not timed."""

    run: Callable[[int], object]
    prepare: Callable[[int], object] | None = None


def use_warm_allocator() -> None:
    """Starts this program again with an allocator that keeps its memory, unless it already runs with one."""
    if any(os.environ.get(name) != value for name, value in WARM.items()):
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, **WARM})


def quartiles(values: Iterable[float]) -> Timing:
    low, middle, high = statistics.quantiles(values, n=4)
    return Timing(middle, low, high)


def measure(variants: Mapping[str, Variant], rounds: int) -> dict[str, Timing]:
    """Every variant once per round, after a round that does not count.

    One thread is measured by its CPU time, which a busy machine disturbs least; several by the wall clock.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(rounds + 1):
        for name, variant in variants.items():
            if variant.prepare:
                variant.prepare(0)
            start = clock()
            variant.run(0)
            if round_number:
                times[name].append((clock() - start) * 1e3)
    return {name: quartiles(values) for name, values in times.items()}


def peak_memory(variant: Variant) -> int:
    """The most bytes that torch's CPU allocator had given out beyond those before the call.

    From the profiler's record of every allocation: exact, but without what a kernel takes from elsewhere.
    """
    if variant.prepare:
        variant.prepare(0)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        variant.run(0)
    assert profile.profiler is not None and profile.profiler.kineto_results is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    taken = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        taken += event.nbytes()
        peak = max(peak, taken)
    return peak


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
        if names:
            return f"{names[0]} ({len(names)} cores visible)"
    return platform.processor() or platform.machine()


def _gpu() -> dict[str, str]:
    properties = torch.cuda.get_device_properties()
    driver = "unknown"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0].strip()
    return {
        "gpu": properties.name,
        "multiprocessors": str(properties.multi_processor_count),
        "L2, memory": f"{properties.L2_cache_size >> 20} MiB, {properties.total_memory >> 30} GiB",
        "driver": driver,
        "torch's CUDA": str(torch.version.cuda),
        "operators' CUDA": _library.build_info().cuda,
    }


def environment(device: str = "cpu") -> dict[str, str]:
    """Device and versions, for the header of every result."""
    threads = torch.get_num_threads()
    on_cpu = {
        "threads": f"{threads}, {'CPU time' if threads == 1 else 'wall time'}",
        "allocator": "warm" if os.environ.get("MALLOC_TOP_PAD_") == WARM["MALLOC_TOP_PAD_"] else "default",
    }
    return {
        "cpu": _cpu(),
        **(on_cpu if device == "cpu" else _gpu()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        **{f"ipr {name}": how for name, how in IMPLEMENTATION.items()},
    }


def add_to_json(
    path: Path, operator: str, results: object, device: str = "cpu", more: Mapping[str, object] | None = None
) -> None:
    """Adds a run to the file, in place of one of the same kernels, allocator and threads, or GPU."""
    facts = environment(device)
    names = (f"ipr {operator}", "allocator", "threads") if device == "cpu" else ("gpu",)
    run = ", ".join(facts[name] for name in names)
    runs = json.loads(path.read_text()) if path.exists() else {}
    runs[run] = {"environment": facts, **(more or {}), "results": results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(runs, indent=1) + "\n")
