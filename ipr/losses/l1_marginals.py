"""Weighted L1 plus the cross-entropy of the volume's three marginals against a Gaussian at the label.

L = sum of w (|x - y| + marginals * KL(N(y, sigma), p)) / B over joints and axes, p being the axis' marginal.
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
from ipr.losses._marginals import kullback_leibler, marginal_divergence
from ipr.losses._weighted import weighted_l1
from ipr.types import NetworkOutput


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
            share = marginal_divergence(output, joints_norm, weight, self.sigma, kullback_leibler)
            return weighted_l1(output, joints_norm, weight) + self.marginals * share

        return loss
