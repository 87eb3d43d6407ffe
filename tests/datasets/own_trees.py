"""Writes people as ``own`` reads them, from any table with images in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ipr.types import Camera, PoseTable


def arrays(table: PoseTable) -> dict[str, Any]:
    """The file's content for a table: two people share the first image, all else have one of their own."""
    camera = table.camera or Camera(*[np.zeros(0)] * 4)
    number = np.maximum(np.arange(len(table)) - 1, 0)
    count = int(number.max()) + 1
    height, width = table.image.image_size(0)
    return {
        "skeleton": table.skeleton.name,
        "images": [f"images/{index:03d}.jpg" for index in range(count)],
        "image_width": np.full(count, width),
        "image_height": np.full(count, height),
        "image": number,
        "boxes_xywh": table.boxes_xywh,
        "joints_img": table.joints_img,
        "visible": (table.weight[..., 0] > 0).astype(int),
        "unit": "mm",
        "joints_cam": table.joints_cam,
        **{key: getattr(camera, key) for key in ("focal", "center", "R", "t")},
        "distortion": np.zeros((len(table), 5)),
        "subject": np.arange(len(table)) % 3,
        "action": (table.group or {})["action"],
    }


def write(
    root: Path, content: dict[str, Any], file: str = "train.json", size: tuple[int, int] = (120, 160)
) -> Path:
    """Gives the file; ``size`` (height, width) px of the pictures, which are noise."""
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(root, content["images"], size)
    if path.suffix == ".npz":
        np.savez(path, **content)
    else:
        lists = {key: it.tolist() if isinstance(it, np.ndarray) else it for key, it in content.items()}
        path.write_text(json.dumps(lists))
    return path


def draw(root: Path, names: list[str], size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / name), rng.integers(0, 256, (*size, 3), np.uint8))
