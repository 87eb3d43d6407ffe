"""Tables of different skeletons in one run: joints are matched by name, what has no match has weight 0."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ipr.skeleton import joint_map
from ipr.types import PoseTable, Skeleton


def to_skeleton(table: PoseTable, target: Skeleton) -> PoseTable:
    """The table with the joints of ``target``; those it does not have are 0 with weight 0.

    ``joints_cam`` is kept where the table has all of the target's joints. ValueError where it has none of
    them, or depth from a root that the target does not have.
    """
    source = table.skeleton
    if source == target:
        return table
    at = np.array(joint_map(source, target))
    known = at >= 0
    if not known.any():
        raise ValueError(f"the joints of {source.name} and of {target.name} have no name in common")
    depth = table.depth
    if source.joints[source.root] != target.joints[target.root] and table.weight[..., 2].any():
        root = at[target.root]
        if root < 0:
            raise ValueError(
                f"depth of {source.name} cannot be measured from the {target.joints[target.root]} "
                f"of {target.name}, which it does not have"
            )
        depth = depth - depth[:, [root]]

    def take(values: np.ndarray) -> np.ndarray:
        taken = values[:, at]
        taken[:, ~known] = 0
        return taken

    joints_cam = None if table.joints_cam is None or not known.all() else table.joints_cam[:, at]
    return replace(
        table,
        skeleton=target,
        joints_img=take(table.joints_img),
        depth=take(depth),
        weight=take(table.weight),
        joints_cam=joints_cam,
    )
