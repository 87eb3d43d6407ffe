"""softmax_integral against the original algorithm and the definitions that other libraries use.

python -m bench.softmax_integral [--device cpu|cuda] [--warm] [--threads 1] [--rounds 9] [--compile]
                                 [--cases PART ...] [--seconds S] [--json FILE]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench import common, cuda
from bench.common import Timing, Variant
from bench.integral_peers import Mean, original, peers
from ipr.ops import softmax_integral

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HALVES = ("fp32", "bf16", "fp16")
IN_PLACE = "ours, gradient in place"
Figures = dict[str, Any]  # of one variant, as it is written to the file


class Case(NamedTuple):
    shape: tuple[int, ...]  # [B, J, D, H, W] or [B, J, H, W]
    dtype: torch.dtype
    channels_last: bool


def cases(device: str) -> dict[str, Case]:
    """The volumes of the configurations, of one person, and heat maps; the most telling first."""
    listed: list[tuple[tuple[int, ...], tuple[str, ...], tuple[bool, ...]]] = [
        ((4 if device == "cpu" else 32, 18, 64, 64, 64), HALVES, (False, True)),
        ((1, 18, 64, 64, 64), HALVES[:2], (False,)),
        ((128 if device == "cuda" else 32, 17, 64, 48), HALVES[:2], (False, True)),
        ((64, 18, 16, 16, 16), HALVES[:2], (False, True)),  # configs/synthetic
        ((2, 18, 72, 96, 72), HALVES[:2], (False,)),
        ((12, 18, 72, 96, 72), HALVES[:1], (False,)),  # configs/h36m_challenge, 384x288
        ((24, 18, 64, 64, 64), HALVES[:1], (False,)),  # configs/h36m_challenge, 256x256
        ((64, 18, 8, 8, 8), HALVES[:1], (False,)),
    ]
    if device == "cpu":
        listed.append(((32, 18, 64, 64, 64), HALVES[:1], (False,)))  # configs/h36m
    found = {}
    for shape, dtypes, layouts in listed:
        for channels_last in layouts:
            for dtype in dtypes:
                size = "x".join(map(str, shape))
                name = f"{size} {dtype}{' channels_last' if channels_last else ''}"
                found[name] = Case(shape, DTYPES[dtype], channels_last)
    return found


def make_logits(case: Case, device: str) -> Tensor:
    logits = (torch.randn(case.shape, device=device) * 3).to(case.dtype)
    if not case.channels_last:
        return logits
    packed = logits.flatten(1, -3).contiguous(memory_format=torch.channels_last)
    return packed.unflatten(1, case.shape[1:-2]) if logits.dim() == 5 else packed


class FromNetwork(torch.autograd.Function):
    """Logits as a layer gives them: not a leaf, and nobody else's. Copies nothing, and drops its gradient.

    All variants get theirs from it, so that the one that writes the gradient over the logits may do so.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, logits: Tensor) -> Tensor:
        ctx.gradient = weight.detach()
        return logits.data  # not a view, which may not be written to, and with a version of its own

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.gradient, None


def ours(logits: Tensor) -> Tensor:
    return softmax_integral(logits).mean


def ours_in_place(logits: Tensor) -> Tensor:
    return softmax_integral(logits, grad_in_place=True).mean


def forward_of(function: Mean, logits: list[Tensor]) -> Variant:
    def run(number: int) -> Tensor:
        with torch.no_grad():
            return function(logits[number])

    return Variant(run)


def both_of(function: Mean, logits: list[Tensor], same_result: Mean | None = None) -> Variant:
    """Forward and backward, as in training."""
    with torch.no_grad():
        upstream = torch.randn_like((same_result or function)(logits[0]))
    weight = torch.zeros((), device=upstream.device, requires_grad=True)

    def run(number: int) -> Tensor:
        mean = function(FromNetwork.apply(weight, logits[number]))
        return torch.autograd.grad(mean, weight, upstream)[0]

    return Variant(run)


def in_place_of(logits: list[Tensor]) -> Variant:
    """On copies, which have to be made again each time."""
    copies = [one.clone() for one in logits]
    run = both_of(ours_in_place, copies, same_result=ours).run
    return Variant(run, lambda number: copies[number].copy_(logits[number]))


def runnable(name: str, function: Mean, logits: list[Tensor]) -> bool:
    """Whether a peer can do this case; torch.compile does its compiling here."""
    try:
        forward_of(function, logits).run(0)
        both_of(function, logits).run(0)
    except RuntimeError as error:
        print(f"  {name} cannot: {str(error).splitlines()[0]}")
        return False
    return True


def error(function: Mean, logits: Tensor) -> float:
    """Largest error in cells, against float64, of a few joints."""
    with torch.no_grad():
        exact = original(logits[:1, :4].double())
        return (function(logits)[:1, :4].double() - exact).abs().max().item()


