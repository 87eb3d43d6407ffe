"""softmax_integral against the original algorithm and the definitions that other libraries use.

python -m bench.softmax_integral [--warm] [--threads 1] [--rounds 9] [--compile] [--cases NAME ...]
                                 [--json FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bench import common
from ipr.ops import softmax_integral

Mean = Callable[[Tensor], Tensor]  # logits [B, J, D, H, W] or [B, J, H, W] -> cells [B, J, 3 or 2]


def _cells(length: int, dtype: torch.dtype) -> Tensor:
    return torch.arange(length, dtype=dtype)


def _flat_softmax(logits: Tensor) -> Tensor:
    return logits.flatten(2).softmax(dim=-1).view(logits.shape)


def original(logits: Tensor) -> Tensor:
    """The algorithm of the paper's code: the volume of probabilities, and two sums of it per axis."""
    p = logits.reshape(*logits.shape[:2], -1).softmax(dim=2).view(logits.shape)
    if p.dim() == 4:
        marginals = [p.sum(dim=2), p.sum(dim=3)]
    else:
        marginals = [p.sum(dim=2).sum(dim=2), p.sum(dim=2).sum(dim=3), p.sum(dim=3).sum(dim=3)]
    return torch.stack([(m * _cells(m.size(2), m.dtype)).sum(dim=2) for m in marginals], dim=-1)


def dsntnn(logits: Tensor) -> Tensor:
    """flat_softmax and dsnt: each axis' marginal in one sum, then its expectation."""
    p = _flat_softmax(logits)
    axes = range(p.dim() - 1, 1, -1)
    marginals = [p.sum(dim=[axis for axis in axes if axis != kept]) for kept in axes]
    return torch.stack([(m * _cells(m.size(-1), m.dtype)).sum(dim=-1) for m in marginals], dim=-1)


def kornia(maps: Tensor) -> Tensor:
    """spatial_soft_argmax2d: each coordinate of a mesh grid times the flat probabilities."""
    p = maps.flatten(2).softmax(dim=-1)
    height, width = maps.shape[2:]
    y, x = torch.meshgrid(_cells(height, p.dtype), _cells(width, p.dtype), indexing="ij")
    return torch.cat([(grid.reshape(-1) * p).sum(dim=-1, keepdim=True) for grid in (x, y)], dim=-1)


def mmpose(maps: Tensor) -> Tensor:
    """IntegralRegressionHead: the map of probabilities times a row and times a column of coordinates."""
    p = _flat_softmax(maps)
    height, width = maps.shape[2:]
    lines = (_cells(width, p.dtype).view(1, 1, 1, width), _cells(height, p.dtype).view(1, 1, height, 1))
    return torch.stack([p.mul(line).flatten(2).sum(dim=-1) for line in lines], dim=-1)


def ours(logits: Tensor) -> Tensor:
    return softmax_integral(logits).mean


class Case(NamedTuple):
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    peers: tuple[Mean, ...] = (original, dsntnn)


CASES = {
    "64^3 fp32": Case((4, 18, 64, 64, 64)),
    "64^3 bf16": Case((4, 18, 64, 64, 64), torch.bfloat16),
    "64^3 fp32 channels_last": Case((4, 18, 64, 64, 64), channels_last=True),
    "64^3 bf16 channels_last": Case((4, 18, 64, 64, 64), torch.bfloat16, channels_last=True),
    "72x96x72 fp32": Case((2, 18, 72, 96, 72)),
    "8^3 fp32": Case((64, 18, 8, 8, 8)),
    "2-D 64x48 fp32": Case((32, 17, 64, 48), peers=(original, dsntnn, kornia, mmpose)),
}


def make_logits(case: Case) -> Tensor:
    logits = torch.randn(case.shape)
    if case.channels_last:
        packed = logits.flatten(1, 2).contiguous(memory_format=torch.channels_last)
        logits = packed.unflatten(1, case.shape[1:3])
    return logits.to(case.dtype)


def with_gradient(function: Mean, logits: Tensor) -> Callable[[], Tensor]:
    """Forward and backward into a fresh gradient, as in training."""
    logits = logits.detach().requires_grad_()
    upstream = torch.randn(*logits.shape[:2], logits.dim() - 2)

    def run() -> Tensor:
        mean = function(logits)
        return torch.autograd.grad(mean, logits, upstream.to(mean.dtype))[0]

    return run


def error(function: Mean, logits: Tensor) -> float:
    """Largest error in cells of a few joints, against float64."""
    few = logits[:1, :4] * 3
    return (function(few).double() - original(few.double())).abs().max().item()


def run_case(case: Case, rounds: int, compiled: bool) -> dict[str, dict[str, float]]:
    """Per variant: ms of forward and forward + backward, ratios, share of the read ceiling, error."""
    logits = make_logits(case)
    functions: dict[str, Mean] = {peer.__name__: peer for peer in case.peers}
    if compiled:
        functions["torch.compile"] = torch.compile(original, fullgraph=True)
    functions["ours"] = ours
    target = torch.empty_like(logits)
    # The same bytes as float32, whose sum does nothing else that takes time.
    words = logits.as_strided((logits.numel(),), (1,)).view(torch.float32)
    forward: dict[str, Callable[[], object]] = {"read": words.sum, "copy": lambda: target.copy_(logits)}
    forward |= {name: partial(function, logits) for name, function in functions.items()}
    with torch.no_grad():
        times = common.measure(forward, rounds)
    both = {name: with_gradient(function, logits) for name, function in functions.items()}
    times_both = common.measure(both, rounds)
    results: dict[str, dict[str, float]] = {}
    for name, timing in times.items():
        results[name] = {
            "forward_ms": timing.median,
            "forward_iqr_ms": timing.upper_quartile - timing.lower_quartile,
            "forward_ratio": times["original"].median / timing.median,
            "share_of_read": times["read"].median / timing.median,
        }
        if name in both:
            results[name] |= {
                "both_ms": times_both[name].median,
                "both_ratio": times_both["original"].median / times_both[name].median,
                "error_cells": error(functions[name], logits),
            }
    return results


def print_case(name: str, results: dict[str, dict[str, float]]) -> None:
    print(f"\n{name:24} forward ms  original/it  of read   fwd+bwd ms  original/it   error, cells")
    for variant, row in results.items():
        line = f"  {variant:20} {row['forward_ms']:12.2f} {row['forward_ratio']:11.1f}x"
        line += f" {row['share_of_read']:8.0%}"
        if "both_ms" in row:
            line += f" {row['both_ms']:12.2f} {row['both_ratio']:11.1f}x {row['error_cells']:14.1e}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.softmax_integral", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--warm", action="store_true", help="with an allocator that keeps its memory")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="also torch.compile of the original")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.warm:
        common.use_warm_allocator()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print("\n".join(f"{name:22}{value}" for name, value in common.environment().items()))
    results = {}
    for name in arguments.cases:
        results[name] = run_case(CASES[name], arguments.rounds, arguments.compile)
        print_case(name, results[name])
    if arguments.json:
        common.add_to_json(arguments.json, "softmax_integral", results)


if __name__ == "__main__":
    main()
