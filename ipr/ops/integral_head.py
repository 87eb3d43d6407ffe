"""The final 1x1 convolution of a volumetric head together with the integral over its volumes."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ipr.ops.softmax_integral import IntegralResult, softmax_integral, softmax_integral_reference


def _check(features: Tensor, weight: Tensor, bias: Optional[Tensor], num_joints: int) -> None:  # noqa: UP045
    if features.dim() != 4 or weight.dim() != 2 or features.size(1) != weight.size(1):
        raise ValueError(
            "integral_head needs features [B, C, H, W] and weight [J*D, C] of the same C; "
            f"got {list(features.shape)} and {list(weight.shape)}"
        )
    if num_joints < 1 or weight.size(0) % num_joints != 0:
        given = f"{list(weight.shape)} with num_joints={num_joints}"
        raise ValueError(f"integral_head needs weight [J*D, C] of a whole depth D; got {given}")
    if bias is not None and (bias.dim() != 1 or bias.size(0) != weight.size(0)):
        given = f"{list(weight.shape)} and {list(bias.shape)}"
        raise ValueError(f"integral_head needs weight [J*D, C] and bias [J*D] of the same J*D; got {given}")
    for other in [weight] if bias is None else [weight, bias]:
        what = "integral_head needs features [B, C, H, W], weight [J*D, C] and bias [J*D]"
        sizes = f"{list(features.shape)} and {list(other.shape)}"
        if other.device != features.device:
            raise ValueError(f"{what} on one device; got {sizes} on {features.device} and {other.device}")
        # Autocast converts the types itself; scripted modules leave them to the convolution.
        if not torch.jit.is_scripting() and other.dtype != features.dtype and not _autocast(features):
            raise TypeError(f"{what} of one type; got {sizes} of {features.dtype} and {other.dtype}")


@torch.jit.unused
def _autocast(features: Tensor) -> bool:
    return torch.is_autocast_enabled(features.device.type)


def integral_head(
    features: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],  # noqa: UP045 (torch.jit.script)
    num_joints: int,
) -> IntegralResult:
    """softmax_integral of the 1x1 convolution of ``features``.

    Args:
        features: [B, C, H, W].
        weight: [J*D, C], each joint's depths together.
        bias: [J*D] or None.
        num_joints: J.
    """
    _check(features, weight, bias, num_joints)
    logits = F.conv2d(features, weight.unsqueeze(-1).unsqueeze(-1), bias)
    return softmax_integral(logits, num_joints)


def integral_head_reference(
    features: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],  # noqa: UP045
    num_joints: int,
) -> IntegralResult:
    """The definition of :func:`integral_head` in plain PyTorch."""
    _check(features, weight, bias, num_joints)
    logits = F.conv2d(features, weight.unsqueeze(-1).unsqueeze(-1), bias)
    return softmax_integral_reference(logits, num_joints)
