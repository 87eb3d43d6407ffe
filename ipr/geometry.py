"""world <-> cam <-> img <-> patch <-> norm: the one place of pixel and depth conventions.

Pixels are corner-index (the first pixel's centre is 0), a crop's centre meets half the patch's size, and the
mirror is about width - 1. Functions take and return float64 numpy arrays, except ``img_to_norm`` and
``norm_to_img``, which take tensors.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ipr.types import BoxRule, Camera, DepthRule, Region


def good_boxes(boxes_xywh: np.ndarray) -> np.ndarray:
    """[N] which of the raw boxes [N, 4] have finite numbers and a positive size."""
    return np.isfinite(boxes_xywh).all(1) & (boxes_xywh[:, 2:] > 0).all(1)


def crop_box(boxes_xywh: np.ndarray, rule: BoxRule, aspect: float) -> np.ndarray:
    """Raw boxes [N, 4] px -> crops [N, 4] (cx, cy, width, height) px of ``aspect`` = width / height."""
    boxes = np.asarray(boxes_xywh, np.float64).reshape(-1, 4)
    bad = np.flatnonzero(~good_boxes(boxes))
    if len(bad):
        raise ValueError(
            f"box of row {bad[0]} is {boxes[bad[0]].tolist()} (x, y, width, height): "
            "need finite numbers and a positive size"
            + (f"; so are {len(bad) - 1} more rows" if len(bad) > 1 else "")
        )
    x, y, width, height = boxes.T
    center = x + width / 2, y + height / 2
    if rule.fit == "grow":
        width, height = np.maximum(width, height * aspect), np.maximum(height, width / aspect)
    elif rule.fit == "square":
        width, height = width * max(1.0, aspect), height * max(1.0, 1 / aspect)
    elif rule.fit == "height":
        width = height * aspect
    else:
        raise ValueError(f"box rule fit {rule.fit!r}: known are 'grow', 'square' and 'height'")
    return np.stack([*center, width * rule.pad, height * rule.pad], axis=1)


def crop_affine(
    crop_cxcywh: np.ndarray,
    size: tuple[int, int],
    *,
    scale: float = 1.0,
    rotation_deg: float = 0.0,
    flip: bool = False,
) -> np.ndarray:
    """[2, 3] map img -> patch of one crop; ``size`` is the patch's (height, width) px.

    The image is mirrored first, then the crop enlarged by ``scale`` and turned by ``rotation_deg``, clockwise
    as seen in the image. The mirror is about width - 1 for pixels and crop centre alike, so the image's width
    cancels out.
    """
    cx, cy, width, height = (float(value) for value in crop_cxcywh)
    angle = math.radians(rotation_deg)
    step_x, step_y = width * scale / size[1], height * scale / size[0]  # image px per patch px
    mirror = -1.0 if flip else 1.0
    patch_to_img = np.array(
        [
            [mirror * math.cos(angle) * step_x, -mirror * math.sin(angle) * step_y],
            [math.sin(angle) * step_x, math.cos(angle) * step_y],
        ]
    )
    linear = np.linalg.inv(patch_to_img)
    shift = np.array([size[1] / 2, size[0] / 2]) - linear @ np.array([cx, cy])
    return np.concatenate([linear, shift[:, None]], axis=1)


def invert_affine(affine: np.ndarray) -> np.ndarray:
    """The inverse map of each affine [..., 2, 3]."""
    linear = np.linalg.inv(affine[..., :2])
    return np.concatenate([linear, -linear @ affine[..., 2:]], axis=-1)


def apply_affine(affine: Any, points: Any) -> Any:
    """Affines [..., 2, 3] on points [..., P, 2]; arrays or tensors."""
    return points @ affine[..., :2].swapaxes(-1, -2) + affine[..., None, :, 2]


def depth_scale(rule: DepthRule, crop_width: float, scale: float = 1.0) -> float:
    """Norm units per unit of depth (mm for rect3d, image px for box) of a crop enlarged by ``scale``."""
    if rule.name == "rect3d":
        return 1.0 / (rule.extent_mm * scale)
    if rule.name == "box":
        return 1.0 / (crop_width * scale)
    raise ValueError(f"depth rule {rule.name!r}: known are 'rect3d' and 'box'")


def clip_region(low: np.ndarray, high: np.ndarray, image_size: tuple[int, int], margin: int) -> Region:
    """Whole pixels of the image around ``low`` .. ``high`` [2] (x, y) and up to ``margin`` px more.

    ValueError where the rectangle has no pixel of the image.
    """
    limit = np.array([image_size[1] - 1, image_size[0] - 1])
    if (high <= -1).any() or (low >= limit + 1).any():
        raise ValueError(
            f"the crop x {low[0]:.1f}..{high[0]:.1f}, y {low[1]:.1f}..{high[1]:.1f} lies outside the image "
            f"of {image_size[1]} x {image_size[0]} px (width x height)"
        )
    x0, y0 = (int(v) for v in np.clip(np.floor(low) - margin, 0, limit))
    x1, y1 = (int(v) for v in np.clip(np.ceil(high) + margin, 0, limit))
    return Region(x0, y0, x1 - x0 + 1, y1 - y0 + 1)


def world_to_cam(joints_world: np.ndarray, camera: Camera) -> np.ndarray:
    """[..., J, 3] mm -> [..., J, 3] mm; the camera's fields broadcast over the leading dimensions."""
    return joints_world @ np.swapaxes(camera.R, -1, -2) + camera.t[..., None, :]


