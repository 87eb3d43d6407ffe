"""The correct poses score (Wandt et al., "CanonPose", CVPR 2021).

A pose is correct where all its joints, after Procrustes alignment, lie nearer than a threshold to the truth.
The score is the area under the share of correct poses over thresholds of 0..300 mm, in mm: 300 is perfect.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ipr.config import require
from ipr.metrics._rooted import align, joints_rule, judged_joints, matched, same_shape
from ipr.types import Poses, PoseTable

LARGEST = 300.0  # mm


def cps(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[N, J, 3] mm, aligned already, and [N, J, 3] mm -> [N] mm: each pose's share of the area.

    A pose is correct for all thresholds above its worst joint's error e, which is the exact area 300 - e.
    Published code adds up thresholds of 1, 2, ... 300 mm, which differs by less than 1 mm.
    """
    same_shape(pred, truth)
    return np.maximum(LARGEST - np.linalg.norm(pred - truth, axis=-1).max(1), 0.0)


@dataclass(frozen=True, kw_only=True)
class Config:
    joints: int = 17  # 17, 16, 14 or all, as in mpjpe

    def __post_init__(self) -> None:
        require(self.joints >= 1, "joints", self.joints, "at least 1")

    def build(self) -> Metric:
        return Metric(self.joints)


class Metric:
    """Needs no intrinsics: the alignment finds the scale."""

    higher_is_better = True
    of_pictures = False

    def __init__(self, joints: int) -> None:
        self.joints = joints
        self.protocol = {
            "joints": joints_rule(joints),
            "alignment": f"CPS: similarity over the {joints} joints",
        }

    def __call__(self, poses: Poses, table: PoseTable) -> dict[str, float]:
        judged = judged_joints(table.skeleton, self.joints, "CPS")
        pred, truth = (joints[:, judged] for joints in matched(poses, table))
        return {"CPS mm": float(cps(align(pred, truth, scale=True), truth).mean())}
