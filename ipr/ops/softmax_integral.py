"""Softmax over each joint's volume, its expected coordinates and its marginals, in one read of the logits."""

from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ipr.ops import _library as _library  # registers torch.ops.ipr


class IntegralResult(NamedTuple):
    """What the softmax of a volume integrates to. Cells count from 0 at the first cell's centre.

    float32 (float64 of float64 logits). ``pz`` is None for heat maps without depth.
    """

    # Optional[...]: torch.jit.script, which reads these annotations, knows no `Tensor | None` in a tuple.
    mean: Tensor  # [B, J, 3] (x, y, z) cells; [B, J, 2] in 2-D
    px: Tensor  # [B, J, W] probability of each column
    py: Tensor  # [B, J, H]
    pz: Optional[Tensor]  # noqa: UP045  [B, J, D]
    logsumexp: Tensor  # [B, J]

    @property
    def marginals(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """(px, py, pz), each [B, J, cells of its axis] and summing to 1."""
        return self.px, self.py, self.pz

    @property
    def variance(self) -> Tensor:
        """[B, J, 3 | 2] variance of x, y, z in cells²."""
        return torch.stack([_variance(p, self.mean[..., i]) for i, p in enumerate(self._axes())], dim=-1)

    @property
    def score(self) -> Tensor:
        """[B, J] in 0..1: the geometric mean of the marginals' peaks; 1 where one cell holds everything."""
        peaks = torch.stack([p.amax(dim=-1) for p in self._axes()], dim=-1)
        return peaks.log().mean(dim=-1).exp()

    def _axes(self) -> list[Tensor]:
        return [p for p in self.marginals if p is not None]


def _variance(marginal: Tensor, mean: Tensor) -> Tensor:
    distance = _cells(marginal) - mean.unsqueeze(-1)
    return (marginal * distance.square()).sum(dim=-1)


def _cells(marginal: Tensor) -> Tensor:
    return torch.arange(marginal.size(-1), dtype=marginal.dtype, device=marginal.device)


def _volume(logits: Tensor, num_joints: Optional[int]) -> tuple[Tensor, bool]:  # noqa: UP045
    """The logits as [B, J, D, H, W], and whether they have a depth."""
    layouts = "[B, J, D, H, W], [B, J, H, W] (heat maps) or, with num_joints=J, [B, J*D, H, W]"
    if logits.layout != torch.strided:
        raise TypeError(f"logits {layouts} must be dense; got {logits.layout} {list(logits.shape)}")
    if logits.dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        types = "float32, float64, bfloat16 or float16"
        raise TypeError(f"logits {layouts} must be {types}; got {logits.dtype} {list(logits.shape)}")
    volume, has_depth, fits = logits, True, logits.dim() == 5
    if num_joints is None:
        if logits.dim() == 4:
            volume, has_depth, fits = logits.unsqueeze(2), False, True
    elif logits.dim() == 4 and num_joints > 0 and logits.size(1) % num_joints == 0:
        volume, fits = logits.unflatten(1, (num_joints, logits.size(1) // num_joints)), True
    else:
        fits = fits and logits.size(1) == num_joints
    if not fits:
        raise ValueError(f"logits must be {layouts}; got {list(logits.shape)} with num_joints={num_joints}")
    if volume.size(2) < 1 or volume.size(3) < 1 or volume.size(4) < 1:
        given = f"{list(logits.shape)} with num_joints={num_joints}"
        raise ValueError(f"logits {layouts} need D, H and W of at least 1; got {given}")
    return volume, has_depth


def softmax_integral(
    logits: Tensor,
    num_joints: Optional[int] = None,  # noqa: UP045
    grad_in_place: bool = False,
) -> IntegralResult:
    """Expected coordinates and marginals of softmax(logits), differentiable once.

    Args:
        logits: [B, J, D, H, W], [B, J, H, W] (2-D heat maps) or, with ``num_joints``, [B, J*D, H, W] with
            each joint's depths together. float32, float64, bfloat16 or float16. Read in place if contiguous
            or channels_last, copied first in other layouts.
        num_joints: J of [B, J*D, H, W].
        grad_in_place: write the gradient over the logits: it needs no memory of its own, and the logits are
            gone after the backward pass. For logits that a layer computed (not a leaf) and that nothing else
            uses; autograd refuses a second backward pass, and one of another operator that kept the logits.
            torch.compile and torch.func plan memory themselves: there it changes nothing.

    A NaN or +inf makes its joint NaN, and no other; -inf is probability 0, and all -inf NaN.
    """
    volume, has_depth = _volume(logits, num_joints)
    if torch.jit.is_scripting():
        results = torch.ops.ipr.softmax_integral(volume)
    else:
        results = _integral(volume, grad_in_place)
    mean, px, py, pz, logsumexp = results
    logsumexp = logsumexp.to(mean.dtype)
    if has_depth:
        return IntegralResult(mean, px, py, pz, logsumexp)
    return IntegralResult(mean[:, :, :2], px, py, None, logsumexp)


def softmax_integral_reference(logits: Tensor, num_joints: Optional[int] = None) -> IntegralResult:  # noqa: UP045
    """The definition of :func:`softmax_integral` in plain PyTorch."""
    volume, has_depth = _volume(logits, num_joints)
    volume = volume.to(torch.float64 if volume.dtype == torch.float64 else torch.float32)
    p = volume.flatten(2).softmax(dim=-1).view_as(volume)
    px, py, pz = p.sum(dim=(2, 3)), p.sum(dim=(2, 4)), p.sum(dim=(3, 4))
    mean = torch.stack([(m * _cells(m)).sum(dim=-1) for m in (px, py, pz)], dim=-1)
    logsumexp = volume.flatten(2).logsumexp(dim=-1)
    if has_depth:
        return IntegralResult(mean, px, py, pz, logsumexp)
    return IntegralResult(mean[:, :, :2], px, py, None, logsumexp)


@torch.library.register_fake("ipr::softmax_integral")
def _(logits: Tensor) -> tuple[Tensor, ...]:
    if logits.dim() != 5:
        raise ValueError(f"softmax_integral: logits must be [B, J, D, H, W], got {list(logits.shape)}")
    batch, joints, depth, height, width = logits.shape
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32

    def result(*size: int) -> Tensor:
        return logits.new_empty((batch, joints, *size), dtype=dtype)

    logsumexp = logits.new_empty((batch, joints), dtype=torch.float64)
    return result(3), result(width), result(height), result(depth), logsumexp


@torch.library.register_fake("ipr::softmax_integral_backward")
def _(logits: Tensor, *_: Tensor | None) -> Tensor:
    maps = logits.size(2) == 1 and logits.stride(1) == 1 and logits.size(1) > 1
    volumes = logits.size(2) > 1 and logits.stride(2) == 1
    if logits.stride(4) != 1 and logits.size(4) > 1 and (maps or volumes):  # channels_last, as the logits
        return logits.new_empty([logits.shape[i] for i in (0, 3, 4, 1, 2)]).permute(0, 3, 4, 1, 2)
    return logits.new_empty(logits.shape)


@torch.library.register_fake("ipr::softmax_integral_backward_")
def _(logits: Tensor, *_: Tensor | None) -> None:
    pass


def _setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> Tensor:
    if _transformed():
        return _TransformedBackward.apply(*ctx.saved_tensors, *grads)
    return torch.ops.ipr.softmax_integral_backward(*ctx.saved_tensors, *grads)


def _no_second_derivative(ctx: Any, grad: Tensor) -> None:
    raise NotImplementedError(
        "softmax_integral has no second derivative; softmax_integral_reference, in plain PyTorch, has"
    )


torch.library.register_autograd("ipr::softmax_integral", _backward, setup_context=_setup_context)
torch.library.register_autograd("ipr::softmax_integral_backward", _no_second_derivative)


class _GradientInPlace(torch.autograd.Function):
    """``ipr::softmax_integral`` with a gradient that takes the logits' place."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> tuple[Tensor, ...]:
        results = torch.ops.ipr.softmax_integral(logits)
        _setup_context(ctx, (logits,), results)
        return results

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> Tensor:
        logits = ctx.saved_tensors[0].detach()  # shares the version counter: autograd sees the change
        torch.ops.ipr.softmax_integral_backward_(logits, *ctx.saved_tensors[1:], *grads)
        torch.autograd.graph.increment_version(logits)
        return logits


def _with_gradient_in_place(logits: Tensor) -> tuple[Tensor, ...]:
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and logits.requires_grad):
        return torch.ops.ipr.softmax_integral(logits)
    memory_of = logits if logits._base is None else logits._base
    if memory_of.is_leaf and memory_of.requires_grad:
        raise ValueError(
            f"grad_in_place would overwrite the logits {list(logits.shape)}, which no layer computed: they "
            "are a parameter or an input that asks for its gradient. Leave grad_in_place out"
        )
    return _GradientInPlace.apply(logits)


# torch.func and forward-mode AD, which torch.library's gradients do not serve: of the first it says that
# torch.func is not supported, and with the second it makes all tangents zero.


def _transformed() -> bool:
    """Whether one of them is at work."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def _integral(logits: Tensor, grad_in_place: bool) -> tuple[Tensor, ...]:
    if _transformed():
        return _Transformed.apply(logits)
    return _with_gradient_in_place(logits) if grad_in_place else torch.ops.ipr.softmax_integral(logits)


class _Transformed(torch.autograd.Function):
    """``ipr::softmax_integral`` and its gradient, for them."""

    generate_vmap_rule = True
    forward = staticmethod(torch.ops.ipr.softmax_integral)
    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_backward)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> None:
        raise NotImplementedError(
            "softmax_integral has no forward-mode derivative; "
            "softmax_integral_reference, in plain PyTorch, has"
        )


class _TransformedBackward(torch.autograd.Function):
    """``ipr::softmax_integral_backward``, which has no derivative, for them."""

    generate_vmap_rule = True
    forward = staticmethod(torch.ops.ipr.softmax_integral_backward)
    backward = staticmethod(_no_second_derivative)
    jvp = staticmethod(_no_second_derivative)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
        pass


@torch.library.register_vmap("ipr::softmax_integral")
def _(info: Any, in_dims: tuple[int | None], *tensors: Tensor) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    results = torch.ops.ipr.softmax_integral(*_folded(info.batch_size, in_dims, tensors))
    return tuple(result.unflatten(0, (info.batch_size, -1)) for result in results), (0,) * len(results)


@torch.library.register_vmap("ipr::softmax_integral_backward")
def _(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor | None) -> tuple[Tensor, int]:
    gradient = torch.ops.ipr.softmax_integral_backward(*_folded(info.batch_size, in_dims, tensors))
    return gradient.unflatten(0, (info.batch_size, -1)), 0


def _folded(
    size: int, in_dims: tuple[int | None, ...], tensors: tuple[Tensor | None, ...]
) -> list[Tensor | None]:
    """The axis over which vmap maps, of ``size``, as a part of B."""
    folded: list[Tensor | None] = []
    for tensor, dim in zip(tensors, in_dims, strict=True):
        if tensor is not None:
            tensor = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            tensor = tensor.flatten(0, 1)
        folded.append(tensor)
    return folded
