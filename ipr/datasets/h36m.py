"""Human3.6M (http://vision.imar.ro/human3.6m): declared, not readable in this version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ipr.datasets._declared import check_detector, check_split, no_reader
from ipr.types import BoxRule, PoseTable

# act_NN is an index into the actions 2..16: act_05 reads the folders named act_07.
SPLITS = (
    *("train", "trainfull", "trainsample2", "trainsample10"),
    *("valid", "validmin", "validfull", "validsample2", "validsample10"),
    *(f"act_{index:02d}" for index in range(15)),
)

BOX_RULES = {
    "rect3d": BoxRule(pad=1.0),  # the 2000 mm square around the pelvis, projected ("gt_db")
    "joints": BoxRule(pad=1.25),  # bounds of the visible joints ("jnt_bbox_db")
    "detector": BoxRule(pad=1.25),  # detection/<detector>/kpts_bbox.pkl ("dt_db")
    "full": BoxRule(pad=1.0, fit="height"),  # no box: centre (500, 500), height 1000 px ("org_img")
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Subjects 1, 5, 6, 7, 8 train and 9, 11 validate.

    Frames per video: 200 of ``train``, 40 of ``valid`` and ``act_NN``, 10 of ``validmin``, drawn by ``seed``;
    all of ``*full``; every 2nd or 10th of ``*sample2`` and ``*sample10``.
    """

    root: str = "hm36"  # holds images/ and annot/; relative to data.root
    split: str = "train"
    boxes: Literal["rect3d", "joints", "detector", "full"] = "rect3d"
    detector: str = ""  # folder under detection/, with boxes: detector
    seed: int = 0  # of the frames that are drawn

    def __post_init__(self) -> None:
        check_split(self.split, SPLITS)
        check_detector(self.boxes, self.detector)

    @property
    def box_rule(self) -> BoxRule:
        return BOX_RULES[self.boxes]

    def build(self) -> PoseTable:
        no_reader("Human3.6M", self.root)
