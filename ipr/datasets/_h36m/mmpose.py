"""The layout of mmpose: annotation_body3d/{fps50,fps10}/h36m_{train,test}.npz and cameras.pkl; images/.

npz: imgname [N], S [N, 17, 4] m in camera axes, part [N, 17, 3] px as the true lens projects them.
cameras.pkl by ("S1", "54138969"): R camera -> world, T m (the camera's position), f, c, k, p, w, h. fps10 has
every fifth frame, from the first on.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ipr.datasets import _pickles
from ipr.datasets._h36m.cameras import lens, mm_per_unit, project, settle_by_agreement
from ipr.datasets._h36m.clips import ACTIONS, TRAIN_SUBJECTS, Clip, Request, Video, complete

HOLDS = "annotation_body3d/fps50/h36m_train.npz ..."
_FOLDER = "annotation_body3d"
_NAME = re.compile(r"S(\d+)_([A-Za-z]+?)(?:[_ ](\d))?\.(\d{8})")  # and then _000001.jpg
_CAMERAS = ("54138969", "55011271", "58860488", "60457274")
_NUMBER = {name: number for number, name in ACTIONS.items()} | {"TakingPhoto": 12, "WalkingDog": 15}
# The numbers behind the actions' names that Human3.6M's metadata.xml gives subactions 1 and 2, by subject and
# action; everywhere else 1 and none.
_SUFFIXES = {
    1: {4: "2 ", 9: "12", 10: "2 "},
    5: {2: "12", 3: "23", 5: "12", 10: " 1", 12: " 2", 13: "12"},
    6: {4: "12", 7: "2 ", 9: "12", 12: " 1", 13: "3 "},
    7: {6: "2 ", 10: " 1", 12: " 1", 13: "12", 14: "12"},
    8: {10: " 1", 16: "12"},
    9: {3: "12", 10: " 1"},
    11: {3: "12", 5: "2 ", 6: "32", 10: " 1", 11: "2 "},
}
_MOST_PX = 5.0  # between the joints in px and their projection, which leaves the lens out


def present(root: Path) -> bool:
    return (root / _FOLDER).is_dir()


def sources(request: Request) -> list[Path]:
    return [_annotations(request), request.root / _FOLDER / "cameras.pkl"]


def read(request: Request) -> tuple[list[Clip], str]:
    path, cameras_path = sources(request)
    names, joints, parts = _arrays(path)
    cameras = _pickles.load(cameras_path)
    rows = _rows_by_video(path, names)
    subjects, actions = request.split.subjects, request.split.actions
    clips, places = [], []
    for video in sorted(rows):
        if video.subject not in subjects or video.action not in actions:
            continue
        frames, at = rows[video]
        if len(np.unique(frames)) < len(frames):
            raise ValueError(f"{path}: has frames of {video} twice, need each once")
        picked = request.split.pick(frames, video, request.seed)
        if not len(picked):
            continue
        at = at[picked]
        camera = _camera(cameras_path, cameras, video)
        images = [str(request.root / "images" / name) for name in names[at].tolist()]
        clips.append(Clip(video, frames[picked], joints[at, :, :3], images=images, **camera))
        places.append(at)
    said = complete([clip.video for clip in clips], request.split.videos(), str(path))
    for clip in clips:
        _require_finite(path, clip)
    scale = mm_per_unit(np.concatenate([clip.joints[:50] for clip in clips]), str(path))
    clips = [clip._replace(joints=clip.joints.astype(np.float64) * scale) for clip in clips]
    for clip, at in zip(clips, places, strict=True):
        away = float(np.median(np.abs(project(clip, clip.joints) - parts[at, :, :2])))
        if not away < _MOST_PX:
            raise ValueError(
                f"{path}: S of {clip.video} lies {away:.0f} px from its part when projected with f and c of "
                f"{cameras_path}, at most {_MOST_PX:.0f} px is right: the files belong to different versions"
            )
    clips, convention = settle_by_agreement(clips, "R' (X - T)", str(cameras_path))
    convention += f", joints in {'mm' if scale == 1 else 'm'}"
    fps = f"{path.parent.name}{', every fifth frame' if path.parent.name == 'fps10' else ''}"
    return clips, "; ".join(filter(None, (fps, convention, said)))


def _annotations(request: Request) -> Path:
    folder = request.root / _FOLDER
    part = "train" if request.split.subjects == TRAIN_SUBJECTS else "test"
    paths = [folder / fps / f"h36m_{part}.npz" for fps in ("fps50", "fps10")]
    found = [path for path in paths if path.is_file()]
    if not found:
        raise ValueError(
            f"{paths[0]}: is missing, and so is {paths[1]}: the split {request.name} needs one of them"
        )
    return found[0]


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """imgname [N], S [N, 17, 4], part [N, 17, 3]."""
    try:
        with open(path, "rb") as file, np.load(file) as arrays:  # np.load leaves a broken file open
            names, joints, parts = arrays["imgname"], arrays["S"], arrays["part"]
    except KeyError as error:
        raise ValueError(f"{path}: need imgname, S and part: {error.args[0]}") from None
    except Exception as error:  # zip files break in many ways
        raise ValueError(
            f"{path}: is no .npz of plain arrays, or cut short: {error}; copy it again"
        ) from None
    count = len(names)
    if (
        not count
        or joints.shape != (count, 17, 4)
        or parts.shape != (count, 17, 3)
        or names.dtype.kind != "U"
    ):
        raise ValueError(
            f"{path}: imgname {names.dtype} {list(names.shape)}, S {list(joints.shape)}, part "
            f"{list(parts.shape)}: need text [N], [N, 17, 4] and [N, 17, 3] with N of at least 1"
        )
    return names, joints, parts


def _rows_by_video(path: Path, names: np.ndarray) -> dict[Video, tuple[np.ndarray, np.ndarray]]:
    """Of each video its frames from 0, ascending, and their rows."""
    videos: dict[str, Video] = {}
    rows: dict[Video, list[int]] = {}
    frames = np.empty(len(names), np.int64)
    for row, name in enumerate(names.tolist()):
        prefix, _, tail = name.rpartition("/")[2].rpartition("_")
        if prefix not in videos:
            videos[prefix] = _video(path, prefix, name)
        frame = tail.partition(".")[0]
        if not (frame.isdecimal() and int(frame)):
            raise ValueError(f"{path}: imgname {name!r} has no frame number, from 1, at its end")
        frames[row] = int(frame) - 1
        rows.setdefault(videos[prefix], []).append(row)
    ordered = {}
    for video, listed in rows.items():
        at = np.array(listed)
        at = at[np.argsort(frames[at], kind="stable")]
        ordered[video] = frames[at], at
    return ordered


def _video(path: Path, prefix: str, name: str) -> Video:
    match = _NAME.fullmatch(prefix)
    if match and match[2] in _NUMBER and match[4] in _CAMERAS:
        subject, action = int(match[1]), _NUMBER[match[2]]
        suffixes = _SUFFIXES.get(subject, {}).get(action, "1 ")
        if (match[3] or " ") in suffixes:
            subaction = suffixes.index(match[3] or " ") + 1
            return Video(subject, action, subaction, _CAMERAS.index(match[4]) + 1)
    raise ValueError(
        f"{path}: imgname {name!r} is no video of Human3.6M: need S1/S1_Directions_1.54138969/"
        f"S1_Directions_1.54138969_000001.jpg, with one of {', '.join(_NUMBER)}"
    )


def _camera(path: Path, cameras: Any, video: Video) -> dict[str, Any]:
    """The fields of a Clip that cameras.pkl decides."""
    key = (f"S{video.subject}", _CAMERAS[video.camera - 1])
    if not isinstance(cameras, dict) or key not in cameras:
        known = sorted({str(k[0]) for k in cameras}) if isinstance(cameras, dict) else "something else"
        raise ValueError(f"{path}: camera {key} is missing: need a dict of (subject, camera), has {known}")
    try:
        camera = {
            name: np.array(cameras[key][name], np.float64).reshape(shape)
            for name, shape in {"f": 2, "c": 2, "R": (3, 3), "T": 3, "k": 3, "p": 2}.items()
        }
        size = int(cameras[key]["h"]), int(cameras[key]["w"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: camera {key}: need f, c, R, T, k, p, w and h: {error!r}") from None
    if not all(np.isfinite(value).all() for value in camera.values()):
        raise ValueError(f"{path}: camera {key} has a value that is no number; copy the file again")
    return {
        "focal": camera["f"],
        "center": camera["c"],
        "R": camera["R"],
        "t": camera["T"],
        "distortion": lens(camera["k"], camera["p"]),
        "size": size,
    }


def _require_finite(path: Path, clip: Clip) -> None:
    bad = np.flatnonzero(~np.isfinite(clip.joints).all((1, 2)))
    if len(bad):
        raise ValueError(f"{path}: S of {clip.images[bad[0]]} is not finite; copy the file again")
