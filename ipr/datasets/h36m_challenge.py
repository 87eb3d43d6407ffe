"""The Human3.6M part of the ECCV 2018 challenge (CHALL_H80K, http://vision.imar.ro/human3.6m/challenge_open.php).

Below ``root``, for Train, Val and Test (``TrainVal`` reads the folders of both):

* Train/IMG/00001.jpg
* Train/POSE/00001.csv: 17 lines of x,y,z in mm from the root, camera axes. Test has none
* Train/<any>_<N>samples_img_res.pkl or .json: a 2-D prediction per image, in the images' order, as a list of
  {"kpts": 18 x [x px, y px, score], "vis": 18 x [1 or 0, 1 or 0, unused]}
* Train/detection/<detector>/00001.pkl: rows of x1, y1, x2, y2, score, of which the best one counts

There are no cameras: the labels become pixels by a similarity fit to the 2-D prediction. So depth is in px
too, and a run takes ``depth: {rule: box}``. ``joints_cam`` is what the csv says, from the root: enough for
MPJPE, but no place in front of a camera.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ipr.datasets import _pickles
from ipr.datasets._h36m.joints import SKELETON, full_boxes, with_thorax
from ipr.datasets._listed import joint_bounds, read_json, sieve, wrong_root
from ipr.datasets._options import check_detector, check_split
from ipr.geometry import good_boxes
from ipr.images import FileImages
from ipr.types import BoxRule, PoseTable

SPLITS = ("Train", "Val", "Test", "TrainVal")
_FOLDERS = {"TrainVal": ("Train", "Val")}
_IN_CSV = 17  # the thorax is made of the shoulders

BOX_RULES = {
    "joints": BoxRule(pad=1.25),  # bounds of the visible joints, Test: predicted joints ("jnt_bbox_db")
    "detector": BoxRule(pad=1.1),  # detection/<detector>/%05d.pkl ("dt_db"); 1.1 is this set's own padding
    "full": BoxRule(pad=1.0, fit="height"),  # no box: centre (500, 500), height 1000 px ("org_img")
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """``<split>/IMG/%05d.jpg`` with ``<split>/POSE/%05d.csv``; Test has no poses, and weights of 0."""

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

    def sources(self) -> list[Path]:
        """The folders of images, which say what rows there are, and all that is read."""
        return [path for part in self._parts() for path in part.sources()]

    def build(self) -> PoseTable:
        """Rows in the order of the file names; ValueError, naming the path, where the files do not fit."""
        parts = self._parts()
        people = [_read(part, self.boxes) for part in parts]
        joints_img, depth, joints_cam, boxes_xywh, score = (
            np.concatenate(arrays) for arrays in zip(*people, strict=True)
        )
        posed = self.split != "Test"
        # Predicted joints in one place: no scale, so all labels there
        unfitted = (np.ptp(joints_img, axis=1) < 1e-6).all(1) & posed
        without_box = "without a detection" if self.boxes == "detector" else "whose joints span no box"
        no_box = ~good_boxes(boxes_xywh)
        keep, left_out = sieve("images", {"without two predicted joints": unfitted, without_box: no_box})
        layout = f"CHALL_H80K {' and '.join(str(part.folder) for part in parts)}: {left_out}"
        if not len(keep):
            raise ValueError(f"{layout}; need at least one image with a box and predicted joints")
        images = [os.path.join(part.folder, "IMG", f"{name}.jpg") for part in parts for name in part.names]
        numbers = np.array([int(name) for part in parts for name in part.names])
        subset = np.repeat([part.folder.name for part in parts], [len(part.names) for part in parts])
        weight = np.full((len(keep), SKELETON.num_joints, 3), float(posed))
        return PoseTable(
            skeleton=SKELETON,
            image=FileImages(images[row] for row in keep),
            boxes_xywh=boxes_xywh[keep],
            box_rule=self.box_rule,
            joints_img=joints_img[keep],
            depth=depth[keep],
            depth_unit="px",
            weight=weight,
            joints_cam=joints_cam[keep] if posed else None,
            group={"subset": subset[keep]},
            extra={"image_id": numbers[keep]} | ({"box_score": score[keep]} if self.detector else {}),
            description=layout,
        )

    def _parts(self) -> list[_Part]:
        folders = _FOLDERS.get(self.split, (self.split,))
        return [_find(Path(self.root), name, self.boxes, self.detector) for name in folders]


class _Part(NamedTuple):
    """One of Train, Val and Test on disk; the files belong to the names, in their order."""

    folder: Path
    names: list[str]  # of the images, without .jpg
    poses: list[Path] | None
    predictions: Path | None
    detections: list[Path] | None

    def sources(self) -> list[Path]:
        predictions = [] if self.predictions is None else [self.predictions]
        return [self.folder / "IMG", *(self.poses or ()), *predictions, *(self.detections or ())]


class _People(NamedTuple):
    """Of one part, before rows are left out."""

    joints_img: np.ndarray  # [N, 18, 2] px
    depth: np.ndarray  # [N, 18] px from the root
    joints_cam: np.ndarray  # [N, 18, 3] mm from the root; NaN for Test
    boxes_xywh: np.ndarray  # [N, 4] px, of size 0 where there is none
    score: np.ndarray  # [N] of the detector; NaN without


# ---------------------------------------------------------------------------------------------- what there is


def _find(root: Path, name: str, boxes: str, detector: str) -> _Part:
    folder = root / name
    if not (folder / "IMG").is_dir():
        raise wrong_root(root, "CHALL_H80K", [f"{name}/IMG"])
    names = _numbered(folder / "IMG", "jpg")
    if not names:
        raise ValueError(f"{folder / 'IMG'}: has no images: need 00001.jpg, 00002.jpg ...")
    poses = _beside(names, folder / "POSE", "csv") if name != "Test" else None
    found = sorted(path for path in folder.glob("*samples_img_res.*") if path.suffix in (".pkl", ".json"))
    if len(found) > 1:
        raise ValueError(
            f"{folder}: has {len(found)} files of 2-D predictions, {', '.join(path.name for path in found)}: "
            "keep the one to be used"
        )
    if not found and (poses or boxes == "joints"):
        raise ValueError(
            f"{folder}: has no 2-D predictions, which labels are aligned to (Test: which boxes are made of): "
            f"need HM36_eccv_challenge_{name}_{len(names)}samples_img_res.pkl or .json: for each image "
            '{"kpts": 18 x [x, y, score], "vis": 18 x [1 or 0, 1 or 0, 0]}'
        )
    detections = None
    if detector:
        place = folder / "detection" / detector
        if not place.is_dir() and place.parent.is_dir():
            others = ", ".join(sorted(path.name for path in place.parent.iterdir())) or "nothing"
            raise ValueError(f"{place}: no such folder: detection/ has {others}")
        detections = _beside(names, place, "pkl")
    return _Part(folder, names, poses, found[0] if found else None, detections)


def _numbered(folder: Path, suffix: str) -> list[str]:
    """The sorted names, without suffix, of the folder's files 00001.<suffix>."""
    files = (re.fullmatch(rf"(\d{{5}})\.{suffix}", name) for name in os.listdir(folder))
    return sorted(match[1] for match in files if match)


