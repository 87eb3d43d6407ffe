"""softmax_integral of channels_last heat maps, where vectors are neighbouring joints."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from ipr.ops import softmax_integral, softmax_integral_reference
from tests.conftest import Tolerance
from tests.ops.conftest import DTYPES, assert_integral, random_logits, strides

INF, NAN = float("inf"), float("nan")
GRADIENT_LIMIT = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def _dense(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": _dense,
    "part of joints": lambda maps: _dense(pad(maps, (0, 0, 0, 0, 2, 1)))[:, 2:-1],
    "part of columns": lambda maps: _dense(pad(maps, (3, 2)))[..., 3:-2],
    "part of rows": lambda maps: _dense(pad(maps, (0, 0, 1, 4)))[:, :, 1:-4],
}


@pytest.mark.parametrize("joints", [2, 3, 8, 15, 16, 17, 33, 133])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_and_gradients(
    kernels: str, layout: str, dtype: torch.dtype, joints: int, tolerance: Tolerance
) -> None:
    for height, width in ((1, 2), (9, 7), (20, 48)):
        maps = LAYOUTS[layout](random_logits((2, joints, height, width), dtype, device=kernels))
        maps = maps.detach().requires_grad_()
        assert maps.stride(1) == 1 and maps.stride(3) != 1
        exact = maps.detach().double().requires_grad_()
        result, truth = softmax_integral(maps), softmax_integral_reference(exact)
        assert_integral(result, truth, tolerance)
        upstream = torch.randn_like(truth.mean)
        upstream[:, ::3] = 0
        (gradient,) = torch.autograd.grad(result.mean, maps, upstream.to(result.mean.dtype))
        (expected,) = torch.autograd.grad(truth.mean, exact, upstream)
        limit = GRADIENT_LIMIT[dtype] * float(expected.abs().max()) + 1e-7
        torch.testing.assert_close(gradient.double(), expected, atol=limit, rtol=0)
        assert (gradient[:, ::3] == 0).all()
        assert strides(gradient) == strides(_dense(maps.detach()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_later_rows_may_tower_above_the_first(kernels: str, dtype: torch.dtype, tolerance: Tolerance) -> None:
    maps = random_logits((2, 19, 12, 10), dtype, device=kernels)
    maps[0, 4, 7] += 500
    maps[0, 5, 0] = -INF
    maps[1, 6, :11] -= 1000
    maps[1, 18, 11, 9] = 1e4
    maps = _dense(maps)
    assert_integral(softmax_integral(maps), softmax_integral_reference(maps.double()), tolerance)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("cell", [(0, 0), (5, 3), (11, 8)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_not_a_number_stays_in_its_joint(
    kernels: str, dtype: torch.dtype, cell: tuple[int, int], value: float
) -> None:
    clean = _dense(random_logits((2, 17, 12, 9), dtype, device=kernels))
    bad = clean.clone()
    bad[1, 9][cell] = value
    bad.requires_grad_()
    others = torch.ones(2, 17, dtype=torch.bool)
    others[1, 9] = False
    result = softmax_integral(bad)
    for tensor, truth in zip(result, softmax_integral(clean), strict=True):
        if tensor is not None and truth is not None:
            assert tensor[1, 9].isnan().all()
            assert torch.equal(tensor[others], truth[others])
    (gradient,) = torch.autograd.grad(result.mean[:, 1:].sum(), bad, retain_graph=True)
    assert gradient[1, 9].isnan().all() and not gradient[others].isnan().any()
    upstream = torch.ones_like(result.mean)
    upstream[1, 9] = 0
    (gradient,) = torch.autograd.grad(result.mean, bad, upstream)
    assert (gradient[1, 9] == 0).all() and not gradient.isnan().any()


def test_nothing_but_minus_infinity_has_no_mean(kernels: str) -> None:
    maps = torch.randn(1, 5, 6, 7, device=kernels)
    maps[0, 2] = -INF
    result = softmax_integral(_dense(maps))
    assert result.mean[0, 2].isnan().all() and result.logsumexp[0, 2] == -INF
    assert not result.mean[0, [0, 1, 3, 4]].isnan().any()


def test_every_run_gives_the_same_bits(kernels: str) -> None:
    """Of maps that are large enough to be shared out, on any number of threads."""
    maps = _dense(random_logits((1, 17, 300, 200), torch.float32, device=kernels)).requires_grad_()
    outcomes = []
    threads = torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        result = softmax_integral(maps)
        (gradient,) = torch.autograd.grad(result.mean.sum() + result.px.square().sum(), maps)
        outcomes.append([result.mean, result.px, result.py, result.logsumexp, gradient])
    torch.set_num_threads(threads)
    for outcome in outcomes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outcomes[0], outcome, strict=True))


def test_gradient_in_place(kernels: str) -> None:
    maps = _dense(random_logits((2, 17, 9, 8), torch.float32, device=kernels)).requires_grad_()
    gradients = []
    for in_place in (False, True):
        logits = maps.clone()
        logits.retain_grad()
        softmax_integral(logits, grad_in_place=in_place).mean.square().sum().backward()
        assert maps.grad is not None
        gradients.append(maps.grad)
        assert torch.equal(logits.detach(), maps.grad) == in_place
        maps.grad = None
    assert torch.equal(*gradients)


def test_nothing_is_copied() -> None:
    maps = _dense(random_logits((8, 17, 64, 48), torch.float32)).requires_grad_()
    with torch.profiler.profile(profile_memory=True) as profile:
        softmax_integral(maps)
    taken = sum(max(0, event.cpu_memory_usage) for event in profile.events() if not event.cpu_parent)
    assert 0 < taken < maps.nbytes / 10
