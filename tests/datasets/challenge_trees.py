"""Writes folders as those of CHALL_H80K, small, of made-up people."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ipr.skeleton import by_name
from tests.data import random_images

SIZE = (96, 128)  # px, height and width of the images


class Made(NamedTuple):
    """What a subset was made of. The predictions are a similarity of the poses, exact where seen."""

    joints_cam: np.ndarray  # [N, 17, 3] mm from the root, as the csv's two decimals say
    px_per_mm: np.ndarray  # [N]
    joints_img: np.ndarray  # [N, 18, 2] px, all of them exact
    seen: np.ndarray  # [N, 18] elsewhere the written prediction is far off
    detections: np.ndarray  # [N, 5] x1, y1, x2, y2 px, score


def make(count: int, seed: int = 0) -> Made:
    rng = np.random.default_rng(seed)
    joints_cam = rng.uniform(-600, 600, (count, 17, 3)).round(2)
    joints_cam[:, 0] = 0
    h36m = by_name("h36m_18").joints
    thorax = joints_cam[:, [h36m.index("left_shoulder"), h36m.index("right_shoulder")]].mean(1, keepdims=True)
    px_per_mm, turn = rng.uniform(0.04, 0.06, count), rng.uniform(-0.3, 0.3, count)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]).transpose(2, 0, 1)
    flat = np.concatenate([joints_cam, thorax], axis=1)[..., :2]
    joints_img = flat @ rotation * px_per_mm[:, None, None] + rng.uniform(45, 55, (count, 1, 2))
    seen = rng.random((count, 18)) < 0.7
    seen[:, :3] = True
    low, high = joints_img.min(1), joints_img.max(1)
    detections = np.concatenate([low - 3, high + 2, rng.uniform(0.5, 1, (count, 1))], axis=1)
    return Made(joints_cam, px_per_mm, joints_img, seen, detections)


def write(root: Path, subset: str, made: Made, *, predictions: str = "pkl", detector: str = "") -> Path:
    """Gives the subset's folder. ``predictions``: "pkl", "json" or "" for none; Test gets no poses."""
    folder = root / subset
    for name in (
        "IMG",
        *(["POSE"] if subset != "Test" else []),
        *([f"detection/{detector}"] if detector else []),
    ):
        (folder / name).mkdir(parents=True)
    pictures = random_images(len(made.seen), SIZE, seed=3)
    for row, picture in enumerate(pictures):
        name = f"{row + 1:05d}"
        cv2.imwrite(str(folder / "IMG" / f"{name}.jpg"), picture)
        if subset != "Test":
            lines = [",".join(f"{value:.2f}" for value in joint) for joint in made.joints_cam[row]]
            (folder / "POSE" / f"{name}.csv").write_text("\n".join(lines) + "\n")
        if detector:
            detection = pickle.dumps([made.detections[row]], protocol=2)
            (folder / "detection" / detector / f"{name}.pkl").write_bytes(detection)
    entries = [
        {
            "kpts": np.column_stack([np.where(seen[:, None], joints_img, 1000.0), np.full(18, 0.5)]),
            "vis": np.column_stack([seen, seen, np.zeros(18)]).astype(float),
        }
        for joints_img, seen in zip(made.joints_img, made.seen, strict=True)
    ]
    file = folder / f"HM36_eccv_challenge_{subset}_{len(entries)}samples_img_res.{predictions}"
    if predictions == "pkl":
        file.write_bytes(pickle.dumps(entries, protocol=2))
    elif predictions == "json":
        lists = [{key: array.tolist() for key, array in entry.items()} for entry in entries]
        file.write_text(json.dumps(lists))
    return folder
