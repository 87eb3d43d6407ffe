"""What metrics in millimetres share: the truth from the root, which joints count, and alignments."""

from __future__ import annotations

import numpy as np

from ipr.skeleton import SKELETONS
from ipr.types import Poses, PoseTable, Skeleton

# The ECCV 2018 code's sets: Human3.6M's, those that MPII has too, and of these the ones below
_SETS = {
    17: SKELETONS["h36m_17"].joints,
    16: SKELETONS["mpii_16"].joints,
    14: tuple(name for name in SKELETONS["mpii_16"].joints if name not in ("pelvis", "thorax")),
}
_ROOT_RULES = {
    16: "16 joints, MPII's, root-relative (the root counts with error 0)",
    14: "14 joints, MPII's without pelvis and thorax, root-relative (the root does not count)",
}


def joints_rule(joints: int) -> str:
    """Of a protocol card: which joints count, and from what root they are measured."""
    return _ROOT_RULES.get(joints, f"{joints} joints, root-relative (the root counts with error 0)")


def judged_joints(skeleton: Skeleton, joints: int, metric: str) -> list[int]:
    """Indices of the joints that count: all of the skeleton, or 17, 16 or 14 of Human3.6M's 18."""
    if joints == skeleton.num_joints:
        return list(range(joints))
    names = _SETS.get(joints, ())
    if not names or not set(names) <= set(skeleton.joints):
        raise ValueError(
            f"{metric} over {joints} joints does not fit the skeleton {skeleton.name}: "
            f"use joints={skeleton.num_joints}"
        )
    return sorted(skeleton.joints.index(name) for name in names)


def of_some(joints: int, skeleton: Skeleton) -> str:
    """What names of numbers over 16 or 14 of more joints hold, so that one run can have those of 17 too."""
    return f"-{joints}j" if joints in (16, 14) and joints < skeleton.num_joints else ""


def root_relative(table: PoseTable) -> np.ndarray:
    """[N, J, 3] mm, camera axes, from the root."""
    if table.joints_cam is None:
        raise ValueError("MPJPE needs joints in camera space, and this table has none (joints_cam is None)")
    joints = table.joints_cam.astype(np.float64)
    return joints - joints[:, [table.skeleton.root]]


def matched(poses: Poses, table: PoseTable) -> tuple[np.ndarray, np.ndarray]:
    """(prediction, truth) [N, J, 3] mm from the root, where the poses are those of the table's rows."""
    truth = root_relative(table)
    check_rows(poses, table)
    return poses.joints_rel, truth


def check_rows(poses: Poses, table: PoseTable) -> None:
    need = (len(table), table.skeleton.num_joints, 3)
    if poses.joints_rel.shape != need or not np.array_equal(poses.box_index, np.arange(len(table))):
        raise ValueError(
            f"poses {list(poses.joints_rel.shape)} are not one for each row of the table, in its order: "
            f"need {list(need)}"
        )


def check_lifted(poses: Poses, metric: str) -> None:
    if poses.scale_source != "intrinsics":
        raise ValueError(
            f"poses were scaled by {poses.scale_source!r}, but this {metric} is defined with the "
            "ground-truth root depth and intrinsics: decode with the table's camera and root_depth"
        )


def align(pred: np.ndarray, truth: np.ndarray, *, scale: bool) -> np.ndarray:
    """``pred`` [N, J, 3] moved onto ``truth`` [N, J, 3] by least squares, no reflection (Umeyama 1991)."""
    same_shape(pred, truth)
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


def same_shape(pred: np.ndarray, truth: np.ndarray) -> None:
    if pred.shape != truth.shape or pred.ndim != 3 or pred.shape[-1] != 3:
        raise ValueError(f"poses {list(pred.shape)} and {list(truth.shape)}: need the same [N, J, 3]")


def axis_errors(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[N, J, 3] mm, [N, J, 3] mm -> [N, 3] mm: mean absolute error over the joints along x, y and z."""
    same_shape(pred, truth)
    return np.abs(pred - truth).mean(1)


def by_axis(name: str, pred: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Means of :func:`axis_errors` as ``<name>/axis/<x, y or z>``."""
    errors = axis_errors(pred, truth).mean(0).tolist()
    return {f"{name}/axis/{axis}": error for axis, error in zip("xyz", errors, strict=True)}


def by_group(name: str, value: np.ndarray, table: PoseTable, judged: list[int]) -> dict[str, float]:
    """Means of ``value`` [N, joints] as ``<name>/action/<action>`` and ``<name>/joint/<joint>``."""
    scores = {}
    actions = (table.group or {}).get("action")
    if actions is not None:
        for action in np.unique(actions):
            scores[f"{name}/action/{action}"] = float(value[actions == action].mean())
    for column, joint in enumerate(judged):
        scores[f"{name}/joint/{table.skeleton.joints[joint]}"] = float(value[:, column].mean())
    return scores
