"""From what the network says to poses in pixels and millimetres."""

from __future__ import annotations

import numpy as np
import torch

from ipr.geometry import img_to_cam, norm_to_img
from ipr.types import Camera, NetworkOutput, Poses, Skeleton

# The bone-length rule shows no person smaller in the image plane than this share of the skeleton's length.
_LEAST_IN_PLANE = 0.25


def decode(
    output: NetworkOutput,
    img_to_patch: torch.Tensor,
    depth_scale: torch.Tensor,
    size: tuple[int, int],
    skeleton: Skeleton,
    *,
    camera: Camera | None = None,
    root_depth: np.ndarray | None = None,
    mean_bone_length_mm: float | None = None,
    depth_unit: str = "mm",
) -> Poses:
    """Poses of B people, in float64.

    With ``camera`` (fields [B, ...]) and ``root_depth`` [B] mm, joints are lifted along their rays and
    ``joints_cam`` is known. Otherwise a weak perspective camera takes the scale at which the skeleton's bones
    have the total length ``mean_bone_length_mm``. img_to_patch [B, 2, 3], depth_scale [B] norm per
    ``depth_unit`` ("mm", or "px" of the image), ``size`` the patch's (height, width) px.
    """
    if output.joints_norm.shape[1:] != (skeleton.num_joints, 3):
        raise ValueError(
            f"the network's joints are {list(output.joints_norm.shape)}, "
            f"need [B, {skeleton.num_joints}, 3] for {skeleton.name}"
        )
    if depth_unit not in ("mm", "px"):
        raise ValueError(f"depth unit {depth_unit!r}: known are 'mm' and 'px'")
    maps, scales = img_to_patch.detach().double().cpu(), depth_scale.detach().double().cpu()
    joints_norm = output.joints_norm.detach().double().cpu()
    joints_img, depth = (tensor.numpy() for tensor in norm_to_img(joints_norm, maps, scales, size))

    joints_cam = None
    if camera is not None and root_depth is not None:
        scale_source = "intrinsics"
        # Depth in pixels is measured at the root's distance, where so many mm are one px.
        mm_per_depth = np.ones_like(root_depth) if depth_unit == "mm" else root_depth / camera.focal[:, 0]
        joints_cam = img_to_cam(joints_img, root_depth[:, None] + depth * mm_per_depth[:, None], camera)
        joints_rel = joints_cam - joints_cam[:, [skeleton.root]]
    elif mean_bone_length_mm is not None:
        scale_source = "bone_length"
        rooted = np.concatenate([joints_img, depth[..., None]], axis=-1)
        rooted = rooted - rooted[:, [skeleton.root]]
        mm_per_px, mm_per_depth = _bone_length_scales(rooted, skeleton, mean_bone_length_mm, depth_unit)
        joints_rel = rooted * np.stack([mm_per_px, mm_per_px, mm_per_depth], axis=-1)[:, None]
    else:
        raise ValueError("millimetres need a camera and the root's depth, or the mean bone length")

    num_people, num_joints = depth.shape
    sigma = np.full((num_people, num_joints, 3), np.nan)
    if output.sigma_norm is not None:
        sigma = _sigma(output.sigma_norm.detach().double().cpu(), maps, scales, size).numpy()
        sigma[..., 2] *= mm_per_depth[:, None]
    score = np.full((num_people, num_joints), np.nan)
    if output.score is not None:
        score = output.score.detach().double().cpu().numpy()
    margin = 0.5 - joints_norm.abs().amax(2).numpy()
    return Poses(
        joints_img, joints_rel, joints_cam, sigma, score, np.arange(num_people), scale_source, margin
    )


def _sigma(
    sigma_norm: torch.Tensor, maps: torch.Tensor, scales: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """[B, J, 3] standard deviations, norm -> px, px and the depth's unit; a joint's axes are independent."""
    variance_patch = (sigma_norm[..., :2] * sigma_norm.new_tensor([size[1], size[0]])) ** 2
    variance_img = variance_patch @ (torch.linalg.inv(maps[..., :2]) ** 2).mT
    return torch.cat([variance_img.sqrt(), sigma_norm[..., 2:] / scales[:, None, None]], dim=-1)


def _bone_length_scales(
    rooted: np.ndarray, skeleton: Skeleton, total_mm: float, depth_unit: str
) -> tuple[np.ndarray, np.ndarray]:
    """(mm per px, mm per unit of depth) [N] that make the bones of [N, J, 3] ``total_mm`` long."""
    bones = rooted - rooted[:, list(skeleton.parents)]
    if depth_unit == "px":
        scale = total_mm / np.linalg.norm(bones, axis=-1).sum(1)
        return scale, scale
    # Depth is in mm already; Newton from above finds the scale of x and y. The length is convex in it, so no
    # step overshoots, except where depth alone is longer than the skeleton: there the bound below holds.
    plane, depth = np.linalg.norm(bones[..., :2], axis=-1), bones[..., 2]
    highest = total_mm / plane.sum(1)
    scale = highest.copy()
    for _ in range(30):
        lengths = np.hypot(plane * scale[:, None], depth)
        slope = (plane**2 * scale[:, None] / np.maximum(lengths, 1e-12)).sum(1)
        scale = np.clip(scale - (lengths.sum(1) - total_mm) / slope, _LEAST_IN_PLANE * highest, highest)
    return scale, np.ones_like(scale)
