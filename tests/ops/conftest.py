"""What the operators' tests share: instruction sets and layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from ipr.ops import IntegralResult, _library
from tests.conftest import Tolerance

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


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
    """Runs a test once with the kernels of each instruction set that this CPU has."""
    current = _library.isa()
    assert _library.LIBRARY.ipr_ops_use_isa(request.param.encode()) == 1
    yield request.param
    _library.LIBRARY.ipr_ops_use_isa(current.encode())


def random_logits(shape: tuple[int, ...], dtype: torch.dtype, scale: float = 3.0) -> Tensor:
    return (torch.randn(shape, dtype=torch.float64) * scale).to(dtype)


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


def assert_integral(result: IntegralResult, exact: IntegralResult, tolerance: Tolerance) -> None:
    """``exact`` is a reference result in float64."""
    loose = result.mean.dtype != torch.float64
    assert result.mean.dtype == (torch.float32 if loose else torch.float64)
    rtol = 2e-7 if loose else 1e-14
    for name, value, truth in zip(result._fields, result, exact, strict=True):
        if truth is None:
            assert value is None
            continue
        atol = (tolerance.coords_cells if name == "mean" else 1e-6) if loose else 1e-12
        assert value.dtype == result.mean.dtype
        torch.testing.assert_close(value.double(), truth, atol=atol, rtol=rtol, equal_nan=True)
