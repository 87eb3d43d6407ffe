"""Small Human3.6M trees on disk: the same known people in each of the layouts that users have.

The cameras stand as in Human3.6M, 4 to 5 m from the person, with its lens; pictures are a tenth as large.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

SIZE = (102, 100)  # (height, width) px
FOCAL, CENTER = np.array([114.5, 114.38]), np.array([51.25, 51.54])
LENS = np.array([-0.207, 0.248, -0.0031, -0.00142, -0.00098])  # k1, k2, k3, p1, p2
CAMERA_IDS = {1: "54138969", 2: "55011271", 3: "58860488", 4: "60457274"}
JOINT_IDS = (1, 2, 3, 4, 7, 8, 9, 13, 14, 15, 16, 18, 19, 20, 26, 27, 28)

# mm, standing at the room's origin, looking along y; in Human3.6M's order
BODY = np.array(
    [
        *((0, 0, 930), (130, 0, 930), (130, 30, 490), (130, 0, 50), (-130, 0, 930), (-130, 30, 490)),
        *((-130, 0, 50), (0, -20, 1170), (0, 0, 1430), (0, 60, 1520), (0, 20, 1640), (-160, 0, 1400)),
        *((-260, 0, 1130), (-300, 120, 900), (160, 0, 1400), (260, 0, 1130), (300, 120, 900)),
    ],
    np.float64,
)


class Person(NamedTuple):
    """One video."""

    video: tuple[int, int, int, int]  # subject, action, subaction, camera
    joints_world: np.ndarray  # [frames, 17, 3] mm
    R: np.ndarray  # [3, 3] world -> cam
    T: np.ndarray  # [3] mm, where the camera stands

    @property
    def name(self) -> str:
        return "s_{:02d}_act_{:02d}_subact_{:02d}_ca_{:02d}".format(*self.video)

    @property
    def joints_cam(self) -> np.ndarray:
        return (self.joints_world - self.T) @ self.R.T

    def image(self, frame: int) -> str:
        return f"{self.name}/{self.name}_{frame + 1:06d}.jpg"


def videos(
    subjects: Iterable[int] = (9, 11), actions: Iterable[int] = (7,)
) -> list[tuple[int, int, int, int]]:
    return [(s, a, u, c) for s in subjects for a in actions for u in (1, 2) for c in (1, 2, 3, 4)]


def people(of: Sequence[tuple[int, int, int, int]], frames: int) -> list[Person]:
    """The four cameras of a scene see the same person."""
    return [_person(video, frames) for video in of]


def _person(video: tuple[int, int, int, int], frames: int) -> Person:
    random = np.random.RandomState(video[:3])
    place = np.append(random.uniform(-400, 400, 2), 0.0)
    angles = random.uniform(0, 6) + np.cumsum(random.uniform(0, 0.1, frames))
    cos, sin = np.cos(angles), np.sin(angles)
    zero, one = np.zeros(frames), np.ones(frames)
    turn = np.array([[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]]).transpose(2, 0, 1)
    joints = BODY + random.uniform(-60, 60, (frames, 17, 3))
    subject, camera = video[0], video[3]
    angle = 0.4 + camera * np.pi / 2 + 0.02 * subject
    T = np.array([4600 * np.cos(angle), 4600 * np.sin(angle), 1500 + 20 * camera])
    forward = np.array([0, 0, 900]) - T
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    return Person(video, joints @ turn.swapaxes(1, 2) + place, R, T)


def project(joints_cam: np.ndarray) -> np.ndarray:
    """px, without the lens."""
    return joints_cam[..., :2] / joints_cam[..., 2:] * FOCAL + CENTER


def write_images(root: Path, names: Iterable[str]) -> None:
    """One small JPEG under all the names."""
    ramp = np.linspace(0, 255, SIZE[0] * SIZE[1] * 3).reshape(*SIZE, 3)
    first = root / "images" / "one.jpg"
    first.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(first), ramp.astype(np.uint8))
    for name in names:
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(first, path)
    first.unlink()


def _plain_images(root: Path, crowd: Sequence[Person]) -> None:
    write_images(root, (p.image(frame) for p in crowd for frame in range(len(p.joints_world))))


def _text(values: np.ndarray) -> str:
    return " ".join(f"{value:.17g}" for value in np.ravel(values))


def write_matlab_meta(
    root: Path, crowd: Sequence[Person], *, unit: float = 1.0, translation: bool = False
) -> None:
    """``unit`` in mm; ``translation``: t of R X + t where the camera's position belongs."""
    _plain_images(root, crowd)
    for person in crowd:
        T = -person.R @ person.T if translation else person.T
        every = np.full((len(person.joints_world), 32, 3), -999.0)
        every[:, np.array(JOINT_IDS) - 1] = person.joints_world / unit
        lines = [
            str(len(every)),
            f"image_size {SIZE[1]} {SIZE[0]}",
            f"R {_text(person.R.T)}",
            f"T {_text(T / unit)}",
            f"f {_text(FOCAL)}",
            f"c {_text(CENTER)}",
            f"k {_text(LENS[:3])}",
            f"p {_text(LENS[3:])}",
            f"jt_list {' '.join(map(str, JOINT_IDS))}",
            *(f"frame{i + 1} {_text(frame)} " for i, frame in enumerate(every)),
        ]
        path = root / "annot" / person.name / "matlab_meta.txt"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(lines) + "\n")