def _beside(names: Sequence[str], folder: Path, suffix: str) -> list[Path]:
    """A file of the folder for each image; ValueError where one is missing or has no image."""
    if not folder.is_dir():
        raise ValueError(
            f"{folder}: no such folder: need {names[0]}.{suffix} there, and so on for each image"
        )
    have = set(_numbered(folder, suffix))
    for missing, what in (
        (sorted(set(names) - have), f"lacks the .{suffix} of {{}} of {len(names)} images"),
        (sorted(have - set(names)), "has {} files without an image in IMG"),
    ):
        if missing:
            raise ValueError(
                f"{folder}: {what.format(len(missing))}, first of {missing[0]}: extract all of it again"
            )
    return [folder / f"{name}.{suffix}" for name in names]


# ----------------------------------------------------------------------------------------------- what it says


def _read(part: _Part, boxes: str) -> _People:
    count, num_joints = len(part.names), SKELETON.num_joints
    joints_img, seen = np.zeros((count, num_joints, 2)), np.zeros((count, num_joints), bool)
    if part.predictions is not None:
        joints_img, seen = _read_predictions(part.predictions, count)
    depth, joints_cam = np.zeros((count, num_joints)), np.full((count, num_joints, 3), np.nan)
    bounded = seen
    if part.poses is not None:
        joints_cam = with_thorax(np.stack([_read_pose(path) for path in part.poses]))
        joints_img, depth = _align(joints_cam, joints_img, seen)
        bounded = np.ones_like(seen)
    score = np.full(count, np.nan)
    if part.detections is not None:
        found = np.stack([_read_detection(path) for path in part.detections])
        boxes_xywh, score = found[:, :4], found[:, 4]
    elif boxes == "full":
        boxes_xywh = full_boxes(count)
    else:
        boxes_xywh = joint_bounds(joints_img, bounded)
    return _People(joints_img, depth, joints_cam, boxes_xywh, score)


