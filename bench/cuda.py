"""Timing on a CUDA device, and what its memory can do at most; see README.md."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from bench.common import Timing, Variant, quartiles

AT_ONCE = 16  # calls that are handed in while the device waits: its queue holds about 1000 kernels
LONGEST_SLEEP_S = 0.05
CLOCK_HZ = 2e9  # at least that of any GPU that this runs on: a sleep counts cycles


class Ceilings(NamedTuple):
    """Bytes per ms of device memory, measured; ``rates`` has every way that was tried, in GB/s."""

    read: float
    copy: float  # bytes read plus bytes written
    rates: dict[str, float]


class InGraph(NamedTuple):
    """Of one variant inside a CUDA graph, per call."""

    timing: Timing | None
    problem: str = ""  # why it could not be captured


def input_sets(volume_bytes: int) -> int:
    """How many inputs to take in turn so that none is left in the L2 cache when its turn comes again."""
    cache = torch.cuda.get_device_properties().L2_cache_size
    return max(2, math.ceil(3 * cache / volume_bytes))


def _sweep(variant: Variant, sets: int, sleep_s: float) -> tuple[float, float]:
    """(device ms per call over all input sets, seconds that the host takes to hand one in)."""
    if variant.prepare:
        for number in range(sets):
            variant.prepare(number)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    device_ms = host_s = 0.0
    for first in range(0, sets, AT_ONCE):
        calls = range(first, min(first + AT_ONCE, sets))
        torch.cuda.synchronize()
        # The device waits until the host is ahead: what is timed is its work, not the launching of it.
        torch.cuda._sleep(int(min(LONGEST_SLEEP_S, sleep_s * len(calls)) * CLOCK_HZ))
        began = time.perf_counter()
        start.record()
        for number in calls:
            variant.run(number)
        end.record()
        host_s += time.perf_counter() - began
        torch.cuda.synchronize()
        device_ms += start.elapsed_time(end)
    return device_ms / sets, host_s / sets


def measure(variants: Mapping[str, Variant], rounds: int, sets: int) -> dict[str, Timing]:
    """Device time per call: every variant once per round on every input set, after two that do not count."""
    sleeps: dict[str, float] = {}
    for name, variant in variants.items():
        _sweep(variant, sets, 0)  # compiles, loads, allocates
        sleeps[name] = 1.5 * _sweep(variant, sets, 0)[1]
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            times[name].append(_sweep(variant, sets, sleeps[name])[0])
    return {name: quartiles(values) for name, values in times.items()}


def measure_wall(variant: Variant, rounds: int, sets: int) -> Timing:
    """From the call to its result, launching included: what one eager call takes on an idle device."""
    times = []
    for call in range(rounds + 3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        variant.run(call % sets)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return quartiles(times[3:])


def _capture(run: Callable[[int], object], calls: int, sets: int) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run(0)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in range(calls):
            run(call % sets)
    return graph


def measure_in_graph(variants: Mapping[str, Variant], rounds: int, sets: int) -> dict[str, InGraph]:
    """Per call of a graph that makes at least 64, one after another, on the input sets in turn."""
    calls = sets * math.ceil(64 / sets)
    graphs: dict[str, torch.cuda.CUDAGraph] = {}
    problems: dict[str, str] = {}
    for name, variant in variants.items():
        try:
            graphs[name] = _capture(variant.run, calls, sets)
        except RuntimeError as error:
            problems[name] = str(error).split("\n")[0]
    times: dict[str, list[float]] = {name: [] for name in graphs}
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for round_number in range(rounds + 2):
        for name, graph in graphs.items():
            torch.cuda.synchronize()
            start.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            if round_number >= 2:
                times[name].append(start.elapsed_time(end) / calls)
    captured = {name: InGraph(quartiles(values)) for name, values in times.items()}
    return captured | {name: InGraph(None, problem) for name, problem in problems.items()}


def empty_kernel(rounds: int) -> float:
    """ms of the smallest kernel that there is, measured as the operators' small cases are: in a graph."""
    one = torch.zeros(1, device="cuda")
    timing = measure_in_graph({"empty": Variant(lambda _: one.add_(1))}, rounds, 1)["empty"].timing
    assert timing is not None
    return timing.median


def ceilings(rounds: int, size: int = 1 << 31) -> Ceilings:
    """The fastest of several ways to read and to copy a buffer that is much larger than the cache.

    What can be copied at a rate can also be read at it: torch's reductions are not always the faster.
    """
    source = torch.randn(size // 4, device="cuda")
    target = torch.empty_like(source)
    rows = source.view(-1, 1 << 14)
    reads: dict[str, Callable[[], object]] = {
        "read: sum": source.sum,
        "read: sums of rows": lambda: rows.sum(dim=1),
        "read: maxima of rows": lambda: rows.amax(dim=1),
        "read: norm": lambda: torch.linalg.vector_norm(source),
    }
    copies: dict[str, Callable[[], object]] = {
        "copy: copy_": lambda: target.copy_(source),
        "copy: negation": lambda: torch.neg(source, out=target),
    }

    def variant(call: Callable[[], object]) -> Variant:
        return Variant(lambda _: call())

    times = measure({name: variant(call) for name, call in (reads | copies).items()}, rounds, 1)
    rate = {name: (1 if name in reads else 2) * size / timing.median for name, timing in times.items()}
    copy = max(rate[name] for name in copies)
    read = max(copy, *(rate[name] for name in reads))
    return Ceilings(read, copy, {name: value / 1e6 for name, value in rate.items()})


def peak_memory(variant: Variant) -> int:
    """The most bytes that torch's allocator had given out beyond those before the call."""
    if variant.prepare:
        variant.prepare(0)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    variant.run(0)
    return torch.cuda.max_memory_allocated() - before
