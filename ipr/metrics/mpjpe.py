"""Mean per-joint position error of root-relative poses, as it stands and after alignments.

MPJPE: Ionescu et al., "Human3.6M", TPAMI 2014. N-MPJPE: Rhodin et al., "Unsupervised Geometry-Aware
Representation for 3D Human Pose Estimation", ECCV 2018.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ipr.config import require
from ipr.metrics._rooted import align as align
from ipr.metrics._rooted import axis_errors as axis_errors
from ipr.metrics._rooted import (
    by_axis,
    by_group,
    check_lifted,
    joints_rule,
    judged_joints,
    matched,
    of_some,
    same_shape,
)
from ipr.metrics._rooted import root_relative as root_relative
from ipr.types import Poses, PoseTable


def mpjpe(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[N, J, 3] mm, [N, J, 3] mm -> [N] mm: mean distance over the joints."""
    same_shape(pred, truth)
    return np.linalg.norm(pred - truth, axis=-1).mean(-1)


def n_mpjpe(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[N] mm: MPJPE of root-relative poses [N, J, 3] mm after the best scale of each person about the root.

    The scale is that of least squares, <pred, truth> / <pred, pred>.
    """
    same_shape(pred, truth)
    length = (pred * pred).sum((1, 2))  # 0 where all joints lie in the root: any scale is right
    scale = (pred * truth).sum((1, 2)) / np.where(length > 0, length, 1.0)
    return mpjpe(pred * scale[:, None, None], truth)


def pa_mpjpe(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[N] mm: MPJPE after the best similarity (rotation, translation, scale) of each person."""
    return mpjpe(align(pred, truth, scale=True), truth)


def pa_mpjpe_rigid(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[N] mm: MPJPE after the best rotation and translation of each person; the size stays."""
    return mpjpe(align(pred, truth, scale=False), truth)


def mean_pose(table: PoseTable) -> np.ndarray:
    """[J, 3] mm from the root: the pose that a predictor without eyes would say."""
    return root_relative(table).mean(0)


def mean_pose_scores(train: PoseTable, valid: PoseTable, joints: int = 17) -> dict[str, float]:
    """The metric's numbers for the mean pose of ``train`` said of everybody in ``valid``."""
    truth = root_relative(valid)
    return Metric(joints).scores(np.broadcast_to(mean_pose(train), truth.shape), truth, valid)


@dataclass(frozen=True, kw_only=True)
class Config:
    joints: int = 17  # 17: Human3.6M's; 16: MPII's; 14: without pelvis and thorax; or all

    def __post_init__(self) -> None:
        require(self.joints >= 1, "joints", self.joints, "at least 1")

    def build(self) -> Metric:
        return Metric(self.joints)


class Metric:
    """Called with poses and the table's rows that they belong to (``box_index``)."""

    higher_is_better = False
    of_pictures = False  # the prediction's joints from the root are enough

    def __init__(self, joints: int) -> None:
        self.joints = joints
        self.protocol = {
            "joints": joints_rule(joints),
            "alignment": (
                f"MPJPE: root only; N: scale about the root; PA: similarity over the {joints} joints; "
                "PA-rigid: without scale, fitted on all joints of the skeleton, then root-relative"
            ),
        }

    def __call__(self, poses: Poses, table: PoseTable) -> dict[str, float]:
        check_lifted(poses, "MPJPE")
        return self.scores(*matched(poses, table), table)

    def scores(self, pred: np.ndarray, truth: np.ndarray, table: PoseTable) -> dict[str, float]:
        """Names -> mm; pred and truth [N, J, 3] mm from the root, with the table's joints."""
        root, judged = table.skeleton.root, judged_joints(table.skeleton, self.joints, "MPJPE")
        own, other = pred[:, judged], truth[:, judged]
        error = np.linalg.norm(own - other, axis=-1)  # [N, joints]
        rigid = align(pred, truth, scale=False)
        rigid = rigid - rigid[:, [root]]
        some = of_some(self.joints, table.skeleton)
        scores = {
            f"MPJPE{some} mm": float(error.mean()),
            f"PA-MPJPE{some} mm": float(pa_mpjpe(own, other).mean()),
            f"PA-MPJPE-rigid{some} mm": float(mpjpe(rigid[:, judged], other).mean()),
            f"N-MPJPE{some} mm": float(n_mpjpe(own, other).mean()),
        }
        scores |= by_axis(f"MPJPE{some} mm", own, other)
        return scores | by_group(f"MPJPE{some} mm", error, table, judged)