def _align(joints_cam: np.ndarray, target_img: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """joints_img [N, J, 2] px and depth [N, J] px of joints_cam [N, J, 3] mm.

    The similarity that takes x, y of the ``seen`` joints [N, J] nearest to ``target_img`` [N, J, 2], by least
    squares; depth is scaled alike. With points as complex numbers it is one factor and a shift, and cannot
    mirror. Zeros where fewer than two points are seen.
    """
    source = joints_cam[..., 0] + 1j * joints_cam[..., 1]
    target = target_img[..., 0] + 1j * target_img[..., 1]
    share = seen / np.maximum(seen.sum(1, keepdims=True), 1)
    middle, target_middle = ((share * points).sum(1, keepdims=True) for points in (source, target))
    centred = source - middle
    spread = (share * np.abs(centred) ** 2).sum(1)
    cross = (share * centred.conj() * (target - target_middle)).sum(1)
    factor = np.divide(cross, spread, out=np.zeros_like(cross), where=spread > 0)[:, None]
    fitted = factor * centred + target_middle
    depth = np.abs(factor) * (joints_cam[..., 2] - joints_cam[:, [SKELETON.root], 2])
    return np.stack([fitted.real, fitted.imag], axis=-1), depth


def _read_pose(path: Path) -> np.ndarray:
    """[17, 3] mm"""
    need = f"need {_IN_CSV} lines of x,y,z in mm"
    try:
        lines = path.read_text().splitlines()
        pose = np.array([line.split(",") for line in lines if line.strip()], np.float64)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # ragged, no number, no text
        raise ValueError(f"{path}: is no pose ({error}): {need}") from None
    if pose.shape != (_IN_CSV, 3):
        raise ValueError(f"{path}: has numbers of shape {list(pose.shape)}: {need}")
    if not np.isfinite(pose).all():
        line, axis = np.argwhere(~np.isfinite(pose))[0]
        raise ValueError(f"{path}: says {pose[line, axis]} for {SKELETON.joints[line]}: need finite numbers")
    return pose


def _read_detection(path: Path) -> np.ndarray:
    """[5] x, y, width, height px and score of the best box; zeros without any."""
    rows = _numbers(_pickles.load(path))
    if rows is not None and rows.size == 0:
        return np.zeros(5)
    if rows is None or rows.ndim != 2 or rows.shape[1] != 5 or not np.isfinite(rows).all():
        raise ValueError(f"{path}: need rows of five finite numbers, [[x1, y1, x2, y2, score], ...]")
    best = rows[rows[:, 4].argmax()]
    if not (best[2:4] > best[:2]).all():
        raise ValueError(
            f"{path}: x1, y1, x2, y2 of the best box are {best[:4].tolist()}: need x1 < x2, y1 < y2"
        )
    return np.concatenate([best[:2], best[2:4] - best[:2], best[4:]])


def _read_predictions(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(joints_img [N, 18, 2] px, 0 where not seen; which are seen [N, 18])."""
    content = read_json(path) if path.suffix == ".json" else _pickles.load(path)
    if not isinstance(content, list) or len(content) != count:
        size = f"a list of {len(content)}" if isinstance(content, list) else type(content).__name__
        raise ValueError(
            f"{path}: is {size}, but {path.parent / 'IMG'} has {count} images: need a prediction for each, "
            "in their order; is one of the two incomplete?"
        )
    shape = (SKELETON.num_joints, 3)
    arrays = np.empty((2, count, *shape))
    for row, entry in enumerate(content):
        for array, key in zip(arrays, ("kpts", "vis"), strict=True):
            numbers = _numbers(entry.get(key)) if isinstance(entry, dict) else None
            if numbers is None or numbers.shape != shape:
                raise ValueError(
                    f"{path}: entry {row}: need a dict whose {key!r} is an array of shape {list(shape)}"
                )
            array[row] = numbers
    joints_img, seen = arrays[0, ..., :2], arrays[1, ..., 0] > 0
    bad = np.argwhere(seen & ~np.isfinite(joints_img).all(-1))
    if len(bad):
        row, joint = bad[0].tolist()
        raise ValueError(
            f"{path}: entry {row} says {joints_img[row, joint].tolist()} for {SKELETON.joints[joint]}: "
            "need finite numbers where 'vis' is not 0"
        )
    return np.where(seen[..., None], joints_img, 0), seen


def _numbers(value: Any) -> np.ndarray | None:
    """float64, or None where it is no array of numbers."""
    try:
        array = np.asarray(value)
        return array.astype(np.float64) if array.size == 0 or array.dtype.kind in "iufb" else None
    except (TypeError, ValueError):  # ragged
        return None
