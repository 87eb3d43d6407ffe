"""The Human3.6M part of the ECCV 2018 challenge (CHALL_H80K): declared, not readable in this version.

It has no cameras. Its labels, mm from the root in camera axes, become pixels by a fit to a 2-D prediction; so
its depth is in px and a run on it takes ``depth: {rule: box}``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ipr.datasets._declared import check_detector, check_split, no_reader
from ipr.types import BoxRule, PoseTable

SPLITS = ("Train", "Val", "Test", "TrainVal")

BOX_RULES = {
    "joints": BoxRule(pad=1.25),  # bounds of the visible joints, Test: predicted joints ("jnt_bbox_db")
    "detector": BoxRule(pad=1.1),  # detection/<detector>/%05d.pkl ("dt_db"); 1.1 is this set's own padding
    "full": BoxRule(pad=1.0, fit="height"),  # no box: centre (500, 500), height 1000 px ("org_img")
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """``<split>/IMG/%05d.jpg`` with ``<split>/POSE/%05d.csv``; Test has no poses."""

    root: str = "hm36_eccv_challenge"  # relative to data.root
    split: str = "Train"
    boxes: Literal["joints", "detector", "full"] = "joints"
    detector: str = ""  # folder under <split>/detection/, with boxes: detector

    def __post_init__(self) -> None:
        check_split(self.split, SPLITS)
        check_detector(self.boxes, self.detector)

    @property
    def box_rule(self) -> BoxRule:
        return BOX_RULES[self.boxes]

    def build(self) -> PoseTable:
        no_reader("the Human3.6M part of the ECCV 2018 challenge", self.root)
