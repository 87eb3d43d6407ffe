"""Your own people, from one JSON or npz file: docs/own_format.md describes it, with an example.

Both kinds have the same keys, each an array over images, people or joints, and named as in ``PoseTable`` and
``Camera`` where it means the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ipr.config import require
from ipr.datasets._listed import joint_bounds, sieve, wrong_root
from ipr.datasets._own_file import CAMERA, OwnFile, skeleton_of
from ipr.geometry import good_boxes
from ipr.images import FileImages
from ipr.skeleton import SKELETONS
from ipr.types import BoxRule, Camera, PoseTable, Skeleton


@dataclass(frozen=True, kw_only=True)
class Config:
    """``<root>/<file>`` with its images. Training and validation are two files."""

    root: str = "own"  # relative to data.root; the file's image paths are relative to it
    file: str = "train.json"  # or .npz
    pad: float = 1.25  # of the boxes, which are grown to the patch's aspect; 1: they have their margin

    def __post_init__(self) -> None:
        require(self.file.endswith((".json", ".npz")), "file", self.file, "a .json or .npz file")
        require(self.pad > 0, "pad", self.pad, "positive")

    @property
    def box_rule(self) -> BoxRule:
        return BoxRule(pad=self.pad)

    def sources(self) -> list[Path]:
        """The file."""
        return [Path(self.root) / self.file]

    def build(self) -> PoseTable:
        """Rows in the order of the file. ValueError, naming the file and the key, where it does not fit."""
        (path,) = self.sources()
        if not path.is_file():
            raise wrong_root(Path(self.root), "your data", [self.file])
        own = OwnFile(path)
        skeleton = skeleton_of(own)
        joints_img, visible = _joints_img(own)
        depth, depth_unit = _depth(own, skeleton)
        joints_cam = own.arrays.get("joints_cam")
        boxes_xywh, boxes = own.arrays.get("boxes_xywh"), "given boxes"
        if boxes_xywh is None:
            boxes_xywh, boxes = joint_bounds(joints_img, visible), "boxes of the joints"
        else:
            own.refuse(~good_boxes(boxes_xywh), "boxes_xywh", "need a width and a height above 0")
        keep, left_out = sieve("people", {"whose labelled joints span no box": ~good_boxes(boxes_xywh)})
        if not len(keep):
            raise ValueError(f"{path}: {left_out}: need people, with boxes_xywh or two labelled joints")
        camera, root_depth = _camera(own, keep), None
        if joints_cam is not None and camera is not None:
            why = "the root must lie before the camera that is given: need camera space, not from the root"
            own.refuse(_at_root(joints_cam[..., 2] <= 0, skeleton), "joints_cam", why)
            root_depth = joints_cam[keep, skeleton.root, 2]
        labelled = np.stack([visible, visible, visible & np.isfinite(depth)], axis=-1)
        return PoseTable(
            skeleton=skeleton,
            image=_images(own, Path(self.root), keep),
            boxes_xywh=boxes_xywh[keep],
            box_rule=self.box_rule,
            joints_img=joints_img[keep],
            depth=np.nan_to_num(depth)[keep],
            depth_unit=depth_unit,
            weight=labelled[keep].astype(np.float64),
            joints_cam=None if joints_cam is None else joints_cam[keep],
            camera=camera,
            root_depth=root_depth,
            group={key: own.arrays[key][keep] for key in ("subject", "action") if key in own.arrays},
            description=f"{path}: {own.size['N']} people in {own.size['M']} images, {boxes}, {left_out}"
            + _unknown(skeleton),
        )


def _joints_img(own: OwnFile) -> tuple[np.ndarray, np.ndarray]:
    """(joints_img [N, J, 2] px, 0 where not labelled; which are labelled [N, J])"""
    joints_img = own.arrays["joints_img"]
    known = np.isfinite(joints_img).all(-1)
    visible = known
    if "visible" in own.arrays:
        own.refuse(~np.isin(own.arrays["visible"], (0, 1, 2)), "visible", "need 0, 1 or 2")
        visible = own.arrays["visible"] > 0
    own.refuse(visible & ~known, "joints_img", "need two numbers where visible is not 0")
    return np.where(visible[..., None], joints_img, 0.0), visible


def _depth(own: OwnFile, skeleton: Skeleton) -> tuple[np.ndarray, str]:
    """([N, J] from the root, NaN where unknown; its unit)"""
    given = [key for key in ("depth", "depth_px") if key in own.arrays]
    joints_cam = own.arrays.get("joints_cam")
    if len(given) == 2 or (given == ["depth"] and joints_cam is not None):
        raise ValueError(
            f"{own.path}: has {' and '.join([*given, 'joints_cam'][:2])}: need one of joints_cam, "
            "depth and depth_px, or joints_cam with depth_px"
        )
    if given:
        depth = own.arrays[given[0]]
        why = f"depth is measured from this joint, the {skeleton.joints[skeleton.root]}: need 0 or null"
        own.refuse(_at_root(np.abs(depth) > 1e-6, skeleton), given[0], why)
        return depth, "px" if given == ["depth_px"] else "mm"
    if joints_cam is not None:
        return joints_cam[..., 2] - joints_cam[:, [skeleton.root], 2], "mm"
    return np.full(own.arrays["joints_img"].shape[:2], np.nan), "mm"


def _at_root(bad: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """[N, J] without what is bad of other joints."""
    return bad & (np.arange(skeleton.num_joints) == skeleton.root)


def _camera(own: OwnFile, keep: np.ndarray) -> Camera | None:
    """That of the people who are kept."""
    fields = {key: own.arrays[key] for key in CAMERA if key in own.arrays}
    if not fields:
        return None
    if "focal" not in fields or "center" not in fields:
        raise ValueError(f"{own.path}: has {' and '.join(fields)}: a camera needs focal and center")
    own.refuse(fields["focal"] <= 0, "focal", "need px above 0")
    R = fields.setdefault("R", np.tile(np.eye(3), (own.size["N"], 1, 1)))
    fields.setdefault("t", np.zeros((own.size["N"], 3)))
    if "R" in own.arrays:
        skew = np.abs(R @ R.swapaxes(1, 2) - np.eye(3)).max((1, 2)) > 1e-3
        own.refuse(skew | (np.linalg.det(R) < 0), "R", "need a rotation, with which X_cam = R X + t")
    return Camera(**{key: values[keep] for key, values in fields.items()})


def _images(own: OwnFile, root: Path, keep: np.ndarray) -> FileImages:
    number, count = own.arrays["image"], own.size["M"]
    own.refuse(
        (number != number.round()) | (number < 0) | (number >= count),
        "image",
        f"need the index of one of the {count} images, 0..{count - 1}",
    )
    paths = [os.path.join(root, name) for name in own.arrays["images"].tolist()]
    if missing := _missing(paths):
        raise ValueError(
            f"{own.path}: {len(missing)} of {count} images are missing, first {missing[0]}: need paths "
            f"relative to {root}"
        )
    sizes = None
    if "image_width" in own.arrays:
        sizes = np.stack([own.arrays["image_height"], own.arrays["image_width"]], axis=1)
    rows = number[keep].astype(np.int64)
    return FileImages((paths[row] for row in rows), None if sizes is None else sizes[rows])


def _missing(paths: list[str]) -> list[str]:
    """Those of which there is no file. Folders are listed once, as files are many."""
    listed: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        # The second look is for file systems that know a file by another spelling too.
        if name not in listed[folder] and not (listed[folder] and os.path.isfile(path)):
            missing.append(path)
    return missing


def _unknown(skeleton: Skeleton) -> str:
    known = {joint for it in SKELETONS.values() for joint in it.joints}
    names = [joint for joint in skeleton.joints if joint not in known]
    return f"; joints of no other skeleton, so unused: {', '.join(names)}" if names else ""
