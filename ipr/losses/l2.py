"""Weighted squared error of the ECCV 2018 code: summed over joints and axes like its L1.

L = sum of w (x - y)² / B, with the prediction x and the label y in norm units (Sun et al., ECCV 2018, arXiv
1711.08229, who found L1 better). Errors are well below 1 in norm units, so its gradients are small: it wants
a higher learning rate or patience.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ipr.losses._weighted import error, weighted_sum
from ipr.types import NetworkOutput


@dataclass(frozen=True, kw_only=True)
class Config:
    def build(self) -> Callable[[NetworkOutput, torch.Tensor, torch.Tensor], torch.Tensor]:
        def loss(output: NetworkOutput, joints_norm: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return weighted_sum(error(output, joints_norm, weight).square(), weight)

        return loss
