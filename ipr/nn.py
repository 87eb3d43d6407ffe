"""The operators as modules, to drop into other networks."""

from typing import Optional

import torch
from torch import Tensor, nn

from ipr.ops import IntegralResult, integral_head, softmax_integral


class SoftmaxIntegral(nn.Module):
    """Logits [B, J*D, H, W] -> IntegralResult; without ``num_joints``: [B, J, D, H, W] or [B, J, H, W]."""

    num_joints: Optional[int]  # noqa: UP045 (torch.jit.script)

    def __init__(self, num_joints: int | None = None) -> None:
        super().__init__()
        self.num_joints = num_joints

    def forward(self, logits: Tensor) -> IntegralResult:
        return softmax_integral(logits, self.num_joints)

    def extra_repr(self) -> str:
        return f"num_joints={self.num_joints}"


class IntegralHead(nn.Module):
    """Features [B, C, H, W] -> IntegralResult of a learned 1x1 convolution, weight [J*D, C]."""

    def __init__(self, in_channels: int, num_joints: int, depth_bins: int) -> None:
        super().__init__()
        self.num_joints = num_joints
        self.depth_bins = depth_bins
        self.weight = nn.Parameter(torch.empty(num_joints * depth_bins, in_channels))
        self.bias = nn.Parameter(torch.zeros(num_joints * depth_bins))
        nn.init.normal_(self.weight, std=0.001)  # nearly flat volumes at the start: every joint in the middle

    def forward(self, features: Tensor) -> IntegralResult:
        return integral_head(features, self.weight, self.bias, self.num_joints)

    def extra_repr(self) -> str:
        return f"{self.weight.size(1)}, num_joints={self.num_joints}, depth_bins={self.depth_bins}"
