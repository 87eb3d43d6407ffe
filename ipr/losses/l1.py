"""Weighted L1 of the ECCV 2018 code: summed over joints and axes, so it grows with the number of joints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ipr.types import NetworkOutput


@dataclass(frozen=True, kw_only=True)
class Config:
    def build(self) -> Callable[[NetworkOutput, torch.Tensor, torch.Tensor], torch.Tensor]:
        return weighted_l1


def weighted_l1(output: NetworkOutput, joints_norm: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Scalar: sum of |prediction - joints_norm [B,J,3]| * weight [B,J,3] over everything, divided by B."""
    return ((output.joints_norm - joints_norm).abs() * weight).sum() / len(weight)
