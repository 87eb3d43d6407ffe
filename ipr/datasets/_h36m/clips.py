"""Human3.6M as all layouts have it: videos by number, the frames of a split, and what is known of a video."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

_NAMES = (
    *("Directions", "Discussion", "Eating", "Greeting", "Phoning", "Posing", "Purchases", "Sitting"),
    *("SittingDown", "Smoking", "Photo", "Waiting", "Walking", "WalkDog", "WalkTogether"),
)
ACTIONS = dict(enumerate(_NAMES, start=2))
TRAIN_SUBJECTS, VALID_SUBJECTS = (1, 5, 6, 7, 8), (9, 11)


class Video(NamedTuple):
    """What one camera saw; ``str()`` is the name of its folder."""

    subject: int
    action: int  # 2..16
    subaction: int  # 1, 2
    camera: int  # 1..4

    def __str__(self) -> str:
        return "s_{:02d}_act_{:02d}_subact_{:02d}_ca_{:02d}".format(*self)


# Nobody has it: its film is missing in Human3.6M.
ABSENT = Video(11, 2, 2, 1)
# Labels that do not lie on the person, by subject, action and subaction:
# https://github.com/Jeff-sjtu/HybrIK leaves them out, as most projects since.
DAMAGED = ((9, 5, 2), (9, 10, 2), (9, 13, 1))


class Split(NamedTuple):
    subjects: tuple[int, ...]
    actions: tuple[int, ...] = tuple(ACTIONS)
    draw: int = 0  # so many frames of each video, at random
    step: int = 1  # without a draw: every step-th frame

    def videos(self) -> list[Video]:
        return [
            Video(subject, action, subaction, camera)
            for subject in self.subjects
            for action in self.actions
            for subaction in (1, 2)
            for camera in (1, 2, 3, 4)
        ]

    def pick(self, frames: np.ndarray, video: Video, seed: int) -> np.ndarray:
        """[n] places in ``frames`` (numbers from 0, ascending) of those that the split has, ascending.

        A draw depends on the seed, the video and the number of its frames alone, and not on numpy's version.
        """
        if not self.draw:
            return np.flatnonzero(frames % self.step == 0)
        words = np.array([seed & 0xFFFFFFFF, seed >> 32, *video], np.uint32)
        order = np.random.RandomState(words).permutation(len(frames))
        return np.sort(order[: self.draw])


# act_NN is an index into the actions: act_05 reads the videos named act_07.
SPLITS = {
    "train": Split(TRAIN_SUBJECTS, draw=200),
    "trainfull": Split(TRAIN_SUBJECTS),
    "trainsample2": Split(TRAIN_SUBJECTS, step=2),
    "trainsample10": Split(TRAIN_SUBJECTS, step=10),
    "valid": Split(VALID_SUBJECTS, draw=40),
    "validmin": Split(VALID_SUBJECTS, draw=10),
    "validfull": Split(VALID_SUBJECTS),
    "validsample2": Split(VALID_SUBJECTS, step=2),
    "validsample10": Split(VALID_SUBJECTS, step=10),
    **{f"act_{i:02d}": Split(VALID_SUBJECTS, (number,), draw=40) for i, number in enumerate(ACTIONS)},
}


class Request(NamedTuple):
    """What is asked of a layout."""

    root: Path
    name: str  # of the split
    seed: int
    boxes: str  # the rule, by which a cache is chosen

    @property
    def split(self) -> Split:
        return SPLITS[self.name]


class Clip(NamedTuple):
    """Some frames of one video. Lengths in mm, except before ``cameras.settle``."""

    video: Video
    frames: np.ndarray  # int [n] from 0
    joints: np.ndarray  # [n, 17, 3] cam; before ``cameras.settle`` world
    focal: np.ndarray  # [2] px
    center: np.ndarray  # [2] px
    R: np.ndarray  # [3, 3] world -> cam
    t: np.ndarray  # [3] of R X + t; before ``cameras.settle`` what the file has in its place
    distortion: np.ndarray | None  # [7]: see ``cameras.lens``
    size: tuple[int, int] | None  # (height, width) px of its images
    images: list[str]  # [n] paths
    boxes_xywh: np.ndarray | None = None  # [n, 4] px around the projected joints, where the files have it


def complete(found: Iterable[Video], wanted: list[Video], where: str) -> str:
    """Says what is rightly missing; ValueError where a video is missing that everybody should have."""
    have = set(found)
    missing = [video for video in wanted if video not in have]
    lost = [video for video in missing if video != ABSENT]
    if lost:
        subjects = {video.subject for video in have}
        without = sorted({video.subject for video in lost} - subjects)
        raise ValueError(
            f"{where}: {len(lost)} of the split's {len(wanted)} videos are missing, first {lost[0]}"
            + (f"; of subject {', '.join(map(str, without))} there is none" if without else "")
            + ": extract or copy them, or choose a split that needs less"
        )
    return f"{ABSENT} is not in it, as usual" if missing else ""
