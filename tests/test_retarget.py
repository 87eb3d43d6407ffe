"""Joints of one skeleton as those of another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ipr.retarget import to_skeleton
from ipr.skeleton import by_name
from ipr.types import BoxRule, PoseTable, Skeleton

# The original's maps (integral-human-pose, MIT): index of each of its 18 joints in MPII and COCO.
ORIGINAL = {
    "mpii_16": (6, 2, 1, 0, 3, 4, 5, -1, 8, -1, 9, 13, 14, 15, 12, 11, 10, 7),
    "coco_17": (-1, 12, 14, 16, 11, 13, 15, -1, -1, 0, -1, 5, 7, 9, 6, 8, 10, -1),
}


class NoImages:
    """An ImageSource that nothing reads."""


def _table(name: str, people: int = 3) -> PoseTable:
    skeleton, random = by_name(name), np.random.default_rng(0)
    joints = random.normal(size=(people, skeleton.num_joints, 3))
    return PoseTable(
        skeleton=skeleton,
        image=NoImages(),  # type: ignore[arg-type]
        boxes_xywh=np.ones((people, 4)),
        box_rule=BoxRule(),
        joints_img=joints[..., :2],
        depth=joints[..., 2] - joints[:, [skeleton.root], 2],
        depth_unit="mm",
        weight=random.uniform(0.5, 1, size=joints.shape),
        joints_cam=joints,
    )


@pytest.mark.parametrize("name", ORIGINAL)
def test_joints_are_those_of_the_original(name: str) -> None:
    table = _table(name)
    flat = replace(table, weight=table.weight * [1, 1, 0])
    mapped = to_skeleton(flat, by_name("h36m_18"))
    for joint, source in enumerate(ORIGINAL[name]):
        if source < 0:
            assert not mapped.weight[:, joint].any() and not mapped.joints_img[:, joint].any()
        else:
            np.testing.assert_array_equal(mapped.joints_img[:, joint], table.joints_img[:, source])
            np.testing.assert_array_equal(mapped.weight[:, joint], flat.weight[:, source])
    assert mapped.joints_cam is None  # some joints are missing
    assert mapped.skeleton == by_name("h36m_18") and len(mapped) == len(table)
    assert to_skeleton(mapped, by_name("h36m_18")) is mapped


def test_depth_is_measured_from_the_root_of_the_target() -> None:
    table = _table("h36m_18")
    nose = table.skeleton.joints.index("nose")
    head = Skeleton("head", ("nose", "head", "neck"), (0, 0, 0), (), 0)
    mapped = to_skeleton(table, head)
    np.testing.assert_array_equal(mapped.depth[:, 0], 0)
    np.testing.assert_allclose(mapped.depth[:, 1], table.depth[:, 10] - table.depth[:, nose])
    assert mapped.joints_cam is not None and table.joints_cam is not None
    np.testing.assert_array_equal(mapped.joints_cam[:, 0], table.joints_cam[:, nose])


def test_what_cannot_be_mapped() -> None:
    table = _table("coco_17")
    with pytest.raises(ValueError, match="depth of coco_17 cannot be measured from the pelvis of h36m_18"):
        to_skeleton(table, by_name("h36m_18"))
    with pytest.raises(ValueError, match="coco_17 and of tails have no name in common"):
        to_skeleton(table, Skeleton("tails", ("tail",), (0,), (), 0))
