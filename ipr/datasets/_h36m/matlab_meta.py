"""The layout of the ECCV 2018 code: annot/<video>/matlab_meta.txt and images/<video>/<video>_000001.jpg.

The text: the number of frames; then, each after a word, image_size (width height), R (nine values, column by
column), T (mm, the camera's position), f, c, k, p, and the numbers of 17 joints, from 1, among the 32 of the
motion capture; then per frame a word and 32 x 3 world coordinates in mm.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ipr.datasets._h36m.cameras import lens, settle
from ipr.datasets._h36m.clips import Clip, Request, Video, complete

HOLDS = "annot/s_01_act_02_subact_01_ca_01/matlab_meta.txt ..."
_JOINTS = (1, 2, 3, 4, 7, 8, 9, 13, 14, 15, 16, 18, 19, 20, 26, 27, 28)
_HEADER = (("image_size", 2), ("R", 9), ("T", 3), ("f", 2), ("c", 2), ("k", 3), ("p", 2), ("jt_list", 17))
_NUMBERS = 96  # per frame


def present(root: Path) -> bool:
    folder = root / "annot"
    return folder.is_dir() and not any(folder.glob("*.json"))  # those are MPII's


def sources(request: Request) -> list[Path]:
    paths = [_path(request.root, video) for video in request.split.videos()]
    return [path for path in paths if path.is_file()]


def read(request: Request) -> tuple[list[Clip], str]:
    folder = request.root / "annot"
    found = sources(request)
    if not found and not any(folder.glob("s_*/matlab_meta.txt")):
        inside = sorted(path.name for path in folder.iterdir())
        raise ValueError(
            f"{folder}: has no <video>/matlab_meta.txt, but {', '.join(inside[:3]) or 'nothing'}: "
            "extract the annotations so that it has folders such as s_01_act_02_subact_01_ca_01"
        )
    videos = [video for video in request.split.videos() if _path(request.root, video) in set(found)]
    said = complete(videos, request.split.videos(), str(folder))
    clips = [
        _clip(request, video) for video in tqdm(videos, "Human3.6M, matlab_meta.txt", delay=2, leave=False)
    ]
    clips, convention = settle(clips, "R (X - T)", str(folder))
    return clips, "; ".join(filter(None, (convention, said)))


def _path(root: Path, video: Video) -> Path:
    return root / "annot" / str(video) / "matlab_meta.txt"


def _clip(request: Request, video: Video) -> Clip:
    path = _path(request.root, video)
    lines = path.read_bytes().splitlines()
    header = _header(path, lines)
    count = int(header["frames"][0])
    frames = np.arange(count)[request.split.pick(np.arange(count), video, request.seed)]
    lines = lines[1 + len(_HEADER) :]
    if len(lines) < count:
        raise ValueError(f"{path}: says {count} frames, has {len(lines)}: is cut short, copy it again")
    joints = _frames(path, lines, frames)
    width, height = header["image_size"]
    folder = request.root / "images" / str(video)
    return Clip(
        video=video,
        frames=frames,
        joints=joints,
        focal=header["f"],
        center=header["c"],
        R=header["R"].reshape(3, 3).T,
        t=header["T"],
        distortion=lens(header["k"], header["p"]),
        size=(int(height), int(width)),
        images=[f"{folder}/{video}_{frame + 1:06d}.jpg" for frame in frames.tolist()],
    )


def _header(path: Path, lines: list[bytes]) -> dict[str, np.ndarray]:
    if len(lines) < 1 + len(_HEADER):
        raise ValueError(f"{path}: has {len(lines)} lines, is cut short or no matlab_meta.txt; copy it again")
    values = {"frames": _floats(path, "line 1, the number of frames", lines[0], 1)}
    for index, (name, count) in enumerate(_HEADER):
        _, _, rest = lines[index + 1].strip().partition(b" ")
        values[name] = _floats(path, f"line {index + 2}, {name}", rest, count)
    if values["frames"][0] < 1:
        raise ValueError(f"{path}: has {values['frames'][0]:.0f} frames, need at least one; copy it again")
    if tuple(values["jt_list"]) != _JOINTS:
        raise ValueError(
            f"{path}: names the joints {values['jt_list'].astype(int).tolist()}: known are {list(_JOINTS)} "
            "(root, right leg, left leg, torso, neck, nose, head, left arm, right arm)"
        )
    return values


def _frames(path: Path, lines: list[bytes], frames: np.ndarray) -> np.ndarray:
    """[n, 17, 3] of those frames' lines."""
    text = b" ".join(lines[frame].partition(b" ")[2] for frame in frames.tolist())
    numbers = _floats(path, f"{len(frames)} frames", text, len(frames) * _NUMBERS, finite=False)
    joints = numbers.reshape(-1, _NUMBERS // 3, 3)[:, np.array(_JOINTS) - 1]
    bad = np.flatnonzero(~np.isfinite(joints).all((1, 2)))
    if len(bad):
        raise ValueError(f"{path}: frame {frames[bad[0]] + 1} has a joint that is no number; copy it again")
    return joints


def _floats(path: Path, what: str, text: bytes, count: int, finite: bool = True) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # text that is no number
        try:
            values = np.fromstring(text, sep=" ")
        except (DeprecationWarning, ValueError):
            values = np.empty(0)
    if len(values) != count or (finite and not np.isfinite(values).all()):
        raise ValueError(
            f"{path}: {what}: need {count} numbers, got {text[:60].decode('latin1')!r}"
            f"{'...' if len(text) > 60 else ''}; the file is damaged or cut short, copy it again"
        )
    return values
