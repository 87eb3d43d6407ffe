"""Mean per-joint position error of root-relative poses, as it stands and after Procrustes alignment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ipr.skeleton import SKELETONS, joint_map
from ipr.types import Poses, PoseTable, Skeleton


def mpjpe(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[N, J, 3] mm, [N, J, 3] mm -> [N] mm: mean distance over the joints."""
    _same_shape(pred, truth)
    return np.linalg.norm(pred - truth, axis=-1).mean(-1)


def pa_mpjpe(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[N] mm: MPJPE after the best similarity (rotation, translation, scale) of each person."""
    return mpjpe(align(pred, truth, scale=True), truth)


def pa_mpjpe_rigid(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[N] mm: MPJPE after the best rotation and translation of each person; the size stays."""
    return mpjpe(align(pred, truth, scale=False), truth)


def align(pred: np.ndarray, truth: np.ndarray, *, scale: bool) -> np.ndarray:
    """``pred`` [N, J, 3] moved onto ``truth`` [N, J, 3] by least squares, no reflection (Umeyama 1991)."""
    _same_shape(pred, truth)
    center = truth.mean(1, keepdims=True)
    a, b = pred - pred.mean(1, keepdims=True), truth - center
    u, s, vt = np.linalg.svd(a.swapaxes(1, 2) @ b)
    sign = np.ones_like(s)
    sign[:, 2] = np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)
    turned = a @ (u * sign[:, None]) @ vt
    if scale:
        spread = (a * a).sum((1, 2))  # 0 where all joints coincide: any scale is right
        turned = turned * ((s * sign).sum(1) / np.where(spread > 0, spread, 1.0))[:, None, None]
    return turned + center


def root_relative(table: PoseTable) -> np.ndarray:
    """[N, J, 3] mm, camera axes, from the root."""
    if table.joints_cam is None:
        raise ValueError("MPJPE needs joints in camera space, and this table has none (joints_cam is None)")
    joints = table.joints_cam.astype(np.float64)
    return joints - joints[:, [table.skeleton.root]]


def mean_pose(table: PoseTable) -> np.ndarray:
    """[J, 3] mm from the root: the pose that a predictor without eyes would say."""
    return root_relative(table).mean(0)


def mean_pose_scores(train: PoseTable, valid: PoseTable, joints: int = 17) -> dict[str, float]:
    """The metric's numbers for the mean pose of ``train`` said of everybody in ``valid``."""
    truth = root_relative(valid)
    return Metric(joints).scores(np.broadcast_to(mean_pose(train), truth.shape), truth, valid)


@dataclass(frozen=True, kw_only=True)
class Config:
    joints: int = (
        17  # 17: Human3.6M's, without the thorax; otherwise all of the table, whose number this must be
    )

    def build(self) -> Metric:
        return Metric(self.joints)


class Metric:
    """Called with poses and the table's rows that they belong to (``box_index``)."""

    def __init__(self, joints: int) -> None:
        self.joints = joints
        self.protocol = (
            f"{joints} joints, root-relative (the root counts with error 0), ground-truth root depth and "
            f"intrinsics; PA: similarity over the {joints} joints; PA-rigid: without scale, fitted on all "
            "joints of the skeleton, then root-relative"
        )

    def __call__(self, poses: Poses, table: PoseTable) -> dict[str, float]:
        if poses.scale_source != "intrinsics":
            raise ValueError(
                f"poses were scaled by {poses.scale_source!r}, but this MPJPE is defined with the "
                "ground-truth root depth and intrinsics: decode with the table's camera and root_depth"
            )
        pred = poses.joints_rel
        truth = root_relative(table)
        if pred.shape != truth.shape or not np.array_equal(poses.box_index, np.arange(len(table))):
            raise ValueError(
                f"poses {list(pred.shape)} are not one for each row of the table, in its order: "
                f"need {list(truth.shape)}"
            )
        return self.scores(pred, truth, table)

    def scores(self, pred: np.ndarray, truth: np.ndarray, table: PoseTable) -> dict[str, float]:
        """Names -> mm; pred and truth [N, J, 3] mm from the root, with the table's joints."""
        root, judged = table.skeleton.root, self._judged(table.skeleton)
        error = np.linalg.norm(pred[:, judged] - truth[:, judged], axis=-1)  # [N, joints]
        rigid = align(pred, truth, scale=False)
        rigid = rigid - rigid[:, [root]]
        scores = {
            "MPJPE mm": float(error.mean()),
            "PA-MPJPE mm": float(pa_mpjpe(pred[:, judged], truth[:, judged]).mean()),
            "PA-MPJPE-rigid mm": float(mpjpe(rigid[:, judged], truth[:, judged]).mean()),
        }
        actions = (table.group or {}).get("action")
        if actions is not None:
            for action in np.unique(actions):
                scores[f"MPJPE mm/action/{action}"] = float(error[actions == action].mean())
        for column, joint in enumerate(judged):
            scores[f"MPJPE mm/joint/{table.skeleton.joints[joint]}"] = float(error[:, column].mean())
        return scores

    def _judged(self, skeleton: Skeleton) -> list[int]:
        """Indices of the joints that count."""
        if self.joints == skeleton.num_joints:
            return list(range(skeleton.num_joints))
        indices = list(joint_map(skeleton, SKELETONS["h36m_17"]))
        if self.joints != 17 or -1 in indices:
            raise ValueError(
                f"MPJPE over {self.joints} joints does not fit the skeleton {skeleton.name}: "
                f"use joints={skeleton.num_joints}"
            )
        return indices


def _same_shape(pred: np.ndarray, truth: np.ndarray) -> None:
    if pred.shape != truth.shape or pred.ndim != 3 or pred.shape[-1] != 3:
        raise ValueError(f"poses {list(pred.shape)} and {list(truth.shape)}: need the same [N, J, 3]")
