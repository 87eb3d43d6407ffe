"""softmax_integral against float64 and the original system: results, gradients, empty batches."""

from __future__ import annotations

import ctypes
import json
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ipr.ops import IntegralResult, softmax_integral, softmax_integral_reference
from tests.conftest import Tolerance
from tests.ops.conftest import DTYPES, GRADIENT_LIMIT, LAYOUTS, assert_integral, random_logits, strides

GOLDEN = Path(__file__).parents[1] / "golden" / "softmax_integral"
SHAPES = [  # below, at and above every vector width; one block and several; a long row; a single cell
    (2, 3, 8, 8, 8),
    (1, 2, 16, 24, 72),
    (2, 2, 5, 7, 17),
    (1, 1, 40, 33, 31),
    (1, 2, 3, 4, 200),
    (1, 1, 1, 1, 1),
]


def _tensors(result: IntegralResult) -> list[Tensor]:
    return [tensor for tensor in result if tensor is not None]


# 1. Against the definition in float64, and against the original system.


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_the_definition(kernels: str, dtype: torch.dtype, layout: str, tolerance: Tolerance) -> None:
    for shape in SHAPES:
        logits = LAYOUTS[layout](random_logits(shape, dtype, device=kernels))
        before = logits.clone()
        result = softmax_integral(logits)
        assert_integral(result, softmax_integral_reference(logits.double()), tolerance)
        assert torch.equal(logits, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_heat_maps_and_packed_channels(kernels: str, dtype: torch.dtype, tolerance: Tolerance) -> None:
    maps = random_logits((3, 5, 24, 18), dtype, device=kernels)
    result = softmax_integral(maps)
    assert_integral(result, softmax_integral_reference(maps.double()), tolerance)
    assert result.pz is None and result.mean.shape == (3, 5, 2) and result.variance.shape == (3, 5, 2)
    volumes = softmax_integral(maps.view(3, 1, 5, 24, 18))
    packed = softmax_integral(maps, num_joints=1)
    for a, b in zip(packed, volumes, strict=True):
        assert torch.equal(a, b)


def test_large_heat_maps(kernels: str, tolerance: Tolerance) -> None:
    """Maps that are cut into rows, so that a single one occupies every thread."""
    for dtype in (torch.float32, torch.bfloat16):
        maps = random_logits((1, 2, 300, 260), dtype, device=kernels).requires_grad_()
        exact = maps.detach().double().requires_grad_()
        result, truth = softmax_integral(maps), softmax_integral_reference(exact)
        assert_integral(result, truth, tolerance)
        (gradient,) = torch.autograd.grad(result.mean.sum(), maps)
        (expected,) = torch.autograd.grad(truth.mean.sum(), exact)
        assert (gradient.double() - expected).norm() < GRADIENT_LIMIT[dtype] * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["peaky_d16_j4", "dneqw_d8h16w12_j6"])
def test_matches_the_original(kernels: str, name: str, dtype: torch.dtype, tolerance: Tolerance) -> None:
    golden = np.load(GOLDEN / f"{name}.npz")
    batch, joints, depth, height, width = golden["shape"].tolist()
    packed = (torch.from_numpy(golden["logits_q"]).to(dtype) / 256).requires_grad_()
    mean = softmax_integral(packed.to(kernels), joints).mean.cpu()
    norm = mean / torch.tensor([width, height, depth], dtype=dtype) - 0.5
    (gradient,) = torch.autograd.grad(norm.flatten(1), packed, torch.from_numpy(golden["upstream"]).to(dtype))
    coords = norm.detach().flatten(1).numpy()
    assert np.abs(coords - golden["coords_f64"]).max() < tolerance.coords_norm[dtype]
    assert np.abs(gradient.numpy() - golden["grad_up_f64"]).max() < tolerance.gradient[dtype]
    assert np.abs(golden["grad_up_f64"]).max() > 1e-3
    assert batch == len(mean)


def test_hand_cases_of_the_original(kernels: str) -> None:
    for case in json.loads((GOLDEN / "hand_cases.json").read_text()):
        logits = torch.zeros(1, 1, case["D"], case["H"], case["W"], device=kernels)
        if "one hot" in case["what"]:
            z, y, x = map(int, case["what"].split("=")[1].split(","))
            logits[0, 0, z, y, x] = 1000
        mean = softmax_integral(logits).mean[0, 0].cpu()
        norm = mean / torch.tensor([case["W"], case["H"], case["D"]]) - 0.5
        torch.testing.assert_close(norm, torch.tensor(case["coords"][0]), atol=1e-6, rtol=0)


