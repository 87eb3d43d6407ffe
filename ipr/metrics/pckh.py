"""PCKh of MPII (Andriluka et al., "2D Human Pose Estimation", CVPR 2014) as the ECCV 2018 code computes it.

A joint is correct where it lies no farther from the truth than a share of the head's size. Pelvis and thorax
do not count; the mean over joints is weighted by how often each is labelled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ipr.config import require
from ipr.metrics._rooted import check_rows
from ipr.types import Poses, PoseTable

UNJUDGED = ("pelvis", "thorax")


def correct(pred: np.ndarray, truth: np.ndarray, head_size: np.ndarray, share: float) -> np.ndarray:
    """[N, J, 2] px, [N, J, 2] px, [N] px -> [N, J] bool: within ``share`` of the head's size."""
    return np.linalg.norm(pred - truth, axis=-1) / head_size[:, None] <= share


@dataclass(frozen=True, kw_only=True)
class Config:
    thresholds: tuple[float, ...] = (0.5, 0.1)  # of the head's size, which is 0.6 of its box's diagonal

    def __post_init__(self) -> None:
        good = bool(self.thresholds) and min(self.thresholds) > 0
        require(good, "thresholds", self.thresholds, "a list of positive shares")

    def build(self) -> Metric:
        return Metric(self.thresholds)


class Metric:
    """Needs ``table.extra["head_size"]`` [N] px, 0.6 of the diagonal of the head's box."""

    higher_is_better = True
    of_pictures = True

    def __init__(self, thresholds: tuple[float, ...]) -> None:
        self.thresholds = thresholds
        self.protocol = {
            "joints": "PCKh: labelled joints without pelvis and thorax",
            "alignment": "PCKh: none; head size 0.6 of the head box's diagonal",
        }

    def __call__(self, poses: Poses, table: PoseTable) -> dict[str, float]:
        """Names -> percent; of the first threshold by joint too."""
        check_rows(poses, table)
        head_size = (table.extra or {}).get("head_size")
        if head_size is None:
            raise ValueError(
                'PCKh needs the heads\' sizes, and this table has none (extra["head_size"], [N] px)'
            )
        if bad := int((~(np.isfinite(head_size) & (head_size > 0))).sum()):
            raise ValueError(
                f"PCKh: {bad} of {len(table)} rows have no head size: need a positive number of px"
            )
        labelled = table.weight[..., 0] > 0
        labelled[
            :, [table.skeleton.joints.index(name) for name in UNJUDGED if name in table.skeleton.joints]
        ] = 0
        if not labelled.any():
            raise ValueError("PCKh: no joint of the table is labelled (weight 0 everywhere)")
        scores: dict[str, float] = {}
        for share in self.thresholds:
            right = correct(poses.joints_img, table.joints_img, head_size, share)
            scores[f"PCKh@{share:g} %"] = float(100 * right[labelled].mean())
        right = correct(poses.joints_img, table.joints_img, head_size, self.thresholds[0])
        for joint, name in enumerate(table.skeleton.joints):
            if (known := labelled[:, joint]).any():
                scores[f"PCKh@{self.thresholds[0]:g} %/joint/{name}"] = float(
                    100 * right[known, joint].mean()
                )
        return scores
