"""How the ECCV 2018 code makes a training batch and a loss of it, written from its published description."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bench.integral_peers import original
from ipr.config import RunConfig
from ipr.geometry import crop_affine, crop_box
from ipr.images import FileImages
from ipr.model import Network
from ipr.types import Pixels, PoseTable, Region

Sample = tuple[np.ndarray, np.ndarray, np.ndarray]


class Draw(NamedTuple):
    """Random numbers of one sample."""

    scale: float
    rotation_deg: float
    flip: bool
    color: np.ndarray  # [3] factor of R, G, B


class Rows(Dataset[Sample]):
    """One person per item: patch [3, h, w], joints_norm [J, 3] and weight [J, 3], float32."""

    def __init__(self, table: PoseTable, run: RunConfig) -> None:
        self.table, self.run = table, run
        self.crops = crop_box(table.boxes_xywh, table.box_rule, run.patch.width / run.patch.height)
        self.random = np.random.default_rng(run.seed)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, row: int) -> Sample:
        return self.warped(row, self.picture(row), self.draw())

    def picture(self, row: int) -> Pixels:
        """The whole picture, or all that a cache has of it, in BGR."""
        image = self.table.image
        if isinstance(image, FileImages):
            data = cv2.imread(image.name(row), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            assert data is not None
            return Pixels(data, (0.0, 0.0), 1.0)
        height, width = image.image_size(row)
        pixels = image.read(row, Region(0, 0, width, height), 1.0)
        return pixels._replace(data=np.ascontiguousarray(pixels.data[:, :, ::-1]))

    def draw(self) -> Draw:
        rule, random = self.run.augment, self.random
        scale = 1 + rule.scale * float(np.clip(random.standard_normal(), -1, 1))
        rotation = 0.0
        if random.random() <= rule.rotation_probability:
            rotation = rule.rotation * float(np.clip(random.standard_normal(), -2, 2))
        flip = bool(random.random() <= rule.flip)
        return Draw(scale, rotation, flip, random.uniform(1 - rule.color, 1 + rule.color, 3))

    def warped(self, row: int, picture: Pixels, drawn: Draw) -> Sample:
        """Copy, mirror the picture, warp, then channel by channel and joint by joint in numpy."""
        patch, skeleton = self.run.patch, self.table.skeleton
        scale, rotation, flip, color = drawn
        origin, zoom = np.array(picture.origin), picture.scale
        image, width = picture.data.copy(), picture.data.shape[1]
        x, y = (self.crops[row, :2] - origin) * zoom
        if flip:
            image = image[:, ::-1, :]
            x = width - x - 1
        crop = np.array([x, y, *(self.crops[row, 2:] * zoom)])
        affine = crop_affine(crop, patch.size, scale=scale, rotation_deg=rotation)
        warped = cv2.warpAffine(np.ascontiguousarray(image), affine, patch.size[::-1], flags=cv2.INTER_LINEAR)
        planes = np.transpose(warped[:, :, ::-1].copy(), (2, 0, 1)).astype(np.float32)
        for channel in range(3):
            planes[channel] = np.clip(planes[channel] * color[channel], 0, 255)
            planes[channel] = (planes[channel] - patch.mean[channel]) / patch.std[channel]

        joints = np.zeros((skeleton.num_joints, 3))
        weight = self.table.weight[row].astype(np.float32)
        joints[:, :2] = (self.table.joints_img[row] - origin) * zoom
        joints[:, 2] = self.table.depth[row] / (self.run.depth.extent_mm * scale)
        if flip:
            joints[:, 0] = width - joints[:, 0] - 1
            for left, right in skeleton.flip_pairs:
                joints[[left, right]] = joints[[right, left]]
                weight[[left, right]] = weight[[right, left]]
        for joint in joints:
            joint[:2] = affine @ np.array([joint[0], joint[1], 1.0])
            joint[:2] = joint[0] / patch.width - 0.5, joint[1] / patch.height - 0.5
        return planes, joints.astype(np.float32), weight


def loss(network: Network, patches: Tensor, joints_norm: Tensor, weight: Tensor) -> Tensor:
    """The convolution's volumes in memory, their softmax and its sums, weighted L1."""
    logits = network.head.features(network.backbone(patches))  # type: ignore[operator]
    volumes = logits.unflatten(1, (joints_norm.shape[1], -1))
    cells = torch.tensor(volumes.shape[:1:-1], dtype=logits.dtype, device=logits.device)  # W, H, D
    predicted = original(volumes) / cells - 0.5
    return ((predicted - joints_norm).abs() * weight).sum() / len(weight)
