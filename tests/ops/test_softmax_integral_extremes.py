"""softmax_integral at the limits: extreme logits, not a number, run to run, far apart in memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ipr.ops import softmax_integral, softmax_integral_reference
from tests.conftest import Tolerance
from tests.ops.conftest import DTYPES, LAYOUTS, assert_integral, random_logits

INF, NAN = float("inf"), float("nan")
EXTREMES = ["equal", "one hot", "offset", "ramp up", "ramp down", "masked", "lowest"]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("extreme", EXTREMES)
def test_extreme_values(
    kernels: str, extreme: str, dtype: torch.dtype, layout: str, tolerance: Tolerance
) -> None:
    logits = torch.zeros(2, 2, 20, 16, 18, dtype=torch.float64)
    if extreme == "one hot":
        logits[..., 17, 9, 11] = 1e4
        logits[1] *= -1
    elif extreme == "offset":
        logits = torch.randn_like(logits)
        logits[0] += 1e4
        logits[1] -= 1e4
    elif extreme.startswith("ramp"):
        logits += torch.linspace(-1e4, 1e4, logits[0, 0].numel(), dtype=torch.float64).view(20, 16, 18)
        logits = logits if extreme == "ramp up" else logits.flip(2)
    elif extreme == "masked":
        logits = torch.randn_like(logits)
        logits[:, :, :15] = -INF
        logits[1, :, :, 3] = -INF
    elif extreme == "lowest":
        logits += torch.finfo(dtype).min
        logits[..., 3, 4, 5] = 0
    logits = LAYOUTS[layout](logits.to(dtype).to(kernels))
    assert_integral(softmax_integral(logits), softmax_integral_reference(logits.double()), tolerance)
    exact, logits = logits.double().requires_grad_(), logits.requires_grad_()
    gradient = torch.autograd.grad(softmax_integral(logits).mean.sum(), logits)[0]
    expected = torch.autograd.grad(softmax_integral_reference(exact).mean.sum(), exact)[0]
    limit = {torch.float32: 1e-6, torch.float64: 1e-12, torch.bfloat16: 4e-3, torch.float16: 5e-4}[dtype]
    torch.testing.assert_close(gradient.double(), expected, atol=limit * float(expected.abs().max()), rtol=0)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [NAN, INF])
def test_not_a_number_stays_in_its_joint(kernels: str, value: float, dtype: torch.dtype, layout: str) -> None:
    clean = random_logits((2, 3, 9, 16, 35), dtype, device=kernels)
    expected = softmax_integral(LAYOUTS[layout](clean))
    others = torch.ones(2, 3, dtype=torch.bool)
    others[1, 1] = False
    for cell in ((0, 0, 0), (8, 15, 34), (4, 7, 18)):
        logits = clean.clone()
        logits[1, 1][cell] = value
        logits = LAYOUTS[layout](logits).detach().requires_grad_()
        result = softmax_integral(logits)
        for tensor, truth in zip(result, expected, strict=True):
            assert tensor[1, 1].isnan().all()
            assert torch.equal(tensor[others], truth[others])
        (gradient,) = torch.autograd.grad(result.mean.sum(), logits)
        assert gradient[1, 1].isnan().all() and not gradient[others].isnan().any()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rise", [0, 35, 60, 90, 300])
def test_joints_at_different_levels(
    kernels: str, rise: int, dtype: torch.dtype, layout: str, tolerance: Tolerance
) -> None:
    """Around the levels from which sums take a reference, and with a part far above what is read first."""
    level = torch.tensor([-1e4, -90, -41, -39, 0, 39, 41, 80, 90, 1e4]).view(-1, 1, 1, 1)
    logits = random_logits((2, len(level), 11, 16, 18), torch.float64) + level
    logits[:, :, 7:] += rise
    logits = LAYOUTS[layout](logits.to(dtype).to(kernels))
    assert_integral(softmax_integral(logits), softmax_integral_reference(logits.double()), tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_but_the_largest_or_lowest_number(
    kernels: str, dtype: torch.dtype, tolerance: Tolerance
) -> None:
    for value in (torch.finfo(dtype).min, torch.finfo(dtype).max):
        logits = torch.full((1, 1, 9, 16, 18), value, dtype=dtype, device=kernels)
        assert_integral(softmax_integral(logits), softmax_integral_reference(logits.double()), tolerance)


def test_nothing_but_minus_infinity_has_no_mean(kernels: str) -> None:
    result = softmax_integral(torch.full((1, 1, 4, 4, 4), -INF, device=kernels))
    assert result.mean.isnan().all() and result.px.isnan().all() and (result.logsumexp == -INF).all()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_every_run_gives_the_same_bits(kernels: str, layout: str) -> None:
    """On any number of threads: sums are cut and merged in an order that only sizes decide."""
    outcomes = []
    threads = torch.get_num_threads()
    logits = LAYOUTS[layout](random_logits((1, 2, 24, 64, 64), torch.float32, device=kernels))
    logits.requires_grad_()
    for count in (1, 1, 2, 3):
        torch.set_num_threads(count)
        result = softmax_integral(logits)
        loss = result.mean.sum() + result.px.square().sum() + result.logsumexp.sum()
        outcomes.append([*result, *torch.autograd.grad(loss, logits)])
    torch.set_num_threads(threads)
    for outcome in outcomes[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outcomes[0], outcome, strict=True))


HUGE = 2**31 + 2**20  # elements, more than an int counts


@pytest.fixture
def huge(device: str) -> Iterator[Tensor]:
    """A row of HUGE elements. On the CPU only pages that are written to take memory."""
    if device == "cuda" and torch.cuda.mem_get_info()[0] < 3 * HUGE:
        pytest.skip("needs 6 GB of free CUDA memory")
    try:
        memory = torch.empty(HUGE, dtype=torch.bfloat16, device=device)
    except RuntimeError as error:
        pytest.skip(f"no address space for 4 GB: {error}")
    yield memory
    del memory
    if device == "cuda":
        torch.cuda.empty_cache()


@pytest.mark.parametrize("rows", ["width", "depth"])
@pytest.mark.parametrize("axis", range(5))
def test_logits_more_than_2_31_elements_apart(huge: Tensor, axis: int, rows: str) -> None:
    """The second entry of one axis lies that far from the first; rows run along the width, or the depth."""
    fastest = {"width": 4, "depth": 2}[rows]
    if axis == fastest:
        pytest.skip("rows are contiguous")
    shape = [2, 2, 3, 4, 5]
    shape[axis] = 2
    order = [i for i in (0, 1, 3, 4, 2) if i != fastest] + [fastest]
    strides, stride = [0] * 5, 1
    for i in reversed(order):
        strides[i] = HUGE - 2**10 if i == axis else stride
        stride *= 1 if i == axis else shape[i]
    near = random_logits(tuple(shape), torch.bfloat16, device=str(huge.device))
    far = huge.as_strided(shape, strides).copy_(near)
    outcomes = []
    for logits in (near, far):
        logits = logits.detach().requires_grad_()
        result = softmax_integral(logits)
        loss = result.mean.square().sum() + result.logsumexp.sum()
        outcomes.append([*result, *torch.autograd.grad(loss, logits)])
    torch.testing.assert_close(*outcomes)
