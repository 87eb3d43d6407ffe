"""What several losses share: weights, and the normalisation of the ECCV 2018 code."""

from __future__ import annotations

import torch

from ipr.types import NetworkOutput


def weighted_sum(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Scalar: sum of values [B,J,3] * weight [B,J,3] over everything, divided by B.

    It grows with the number of joints. A prediction that is not finite shows even where the weight is 0:
    the network is broken then.
    """
    return (values * weight).sum() / len(weight)


def error(output: NetworkOutput, joints_norm: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Prediction - label [B,J,3]."""
    return output.joints_norm - known(joints_norm, weight)


def known(joints_norm: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The labels [B,J,3], 0 where weight [B,J,3] is: NaN * 0 would be NaN, and missing labels may be that."""
    return joints_norm.masked_fill(weight == 0, 0)


def weighted_l1(output: NetworkOutput, joints_norm: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Scalar: sum of |prediction - joints_norm [B,J,3]| * weight [B,J,3] over everything, divided by B."""
    return weighted_sum(error(output, joints_norm, weight).abs(), weight)