def write_json(root: Path, crowd: Sequence[Person], *, unit: float = 1.0, position: bool = False) -> None:
    """``position``: T of R (X - T) where t belongs, as that project's own tool writes."""
    _plain_images(root, crowd)
    folder = root / "annotations"
    folder.mkdir(parents=True)
    number = 0
    for subject in sorted({person.video[0] for person in crowd}):
        images, annotations = [], []
        cameras: dict[str, object] = {}
        joints: dict[str, dict[str, dict[str, object]]] = {}
        for person in (p for p in crowd if p.video[0] == subject):
            _, action, subaction, camera = person.video
            t = person.T if position else -person.R @ person.T
            cameras[str(camera)] = {
                "R": person.R.tolist(),
                "t": (t / unit).tolist(),
                "f": FOCAL.tolist(),
                "c": CENTER.tolist(),
            }
            of_action = joints.setdefault(str(action), {}).setdefault(str(subaction), {})
            joints_img = project(person.joints_cam)
            for frame, world in enumerate(person.joints_world):
                of_action[str(frame)] = (world / unit).tolist()
                low, high = joints_img[frame].min(0), joints_img[frame].max(0)
                size = high - low - 1
                images.append(
                    {
                        "id": number,
                        "file_name": person.image(frame),
                        "width": SIZE[1],
                        "height": SIZE[0],
                        "subject": subject,
                        "action_name": "any",
                        "action_idx": action,
                        "subaction_idx": subaction,
                        "cam_idx": camera,
                        "frame_idx": frame,
                    }
                )
                box = [*((low + high) / 2 - 0.6 * size), *(1.2 * size)]
                annotations.append(
                    {"id": number, "image_id": number, "bbox": box, "keypoints_vis": [True] * 17}
                )
                number += 1
        contents = {"data": {"images": images, "annotations": annotations}, "camera": cameras}
        for part, content in {**contents, "joint_3d": joints}.items():
            (folder / f"Human36M_subject{subject}_{part}.json").write_text(json.dumps(content))


# Names in Human3.6M's metadata of Posing (7), subactions 1 and 2
POSING = {
    1: ("_1", ""),
    5: ("_1", ""),
    6: ("_2", ""),
    7: ("_1", ""),
    8: ("_1", ""),
    9: ("_1", ""),
    11: ("_1", ""),
}


