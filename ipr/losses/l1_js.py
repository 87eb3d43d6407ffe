"""Weighted L1 plus the Jensen-Shannon divergence of the volume's marginals from a Gaussian at the label.

L = sum of w (|x - y| + js * JS(N(y, sigma), p)) / B over joints and axes, p being the axis' marginal. The
regularisation is that of DSNT (Nibali et al. 2018, arXiv 1801.07372) with marginals, D + H + W numbers per
joint, in the place of the volume. JS stays below log 2, so a wrong label or a hidden joint pulls less than
with the cross-entropy of ``l1_marginals``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from ipr.config import require
from ipr.losses._marginals import jensen_shannon, marginal_divergence
from ipr.losses._weighted import weighted_l1
from ipr.types import NetworkOutput


@dataclass(frozen=True, kw_only=True)
class Config:
    needs_volume: ClassVar[bool] = True

    js: float = 0.5  # factor of the divergence; the L1 has 1
    sigma: float = 1.0  # cells, standard deviation of the Gaussian at the label

    def __post_init__(self) -> None:
        require(self.js >= 0, "js", self.js, "at least 0")
        require(self.sigma > 0, "sigma", self.sigma, "positive")

    def build(self) -> Callable[[NetworkOutput, torch.Tensor, torch.Tensor], torch.Tensor]:
        def loss(output: NetworkOutput, joints_norm: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            share = marginal_divergence(output, joints_norm, weight, self.sigma, jensen_shannon)
            return weighted_l1(output, joints_norm, weight) + self.js * share

        return loss
