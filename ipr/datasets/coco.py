"""COCO person keypoints (https://cocodataset.org), 2-D labels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ipr import skeleton
from ipr.datasets import _coco_json
from ipr.datasets._coco_json import Listing
from ipr.datasets._listed import image_folder, person_numbers, read_json, sieve, wrong_root
from ipr.datasets._options import check_split
from ipr.geometry import good_boxes
from ipr.images import FileImages
from ipr.types import BoxRule, PoseTable

SPLITS = ("train2017", "val2017", "train2014", "val2014")

BOX_RULES = {
    "annotation": BoxRule(pad=1.25),  # the annotated box, clipped to the image ("gt_db")
    "detector": BoxRule(pad=1.25),  # the boxes of a file of detections ("dt_db")
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """``annotations/person_keypoints_<split>.json``; images in ``<split>/`` or ``images/<split>/``.

    ``boxes: annotation``: people who are marked as crowd or have fewer than two labelled joints are left out;
    score is 1, area that of the outline. ``boxes: detector``: the rows are the detected people, in the file's
    order; they have no labels (weight 0); area is that of the box. Depth always has weight 0.

    ``extra``: image_id, box_score, area [N] px^2, annotation_file (the same path in all rows) and, with
    annotated boxes, annotation_id. ``group``: image (its id) and person (number in the image).
    """

    root: str = "coco"  # relative to data.root
    split: str = "train2017"
    boxes: Literal["annotation", "detector"] = "annotation"
    detections: str = (
        ""  # with boxes: detector; JSON of [{image_id, category_id, bbox, score}], relative to root
    )

    def __post_init__(self) -> None:
        check_split(self.split, SPLITS)
        if self.boxes == "detector" and not self.detections:
            raise ValueError("detections: empty, but boxes: detector needs a JSON file of detected boxes")
        if self.boxes != "detector" and self.detections:
            raise ValueError(
                f"detections: {self.detections!r} is not used with boxes: {self.boxes}, "
                "but with boxes: detector"
            )

    @property
    def box_rule(self) -> BoxRule:
        return BOX_RULES[self.boxes]

    def sources(self) -> list[Path]:
        """The files whose content decides the table, and the folders that decide where images are sought."""
        root = Path(self.root)
        found = [_annotations(root, self.split), *filter(Path.is_dir, _image_folders(root, self.split))]
        return [*found, root / self.detections] if self.detections else found

    def build(self) -> PoseTable:
        """ValueError where files are missing or wrong; images are not opened."""
        root = Path(self.root)
        annotations, joints = _annotations(root, self.split), skeleton.by_name("coco_17")
        listing = _coco_json.read(annotations, joints.joints)
        if not listing.file_names:
            raise ValueError(f"{annotations}: lists no images")
        folder = image_folder(_image_folders(root, self.split), listing.file_names)
        if self.boxes == "detector":
            image, boxes, labels, extra, text = _detected(root / self.detections, annotations, listing)
        else:
            image, boxes, labels, extra, text = _annotated(annotations, listing)
        seen = labels[..., 2] > 0
        labelled = np.where(seen[..., None], labels[..., :2], 0.0)
        extra["image_id"] = listing.image_id[image]
        extra["annotation_file"] = np.broadcast_to(np.array(str(annotations)), len(image))
        return PoseTable(
            skeleton=joints,
            image=FileImages(
                (os.path.join(folder, listing.file_names[i]) for i in image.tolist()),
                listing.image_sizes[image],
            ),
            boxes_xywh=boxes,
            box_rule=self.box_rule,
            joints_img=labelled,
            depth=np.zeros(seen.shape),
            depth_unit="mm",
            weight=np.stack([seen, seen, np.zeros_like(seen)], -1).astype(np.float64),
            group={"image": extra["image_id"], "person": person_numbers(extra["image_id"])},
            extra=extra,
            description=(
                f"COCO: {annotations}, images in {folder}: {len(image)} people "
                f"in {len(np.unique(image))} images; {text}"
            ),
        )


_Rows = tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any], str]


def _annotated(path: Path, listing: Listing) -> _Rows:
    """(image, raw boxes, labels [N, J, 3], extra, who was left out) of the annotated people."""
    # As the COCO pose code of the field has it: a box ends at its last pixel, so that it is 1 px smaller than
    # annotated, and one that begins outside the image is shifted into it.
    x, y, width, height = listing.boxes_xywh.T
    limit_y, limit_x = (listing.image_sizes[listing.image] - 1).T
    left, top = np.maximum(x, 0), np.maximum(y, 0)
    right = np.minimum(limit_x, left + np.maximum(width - 1, 0))
    bottom = np.minimum(limit_y, top + np.maximum(height - 1, 0))
    boxes = np.stack([left, top, right - left, bottom - top], -1)
    labelled = (listing.keypoints[..., 2] > 0).sum(1)
    rows, text = sieve(
        "annotations",
        {
            "marked as crowd": listing.crowd,
            "without keypoints": labelled == 0,
            "with one keypoint": labelled == 1,
            "without an area inside the image": (listing.area <= 0) | ~good_boxes(boxes),
        },
    )
    if not len(rows):
        raise ValueError(f"{path}: has nobody to show: {text}")
    extra = {"annotation_id": listing.ids[rows], "area": listing.area[rows], "box_score": np.ones(len(rows))}
    return listing.image[rows], boxes[rows], listing.keypoints[rows], extra, text


def _detected(path: Path, annotations: Path, listing: Listing) -> _Rows:
    """The same of the detected people, in the order of their file."""
    content = read_json(path)
    if not isinstance(content, list):
        raise ValueError(f"{path}: need a list of objects with image_id, category_id, bbox and score")
    index = {number: i for i, number in enumerate(listing.image_id.tolist())}
    try:
        category = np.array([item["category_id"] for item in content], np.int64)
        image_id = [item["image_id"] for item in content]
        score = np.array([item["score"] for item in content], np.float64)
        boxes = np.array([item["bbox"] for item in content], np.float64).reshape(len(content), 4)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: a detection has no {error}: need image_id, category_id, bbox, score"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path}: a detection's bbox or score is no number, or none of 4: {error}") from None
    if bad := np.flatnonzero(~np.isfinite(boxes).all(1) | ~np.isfinite(score)).tolist():
        raise ValueError(f"{path}: detection {bad[0]} is {content[bad[0]]}: need finite numbers")
    if strange := [number for number in image_id if number not in index]:
        raise ValueError(
            f"{path}: {len(strange)} of {len(content)} detections are of images that {annotations} does not "
            f"list (first: {strange[0]}): need the detections of this split"
        )
    rows, text = sieve(
        "detections",
        {
            "of other categories": ~np.isin(category, _coco_json.PERSON),
            "with an empty box": ~good_boxes(boxes),
        },
    )
    if not len(rows):
        raise ValueError(f"{path}: has nobody to show: {text}")
    boxes = boxes[rows]
    image = np.array([index[number] for number in image_id], np.int64)[rows]
    labels = np.zeros((len(rows), listing.keypoints.shape[1], 3))
    return image, boxes, labels, {"area": boxes[:, 2:].prod(1), "box_score": score[rows]}, f"{path}: {text}"


def _annotations(root: Path, split: str) -> Path:
    path = root / "annotations" / f"person_keypoints_{split}.json"
    if path.is_file():
        return path
    if not (root / "annotations").is_dir():
        raise wrong_root(root, "COCO", ["annotations/person_keypoints_*.json"])
    there = sorted(file.name for file in path.parent.glob("*.json"))
    raise ValueError(
        f"{path}: no such file: extract COCO's annotations_trainval archive here; "
        f"there is {', '.join(there) or 'nothing'}"
    )


def _image_folders(root: Path, split: str) -> list[Path]:
    return [root / "images" / split, root / split]
