"""Direct regression: the mean feature through one linear layer to the coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ipr.types import NetworkOutput


@dataclass(frozen=True, kw_only=True)
class Config:
    has_volume: ClassVar[bool] = False

    def build(self, in_channels: int, num_joints: int) -> Direct:
        return Direct(in_channels, num_joints)


class Direct(nn.Module):
    """features [B,C,h,w] -> joints_norm [B,J,3]; knows neither spread nor score."""

    def __init__(self, in_channels: int, num_joints: int) -> None:
        super().__init__()
        self.fc = nn.Linear(in_channels, 3 * num_joints)

    def forward(self, features: torch.Tensor) -> NetworkOutput:
        mean = features.mean((2, 3))
        # Not F.linear: bf16 autocast would round the coordinates to half a pixel.
        joints = (mean[:, None] * self.fc.weight).sum(2) + self.fc.bias
        return NetworkOutput(joints.unflatten(1, (-1, 3)), None, None)
