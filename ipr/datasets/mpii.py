"""MPII Human Pose (http://human-pose.mpi-inf.mpg.de), 2-D labels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ipr import skeleton
from ipr.datasets._listed import image_folder, joint_bounds, person_numbers, sieve, wrong_root
from ipr.datasets._mpii_files import LAYOUTS, Layout, People, head_boxes_file, read_list
from ipr.datasets._options import check_split
from ipr.geometry import good_boxes
from ipr.images import FileImages
from ipr.types import BoxRule, PoseTable

SPLITS = ("train", "valid", "trainval", "test")

BOX_RULES = {
    "scale": BoxRule(pad=1.25, fit="height"),
    "joints": BoxRule(pad=1.25),  # bounds of the visible joints ("jnt_bbox_db")
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Images in ``images/``; annotations in one of four layouts, whose name ``description`` says.

    * simple-baselines: ``annot/<split>.json``, head boxes in ``annot/gt_valid.mat``
    * mmpose: the same as ``annotations/mpii_<train|val|trainval|test>.json``, ``annotations/mpii_gt_val.mat``
    * COCO-style: ``annotations/train.json``. Has no centres and scales
    * official: ``mpii_human_pose_v1_u12_1.mat``, also in its archive's folder. Read where no other is

    The last two do not divide their training images: ``train`` and ``trainval`` are the same there, ``valid``
    is not. People of ``test`` have no joints: weight 0. Depth has weight 0 in all splits.

    ``boxes: scale`` ("gt_db" of the ECCV 2018 code): a square of 200 * scale px, its centre 15 * scale px
    below the annotated one. The crop has the height of the padded square and the width that fits the patch:
    less in a portrait patch, as in that code, and more in a landscape patch, which that code refuses.
    ``boxes: joints``: bounds of the labelled joints; people with fewer than two are left out.

    ``extra``: head_size [N] px, 0.6 times the diagonal of the head box, where the layout has it for the split
    (NaN for people without head box). ``group``: image (file name) and person (number in the image).
    """

    root: str = "mpii"  # relative to data.root
    split: str = "train"
    boxes: Literal["scale", "joints"] = "scale"

    def __post_init__(self) -> None:
        check_split(self.split, SPLITS)
        if self.split == "test" and self.boxes == "joints":
            raise ValueError("boxes: joints needs joints, which split: test does not have: give boxes: scale")

    @property
    def box_rule(self) -> BoxRule:
        return BOX_RULES[self.boxes]

    def sources(self) -> list[Path]:
        """The files whose content decides the table."""
        layout = _layout(Path(self.root))
        path = _annotations(Path(self.root), layout, self.split)
        heads = head_boxes_file(path)
        return [path, heads] if layout.read is read_list and heads.is_file() else [path]

    def build(self) -> PoseTable:
        """ValueError where files are missing or wrong; images are not opened."""
        root, joints = Path(self.root), skeleton.by_name("mpii_16")
        layout = _layout(root)
        path = _annotations(root, layout, self.split)
        people = layout.read(path, self.split)
        if self.boxes == "scale" and people.scale is None:
            raise ValueError(f"{path}: has no centres and scales ({layout.name} layout): give boxes: joints")
        bad = np.flatnonzero((people.seen & ~np.isfinite(people.joints_img).all(2)).any(1))
        if len(bad):
            others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise ValueError(
                f"{path}: person {bad[0]} ({people.images[bad[0]]}){others}: a labelled joint is not finite: "
                "need numbers, and no label where a joint is unknown"
            )
        boxes = self._boxes(people)
        rows, left_out = sieve("people", self._reasons(people, boxes))
        if not len(rows):
            raise ValueError(f"{path}: has nobody to show: {left_out}")
        names = [people.images[row] for row in rows]
        folder = image_folder([root / "images"], names)
        seen = people.seen[rows]
        image = np.array(names)
        notes = [f"{len(rows)} people in {len(np.unique(image))} images", left_out]
        if layout.name in ("COCO-style", "official") and self.split == "train":
            notes.append("validation images are among them: this layout does not divide them")
        if people.note:
            notes.append(people.note)
        heads = None if people.head_size is None else people.head_size[rows]
        return PoseTable(
            skeleton=joints,
            image=FileImages(
                (os.path.join(folder, name) for name in names),
                None if people.image_sizes is None else people.image_sizes[rows],
            ),
            boxes_xywh=boxes[rows],
            box_rule=self.box_rule,
            joints_img=np.where(seen[..., None], people.joints_img[rows], 0.0),
            depth=np.zeros(seen.shape),
            depth_unit="mm",
            weight=np.stack([seen, seen, np.zeros_like(seen)], -1).astype(np.float64),
            group={"image": image, "person": person_numbers(image)},
            extra={} if heads is None or np.isnan(heads).all() else {"head_size": heads},
            description=f"MPII: {path} ({layout.name} layout): {'; '.join(notes)}",
        )

    def _boxes(self, people: People) -> np.ndarray:
        """[N, 4] raw; NaN without centre and scale."""
        if self.boxes == "joints":
            return joint_bounds(people.joints_img, people.seen)
        assert people.center is not None and people.scale is not None
        side = 200 * people.scale[:, None]
        # Lower than annotated, as in nearly all code for this set: feet would be cut off
        center = people.center + [0, 15] * people.scale[:, None]
        return np.concatenate([center - side / 2, side, side], 1)

    def _reasons(self, people: People, boxes: np.ndarray) -> dict[str, np.ndarray]:
        """Whom to leave out."""
        labelled = people.seen.sum(1)
        if self.boxes == "joints":
            return {
                "without joints": labelled == 0,
                "with one joint": labelled == 1,
                "with joints on one line along an axis": ~good_boxes(boxes),
            }
        without = {"without joints": labelled == 0} if self.split != "test" else {}
        return without | {"without centre or scale": ~good_boxes(boxes)}


def _layout(root: Path) -> Layout:
    found = [layout for layout in LAYOUTS if next(root.glob(layout.mark), None)]
    lists = [layout for layout in found if layout.name != "official"]
    if not found:
        raise wrong_root(root, "MPII", [layout.mark for layout in LAYOUTS])
    if len(lists) > 1:
        raise ValueError(
            f"{root}: has annotations in two layouts, {lists[0].name} ({lists[0].mark}) and {lists[1].name} "
            f"({lists[1].mark}): keep one"
        )
    return (lists or found)[0]


def _annotations(root: Path, layout: Layout, split: str) -> Path:
    if split not in layout.files:
        raise ValueError(
            f"{root}: the {layout.name} layout, which was found there, has no split {split!r}, but "
            f"{', '.join(layout.files)}"
        )
    path = root / layout.files[split]
    if not path.is_file():
        there = sorted(file.name for file in path.parent.glob("*.json"))
        raise ValueError(f"{path}: no such file ({layout.name} layout); there is {', '.join(there)}")
    return path
