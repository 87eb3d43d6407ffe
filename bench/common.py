"""How the benches measure: variants taken in turn, medians, ratios; see README.md."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from ipr.ops import IMPLEMENTATION

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


def use_warm_allocator() -> None:
    """Starts this program again with an allocator that keeps its memory, unless it already runs with one."""
    if any(os.environ.get(name) != value for name, value in WARM.items()):
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, **WARM})


def measure(variants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Every variant once per round, after a round that does not count.

    One thread is measured by its CPU time, which a busy machine disturbs least; several by the wall clock.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(rounds + 1):
        for name, variant in variants.items():
            start = clock()
            variant()
            if round_number:
                times[name].append((clock() - start) * 1e3)
    quartiles = {name: statistics.quantiles(values, n=4) for name, values in times.items()}
    return {name: Timing(middle, low, high) for name, (low, middle, high) in quartiles.items()}


def environment() -> dict[str, str]:
    """Device and versions, for the header of every result."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = f"{names[0]} ({len(names)} cores visible)" if names else cpu
    threads = torch.get_num_threads()
    return {
        "cpu": cpu,
        "threads": f"{threads}, {'CPU time' if threads == 1 else 'wall time'}",
        "allocator": "warm" if os.environ.get("MALLOC_TOP_PAD_") == WARM["MALLOC_TOP_PAD_"] else "default",
        "torch": torch.__version__,
        "python": platform.python_version(),
        **{f"ipr {name}": how for name, how in IMPLEMENTATION.items()},
    }


def add_to_json(path: Path, operator: str, results: object) -> None:
    """Adds a run to the file, in place of an earlier one of the same kernels, allocator and threads."""
    facts = environment()
    run = ", ".join(facts[fact] for fact in (f"ipr {operator}", "allocator", "threads"))
    runs = json.loads(path.read_text()) if path.exists() else {}
    runs[run] = {"environment": facts, "results": results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(runs, indent=1) + "\n")