def cam_to_world(joints_cam: np.ndarray, camera: Camera) -> np.ndarray:
    """[..., J, 3] mm -> [..., J, 3] mm."""
    return (joints_cam - camera.t[..., None, :]) @ camera.R


def cam_to_img(joints_cam: np.ndarray, camera: Camera) -> np.ndarray:
    """[..., J, 3] mm -> [..., J, 2] px."""
    ray = joints_cam[..., :2] / joints_cam[..., 2:]
    if camera.distortion is not None:
        ray = _distort(ray, camera.distortion)
    return ray * camera.focal[..., None, :] + camera.center[..., None, :]


def img_to_cam(joints_img: np.ndarray, depth_abs_mm: np.ndarray, camera: Camera) -> np.ndarray:
    """[..., J, 2] px at the depths [..., J] mm from the camera -> [..., J, 3] mm."""
    distorted = (joints_img - camera.center[..., None, :]) / camera.focal[..., None, :]
    ray = distorted
    if camera.distortion is not None:
        for _ in range(20):  # fixed point; converges by a factor of ten or so a step for real lenses
            ray = ray + distorted - _distort(ray, camera.distortion)
    return np.concatenate([ray, np.ones_like(ray[..., :1])], axis=-1) * depth_abs_mm[..., None]


def _distort(ray: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    """Brown's model on normalised rays [..., J, 2] with (k1, k2, k3, p1, p2) [..., 5], or s1, s3 more."""
    k1, k2, k3, p1, p2 = (distortion[..., None, i : i + 1] for i in range(5))
    r2 = (ray * ray).sum(-1, keepdims=True)
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    x, y = ray[..., :1], ray[..., 1:]
    tangential = np.concatenate(
        [2 * p1 * x * y + p2 * (r2 + 2 * x * x), p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], axis=-1
    )
    prism = distortion[..., None, 5:] * r2 if distortion.shape[-1] > 5 else 0.0
    return ray * radial + tangential + prism


def img_to_norm(
    joints_img: Tensor, depth: Tensor, img_to_patch: Tensor, depth_scale: Tensor, size: tuple[int, int]
) -> Tensor:
    """joints_img [B, J, 2] px and depth [B, J] -> joints_norm [B, J, 3].

    img_to_patch [B, 2, 3], depth_scale [B] norm per unit of depth; ``size`` the patch's (height, width) px.
    """
    extent = joints_img.new_tensor([size[1], size[0]])
    joints_patch = apply_affine(img_to_patch, joints_img)
    return torch.cat([joints_patch / extent - 0.5, (depth * depth_scale[:, None])[..., None]], dim=-1)


def norm_to_img(
    joints_norm: Tensor, img_to_patch: Tensor, depth_scale: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`img_to_norm`: joints_img [B, J, 2] px, depth [B, J] in the depth rule's unit."""
    extent = joints_norm.new_tensor([size[1], size[0]])
    joints_patch = (joints_norm[..., :2] + 0.5) * extent
    patch_to_img = torch.linalg.inv(img_to_patch[..., :2])
    joints_img = (joints_patch - img_to_patch[:, None, :, 2]) @ patch_to_img.mT
    return joints_img, joints_norm[..., 2] / depth_scale[:, None]
