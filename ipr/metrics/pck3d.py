"""3DPCK and the area under its curve (Mehta et al., "Monocular 3D Human Pose ... In The Wild", 3DV 2017).

A joint is correct where it lies nearer than the threshold to the truth, both from the root.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ipr.config import require
from ipr.metrics._rooted import (
    by_group,
    check_lifted,
    joints_rule,
    judged_joints,
    matched,
    of_some,
    same_shape,
)
from ipr.types import Poses, PoseTable

AUC_THRESHOLDS = np.arange(0.0, 151.0, 5.0)  # mm, 31 of them


def pck3d(pred: np.ndarray, truth: np.ndarray, threshold: float) -> np.ndarray:
    """[N, J, 3] mm, [N, J, 3] mm -> [N, J] of 1.0 where the distance is below ``threshold`` mm, else 0.0."""
    same_shape(pred, truth)
    return (np.linalg.norm(pred - truth, axis=-1) < threshold).astype(np.float64)


def auc(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[N] in 0..1: mean share of correct joints over the thresholds 0, 5, ... 150 mm."""
    same_shape(pred, truth)
    distance = np.linalg.norm(pred - truth, axis=-1)
    return (distance[..., None] < AUC_THRESHOLDS).mean((1, 2))


@dataclass(frozen=True, kw_only=True)
class Config:
    joints: int = 17  # 17, 16, 14 or all, as in mpjpe
    threshold: float = 150.0  # mm

    def __post_init__(self) -> None:
        require(self.joints >= 1, "joints", self.joints, "at least 1")
        require(self.threshold > 0, "threshold", self.threshold, "positive")

    def build(self) -> Metric:
        return Metric(self.joints, self.threshold)


class Metric:
    higher_is_better = True
    of_pictures = False

    def __init__(self, joints: int, threshold: float) -> None:
        self.joints, self.threshold = joints, threshold
        self.protocol = {"joints": joints_rule(joints), "alignment": "3DPCK and AUC: root only"}

    def __call__(self, poses: Poses, table: PoseTable) -> dict[str, float]:
        """Names -> percent."""
        check_lifted(poses, "3DPCK")
        judged = judged_joints(table.skeleton, self.joints, "3DPCK")
        pred, truth = (joints[:, judged] for joints in matched(poses, table))
        some = of_some(self.joints, table.skeleton)
        right, name = 100 * pck3d(pred, truth, self.threshold), f"3DPCK{some}@{self.threshold:g} %"
        scores = {name: float(right.mean()), f"AUC{some} %": float(100 * auc(pred, truth).mean())}
        return scores | by_group(name, right, table, judged)
