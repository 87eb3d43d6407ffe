"""Cross-entropy of the volume's three marginals against a Gaussian at the label, and nothing else.

L = sum of w KL(N(y, sigma), p) / B over joints and axes, p being the axis' marginal: a classification per
axis as in SimCC (Li et al., ECCV 2022, arXiv 2107.03332). Unlike the mean's, its gradient does not fade where
the volume is flat or far off, so it wakes volumes up: for warm-up. The mean that is decoded is not asked for;
near the volume's ends the Gaussian is cut and its mean is not the label. To finish, use ``l1_marginals``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from ipr.config import require
from ipr.losses._marginals import kullback_leibler, marginal_divergence
from ipr.types import NetworkOutput


@dataclass(frozen=True, kw_only=True)
class Config:
    needs_volume: ClassVar[bool] = True

    sigma: float = 1.0  # cells, standard deviation of the Gaussian at the label

    def __post_init__(self) -> None:
        require(self.sigma > 0, "sigma", self.sigma, "positive")

    def build(self) -> Callable[[NetworkOutput, torch.Tensor, torch.Tensor], torch.Tensor]:
        def loss(output: NetworkOutput, joints_norm: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return marginal_divergence(output, joints_norm, weight, self.sigma, kullback_leibler)

        return loss
