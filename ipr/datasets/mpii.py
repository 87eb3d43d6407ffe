"""MPII Human Pose (http://human-pose.mpi-inf.mpg.de), 2-D labels: declared, not readable in this version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ipr.datasets._declared import check_split, no_reader
from ipr.types import BoxRule, PoseTable

SPLITS = ("train", "valid", "trainval", "test")

BOX_RULES = {
    # A square of 200 * scale px, its centre 15 * scale px below the annotated one; the width follows the
    # patch's aspect, so it shrinks in a portrait patch, as in the ECCV 2018 code ("gt_db").
    "scale": BoxRule(pad=1.25, fit="height"),
    "joints": BoxRule(pad=1.25),  # bounds of the visible joints ("jnt_bbox_db")
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """``annot/<split>.json`` with ``images/``. Depth has weight 0."""

    root: str = "mpii"  # relative to data.root
    split: str = "train"
    boxes: Literal["scale", "joints"] = "scale"

    def __post_init__(self) -> None:
        check_split(self.split, SPLITS)

    @property
    def box_rule(self) -> BoxRule:
        return BOX_RULES[self.boxes]

    def build(self) -> PoseTable:
        no_reader("MPII", self.root)
