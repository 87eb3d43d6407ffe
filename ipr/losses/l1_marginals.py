"""Weighted L1 plus the cross-entropy of the volume's three marginals against a Gaussian at the label.

L1 sees a volume only through its mean, which leaves open where the probability lies; the marginals are told.
They are D + H + W numbers per joint from the operator that gives the mean. The idea of a classification per
axis is SimCC's (Li et al., ECCV 2022, arXiv 2107.03332).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from ipr.config import require
from ipr.losses._weighted import weighted_l1
from ipr.types import NetworkOutput

_LEAST = 1e-9  # a probability below this counts as this: the logarithm stays finite


@dataclass(frozen=True, kw_only=True)
class Config:
    needs_volume: ClassVar[bool] = True

    marginals: float = 0.08  # factor of the marginals' share; the L1 has 1
    sigma: float = 1.0  # cells, standard deviation of the Gaussian at the label

    def __post_init__(self) -> None:
        require(self.marginals >= 0, "marginals", self.marginals, "at least 0")
        require(self.sigma > 0, "sigma", self.sigma, "positive")

    def build(self) -> Callable[[NetworkOutput, torch.Tensor, torch.Tensor], torch.Tensor]:
        def loss(output: NetworkOutput, joints_norm: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            share = marginal_divergence(output, joints_norm, weight, self.sigma)
            return weighted_l1(output, joints_norm, weight) + self.marginals * share

        return loss


def marginal_divergence(
    output: NetworkOutput, joints_norm: torch.Tensor, weight: torch.Tensor, sigma: float
) -> torch.Tensor:
    """Scalar: sum over joints and axes of weight [B,J,3] * KL(Gaussian at joints_norm [B,J,3], marginal) / B.

    Cell i stands for the coordinate i / cells - 0.5; the Gaussian is cut at the volume's ends and sums to 1.
    """
    assert output.marginals is not None, "the engine refuses heads without a volume"
    total = joints_norm.new_zeros(())
    for axis, marginal in enumerate(output.marginals):  # [B, J, cells]
        cells = marginal.size(2)
        label = (joints_norm[..., axis, None] + 0.5) * cells
        distance = torch.arange(cells, device=marginal.device, dtype=marginal.dtype) - label
        target = torch.softmax(distance.square() / (-2 * sigma**2), dim=2)
        divergence = target * (target.clamp_min(_LEAST).log() - marginal.clamp_min(_LEAST).log())
        total = total + (divergence.sum(2) * weight[..., axis]).sum()
    return total / len(weight)
