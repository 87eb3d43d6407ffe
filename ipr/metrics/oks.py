"""COCO keypoint average precision (https://cocodataset.org/#keypoints-eval) by pycocotools.

Before it, as in the ECCV 2018 code: a detection's score becomes the box's score times the mean of its joints'
scores above 0.2, and of the detections of one image those are dropped that resemble a better one by more than
``nms``.
"""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ipr.config import require
from ipr.metrics._rooted import check_rows
from ipr.skeleton import SKELETONS, joint_map
from ipr.types import Poses, PoseTable

# COCO's constants of the 17 joints, nose to right ankle
SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
NAMES = ("AP", "AP50", "AP75", "AP medium", "AP large", "AR", "AR50", "AR75", "AR medium", "AR large")
LEAST_SCORE = 0.2


def similarity(pose: np.ndarray, area: float, others: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """[17, 2] px, px^2, [M, 17, 2] px, [M] px^2 -> [M] in 0..1: object keypoint similarity."""
    distance = ((others - pose) ** 2).sum(-1)
    mean_area = (area + areas[:, None]) / 2
    return np.exp(-distance / ((2 * SIGMAS) ** 2 * 2 * np.maximum(mean_area, 1e-12))).mean(1)


def suppress(joints_img: np.ndarray, areas: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """[M, 17, 2] px, [M] px^2, [M] -> indices of what is kept, best first, of the people in one image."""
    left, kept = np.argsort(-scores, kind="stable"), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[similarity(joints_img[best], areas[best], joints_img[left], areas[left]) <= threshold]
    return np.array(kept, np.int64)


def rescored(box_score: np.ndarray, joint_score: np.ndarray) -> np.ndarray:
    """[N], [N, J] -> [N]: box score times the mean of the joints' scores above 0.2 (0 without any)."""
    counted = joint_score > LEAST_SCORE
    mean = (joint_score * counted).sum(1) / np.maximum(counted.sum(1), 1)
    return box_score * mean


@dataclass(frozen=True, kw_only=True)
class Config:
    annotations: str = ""  # COCO's file of the true keypoints; "": the one that the table was read from
    nms: float = 0.9  # object keypoint similarity above which the lower of two detections is dropped
    joint_score: Literal["one", "volume"] = "one"  # of rescoring; one: as the ECCV 2018 code, the box's alone

    def __post_init__(self) -> None:
        require(0 < self.nms <= 1, "nms", self.nms, "in 0..1, above 0")

    def build(self) -> Metric:
        return Metric(self.annotations, self.nms, self.joint_score)


class Metric:
    """Needs ``table.extra``: image_id [N], area [N] px^2; box_score [N], where boxes come from a detector.

    Where the option does not name the annotations, annotation_file [N] does.
    """

    higher_is_better = True
    of_pictures = True

    def __init__(self, annotations: str, nms: float, joint_score: str) -> None:
        self.annotations, self.nms, self.joint_score = annotations, nms, joint_score
        of = annotations or "the table's annotations"
        self.protocol = {
            "joints": "OKS: COCO's 17",
            "alignment": f"OKS: none; all images of {of}; NMS {nms:g}; joint score {joint_score}",
        }

    def __call__(self, poses: Poses, table: PoseTable) -> dict[str, float]:
        """Names -> percent."""
        check_rows(poses, table)
        at = joint_map(table.skeleton, SKELETONS["coco_17"])
        if -1 in at:
            raise ValueError(
                f"OKS needs COCO's 17 joints, {table.skeleton.name} lacks some: use skeleton: coco_17"
            )
        extra = table.extra or {}
        if missing := [name for name in ("image_id", "area") if name not in extra]:
            raise ValueError(
                f"OKS needs extra[{missing[0]!r}] [N] of the table, which has {sorted(extra) or 'none'}"
            )
        joint_score = np.ones(poses.score.shape) if self.joint_score == "one" else poses.score
        if np.isnan(joint_score).any():
            raise ValueError(
                "OKS: joint_score: volume needs a head with a volume, these poses have no scores"
            )
        scores = rescored(extra.get("box_score", np.ones(len(table))), joint_score[:, at])
        joints_img = poses.joints_img[:, at]
        people = []
        for image in np.unique(extra["image_id"]):
            rows = np.flatnonzero(extra["image_id"] == image)
            kept = rows[suppress(joints_img[rows], extra["area"][rows], scores[rows], self.nms)]
            people += [_person(int(image), joints_img[row], float(scores[row])) for row in kept]
        files = extra.get("annotation_file", np.array([""]))
        return _average_precision(self.annotations or str(files[0]), people)


def _person(image: int, joints_img: np.ndarray, score: float) -> dict[str, Any]:
    keypoints = np.concatenate([joints_img, np.ones((len(joints_img), 1))], axis=1)
    return {"image_id": image, "category_id": 1, "keypoints": keypoints.ravel().tolist(), "score": score}


def _average_precision(annotations: str, people: list[dict[str, Any]]) -> dict[str, float]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise ValueError("OKS needs pycocotools: pip install 'integral-pose[coco]'") from None
    if not annotations:
        raise ValueError("OKS needs the option annotations: COCO's file of the true keypoints")
    with open(annotations, encoding="utf-8") as file:
        try:
            content = json.load(file)
            known = {image["id"] for image in content["images"]}
            assert isinstance(content["annotations"], list)
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise ValueError(f"{annotations} is truncated or is no COCO annotation file: {error!r}") from None
    if strange := sorted({person["image_id"] for person in people} - known):
        raise ValueError(
            f"{annotations} has no image {strange[0]}, which the table has: is it of another split?"
        )
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(people), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {f"OKS {name} %": 100 * float(value) for name, value in zip(NAMES, evaluation.stats, strict=True)}
