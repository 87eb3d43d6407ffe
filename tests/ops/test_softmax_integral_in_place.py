"""softmax_integral with a gradient that takes the logits' place: equal numbers, and no wrong use unseen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ipr.ops import IntegralResult, softmax_integral, softmax_integral_reference
from tests.ops.conftest import DTYPES, LAYOUTS, random_logits

IN_PLACE = ["contiguous", "channels_last", "part of rows", "part of depths"]


def _layer(leaf: Tensor) -> Tensor:
    """Logits that a layer computed, in the leaf's layout."""
    return leaf.as_strided(leaf.shape, leaf.stride()) + 0 if leaf.is_contiguous() else _Same.apply(leaf)


class _Same(torch.autograd.Function):
    """Its own memory with the strides of its input, holes included."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor) -> Tensor:
        extent = sum((size - 1) * stride for size, stride in zip(leaf.shape, leaf.stride(), strict=True)) + 1
        return leaf.new_empty(extent).as_strided(leaf.shape, leaf.stride()).copy_(leaf)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clone()


def _loss(result: IntegralResult) -> Tensor:
    torch.manual_seed(1)
    return sum(((t.double() * torch.randn(t.shape).to(t.device)).sum() for t in result), torch.zeros(()))


@pytest.mark.parametrize("layout", IN_PLACE)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_the_fresh_gradient(kernels: str, dtype: torch.dtype, layout: str) -> None:
    for shape in ((2, 3, 8, 8, 8), (2, 2, 5, 7, 17), (1, 1, 40, 33, 31), (1, 1, 1, 1, 1)):
        leaf = LAYOUTS[layout](random_logits(shape, dtype, device=kernels)).detach().requires_grad_()
        gradients = []
        for in_place in (False, True):
            logits = _layer(leaf)
            _loss(softmax_integral(logits, grad_in_place=in_place)).backward()
            assert leaf.grad is not None
            gradients.append(leaf.grad)
            assert torch.equal(logits, leaf.grad) == in_place or logits.numel() == 1
            leaf.grad = None
        assert torch.equal(*gradients)


def test_packed_channels_of_a_convolution(device: str) -> None:
    network = nn.Conv2d(8, 12, 1).to(device)
    features = torch.randn(2, 8, 5, 6, device=device)
    gradients = []
    for in_place in (False, True):
        network.zero_grad()
        softmax_integral(network(features), 3, grad_in_place=in_place).mean.square().sum().backward()
        assert network.weight.grad is not None
        gradients.append(network.weight.grad.clone())
    assert torch.equal(*gradients) and gradients[0].abs().max() > 0


def test_without_gradients_nothing_is_written(device: str) -> None:
    logits = random_logits((2, 3, 4, 5, 6), torch.float32, device=device)
    before = logits.clone()
    result = softmax_integral(logits, grad_in_place=True)
    with torch.no_grad():
        softmax_integral(logits.clone().requires_grad_() * 1, grad_in_place=True)
    assert torch.equal(logits, before) and not result.mean.requires_grad


def test_refuses_to_overwrite_a_parameter(device: str) -> None:
    leaf = torch.randn(1, 2, 4, 4, 4, device=device, requires_grad=True)
    for logits in (leaf, leaf.view(1, 2, 4, 4, 4)):
        with pytest.raises(ValueError, match=r"overwrite the logits \[1, 2, 4, 4, 4\], which no layer"):
            softmax_integral(logits, grad_in_place=True)


def test_refuses_logits_that_it_cannot_write_to(device: str) -> None:
    leaf = torch.randn(2, 3, 4, 5, 6, device=device, requires_grad=True)
    for logits in ((leaf * 1).transpose(3, 4)[..., ::2], (leaf * 1)[:1].expand(3, 3, 4, 5, 6)):
        result = softmax_integral(logits, grad_in_place=True)
        with pytest.raises(RuntimeError, match="every one with memory of its own; got sizes"):
            result.mean.sum().backward()


def test_refuses_a_second_backward_pass(device: str) -> None:
    result = softmax_integral(
        torch.randn(1, 2, 4, 4, 4, device=device, requires_grad=True) * 1, grad_in_place=True
    )
    result.mean.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.mean.sum().backward()


def test_refuses_a_second_derivative(device: str) -> None:
    leaf = torch.randn(1, 2, 4, 4, 4, device=device, requires_grad=True)
    mean = softmax_integral(leaf * 1, grad_in_place=True).mean
    (gradient,) = torch.autograd.grad(mean.sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=r"does not require grad|once_differentiable"):
        gradient.sum().backward()


def test_a_layer_that_kept_its_output_is_told(device: str) -> None:
    leaf = torch.randn(1, 2, 4, 4, 4, device=device, requires_grad=True)
    result = softmax_integral(leaf.exp(), grad_in_place=True)  # exp's own gradient is its output
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.mean.sum().backward()


def test_another_consumer_gets_its_gradient_or_an_error(device: str) -> None:
    leaf = torch.randn(1, 2, 4, 4, 4, dtype=torch.float64, device=device, requires_grad=True)
    exact = leaf * 1
    expected = torch.autograd.grad(softmax_integral_reference(exact).mean.sum() + exact.square().sum(), leaf)[
        0
    ]
    later = leaf * 1
    mean = softmax_integral(later, grad_in_place=True).mean  # square is differentiated before
    (gradient,) = torch.autograd.grad(mean.sum() + later.square().sum(), leaf)
    torch.testing.assert_close(gradient, expected)
    earlier = leaf * 1
    square = earlier.square()  # and here after
    loss = softmax_integral(earlier, grad_in_place=True).mean.sum() + square.sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_compile_keeps_the_numbers() -> None:
    leaf = random_logits((2, 3, 4, 5, 6), torch.float32).requires_grad_()

    def loss(logits: Tensor) -> Tensor:
        return softmax_integral(logits * 1.0, grad_in_place=True).mean.square().sum()

    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    (gradient,) = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(leaf), leaf)
    torch.testing.assert_close(gradient, expected)