def figures(timing: Timing, bytes_moved: int, floor_ms: float, original_ms: float) -> Figures:
    return {
        "ms": timing.median,
        "iqr_ms": timing.upper_quartile - timing.lower_quartile,
        "gb_per_s": bytes_moved / timing.median / 1e6,
        "share_of_ceiling": floor_ms / timing.median,
        "ratio_to_original": original_ms / timing.median,
    }


def extra(variant: Variant, volume: int, device: str) -> Figures:
    taken = (common if device == "cpu" else cuda).peak_memory(variant)
    return {"extra_mb": taken / 1e6, "extra_volumes": taken / volume}


def graph_figures(
    forward: Mapping[str, Variant],
    both: Mapping[str, Variant],
    rounds: int,
    sets: int,
    floors: dict[str, float],
) -> dict[str, Figures]:
    """Per variant, how it does where launching counts: in a CUDA graph, and one eager call at a time."""
    found: dict[str, Figures] = {name: {} for name in both}
    for phase, variants in (("forward", forward), ("both", both)):
        # In place is left out: the graph would be fed with its own gradients.
        kept = {name: variant for name, variant in variants.items() if variant.prepare is None}
        for name, result in cuda.measure_in_graph(kept, rounds, sets).items():
            of_variant = found.setdefault(name, {})
            if result.timing is None:
                of_variant[phase] = {"problem": result.problem}
                continue
            of_variant[phase] = {
                "us": result.timing.median * 1e3,
                "times_floor": result.timing.median / floors[phase],
                "eager_call_us": cuda.measure_wall(kept[name], rounds, sets).median * 1e3,
            }
    return found


def run_case(case: Case, device: str, rounds: int, compiled: bool, limits: cuda.Ceilings | None) -> Figures:
    """Per variant: time, share of the ceiling, memory and error; see README.md."""
    size = DTYPES["fp32"].itemsize if case.dtype == torch.float32 else 2
    volume = math.prod(case.shape) * size
    sets = 1 if device == "cpu" else cuda.input_sets(volume)
    logits = [make_logits(case, device) for _ in range(sets)]
    functions = peers(has_depth=len(case.shape) == 5)
    if compiled:
        torch.compiler.reset()  # it gives up on a function after a few shapes
        functions["torch.compile"] = torch.compile(original, fullgraph=True, dynamic=False)
    functions = {name: peer for name, peer in functions.items() if runnable(name, peer, logits)}
    functions["ours"] = ours

    target = torch.empty_like(logits[0])
    # The same bytes as float32, whose sum does nothing else that takes time.
    words = [one.as_strided((one.numel(),), (1,)).view(torch.float32) for one in logits]
    machine = {
        "read": Variant(lambda number: words[number].sum()),
        "copy": Variant(lambda number: target.copy_(logits[number])),
    }
    forward = {name: forward_of(function, logits) for name, function in functions.items()}
    both = {name: both_of(function, logits) for name, function in functions.items()}
    both[IN_PLACE] = in_place_of(logits)

    def measure(variants: dict[str, Variant]) -> dict[str, Timing]:
        if device == "cpu":
            return common.measure(variants, rounds)
        return cuda.measure(variants, rounds, sets)

    times, times_both = measure(machine | forward), measure(both)
    if limits is None:
        read_ms, copy_ms = times["read"].median, times["copy"].median
    else:
        read_ms, copy_ms = volume / limits.read, 2 * volume / limits.copy
    floors = {"forward": read_ms, "both": read_ms + copy_ms}
    first, first_both = times["original"].median, times_both["original"].median

    results: Figures = {}
    for name in (*machine, *both):
        row: Figures = {}
        if name in times:
            moved, floor = (2 * volume, copy_ms) if name == "copy" else (volume, read_ms)
            row["forward"] = figures(times[name], moved, floor, first)
        if name in forward:
            row["forward"] |= extra(forward[name], volume, device)
            row["error_cells"] = error(functions[name], logits[0])
        if name in both:
            row["both"] = figures(times_both[name], 3 * volume, floors["both"], first_both)
            row["both"] |= extra(both[name], volume, device)
        if (
            name in forward and name in both
        ):  # by difference: what a backward alone could be timed with, differs
            backward_ms = times_both[name].median - times[name].median
            row["backward"] = {"ms": backward_ms, "share_of_ceiling": copy_ms / backward_ms}
        results[name] = row
    if limits is not None and sets > 2:
        empty_ms = cuda.empty_kernel(rounds)
        least = {"forward": floors["forward"] + empty_ms, "both": floors["both"] + 2 * empty_ms}
        graphs = graph_figures(machine | forward, both, rounds, sets, least)
        for name, of_variant in graphs.items():
            results[name]["graph"] = of_variant
        results["floor in a graph"] = {"empty_kernel_us": empty_ms * 1e3} | {
            f"{phase}_us": value * 1e3 for phase, value in least.items()
        }
    return results