def test_variance_and_score_of_known_volumes(device: str) -> None:
    logits = torch.full((2, 4, 4, 8), -1e4)
    logits[0, 1, 2, [3, 5]] = 0  # x is 3 or 5
    logits[1, 0, 0, 0] = 0
    result = softmax_integral(logits[:, None].to(device))
    torch.testing.assert_close(result.variance[:, 0].cpu(), torch.tensor([[1.0, 0, 0], [0, 0, 0]]))
    torch.testing.assert_close(result.score[:, 0].cpu(), torch.tensor([0.5 ** (1 / 3), 1.0]))
    assert [m.shape for m in result.marginals if m is not None] == [(2, 1, 8), (2, 1, 4), (2, 1, 4)]


def test_nothing_beyond_the_logits_is_read(isa: str) -> None:
    """The last logit lies before a page that must not be touched: reading it would end the process."""
    libc, size, page = ctypes.CDLL(None), 1 << 16, mmap.PAGESIZE
    memory = mmap.mmap(-1, size + page)
    forbidden = ctypes.addressof(ctypes.c_char.from_buffer(memory, size))
    assert libc.mprotect(ctypes.c_void_p(forbidden), ctypes.c_size_t(page), 0) == 0
    for dtype in DTYPES:
        for shape in ((2, 2, 3, 4, 5), (1, 2, 1, 3, 17), (1, 1, 2, 2, 65), (1, 3, 17, 2, 3)):
            for order in ((0, 1, 2, 3, 4), (0, 3, 4, 1, 2)):  # contiguous, channels_last
                clean = random_logits(tuple(shape[axis] for axis in order), dtype)
                at_the_end = torch.frombuffer(
                    memory, dtype=dtype, count=clean.numel(), offset=size - clean.nbytes
                )
                logits, clean = (
                    tensor.permute([order.index(axis) for axis in range(5)])
                    for tensor in (at_the_end.view(clean.shape).copy_(clean), clean)
                )
                assert logits.shape == shape
                tensors = torch.ops.ipr.softmax_integral(logits), torch.ops.ipr.softmax_integral(clean)
                for value, expected in zip(*tensors, strict=True):
                    assert torch.equal(value, expected)
                arguments = (*tensors[0], *tensors[0])  # upstream gradients: any will do
                backward = torch.ops.ipr.softmax_integral_backward
                assert torch.equal(backward(logits, *arguments), backward(clean, *arguments))


# 2. Gradients.


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "part of depths", "permuted"])
def test_gradcheck(kernels: str, layout: str) -> None:
    logits = random_logits((2, 2, 3, 4, 5), torch.float64, 1.0, kernels)
    logits = LAYOUTS[layout](logits).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: _tensors(softmax_integral(x)), logits)
    for derived in (lambda x: softmax_integral(x).variance, lambda x: softmax_integral(x).score):
        assert torch.autograd.gradcheck(derived, logits)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_matches_the_definition(kernels: str, dtype: torch.dtype, layout: str) -> None:
    for shape in SHAPES:
        logits = LAYOUTS[layout](random_logits(shape, dtype, device=kernels)).detach().requires_grad_()
        exact = logits.detach().double().requires_grad_()
        result, truth = _tensors(softmax_integral(logits)), _tensors(softmax_integral_reference(exact))
        upstream = [torch.randn_like(t) for t in truth]
        of_result = [u.to(r.dtype) for u, r in zip(upstream, result, strict=True)]
        gradient = torch.autograd.grad(result, logits, of_result)[0]
        expected = torch.autograd.grad(truth, exact, upstream)[0]
        error = (gradient.double() - expected).norm() / expected.norm()
        assert error < GRADIENT_LIMIT[dtype]
        assert gradient.dtype == dtype
        if layout in ("contiguous", "channels_last"):
            assert strides(gradient) == strides(logits)


def test_gradient_of_each_output_alone(kernels: str) -> None:
    for field in range(5):
        logits = random_logits((2, 3, 4, 5, 20), torch.float32, device=kernels).requires_grad_()
        exact = logits.detach().double().requires_grad_()
        upstream = torch.randn_like(softmax_integral_reference(exact)[field])
        (gradient,) = torch.autograd.grad(softmax_integral(logits)[field], logits, upstream.float())
        (expected,) = torch.autograd.grad(softmax_integral_reference(exact)[field], exact, upstream)
        torch.testing.assert_close(gradient.double(), expected, atol=2e-6, rtol=1e-5)