def write_mmpose(
    root: Path,
    crowd: Sequence[Person],
    *,
    fps: int = 50,
    part: str = "test",
    unit: float = 1000.0,
    world_to_cam: bool = False,
) -> None:
    """Of action 7 only. ``world_to_cam``: R and t of R X + t in cameras.pkl."""
    names, joints, parts = [], [], []
    cameras = {}
    for person in crowd:
        subject, action, subaction, camera = person.video
        assert action == 7
        base = f"S{subject}_Posing{POSING[subject][subaction - 1]}.{CAMERA_IDS[camera]}"
        for frame in range(0, len(person.joints_world), 50 // fps):
            names.append(f"S{subject}/{base}/{base}_{frame + 1:06d}.jpg")
            joints.append(person.joints_cam[frame] / unit)
            parts.append(project_through_lens(person.joints_cam[frame]))
        T = -person.R @ person.T if world_to_cam else person.T
        cameras[f"S{subject}", CAMERA_IDS[camera]] = {
            "R": person.R if world_to_cam else person.R.T,
            "T": T[:, None] / unit,
            "f": FOCAL[:, None],
            "c": CENTER[:, None],
            "k": LENS[:3, None],
            "p": LENS[3:, None],
            "w": SIZE[1],
            "h": SIZE[0],
            "name": f"camera{camera}",
            "id": CAMERA_IDS[camera],
        }
    write_images(root, names)
    folder = root / "annotation_body3d" / f"fps{fps}"
    folder.mkdir(parents=True)
    ones = np.ones((len(names), 17, 1))
    low, high = np.min(parts, axis=1), np.max(parts, axis=1)
    np.savez(
        folder / f"h36m_{part}.npz",
        imgname=np.array(names),
        center=(low + high) / 2,
        scale=1.2 * (high - low).max(1) / 200,
        part=np.concatenate([parts, ones], axis=2),
        S=np.concatenate([joints, ones], axis=2),
    )
    (folder.parent / "cameras.pkl").write_bytes(pickle.dumps(cameras))


def project_through_lens(joints_cam: np.ndarray) -> np.ndarray:
    """px, as Human3.6M's own code projects."""
    ray = joints_cam[..., :2] / joints_cam[..., 2:]
    r2 = (ray**2).sum(-1, keepdims=True)
    k1, k2, k3, *p = LENS
    swapped = np.array(p[::-1])
    ray = (
        ray * (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + (ray * swapped).sum(-1, keepdims=True)) + swapped * r2
    )
    return ray * FOCAL + CENTER


def write_cache(
    root: Path, crowd: Sequence[Person], split: str, frames: Sequence[int], kind: str = "db"
) -> Path:
    """Those frames, in that order, of each video."""
    _plain_images(root, crowd)
    rows = []
    for person in crowd:
        shoulders = person.joints_cam[:, [11, 14]].mean(1, keepdims=True)
        joints_cam = np.concatenate([person.joints_cam, shoulders], axis=1)
        for frame in frames:
            cam = joints_cam[frame]
            rows.append(
                {
                    "image": f"D:\\somebody\\data/hm36/images/{person.image(frame)}",
                    "center_x": 1.0,
                    "center_y": 2.0,
                    "width": 3.0,
                    "height": 4.0,
                    "flip_pairs": np.array([[1, 4]]),
                    "parent_ids": np.array([0, 0]),
                    "joints_3d": np.concatenate([project(cam), cam[:, 2:] - cam[0, 2]], axis=1),
                    "joints_3d_vis": np.ones((18, 3)),
                    "joints_3d_cam": cam,
                    "pelvis": cam[0],
                    "fl": FOCAL,
                    "c_p": CENTER,
                    "bone_len": np.float64(4000.0),
                }
            )
    folder = root / f"HM36_{split}_cache"
    folder.mkdir(exist_ok=True)
    path = folder / f"HM36_{split}_w256xh256_keypoint_{kind}_sample40.pkl"
    path.write_bytes(pickle.dumps(rows, 2))
    return path
