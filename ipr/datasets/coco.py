"""COCO person keypoints (https://cocodataset.org), 2-D labels: declared, not readable in this version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ipr.datasets._declared import check_split, no_reader
from ipr.types import BoxRule, PoseTable

SPLITS = ("train2017", "val2017", "train2014", "val2014")

BOX_RULES = {
    "annotation": BoxRule(pad=1.25),  # the annotated box, clipped to the image ("gt_db")
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """``annotations/person_keypoints_<split>.json`` with the images. Depth has weight 0."""

    root: str = "coco"  # relative to data.root
    split: str = "train2017"
    boxes: Literal["annotation"] = "annotation"

    def __post_init__(self) -> None:
        check_split(self.split, SPLITS)

    @property
    def box_rule(self) -> BoxRule:
        return BOX_RULES[self.boxes]

    def build(self) -> PoseTable:
        no_reader("COCO", self.root)
