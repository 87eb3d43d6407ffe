"""softmax_integral under torch: opcheck, script, export, compile, autocast, torch.func."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from ipr.nn import SoftmaxIntegral
from ipr.ops import IntegralResult, softmax_integral, softmax_integral_reference
from tests.conftest import Tolerance
from tests.ops.conftest import DTYPES, GRADIENT_LIMIT, LAYOUTS, assert_integral, random_logits, strides

# 1. torch's own checks of operators.


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck(device: str, dtype: torch.dtype, layout: str) -> None:
    logits = random_logits((2, 3, 4, 5, 6), dtype, device=device)
    logits = LAYOUTS[layout](logits).detach().requires_grad_()
    torch.library.opcheck(torch.ops.ipr.softmax_integral, (logits,))
    logits = logits.detach()
    results = torch.ops.ipr.softmax_integral(logits)
    upstream = [torch.randn_like(result) for result in results]
    torch.library.opcheck(torch.ops.ipr.softmax_integral_backward, (logits, *results, *upstream))
    none = (None,) * 4
    torch.library.opcheck(torch.ops.ipr.softmax_integral_backward, (logits, *results, upstream[0], *none))
    if layout != "permuted":  # which is copied: a gradient cannot take its place
        in_place = torch.ops.ipr.softmax_integral_backward_
        torch.library.opcheck(in_place, (logits.clone(), *results, *upstream))


# 2. Script, export, compile.


def test_script(device: str, tmp_path: Path) -> None:
    packed, volumes = (
        random_logits(shape, torch.float32, device=device) for shape in ((2, 6, 5, 7), (2, 3, 4, 5, 7))
    )
    for joints, logits in ((3, packed), (None, volumes), (None, packed)):
        module = SoftmaxIntegral(joints)
        torch.jit.save(torch.jit.script(module), tmp_path / "module.pt")
        loaded = torch.jit.load(tmp_path / "module.pt")
        for scripted, eager in zip(loaded(logits), module(logits), strict=True):
            assert (scripted is None and eager is None) or torch.equal(scripted, eager)


def test_export(device: str) -> None:
    logits = random_logits((2, 6, 5, 7), torch.float32, device=device)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(SoftmaxIntegral(3), (logits,), dynamic_shapes={"logits": {0: batch}})
    for size in (2, 5):
        logits = random_logits((size, 6, 5, 7), torch.float32, device=device)
        for exported, eager in zip(program.module()(logits), softmax_integral(logits, 3), strict=True):
            assert torch.equal(exported, eager)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_compile_without_a_graph_break(device: str, layout: str) -> None:
    def loss(logits: Tensor) -> Tensor:
        result = softmax_integral(logits)
        outcomes = (result.mean.square(), result.logsumexp, result.variance, result.score)
        return torch.stack([outcome.sum() for outcome in outcomes]).sum()

    gradients = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(1)
        logits = random_logits((2, 3, 4, 5, 7), torch.float32, device=device)
        logits = LAYOUTS[layout](logits).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(function(logits), logits)
        gradients.append(gradient)
    torch.testing.assert_close(*gradients)
    assert strides(gradients[0]) == strides(gradients[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_keeps_the_accuracy_of_half_logits(
    device: str, dtype: torch.dtype, tolerance: Tolerance
) -> None:
    features, weight = (torch.randn(size).to(device) for size in ((2, 16, 9, 9), (3 * 8, 16, 1, 1)))
    weight.requires_grad_()
    with torch.autocast(device, dtype=dtype):
        logits = torch.nn.functional.conv2d(features, weight)
        result = softmax_integral(logits, 3)
    assert logits.dtype == dtype and result.mean.dtype == torch.float32
    logits.retain_grad()
    result.mean.square().sum().backward()
    assert logits.grad is not None and weight.grad is not None
    assert logits.grad.dtype == dtype and weight.grad.dtype == torch.float32
    exact = logits.detach().double().requires_grad_()
    truth = softmax_integral_reference(exact, 3)
    assert_integral(result, truth, tolerance)
    (expected,) = torch.autograd.grad(truth.mean.square().sum(), exact)
    assert (logits.grad.double() - expected).norm() < GRADIENT_LIMIT[dtype] * expected.norm()


def test_autocast_leaves_float32_alone(device: str) -> None:
    logits = random_logits((2, 3, 4, 5, 6), torch.float32, device=device)
    expected = softmax_integral(logits)
    with torch.autocast(device, dtype=torch.bfloat16):
        result = softmax_integral(logits)
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))


# 3. torch.func.


def _tensors(result: IntegralResult) -> list[Tensor]:
    return [tensor for tensor in result if tensor is not None]


def _loss(integral: Callable[[Tensor], IntegralResult]) -> Callable[[Tensor], Tensor]:
    """A function of every output."""

    def loss(logits: Tensor) -> Tensor:
        result = integral(logits)
        parts = (*_tensors(result), result.variance, result.score)
        return torch.stack([(part * part).sum() * (i + 1) for i, part in enumerate(parts)]).sum()

    return loss


def _same(transform: Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], object]], x: Tensor) -> None:
    """The transform of the operator gives what that of its definition does."""
    results, expected = transform(_loss(softmax_integral))(x), transform(_loss(softmax_integral_reference))(x)
    torch.testing.assert_close(results, expected, atol=1e-10, rtol=1e-10)


@pytest.fixture
def volumes(device: str) -> Tensor:
    """[5, B, J, D, H, W]: five times what the operator takes."""
    return random_logits((5, 2, 3, 4, 5, 6), torch.float64, 1.0, device)


def test_func_grad_vjp_and_jacrev(volumes: Tensor) -> None:
    _same(torch.func.grad, volumes[0])
    _same(torch.func.grad_and_value, volumes[0])
    _same(lambda f: lambda x: torch.func.vjp(f, x)[1](torch.ones_like(f(x))), volumes[0])
    _same(torch.func.jacrev, volumes[0, :1, :1])
    jacobian = torch.autograd.functional.jacobian
    _same(lambda f: lambda x: jacobian(f, x, vectorize=True), volumes[0, :1, :1])


def test_vmap(volumes: Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch's loop over unknown operators warns that it is slow
        for dim in (0, 2):
            _same(lambda f, dim=dim: torch.func.vmap(f, dim), volumes.movedim(0, dim))  # type: ignore[misc]
        _same(lambda f: torch.func.vmap(torch.func.grad(f)), volumes)
        _same(lambda f: torch.func.grad(lambda x: torch.func.vmap(f)(x).sum()), volumes)
        _same(lambda f: torch.func.vmap(torch.func.vmap(f)), volumes.unflatten(1, (2, 1)))


def test_vmap_of_an_empty_batch(volumes: Tensor) -> None:
    empty = volumes[:, :0]
    assert torch.func.vmap(lambda x: softmax_integral(x).mean)(empty).shape == (5, 0, 3, 3)


# 4. Derivatives that there are none of.

NO_SECOND = "no second derivative; softmax_integral_reference"
NO_FORWARD = "no forward-mode derivative; softmax_integral_reference"


def test_second_derivative_is_a_clear_error(device: str) -> None:
    logits = random_logits((1, 1, 2, 3, 4), torch.float64, device=device).requires_grad_()
    (gradient,) = torch.autograd.grad(softmax_integral(logits).mean.sum(), logits, create_graph=True)
    with pytest.raises(NotImplementedError, match=NO_SECOND):
        gradient.sum().backward()
    second = torch.func.grad(lambda x: torch.func.grad(_loss(softmax_integral))(x).sum())
    with pytest.raises(NotImplementedError, match=NO_SECOND):
        second(logits.detach())


def test_forward_mode_is_a_clear_error(device: str) -> None:
    """And not a derivative of zero, which is what torch makes of an operator that has no rule for it."""
    logits = random_logits((1, 1, 2, 3, 4), torch.float64, device=device)
    loss = _loss(softmax_integral)
    for transform in (torch.func.jacfwd(loss), torch.func.hessian(loss)):
        with pytest.raises(NotImplementedError, match=NO_FORWARD):
            transform(logits)
    with pytest.raises(NotImplementedError, match=NO_FORWARD):
        torch.func.jvp(loss, (logits,), (logits,))
    for primal in (logits, logits.clone().requires_grad_()):
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match=NO_FORWARD):
            softmax_integral(forward_ad.make_dual(primal, logits))
