"""The layout of 3DMPPE_POSENET: annotations/Human36M_subject<n>_{data,camera,joint_3d}.json and images/.

data: COCO's images (with subject, action_idx, subaction_idx, cam_idx, frame_idx from 0) and annotations (with
a bbox around the projected joints); camera: R, t, f, c by camera; joint_3d: 17 joints in world coordinates by
action, subaction and frame. t is that of R X + t; files that the project's own tool made have T of R (X - T).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ipr.datasets._h36m.cameras import settle
from ipr.datasets._h36m.clips import Clip, Request, Video, complete

HOLDS = "annotations/Human36M_subject1_data.json ..."
_PARTS = ("data", "camera", "joint_3d")


def present(root: Path) -> bool:
    return any((root / "annotations").glob("Human36M_subject*.json"))


def sources(request: Request) -> list[Path]:
    return [_path(request.root, subject, part) for subject in request.split.subjects for part in _PARTS]


def read(request: Request) -> tuple[list[Clip], str]:
    missing = [path for path in sources(request) if not path.is_file()]
    if missing:
        raise ValueError(
            f"{missing[0]}: is missing"
            + (f", and so are {len(missing) - 1} more files" if len(missing) > 1 else "")
            + f": the split {request.name} needs data, camera and joint_3d of the subjects "
            + ", ".join(map(str, request.split.subjects))
        )
    clips: list[Clip] = []
    for subject in tqdm(request.split.subjects, "Human3.6M, JSON", delay=2, leave=False):
        clips += _subject(request, subject)
    folder = request.root / "annotations"
    said = complete([clip.video for clip in clips], request.split.videos(), str(folder))
    clips, convention = settle(clips, "R X + t", str(folder))
    return clips, "; ".join(filter(None, (convention, said)))


def _path(root: Path, subject: int, part: str) -> Path:
    return root / "annotations" / f"Human36M_subject{subject}_{part}.json"


def _load(path: Path) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: is no JSON, or cut short: {error}; copy it again") from None


def _subject(request: Request, subject: int) -> list[Clip]:
    data_path, camera_path, joints_path = (_path(request.root, subject, part) for part in _PARTS)
    data, cameras, joints = _load(data_path), _load(camera_path), _load(joints_path)
    wanted = request.split.actions
    try:
        boxes = {item["image_id"]: item["bbox"] for item in data["annotations"]}
        videos: dict[Video, list[dict[str, Any]]] = {}
        for image in data["images"]:
            if image["action_idx"] in wanted:
                video = Video(subject, image["action_idx"], image["subaction_idx"], image["cam_idx"])
                videos.setdefault(video, []).append(image)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{data_path}: has no {error}: need images with id, file_name, width, height, action_idx, "
            "subaction_idx, cam_idx and frame_idx, and annotations with image_id and bbox"
        ) from None
    bare = [image["file_name"] for listed in videos.values() for image in listed if image["id"] not in boxes]
    if bare:
        raise ValueError(
            f"{data_path}: {len(bare)} images, first {bare[0]}, have no annotation: is it whole?"
        )
    clips = []
    for video in sorted(videos):
        images = sorted(videos[video], key=lambda image: int(image["frame_idx"]))
        frames = np.array([image["frame_idx"] for image in images])
        if len(np.unique(frames)) < len(frames):
            raise ValueError(f"{data_path}: has frames of {video} twice, need each once")
        at = request.split.pick(frames, video, request.seed)
        images = [images[i] for i in at.tolist()]
        if not images:
            continue
        camera = _camera(camera_path, cameras, video.camera)
        clips.append(
            Clip(
                video=video,
                frames=frames[at],
                joints=_joints(joints_path, joints, video, frames[at]),
                focal=camera["f"],
                center=camera["c"],
                R=camera["R"],
                t=camera["t"],
                distortion=None,
                size=(int(images[0]["height"]), int(images[0]["width"])),
                images=[str(request.root / "images" / image["file_name"]) for image in images],
                boxes_xywh=_boxes(data_path, [boxes[image["id"]] for image in images], video),
            )
        )
    return clips


def _boxes(path: Path, listed: list[Any], video: Video) -> np.ndarray:
    """[n, 4] px."""
    try:
        boxes = np.array(listed, np.float64)
    except (TypeError, ValueError):
        boxes = np.empty(0)
    if boxes.shape != (len(listed), 4) or not np.isfinite(boxes).all():
        raise ValueError(f"{path}: a bbox of {video} is not four finite numbers (x, y, width, height)")
    return boxes


def _camera(path: Path, cameras: dict[str, Any], number: int) -> dict[str, np.ndarray]:
    if str(number) not in cameras:
        raise ValueError(f"{path}: camera {number} is missing, has {', '.join(cameras) or 'none'}")
    found = {}
    for name, shape in (("R", (3, 3)), ("t", (3,)), ("f", (2,)), ("c", (2,))):
        try:
            found[name] = np.array(cameras[str(number)][name], np.float64).reshape(shape)
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"{path}: camera {number}: need {name} of the shape {list(shape)}") from None
        if not np.isfinite(found[name]).all():
            raise ValueError(f"{path}: camera {number}: {name} is not finite; copy it again")
    return found


def _joints(path: Path, joints: dict[str, Any], video: Video, frames: np.ndarray) -> np.ndarray:
    """[n, 17, 3] world."""
    by_frame = joints.get(str(video.action), {}).get(str(video.subaction), {})
    missing = [frame for frame in frames.tolist() if str(frame) not in by_frame]
    if missing:
        raise ValueError(
            f"{path}: frame {missing[0]} of action {video.action}, subaction {video.subaction} is missing, "
            f"as are {len(missing) - 1} more that data.json has: the files are of different versions"
        )
    try:
        found = np.array([by_frame[str(frame)] for frame in frames.tolist()], np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.shape != (len(frames), 17, 3):
        raise ValueError(
            f"{path}: action {video.action}, subaction {video.subaction}: need 17 x 3 numbers a frame"
        )
    bad = np.flatnonzero(~np.isfinite(found).all((1, 2)))
    if len(bad):
        raise ValueError(
            f"{path}: action {video.action}, subaction {video.subaction}, frame {frames[bad[0]]} has a joint "
            "that is no number; copy it again"
        )
    return found
