"""Weighted L1 of the ECCV 2018 code: summed over joints and axes, so it grows with the number of joints.

L = sum of w |x - y| / B, with the prediction x and the label y in norm units (Sun et al., ECCV 2018, arXiv
1711.08229). It sees a volume through its mean alone: where the probability lies is left open, so the
volume's variance says nothing about the error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ipr.losses._weighted import weighted_l1
from ipr.types import NetworkOutput


@dataclass(frozen=True, kw_only=True)
class Config:
    def build(self) -> Callable[[NetworkOutput, torch.Tensor, torch.Tensor], torch.Tensor]:
        return weighted_l1
