"""Procedural people: a data set that needs no download, with exact labels, rendered on demand.

A row is a function of (seed, index), whatever the count. The splits have disjoint subjects; validation has
other backgrounds and palettes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ipr import skeleton
from ipr.config import require
from ipr.datasets._synthetic import textures
from ipr.datasets._synthetic.body import joints_world, make_subjects
from ipr.datasets._synthetic.draw import Draw
from ipr.datasets._synthetic.pose import ACTIONS, draw_actions, pose_people
from ipr.datasets._synthetic.render import Painter, visibility
from ipr.datasets._synthetic.scene import IMAGE_SIZE, make_scene, place
from ipr.types import BoxRule, Camera, Pixels, PoseTable, Region

TRAIN_SUBJECTS, VALID_SUBJECTS = 400, 100


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which procedural people, and how they look."""

    split: Literal["train", "valid"] = "train"
    """train | valid: other subjects, other backgrounds, other palettes"""
    count: int = 20000
    """rows; row i does not depend on it"""
    seed: int = 0
    depth_unit: Literal["mm", "px"] = "mm"
    """mm: depth from the root; px: the same times focal / root depth (weak perspective)"""
    appearance: Literal["full", "silhouette", "constant"] = "full"
    """full | silhouette (the body in white, nothing else) | constant (grey): the latter two are baselines"""

    def __post_init__(self) -> None:
        require(self.count >= 1, "count", self.count, "at least 1")
        require(0 <= self.seed < 2**63, "seed", self.seed, "in 0..2^63 - 1")

    def build(self) -> PoseTable:
        return _build(self)


def _build(config: Config) -> PoseTable:
    held_out = config.split == "valid"
    numbers = TRAIN_SUBJECTS + np.arange(VALID_SUBJECTS) if held_out else np.arange(TRAIN_SUBJECTS)
    subjects = make_subjects(numbers, held_out)
    # The splits draw from disjoint halves of the counter, so their poses differ as well.
    index = 2 * np.arange(config.count) + held_out
    subject = Draw(config.seed, "who", index).integer(len(numbers))
    action = draw_actions(config.seed, index)
    bones = {name: bone[subject] for name, bone in subjects.bones.items()}
    posed, _ = pose_people(config.seed, index, action, bones)
    frames = place(config.seed, index, posed)
    pictures = textures.WALLS, textures.FLOORS
    scene = make_scene(config.seed, index, action, frames, subjects.head[subject], pictures, held_out)
    joints = joints_world(frames, subjects.head[subject])
    joints_cam = joints @ scene.R.swapaxes(1, 2) + scene.t[:, None]
    joints_img = joints_cam[..., :2] / joints_cam[..., 2:] * scene.focal[:, None] + scene.center[:, None]
    root_depth = joints_cam[:, 0, 2]
    depth = joints_cam[..., 2] - root_depth[:, None]
    if config.depth_unit == "px":
        depth = depth * (scene.focal[:, :1] / root_depth[:, None])
    low, high = joints_img.min(1), joints_img.max(1)
    seen = visibility(subjects, subject, frames, scene, joints_cam)
    painter = Painter(subjects, subject, frames, scene, held_out)
    return PoseTable(
        skeleton=skeleton.by_name("h36m_18"),
        image=SyntheticImages(painter, config.seed, config.split, config.appearance),
        boxes_xywh=np.concatenate([low, high - low], axis=1),
        box_rule=BoxRule(pad=1.25, fit="grow"),
        joints_img=joints_img,
        depth=depth,
        depth_unit=config.depth_unit,
        weight=np.ones((*joints_img.shape[:2], 3)),
        joints_cam=joints_cam,
        camera=Camera(scene.focal, scene.center, scene.R, scene.t),
        root_depth=root_depth,
        group={"subject": numbers[subject], "action": np.array(ACTIONS)[action]},
        extra={"visibility": seen},
    )


class SyntheticImages:
    """An ImageSource that paints what is asked for."""

    def __init__(self, painter: Painter, seed: int, split: str, appearance: str) -> None:
        self._painter, self._seed, self._split, self._appearance = painter, seed, split, appearance

    def image_size(self, row: int) -> tuple[int, int]:
        return IMAGE_SIZE, IMAGE_SIZE

    def name(self, row: int) -> str:
        return f"synthetic {self._split} seed {self._seed} row {row}"

    def fingerprint(self, rows: range | None = None) -> str:
        """Changes with whatever the pixels of any row depend on: the settings, and the code that paints."""
        here = Path(__file__)
        code = b"".join(
            path.read_bytes() for path in (here, *sorted((here.parent / "_synthetic").glob("*.py")))
        )
        return f"{self._split} {self._seed} {self._appearance} {hashlib.sha256(code).hexdigest()}"

    def read(self, row: int, region: Region, scale: float) -> Pixels:
        x1, y1 = region.x0 + region.width - 1, region.y0 + region.height - 1
        grid = self._painter.grid(row, region.x0, region.y0, x1, y1, scale)
        if self._appearance == "full":
            data = self._painter.picture(row, grid)
        elif self._appearance == "silhouette":
            data = self._painter.silhouette(row, grid)
        else:
            data = np.full((grid.height, grid.width, 3), 127, np.uint8)
        return Pixels(data, (grid.u0 / scale, grid.v0 / scale), scale)
