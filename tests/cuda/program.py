"""Runs a compiled softmax_integral_host: tensors in, results and gradient out; and compares with float64."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ipr.ops import IntegralResult, softmax_integral_reference
from tests.conftest import TOLERANCE
from tests.cuda.conftest import run
from tests.ops.conftest import assert_integral

ELEMENTS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
FIELDS = ("mean", "outer", "mid", "inner", "logsumexp")
# Axes x, y, z of outer, mid, inner.
CONTIGUOUS, CHANNELS_LAST = (2, 1, 0), (1, 0, 2)
GRADIENT_ERROR = {torch.float32: 5e-7, torch.float64: 1e-12, torch.bfloat16: 4e-3, torch.float16: 5e-4}


class Chip(NamedTuple):
    """What the kernels ask of a device."""

    multiprocessors: int = 132
    major: int = 9
    shared_bytes: int = 227 << 10


H100 = Chip()
A100 = Chip(108, 8, 163 << 10)
ONE_PART = Chip(multiprocessors=0)  # wants no more than a block per volume


class Shape(NamedTuple):
    """How the work was shared out."""

    forward_launches: int
    blocks: int  # of the last launch of the forward pass
    threads: int
    cluster: int
    backward_blocks: int


class Outcome(NamedTuple):
    shape: Shape
    result: IntegralResult
    gradient: Tensor  # [B, J, D, H, W]


@dataclass(frozen=True)
class Case:
    """One call of the operator, forward and backward.

    ``volumes`` [B, J, D, H, W] is what the elements hold; ``strides`` (in elements, of batch, joint, outer
    and mid) say where they lie, by default densely in the order of ``axes``.
    """

    volumes: Tensor
    axes: tuple[int, int, int] = CONTIGUOUS
    strides: tuple[int, ...] = ()
    gradient_strides: tuple[int, ...] = ()
    offset: int = 0
    in_place: bool = False
    chip: Chip = H100
    upstream: dict[str, Tensor] = field(
        default_factory=dict
    )  # float64, by the names of IntegralResult's fields

    def ordered(self, volumes: Tensor) -> Tensor:
        """[B, J, outer, mid, inner] of [B, J, D, H, W]."""
        return volumes.permute(0, 1, *(4 - axis for axis in self.axes))

    def dense_strides(self) -> tuple[int, ...]:
        _, joints, outer, mid, inner = self.ordered(self.volumes).shape
        if self.axes == CHANNELS_LAST:  # the joints' depths are neighbours: [B, H, W, J, D]
            row = joints * inner
            return (outer * mid * row, inner, mid * row, row)
        return (joints * outer * mid * inner, outer * mid * inner, mid * inner, inner)

    def upstream_by_axis(self) -> list[Tensor | None]:
        """Of FIELDS."""
        marginals = [self.upstream.get(("px", "py", "pz")[axis]) for axis in self.axes]
        return [self.upstream.get("mean"), *marginals, self.upstream.get("logsumexp")]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.flatten().contiguous().view(torch.uint8).numpy().tobytes()


def _request(case: Case) -> bytes:
    volumes, dtype = case.ordered(case.volumes), case.volumes.dtype
    real = torch.float64 if dtype == torch.float64 else torch.float32
    strides = case.strides or case.dense_strides()
    upstream = case.upstream_by_axis()
    bits = sum(1 << i for i, gradient in enumerate(upstream) if gradient is not None)
    numbers = (
        *(ELEMENTS.index(dtype), *volumes.shape, *strides, *(case.gradient_strides or strides), *case.axes),
        *(case.offset, case.in_place, bits, *case.chip),
    )
    gradients = [
        _bytes(gradient.to(torch.float64 if name == "logsumexp" else real))
        for name, gradient in zip(FIELDS, upstream, strict=True)
        if gradient is not None
    ]
    return b"".join([struct.pack(f"{len(numbers)}q", *numbers), _bytes(volumes), *gradients])


def execute(program: Path, case: Case, *arguments: str) -> Outcome:
    done = run(program, *arguments, stdin=_request(case))
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    volumes, dtype = case.ordered(case.volumes), case.volumes.dtype
    real = torch.float64 if dtype == torch.float64 else torch.float32
    (batch, joints, *lengths), at = volumes.shape, 8 * len(Shape._fields)
    shape = Shape(*struct.unpack(f"{len(Shape._fields)}q", done.stdout[:at]))
    tensors = []
    for length, kind in ((3, real), *((n, real) for n in lengths), (1, torch.float64), (-1, dtype)):
        size = (*volumes.shape,) if length < 0 else (batch, joints, length)
        count = torch.Size(size).numel()
        tensors.append(
            torch.frombuffer(bytearray(done.stdout), dtype=kind, count=count, offset=at).view(size)
        )
        at += count * kind.itemsize
    assert at == len(done.stdout)
    mean, *marginals, logsumexp, gradient = tensors
    px, py, pz = (marginals[case.axes.index(axis)] for axis in range(3))
    result = IntegralResult(mean, px, py, pz, logsumexp.squeeze(-1).to(real))
    back = [2 + case.axes.index(axis) for axis in (2, 1, 0)]
    return Outcome(shape, result, gradient.permute(0, 1, *back))


def exact(case: Case) -> tuple[IntegralResult, Tensor]:
    """The definition in float64."""
    volumes = case.volumes.to(torch.float64, copy=True).requires_grad_()
    result = softmax_integral_reference(volumes)
    outputs = [getattr(result, name) for name in case.upstream]
    gradient = torch.zeros_like(volumes)
    if outputs:
        (gradient,) = torch.autograd.grad(outputs, volumes, list(case.upstream.values()))
    detached = [tensor.detach() for tensor in result if tensor is not None]
    return IntegralResult(*detached), gradient


def check(program: Path, case: Case, *arguments: str, together: bool = False) -> Outcome:
    """Runs the case and compares with the definition; asserts. Also returns what came out.

    ``together``: the error of a gradient is that of all joints of a person. Of very many joints some lose
    digits where the gradients of two axes cancel, whoever adds them.
    """
    outcome = execute(program, case, *arguments)
    result, gradient = exact(case)
    assert_integral(outcome.result, result, TOLERANCE)
    dtype = case.volumes.dtype
    if dtype != torch.float64:
        mean = outcome.result.mean.double()
        torch.testing.assert_close(mean, result.mean, atol=2e-5, rtol=1e-7, equal_nan=True)
    axes = (0, 0) if together else (0, 1)
    for got, expected in zip(outcome.gradient.flatten(*axes), gradient.flatten(*axes), strict=True):
        if expected.isnan().any():
            assert got.isnan().all()
            continue
        error = float((got.double() - expected).norm())
        assert error <= GRADIENT_ERROR[dtype] * float(expected.norm()), error / float(expected.norm())
    return outcome


def upstream_of(volumes: Tensor, *names: str) -> dict[str, Tensor]:
    """Random upstream gradients of these fields of the result."""
    batch, joints, depth, height, width = volumes.shape
    sizes = {"mean": (3,), "px": (width,), "py": (height,), "pz": (depth,), "logsumexp": ()}
    return {name: torch.randn(batch, joints, *sizes[name], dtype=torch.float64) for name in names}
