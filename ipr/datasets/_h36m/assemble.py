"""From clips to the arrays of a table: thorax, projection, boxes; and whether the images are there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ipr.datasets import _pickles
from ipr.datasets._h36m.cameras import project
from ipr.datasets._h36m.clips import ACTIONS, Clip
from ipr.datasets._h36m.joints import SKELETON, full_boxes, with_thorax
from ipr.images import FileImages
from ipr.types import BoxRule, Camera, PoseTable

_SQUARE_MM = 2000.0


def assemble(
    clips: Sequence[Clip],
    boxes_xywh: np.ndarray | None,
    *,
    boxes: str,
    rule: BoxRule,
    lens: bool,
    description: str,
) -> PoseTable:
    """The table of the clips' rows, one after another.

    boxes_xywh [N, 4] px of a detector; without: those that ``boxes`` names. ``lens``: with distortion.
    """
    ends = np.cumsum([len(clip.frames) for clip in clips])
    count, num_joints = int(ends[-1]), SKELETON.num_joints
    joints_cam = np.empty((count, num_joints, 3))
    joints_img = np.empty((count, num_joints, 2))
    own_boxes = np.empty((count, 4))
    for clip, end in zip(clips, ends, strict=True):
        rows = slice(end - len(clip.frames), end)
        joints_cam[rows] = with_thorax(clip.joints)
        joints_img[rows] = project(clip, joints_cam[rows], lens)
        if boxes_xywh is None:
            own_boxes[rows] = _boxes(clip, joints_cam[rows], joints_img[rows], boxes, lens)
    root_depth = joints_cam[:, SKELETON.root, 2].copy()
    of_row = np.repeat(np.arange(len(clips)), [len(clip.frames) for clip in clips])
    numbers = np.array([clip.video for clip in clips])[of_row]
    known = all(clip.size is not None for clip in clips)
    sizes = np.array([clip.size for clip in clips])[of_row] if known else None
    return PoseTable(
        skeleton=SKELETON,
        image=FileImages((path for clip in clips for path in clip.images), sizes),
        boxes_xywh=own_boxes if boxes_xywh is None else boxes_xywh,
        box_rule=rule,
        joints_img=joints_img,
        depth=joints_cam[..., 2] - root_depth[:, None],
        depth_unit="mm",
        weight=np.broadcast_to(1.0, (count, num_joints, 3)),
        joints_cam=joints_cam,
        camera=Camera(
            focal=np.array([clip.focal for clip in clips])[of_row],
            center=np.array([clip.center for clip in clips])[of_row],
            R=np.array([clip.R for clip in clips])[of_row],
            t=np.array([clip.t for clip in clips])[of_row],
            distortion=np.array([clip.distortion for clip in clips])[of_row] if lens else None,
        ),
        root_depth=root_depth,
        group={
            "subject": numbers[:, 0],
            "action": np.array([ACTIONS[clip.video.action] for clip in clips])[of_row],
            "subaction": numbers[:, 2],
            "camera": numbers[:, 3],
            "frame": np.concatenate([clip.frames for clip in clips]),
        },
        description=description,
    )


def _boxes(clip: Clip, joints_cam: np.ndarray, joints_img: np.ndarray, boxes: str, lens: bool) -> np.ndarray:
    """[n, 4] px."""
    if boxes == "full":
        return full_boxes(len(joints_img))
    if boxes == "rect3d":
        half = np.array([_SQUARE_MM / 2, _SQUARE_MM / 2, 0.0])
        root = joints_cam[:, [SKELETON.root]]
        corners = project(clip, np.concatenate([root - half, root + half], axis=1), lens)
        low, high = corners[:, 0], corners[:, 1]
    else:
        low, high = joints_img.min(1), joints_img.max(1)
    return np.concatenate([low, high - low], axis=1)


# ------------------------------------------------------------------------------------------------- detections


def detector_file(root: Path, split: str, detector: str) -> Path:
    """Where the ECCV 2018 code reads it, or the same without its cache's folder."""
    inside = Path("detection") / detector / "kpts_bbox.pkl"
    for path in (root / f"HM36_{split}_cache" / inside, root / inside):
        if path.is_file():
            return path
    raise ValueError(
        f"{root / f'HM36_{split}_cache' / inside}: is missing, and so is {root / inside}: need the boxes of "
        "the split's rows, a list of [x1, y1, x2, y2] in px"
    )


def detections(path: Path, clips: Sequence[Clip]) -> np.ndarray:
    """[N, 4] xywh px of the clips' rows, in their order."""
    content = _pickles.load(path)
    count = sum(len(clip.frames) for clip in clips)
    try:
        boxes = np.array([np.asarray(box, np.float64).ravel()[:4] for box in content])
    except (TypeError, ValueError):
        boxes = np.empty(0)
    if boxes.shape != (len(boxes), 4) or not len(boxes):
        raise ValueError(f"{path}: is no list of boxes [x1, y1, x2, y2] in px, one for each row")
    if len(boxes) != count:
        raise ValueError(
            f"{path}: has {len(boxes)} boxes for the split's {count} rows: it belongs to "
            "another split, or to other frames than are on disk"
        )
    boxes[:, 2:] -= boxes[:, :2]
    joints_img = np.concatenate([project(clip, clip.joints) for clip in clips])
    low, high = boxes[:, None, :2], boxes[:, None, :2] + boxes[:, None, 2:]
    inside = ((joints_img >= low) & (joints_img <= high)).all(-1).mean(1)
    strangers = float((inside < 0.5).mean())
    if strangers > 0.2:
        raise ValueError(
            f"{path}: {strangers:.0%} of the boxes miss the person of their row: they were made for other "
            "frames; with a split that draws frames, the ECCV 2018 code's boxes belong to the frames of its "
            "cache: set layout: cache"
        )
    return boxes


# ----------------------------------------------------------------------------------------------------- images


def require_images(clips: Sequence[Clip], root: Path) -> None:
    """ValueError where the first or the last image of a video is missing; the others are not looked at."""
    lost = [clip for clip in clips for path in {clip.images[0], clip.images[-1]} if not os.path.exists(path)]
    if not lost:
        return
    path = next(p for p in (lost[0].images[0], lost[0].images[-1]) if not os.path.exists(p))
    videos = {clip.video for clip in lost}
    raise ValueError(
        f"{path}: is missing; images are missing of {len(videos)} of {len({clip.video for clip in clips})} "
        f"videos: extract or link all of them under {root / 'images'}"
    )
