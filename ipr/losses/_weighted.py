"""What several losses share."""

from __future__ import annotations

import torch

from ipr.types import NetworkOutput


def weighted_l1(output: NetworkOutput, joints_norm: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Scalar: sum of |prediction - joints_norm [B,J,3]| * weight [B,J,3] over everything, divided by B."""
    return ((output.joints_norm - joints_norm).abs() * weight).sum() / len(weight)
