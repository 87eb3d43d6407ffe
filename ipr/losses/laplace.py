"""Negative log-likelihood of the label under a Laplace distribution with the volume's own mean and variance.

L = sum of w (|x - y| / b + log 2b) / B over joints and axes, b² = (s² + floor²) / 2: x and s² are the mean
and the variance of the softmax on that axis, and a Laplace distribution of scale b has the variance 2b². L1
with a scale that is learned per joint (Kendall and Gal, NeurIPS 2017, arXiv 1703.04977), which here
needs no second output: the volume widens where the network errs, and ``Poses.sigma`` becomes a number to use.

The floor bounds b from below: a volume of one cell has no variance, and no finite likelihood off that cell.
Added in quadrature, it leaves a slope there, so that a volume that is certain and wrong is told to widen.
The loss may be negative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from ipr.config import require
from ipr.losses._weighted import error, weighted_sum
from ipr.types import NetworkOutput


@dataclass(frozen=True, kw_only=True)
class Config:
    needs_volume: ClassVar[bool] = True

    floor: float = 1e-3  # norm units (0.064 of 64 cells, 2 of 2000 mm): no deviation counts as less

    def __post_init__(self) -> None:
        require(self.floor > 0, "floor", self.floor, "positive")

    def build(self) -> Callable[[NetworkOutput, torch.Tensor, torch.Tensor], torch.Tensor]:
        def loss(output: NetworkOutput, joints_norm: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            assert output.sigma_norm is not None, "the engine refuses heads without a volume"
            scale = ((output.sigma_norm.square() + self.floor**2) / 2).sqrt()
            surprise = error(output, joints_norm, weight).abs() / scale + (2 * scale).log()
            return weighted_sum(surprise, weight)

        return loss
