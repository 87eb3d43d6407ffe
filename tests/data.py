"""A small table of made-up people, with everything known about them, and images to warp."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from ipr.config import AugmentConfig
from ipr.datasets import synthetic
from ipr.geometry import cam_to_img
from ipr.images import FileImages
from ipr.skeleton import by_name
from ipr.types import Batch, BoxRule, Camera, Pixels, PoseTable, Region

# The original's augmentation, which turns and scales more than the embedded run's
AUGMENT = AugmentConfig(scale=0.25, rotation=30.0, rotation_probability=0.6, flip=0.5, color=0.2)


class ArrayImages:
    """An ImageSource over images in memory: exactly the region, at full resolution."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images  # uint8 [N, h, w, 3]

    def image_size(self, row: int) -> tuple[int, int]:
        return self.images.shape[1], self.images.shape[2]

    def read(self, row: int, region: Region, scale: float) -> Pixels:
        x0, y0, width, height = region
        assert (
            x0 >= 0 and y0 >= 0 and x0 + width <= self.images.shape[2] and y0 + height <= self.images.shape[1]
        )
        assert 0 < scale <= 1
        return Pixels(self.images[row, y0 : y0 + height, x0 : x0 + width], (float(x0), float(y0)), 1.0)

    def name(self, row: int) -> str:
        return f"picture {row}"

    def fingerprint(self, rows: range | None = None) -> str:
        images = self.images if rows is None else self.images[rows.start : rows.stop]
        return f"{images.shape} {int(images.astype(np.int64).sum())}"


def tensors(batch: Batch) -> list[Tensor]:
    """All of a batch, those of the records inside it too."""
    parts = (part if isinstance(part, tuple) else (part,) for part in batch)
    return [tensor for part in parts for tensor in part if isinstance(tensor, Tensor)]


def random_images(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """uint8 [count, h, w, 3]: coloured 8 x 8 px blocks under fine noise."""
    rng = np.random.default_rng(seed)
    height, width = size
    blocks = rng.integers(0, 256, (count, -(-height // 8), -(-width // 8), 3))
    image = blocks.repeat(8, 1).repeat(8, 2)[:, :height, :width] + rng.integers(
        -20, 21, (count, height, width, 3)
    )
    return image.clip(0, 255).astype(np.uint8)


def random_table(
    count: int = 12,
    size: tuple[int, int] = (120, 160),
    seed: int = 0,
    skeleton: str = "h36m_18",
    depth_unit: str = "mm",
    images: np.ndarray | None = None,
) -> PoseTable:
    """Random joints within 600 mm of roots 4 to 5 m away; with ``depth_unit="px"``, depth in image px."""
    rng = np.random.default_rng(seed)
    joints = by_name(skeleton)
    height, width = size
    root = np.stack(
        [rng.uniform(-300, 300, count), rng.uniform(-300, 300, count), rng.uniform(4000, 5000, count)], 1
    )
    joints_cam = root[:, None] + rng.uniform(-600, 600, (count, joints.num_joints, 3))
    joints_cam[:, joints.root] = root
    camera = Camera(
        focal=np.full((count, 2), 1.1 * height) + rng.uniform(0, 5, (count, 2)),
        center=np.tile([width / 2, height / 2], (count, 1)) + rng.uniform(-3, 3, (count, 2)),
        R=np.tile(np.eye(3), (count, 1, 1)),
        t=np.zeros((count, 3)),
    )
    joints_img = cam_to_img(joints_cam, camera)
    low, high = joints_img.min(1), joints_img.max(1)
    depth = joints_cam[..., 2] - root[:, None, 2]
    if depth_unit == "px":
        depth = depth * (camera.focal[:, 0] / root[:, 2])[:, None]
    return PoseTable(
        skeleton=joints,
        image=ArrayImages(random_images(count, size, seed) if images is None else images),
        boxes_xywh=np.concatenate([low, high - low], 1),
        box_rule=BoxRule(),
        joints_img=joints_img,
        depth=depth,
        depth_unit=depth_unit,
        weight=np.ones((count, joints.num_joints, 3)),
        joints_cam=joints_cam,
        camera=camera,
        root_depth=root[:, 2],
        group={"action": np.array(["walk", "sit"])[np.arange(count) % 2]},
    )


def people(count: int = 60) -> PoseTable:
    """Procedural people, whose bodies are as people's are."""
    return synthetic.Config(count=count).build()


def write_images(folder: Path, table: PoseTable) -> FileImages:
    """An image of 1000 x 1000 px per row, each of its own colour, as JPEG files in ``folder``."""
    folder.mkdir(parents=True)
    paths = [folder / f"{row:04d}.jpg" for row in range(len(table))]
    for row, path in enumerate(paths):
        height, width = table.image.image_size(row)
        cv2.imwrite(str(path), np.full((height, width, 3), [row % 25 * 10, row // 25 * 10, 99], np.uint8))
    return FileImages(paths)