def test_gradient_of_a_saturated_joint_keeps_its_digits(kernels: str) -> None:
    """One cell holds all but 1e-5: a careless formula then subtracts the mean from a cell next to it."""
    logits = torch.zeros(1, 1, 8, 16, 48, device=kernels)
    logits[0, 0, 5, 9, 40] = 20.0
    exact = logits.double().requires_grad_()
    logits.requires_grad_()
    for axis in range(3):
        (gradient,) = torch.autograd.grad(softmax_integral(logits).mean[0, 0, axis], logits)
        (expected,) = torch.autograd.grad(softmax_integral_reference(exact).mean[0, 0, axis], exact)
        torch.testing.assert_close(gradient.double(), expected, atol=0, rtol=1e-5)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_joints_without_upstream_gradient_are_skipped(isa: str, layout: str) -> None:
    """Exact zeros: whatever is in such a joint's volume is not even read."""
    logits = LAYOUTS[layout](random_logits((2, 3, 5, 6, 17), torch.float32))
    results = torch.ops.ipr.softmax_integral(logits)
    logits[0, 1] = float("nan")
    upstream = [torch.randn_like(result) for result in results]
    for gradient in upstream:
        gradient[0, 1] = 0
    gradient = torch.ops.ipr.softmax_integral_backward(logits, *results, *upstream)
    assert (gradient[0, 1] == 0).all()
    assert (gradient[0, 0] != 0).all() and (gradient[1] != 0).all()


@contextmanager
def _memory_in_use(like: Tensor) -> Iterator[None]:
    """New tensors lie in memory that was written to: the allocator is told to fill what it gives out."""
    libc, perturb = ctypes.CDLL(None), -6
    told = hasattr(libc, "mallopt") and libc.mallopt(perturb, 1)  # AddressSanitizer's fills without
    tensor, resident = torch.empty_like(like), ctypes.create_string_buffer(1)
    middle = (tensor.data_ptr() + tensor.nbytes // 2) // mmap.PAGESIZE * mmap.PAGESIZE
    assert libc.mincore(ctypes.c_void_p(middle), ctypes.c_size_t(1), resident) == 0
    if not told and not resident.raw[0] & 1:
        pytest.skip("needs glibc's allocator")
    assert resident.raw[0] & 1
    try:
        yield
    finally:
        libc.mallopt(perturb, 0)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_large_gradients_are_right_on_new_and_on_used_memory(isa: str, layout: str) -> None:
    """From 32 MB on, stores bypass the caches if the memory has been touched before."""
    logits = LAYOUTS[layout](torch.randn(1, 33, 64, 64, 64))
    results = torch.ops.ipr.softmax_integral(logits)
    upstream = [torch.randn_like(result) for result in results]
    gradients = [torch.ops.ipr.softmax_integral_backward(logits, *results, *upstream)]
    with _memory_in_use(logits):
        gradients.append(torch.ops.ipr.softmax_integral_backward(logits, *results, *upstream))
    _, px, py, pz, logsumexp = (result.double() for result in results)
    of_mean, a, b, c, s = (gradient.double() for gradient in upstream)
    for axis, (table, marginal) in enumerate(((a, px), (b, py), (c, pz))):
        table += torch.arange(64) * of_mean[..., axis, None]
        table -= (table * marginal).sum(-1, keepdim=True)
    factor = a[:, :, None, None] + b[:, :, None, :, None] + c[..., None, None] + s[..., None, None, None]
    expected = (logits - logsumexp[..., None, None, None]).exp_().mul_(factor)
    assert torch.equal(*gradients)
    error = (gradients[0] - expected).norm() / expected.norm()
    assert error < GRADIENT_LIMIT[torch.float32]


# 3. Empty batches.


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", [(0, 3, 4, 5, 6), (2, 0, 4, 5, 6)])
def test_empty(device: str, shape: tuple[int, ...], layout: str) -> None:
    permuted = torch.zeros([shape[axis] for axis in (0, 3, 4, 1, 2)]).permute(0, 3, 4, 1, 2)
    logits = (torch.zeros(shape) if layout == "contiguous" else permuted).to(device).requires_grad_()
    result = softmax_integral(logits)
    assert [p.shape[2] for p in (result.mean, result.px, result.py, result.pz)] == [3, 6, 5, 4]
    assert torch.autograd.grad(result.mean.sum(), logits)[0].shape == shape
