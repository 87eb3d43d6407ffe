"""What Human3.6M and its challenge make of their labels alike: the 18th joint, and the box without boxes."""

from __future__ import annotations

import numpy as np

from ipr.skeleton import by_name

SKELETON = by_name("h36m_18")
_SHOULDERS = [SKELETON.joints.index("left_shoulder"), SKELETON.joints.index("right_shoulder")]


def with_thorax(joints: np.ndarray) -> np.ndarray:
    """[N, 17, 3] -> [N, 18, 3] with the middle of the shoulders."""
    return np.concatenate([joints, joints[:, _SHOULDERS].mean(1, keepdims=True)], axis=1)


def full_boxes(count: int) -> np.ndarray:
    """[count, 4] px: centre (500, 500), height 1000, the ECCV 2018 code's "org_img"."""
    return np.tile([0.0, 0.0, 1000.0, 1000.0], (count, 1))