def phase_text(row: Figures) -> str:
    text = f"{row['ms']:9.3f} ±{row['iqr_ms']:6.3f} {row['gb_per_s']:7.1f} {row['share_of_ceiling']:6.0%}"
    text += f" {row['ratio_to_original']:6.1f}x"
    return text + (f" {row['extra_volumes']:6.2f}" if "extra_volumes" in row else " " * 7)


def print_case(results: Figures) -> None:
    heads = ("ms", "IQR", "GB/s", "of max", "orig/it", "vol.")
    widths = (9, 7, 7, 6, 7, 6)
    columns = " ".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))
    print(f"  {'':24}{'forward':^{len(columns)}} | {'forward + backward':^{len(columns)}} |")
    print(f"  {'':24}{columns} | {columns} | error, cells")
    for variant, row in results.items():
        line = f"  {variant:24}"
        for phase in ("forward", "both"):
            line += (phase_text(row[phase]) if phase in row else " " * len(columns)) + " | "
        if "forward" in row or "both" in row:
            print(line + (f"{row['error_cells']:.1e}" if "error_cells" in row else ""))
    if "floor in a graph" in results:
        print_graphs(results)


def print_graphs(results: Figures) -> None:
    floor = results["floor in a graph"]
    print(
        f"  in a CUDA graph, us per call and times the floor ({floor['forward_us']:.1f}, "
        f"{floor['both_us']:.1f}; an empty kernel {floor['empty_kernel_us']:.1f}); and one eager call, us"
    )
    for variant, row in results.items():
        parts = []
        for phase in ("forward", "both"):
            found = row.get("graph", {}).get(phase)
            if found and "problem" in found:
                parts.append(f"not captured: {found['problem'][:40]}")
            elif found:
                parts.append(
                    f"{found['us']:9.1f} {found['times_floor']:5.2f}x, eager {found['eager_call_us']:8.1f}"
                )
        if parts:
            print(f"  {variant:24}" + " | ".join(parts))


def print_summary(results: Mapping[str, Figures]) -> None:
    """Ours in one line per case."""
    print("\nours: share of the ceiling, and the times of others / ours; in a graph, times the floor")
    for name, rows in results.items():
        text = f"{name:34}"
        for phase, column in (("forward", "ours"), ("both", "ours"), ("both", IN_PLACE)):
            row = rows[column][phase]
            label = {"forward": "forward", "both": "+ backward"}[phase] if column == "ours" else "in place"
            text += f" {label} {row['share_of_ceiling']:4.0%} {row['ratio_to_original']:5.2f}x"
            if column == "ours":
                others = [other for other in ("dsntnn", "torch.compile") if other in rows]
                best = min(others, key=lambda other: rows[other][phase]["ms"])
                text += f" ({rows[best][phase]['ms'] / row['ms']:.2f}x {best})"
        graph = rows["ours"].get("graph", {})
        if all("times_floor" in found for found in graph.values()) and graph:
            text += f" graph {' / '.join(format(found['times_floor'], '.2f') for found in graph.values())}"
        print(text)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.softmax_integral", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--warm", action="store_true", help="with an allocator that keeps its memory (CPU)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--compile", action="store_true", help="also torch.compile of the original; always on CUDA"
    )
    parser.add_argument(
        "--cases", nargs="+", default=[""], metavar="PART", help="whose name has one of these"
    )
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no case after that time")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args(words)
    device, started = arguments.device, time.monotonic()
    chosen = {
        name: case for name, case in cases(device).items() if any(part in name for part in arguments.cases)
    }
    if not chosen or arguments.rounds < 2:
        parser.error(f"at least 2 rounds, and cases among: {'; '.join(cases(device))}")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU")
    if arguments.warm and device == "cpu":
        common.use_warm_allocator()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print("\n".join(f"{name:22}{value}" for name, value in common.environment(device).items()))
    limits, more = None, {}
    if device == "cuda":
        limits = cuda.ceilings(arguments.rounds)
        more = {"ceilings_gb_per_s": limits.rates}
        print("\n".join(f"{name:22}{rate:.0f} GB/s" for name, rate in limits.rates.items()))
    results: Figures = {}
    for name, case in chosen.items():
        if time.monotonic() - started > arguments.seconds:
            print(f"\n{name}: not measured, the {arguments.seconds:.0f} seconds are over")
            continue
        print(f"\n{name}", flush=True)
        compiled = arguments.compile or device == "cuda"
        results[name] = run_case(case, device, arguments.rounds, compiled, limits)
        print_case(results[name])
        if arguments.json:  # after each case: a run that is stopped leaves what it has
            common.add_to_json(arguments.json, "softmax_integral", results, device, more)
    print_summary(results)


if __name__ == "__main__":
    main()
