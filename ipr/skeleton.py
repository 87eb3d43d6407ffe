"""Skeletons by name, and the joint map between any two of them (joints are matched by name).

``h36m_18`` is Human3.6M's 17 joints plus the thorax (middle of the shoulders) in the order of the ECCV 2018
code; ``h36m_17`` has no thorax. ``mpii_16``: http://human-pose.mpi-inf.mpg.de. ``coco_17``:
https://cocodataset.org/#keypoints-2020.
"""

from __future__ import annotations

from ipr.types import Skeleton


def _skeleton(name: str, root: str, parent_of: dict[str, str]) -> Skeleton:
    joints = tuple(parent_of)
    index = {joint: i for i, joint in enumerate(joints)}
    pairs = tuple((index[j], index["left" + j[5:]]) for j in joints if j.startswith("right_"))
    return Skeleton(name, joints, tuple(index[parent] for parent in parent_of.values()), pairs, index[root])


_H36M_18 = {
    "pelvis": "pelvis",
    "right_hip": "pelvis",
    "right_knee": "right_hip",
    "right_ankle": "right_knee",
    "left_hip": "pelvis",
    "left_knee": "left_hip",
    "left_ankle": "left_knee",
    "torso": "pelvis",
    "neck": "thorax",
    "nose": "thorax",
    "head": "neck",
    "left_shoulder": "thorax",
    "left_elbow": "left_shoulder",
    "left_wrist": "left_elbow",
    "right_shoulder": "thorax",
    "right_elbow": "right_shoulder",
    "right_wrist": "right_elbow",
    "thorax": "pelvis",
}
_THORAX_CHILDREN = {"neck": "torso", "nose": "neck", "left_shoulder": "neck", "right_shoulder": "neck"}
_H36M_17 = {j: _THORAX_CHILDREN.get(j, parent) for j, parent in _H36M_18.items() if j != "thorax"}

_MPII_16 = {
    "right_ankle": "right_knee",
    "right_knee": "right_hip",
    "right_hip": "pelvis",
    "left_hip": "pelvis",
    "left_knee": "left_hip",
    "left_ankle": "left_knee",
    "pelvis": "pelvis",
    "thorax": "pelvis",
    "neck": "thorax",
    "head": "neck",
    "right_wrist": "right_elbow",
    "right_elbow": "right_shoulder",
    "right_shoulder": "thorax",
    "left_shoulder": "thorax",
    "left_elbow": "left_shoulder",
    "left_wrist": "left_elbow",
}

_COCO_17 = {
    "nose": "nose",
    "left_eye": "nose",
    "right_eye": "nose",
    "left_ear": "left_eye",
    "right_ear": "right_eye",
    "left_shoulder": "nose",
    "right_shoulder": "nose",
    "left_elbow": "left_shoulder",
    "right_elbow": "right_shoulder",
    "left_wrist": "left_elbow",
    "right_wrist": "right_elbow",
    "left_hip": "left_shoulder",
    "right_hip": "right_shoulder",
    "left_knee": "left_hip",
    "right_knee": "right_hip",
    "left_ankle": "left_knee",
    "right_ankle": "right_knee",
}

SKELETONS = {
    name: _skeleton(name, root, tree)
    for name, root, tree in (
        ("h36m_18", "pelvis", _H36M_18),
        ("h36m_17", "pelvis", _H36M_17),
        ("mpii_16", "pelvis", _MPII_16),
        ("coco_17", "nose", _COCO_17),
    )
}


def by_name(name: str) -> Skeleton:
    if name not in SKELETONS:
        raise ValueError(f"unknown skeleton {name!r}: known are {', '.join(SKELETONS)}")
    return SKELETONS[name]


def joint_map(source: Skeleton, target: Skeleton) -> tuple[int, ...]:
    """[J of target] index of each target joint in ``source``, -1 where it has none."""
    return tuple(source.joints.index(joint) if joint in source.joints else -1 for joint in target.joints)
