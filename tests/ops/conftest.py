"""What the operators' tests share: devices, instruction sets and layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from ipr.ops import IntegralResult, _library
from tests.conftest import Tolerance

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Of the relative L2 error of a gradient: the target in float32, rounding of the result in the halves.
GRADIENT_LIMIT = {torch.float32: 5e-7, torch.float64: 1e-13, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def _available(isa: str) -> bool:
    current = _library.isa()
    available = bool(_library.LIBRARY.ipr_ops_use_isa(isa.encode()))
    _library.LIBRARY.ipr_ops_use_isa(current.encode())
    return available


ISAS = [
    pytest.param(isa, marks=pytest.mark.skipif(not _available(isa), reason=f"this CPU or build has no {isa}"))
    for isa in ("baseline", "avx2", "avx512")
]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test of the CPU once with the kernels of each instruction set that this CPU has."""
    with using(request.param):
        yield request.param


@contextmanager
def using(isa: str) -> Iterator[None]:
    current = _library.isa()
    assert _library.LIBRARY.ipr_ops_use_isa(isa.encode()) == 1
    try:
        yield
    finally:
        _library.LIBRARY.ipr_ops_use_isa(current.encode())


def _no_cuda() -> str:
    """Why operators cannot be tested on CUDA here; empty where they can."""
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no CUDA device"
    compiled = torch._C._dispatch_has_kernel_for_dispatch_key("ipr::softmax_integral", "CUDA")
    return "" if compiled else f"no CUDA kernels in the library: {_library.build_info().cuda}"


CUDA = pytest.param("cuda", marks=pytest.mark.skipif(bool(_no_cuda()), reason=_no_cuda() or "CUDA works"))


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest) -> str:
    """Runs a test once on each kind of device."""
    return str(request.param)


@pytest.fixture(params=[*ISAS, CUDA])
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device: runs a test on the CPU with each instruction set, as ``isa`` does, and on CUDA."""
    if request.param == "cuda":
        yield "cuda"
    else:
        with using(request.param):
            yield "cpu"


def random_logits(
    shape: tuple[int, ...], dtype: torch.dtype, scale: float = 3.0, device: str = "cpu"
) -> Tensor:
    """The same ones on every device."""
    return (torch.randn(shape, dtype=torch.float64) * scale).to(dtype).to(device)


def channels_last(volumes: Tensor) -> Tensor:
    """The same volumes [B, J, D, H, W], as a channels_last network emits them."""
    packed = volumes.flatten(1, 2).contiguous(memory_format=torch.channels_last)
    return packed.unflatten(1, volumes.shape[1:3])


def _permuted(volumes: Tensor) -> Tensor:
    return volumes.permute(0, 1, 4, 3, 2).contiguous().permute(0, 1, 4, 3, 2).mT.contiguous().mT


# Layouts that are read in place, whole tensors and parts of larger ones, and one that is not.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": torch.Tensor.contiguous,
    "channels_last": channels_last,
    "part of rows": lambda volumes: pad(volumes, (3, 2, 1, 0, 0, 1))[..., :-1, 1:, 3:-2],
    "part of depths": lambda volumes: channels_last(pad(volumes, (0, 0, 0, 0, 2, 3)))[:, :, 2:-3],
    "permuted": _permuted,
    "broadcast": lambda volumes: volumes[:1, :1].expand_as(volumes),
}


def strides(tensor: Tensor) -> list[int]:
    """Of the axes that have more than one entry: the others' mean nothing."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


def assert_integral(
    result: IntegralResult, exact: IntegralResult, tolerance: Tolerance, probability: float = 1e-6
) -> None:
    """``exact`` is a reference result in float64; both may be on any device."""
    loose = result.mean.dtype != torch.float64
    assert result.mean.dtype == (torch.float32 if loose else torch.float64)
    rtol = 2e-7 if loose else 1e-14
    for name, value, truth in zip(result._fields, result, exact, strict=True):
        if truth is None:
            assert value is None
            continue
        atol = (tolerance.coords_cells if name == "mean" else probability) if loose else 1e-12
        assert value.dtype == result.mean.dtype
        torch.testing.assert_close(
            value.double().cpu(),
            truth.cpu(),
            atol=atol,
            rtol=rtol,
            equal_nan=True,
            msg=lambda m, n=name: f"{n}: {m}",
        )
