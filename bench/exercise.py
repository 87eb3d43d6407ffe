"""Runs the operators for a tool that watches their kernels: a sanitizer, a profiler.

python -m bench.exercise small [--device cuda]   every type, layout and path on small inputs, checked
python -m bench.exercise large [--device cuda]   a training batch, once per type and layout
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bench.softmax_integral import DTYPES, Case, FromNetwork, make_logits
from bench.warp_patch_cuda import SIDE, draw
from ipr.ops import (
    IntegralResult,
    Occluders,
    softmax_integral,
    softmax_integral_reference,
    warp_patch,
    warp_patch_reference,
)

# Fewer cells than threads; odd sizes; what 16 bytes divide and what not; one volume, which is split over
# blocks; many; long axes; heat maps.
SHAPES = (
    (1, 1, 1, 1, 1),
    (2, 3, 4, 5, 6),
    (1, 2, 17, 16, 19),
    (3, 2, 8, 8, 8),
    (1, 1, 40, 33, 48),
    (1, 1, 64, 64, 64),
    (40, 18, 4, 4, 4),
    (1, 2, 3, 1, 700),
    (1, 2, 300, 3, 2),
    (2, 17, 1, 16, 12),
    (1, 17, 1, 64, 48),
)
# Largest error of the mean in cells, and of the gradient relative to its largest value.
TOLERANCE = {
    torch.float64: (1e-9, 1e-9),
    torch.float32: (5e-5, 1e-5),
    torch.bfloat16: (5e-5, 1e-2),
    torch.float16: (5e-5, 2e-3),
}


PATCH_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def _channels_last(volumes: Tensor) -> Tensor:
    packed = volumes.flatten(1, 2).contiguous(memory_format=torch.channels_last)
    return packed.unflatten(1, volumes.shape[1:3])


def _inside_a_larger_one(volumes: Tensor) -> Tensor:
    """With strides that 16 bytes do not divide, and a start that is not aligned."""
    larger = torch.nn.functional.pad(volumes, (3, 2, 1, 0))
    return larger[..., 1:, 3:-2]


def _permuted(volumes: Tensor) -> Tensor:
    return volumes.transpose(-1, -2).contiguous().transpose(-1, -2)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": torch.Tensor.contiguous,
    "channels_last": _channels_last,
    "part": _inside_a_larger_one,
    "permuted": _permuted,
}


def _poison(device: str) -> None:
    """Leaves NaN in the memory that the next results are likely to get: an element nobody writes shows."""
    for size in (256, 4096, 1 << 20):
        torch.full((size,), torch.nan, device=device)


def _loss(result: IntegralResult, upstream: list[Tensor]) -> Tensor:
    parts = [part for part in result if part is not None]
    return torch.stack([(part * one).sum().double() for part, one in zip(parts, upstream, strict=True)]).sum()


def _gradient(function: Callable[[Tensor], IntegralResult], logits: Tensor, upstream: list[Tensor]) -> Tensor:
    leaf = logits.detach().requires_grad_()
    return torch.autograd.grad(_loss(function(leaf), upstream), leaf)[0]


def _gradient_in_place(layout: str, logits: Tensor, upstream: list[Tensor]) -> Tensor:
    weight = torch.zeros((), device=logits.device, requires_grad=True)
    copy = FromNetwork.apply(weight, LAYOUTS[layout](logits.clone()))
    gradients: list[Tensor] = []
    copy.register_hook(gradients.append)
    _loss(softmax_integral(copy, grad_in_place=True), upstream).backward()
    return gradients[0]


def check(shape: tuple[int, ...], dtype: torch.dtype, layout: str, device: str) -> None:
    logits = LAYOUTS[layout]((torch.randn(shape, dtype=torch.float64) * 3).to(dtype).to(device))
    exact = softmax_integral_reference(logits.cpu().double())
    upstream = [torch.randn(part.shape, dtype=torch.float64) for part in exact if part is not None]
    for one in upstream if shape[1] > 1 else []:
        one[:, ::2] = 0  # joints without a gradient are skipped
    _poison(device)
    first, second = softmax_integral(logits), softmax_integral(logits)
    cells, relative = TOLERANCE[dtype]
    for name, value, again, truth in zip(first._fields, first, second, exact, strict=True):
        where = f"{name} of {list(shape)} {dtype} {layout}"
        assert value is not None and again is not None and truth is not None
        assert torch.equal(value, again), f"{where} differs between two runs"
        error = (value.cpu().double() - truth).abs().max().item()
        assert error <= cells, f"{where} is wrong by {error}"

    wanted = _gradient(softmax_integral_reference, logits.cpu().double(), upstream)
    here = [one.to(device=device, dtype=first.mean.dtype) for one in upstream]
    _poison(device)
    gradients = {"gradient": _gradient(softmax_integral, logits, here)}
    # Others are refused: what is not read in place, and parts of a larger tensor.
    if layout in ("contiguous", "channels_last"):
        gradients["gradient in place"] = _gradient_in_place(layout, logits, here)
    for name, gradient in gradients.items():
        error = (gradient.cpu().double() - wanted).abs().max().item()
        most = relative * max(wanted.abs().max().item(), 1e-3)
        assert error <= most, f"{name} of {list(shape)} {dtype} {layout} is wrong by {error}, allowed {most}"


def check_patches(device: str, dtype: torch.dtype, channels_last: bool, everything: bool) -> None:
    """warp_patch on regions of one px and more, the last at the end of its buffer; every option or none."""
    shapes, size = ((1, 1), (40, 33), (7, 9), (31, 64)), (37, 70)
    sizes = torch.tensor(shapes, dtype=torch.int32)
    lengths = 3 * sizes.long().prod(1)
    pixels = torch.randint(0, 256, (int(lengths.sum()),), dtype=torch.uint8)
    turn = torch.tensor([[0.4, 0.3], [-0.3, 0.4]]) * torch.tensor([1.0, 1.0, 2.0, 3.0]).view(-1, 1, 1)
    middle = sizes.flip(1)[..., None] / 2 - turn @ torch.tensor([[size[1] / 2], [size[0] / 2]])
    affine = torch.cat([turn, middle], 2)
    over = torch.randint(0, 256, (5, 6, 4), dtype=torch.uint8).flatten()
    occluder = torch.tensor([[[0.3, 0, -4], [0, 0.3, -3]]])
    where = torch.tensor([[5, 6]], dtype=torch.int32)
    occluders = Occluders(
        over, torch.zeros(1, dtype=torch.int64), where, occluder, torch.tensor([0, 0, 1, 1, 1])
    )
    options: dict[str, Any] = {"dtype": dtype, "channels_last": channels_last}
    if everything:
        options |= {"color": torch.rand(4, 3) + 0.5, "gamma": torch.tensor([1.0, 0.7, 1.3, 1.0])}
        options |= {"occluders": occluders, "antialias": True, "bgr": True}
    given = (pixels, lengths.cumsum(0) - lengths, sizes, affine)
    there = {
        name: value.to(device) if isinstance(value, Tensor) else value for name, value in options.items()
    }
    if everything:
        there["occluders"] = Occluders(*(table.to(device) for table in occluders))
    _poison(device)
    rest = (size, [120.0] * 3, [60.0] * 3)
    patches = warp_patch(*(table.to(device) for table in given), *rest, **there).cpu().float()
    error = float((patches - warp_patch_reference(*given, *rest, **options).float()).abs().max()) * 60
    assert error <= 1, f"patches {dtype} {channels_last=} {everything=} are wrong by {error} grey levels"


def small(device: str) -> None:
    torch.manual_seed(0)
    combinations = list(itertools.product(SHAPES, TOLERANCE, LAYOUTS))
    for shape, dtype, layout in combinations:
        check(shape, dtype, layout, device)
    if device == "cuda":
        torch.cuda.synchronize()
    print(f"{len(combinations)} combinations of shape, type and layout are right on {device}")
    kinds = list(itertools.product(PATCH_DTYPES, (False, True), (False, True)))
    for kind in kinds:
        check_patches(device, *kind)
    print(f"{len(kinds)} kinds of patches are right on {device}")


def large(device: str, batch: int) -> None:
    shapes = ((batch, 18, 64, 64, 64), (4 * batch, 17, 64, 48))
    for shape, channels_last, (name, dtype) in itertools.product(shapes, (False, True), DTYPES.items()):
        logits = make_logits(Case(shape, dtype, channels_last), device).requires_grad_()
        mean = softmax_integral(logits).mean
        mean.backward(torch.randn_like(mean))
        if device == "cuda":
            torch.cuda.synchronize()
        print(f"{list(logits.shape)} {name}{' channels_last' if channels_last else ''}", flush=True)
    noise = torch.randint(0, 256, (SIDE, SIDE, 3), dtype=torch.uint8).numpy()
    given = draw(noise, 8 * batch, device, 0)
    for dtype, channels_last in itertools.product(PATCH_DTYPES[:2], (False, True)):
        warp_patch(*given.packed(), dtype=dtype, channels_last=channels_last)
        print(f"{8 * batch} patches {dtype}{' channels_last' if channels_last else ''}", flush=True)


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.exercise", description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("small", "large"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--batch", type=int, default=32, help="of the large ones")
    arguments = parser.parse_args(words)
    if arguments.what == "small":
        small(arguments.device)
    else:
        large(arguments.device, arguments.batch)


if __name__ == "__main__":
    main()
