"""MPJPE of the Human3.6M part of the ECCV 2018 challenge, as its winner's code measures it: without a camera.

Poses are brought to one size, at which the bones of the skeleton are ``bone_length_mm`` long in total, and
compared with joints given in mm from the root.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ipr.config import require
from ipr.metrics._rooted import align, by_axis, by_group, joints_rule, judged_joints, matched
from ipr.types import Poses, PoseTable


def rescale(joints_rel: np.ndarray, parents: tuple[int, ...], bone_length_mm: float) -> np.ndarray:
    """[N, J, 3] of any unit, from the root -> [N, J, 3] mm, with bones of that total length."""
    length = np.linalg.norm(joints_rel - joints_rel[:, list(parents)], axis=-1).sum(1)
    if not (length > 0).all():
        raise ValueError(
            f"pose {np.flatnonzero(~(length > 0))[0]} has no extent: it cannot be brought to a size"
        )
    return joints_rel * (bone_length_mm / length)[:, None, None]


def scores(pred: np.ndarray, truth: np.ndarray, table: PoseTable, joints: int) -> dict[str, float]:
    """Names -> mm, of joints [N, J, 3] mm; the rigid alignment is not followed by a move to the root."""
    judged = judged_joints(table.skeleton, joints, "MPJPE")
    own, other = pred[:, judged], truth[:, judged]
    error = np.linalg.norm(own - other, axis=-1)
    rigid = align(pred, truth, scale=False)[:, judged] - other
    name = "MPJPE-rescaled mm"
    found = {
        name: float(error.mean()),
        "MPJPE-rescaled-rigid mm": float(np.linalg.norm(rigid, axis=-1).mean()),
    }
    return found | by_axis(name, own, other) | by_group(name, error, table, judged)


@dataclass(frozen=True, kw_only=True)
class Config:
    joints: int = 17
    bone_length_mm: float = 4502.881  # the mean of the challenge's Train and Val over the tree of 18 joints

    def __post_init__(self) -> None:
        require(self.joints >= 1, "joints", self.joints, "at least 1")
        require(self.bone_length_mm > 0, "bone_length_mm", self.bone_length_mm, "positive")

    def build(self) -> Metric:
        return Metric(self.joints, self.bone_length_mm)


class Metric:
    higher_is_better = False
    of_pictures = False

    def __init__(self, joints: int, bone_length_mm: float) -> None:
        self.joints, self.bone_length_mm = joints, bone_length_mm
        self.protocol = {
            "joints": joints_rule(joints),
            "alignment": (
                f"MPJPE-rescaled: root only, total bone length {bone_length_mm:g} mm; rigid: rotation and "
                "translation fitted on all joints of the skeleton, not moved to the root again"
            ),
        }

    def __call__(self, poses: Poses, table: PoseTable) -> dict[str, float]:
        pred, truth = matched(poses, table)
        return scores(rescale(pred, table.skeleton.parents, self.bone_length_mm), truth, table, self.joints)
