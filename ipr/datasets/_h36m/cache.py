"""Caches of the ECCV 2018 code: HM36_<split>_cache/HM36_<split>_*_keypoint_{db,jntBBox_db}_*.pkl and images/.

A list of dicts, one per row: image (the path on its author's machine), joints_3d (px, px, mm from the root),
joints_3d_cam (mm), fl, c_p and more. Each of the two kinds has the frames that its author's run drew for it:
jntBBox_db is read where boxes of joints are asked for, db otherwise, and the other where one is missing. They
do not say where the cameras stand: world axes are the camera's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ipr.datasets import _pickles
from ipr.datasets._h36m.cameras import mm_per_unit, project
from ipr.datasets._h36m.clips import Clip, Request, Video

HOLDS = "HM36_train_cache/HM36_train_*_keypoint_db_*.pkl ..."
_IMAGE = re.compile(r"s_(\d\d)_act_(\d\d)_subact_(\d\d)_ca_(\d\d)_(\d{6})\.jpg")
_FIELDS = {"joints_3d": (18, 3), "joints_3d_cam": (18, 3), "fl": (2,), "c_p": (2,)}
_MOST_PX = 0.01


def present(root: Path) -> bool:
    return any(root.glob("HM36_*_cache/*.pkl"))


def sources(request: Request) -> list[Path]:
    folder = request.root / f"HM36_{request.name}_cache"
    for kind in ("jntBBox_db", "db") if request.boxes == "joints" else ("db", "jntBBox_db"):
        paths = sorted(folder.glob(f"HM36_{request.name}_w*xh*_keypoint_{kind}_sample*.pkl"))
        if len(paths) > 1:
            raise ValueError(
                f"{folder}: has {', '.join(path.name for path in paths)}, whose frames differ: leave one"
            )
        if paths:
            return paths
    others = sorted({path.parent.name for path in request.root.glob("HM36_*_cache/*.pkl")})
    raise ValueError(
        f"{folder}: has no HM36_{request.name}_w..xh.._keypoint_db_sample...pkl; there is {', '.join(others)}"
    )


def read(request: Request) -> tuple[list[Clip], str]:
    (path,) = sources(request)
    entries = _pickles.load(path)
    if not isinstance(entries, list) or not entries or not isinstance(entries[0], dict):
        raise ValueError(
            f"{path}: is no list of dicts, one per row, or an empty one: is no cache of Human3.6M"
        )
    named = [(*_video(path, row, entry), entry) for row, entry in enumerate(entries)]
    clips = [
        _clip(path, request, video, list(group)) for video, group in groupby(named, key=lambda item: item[0])
    ]
    strange = {clip.video for clip in clips} - set(request.split.videos())
    if strange:
        raise ValueError(f"{path}: has {min(strange)}, which is not in the split {request.name}")
    if mm_per_unit(np.concatenate([clip.joints for clip in clips]), str(path)) != 1:
        raise ValueError(f"{path}: joints_3d_cam is in m, but depth from the root in mm: need mm")
    return clips, f"{path.name}, whose frames were drawn when it was made; cameras without their place"


def _video(path: Path, row: int, entry: Any) -> tuple[Video, int]:
    """And the frame from 0."""
    image = entry.get("image") if isinstance(entry, dict) else None
    match = _IMAGE.fullmatch(re.split(r"[/\\]", str(image))[-1])
    if match is None:
        raise ValueError(
            f"{path}: row {row} has the image {image!r}, need one such as "
            ".../s_09_act_02_subact_01_ca_01_000001.jpg"
        )
    *video, frame = map(int, match.groups())
    return Video(*video), frame - 1


def _clip(
    path: Path, request: Request, video: Video, group: Sequence[tuple[Video, int, dict[str, Any]]]
) -> Clip:
    values = {}
    for name, shape in _FIELDS.items():
        try:
            values[name] = np.array([np.asarray(entry[name], np.float64)[: shape[0]] for *_, entry in group])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{path}: {name} of {video} cannot be read: {error!r}") from None
        if values[name].shape != (len(group), *shape) or not np.isfinite(values[name]).all():
            raise ValueError(f"{path}: {name} of {video}: need {list(shape)} finite numbers in each row")
    if np.ptp(values["fl"], axis=0).any() or np.ptp(values["c_p"], axis=0).any():
        raise ValueError(f"{path}: fl or c_p change within {video}: its rows are of different cameras")
    folder = request.root / "images" / str(video)
    clip = Clip(
        video=video,
        frames=np.array([frame for _, frame, _ in group]),
        joints=values["joints_3d_cam"][:, :17],
        focal=values["fl"][0],
        center=values["c_p"][0],
        R=np.eye(3),
        t=np.zeros(3),
        distortion=None,
        size=None,
        images=[f"{folder}/{video}_{frame + 1:06d}.jpg" for _, frame, _ in group],
    )
    away = float(np.abs(project(clip, clip.joints) - values["joints_3d"][:, :17, :2]).max())
    if not away < _MOST_PX:
        raise ValueError(
            f"{path}: joints_3d of {video} lies up to {away:.2g} px from the projection of joints_3d_cam: "
            "the cache is damaged or of another project"
        )
    return clip
