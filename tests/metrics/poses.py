"""Poses for metrics: what a network would say, without one."""

from __future__ import annotations

import numpy as np

from ipr.types import Poses, PoseTable


def rooted(table: PoseTable) -> np.ndarray:
    assert table.joints_cam is not None
    return table.joints_cam - table.joints_cam[:, [table.skeleton.root]]


def said(
    table: PoseTable, joints_rel: np.ndarray | None = None, joints_img: np.ndarray | None = None
) -> Poses:
    """Poses of all rows of the table; the truth where nothing else is given."""
    count, joints = table.depth.shape
    return Poses(
        table.joints_img if joints_img is None else joints_img,
        rooted(table) if joints_rel is None else joints_rel,
        None,
        np.tile([1.0, 2.0, 30.0], (count, joints, 1)),
        np.full((count, joints), 0.25),
        np.arange(count),
        "intrinsics",
        np.full((count, joints), 0.3),
    )
