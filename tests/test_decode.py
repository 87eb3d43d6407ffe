"""Decoding: back to pixels, lifting with a camera, and the bone-length rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ipr.decode import decode
from ipr.geometry import crop_affine, crop_box, depth_scale, img_to_norm
from ipr.skeleton import by_name
from ipr.types import DepthRule, NetworkOutput, PoseTable
from tests.conftest import Tolerance
from tests.data import random_table

GOLDEN = Path(__file__).parent / "golden"
SIZE = (96, 72)
RULES = {"mm": DepthRule("rect3d", 2000.0), "px": DepthRule("box")}


def _perfect(table: PoseTable) -> tuple[NetworkOutput, torch.Tensor, torch.Tensor]:
    """What a perfect network says of the table, its maps [N, 2, 3] and depth scales [N]."""
    crops = crop_box(table.boxes_xywh, table.box_rule, SIZE[1] / SIZE[0])
    maps = torch.from_numpy(np.stack([crop_affine(crop, SIZE, rotation_deg=10) for crop in crops]))
    scales = torch.tensor(
        [depth_scale(RULES[table.depth_unit], crop[2]) for crop in crops], dtype=torch.float64
    )
    norm = img_to_norm(torch.from_numpy(table.joints_img), torch.from_numpy(table.depth), maps, scales, SIZE)
    return NetworkOutput(norm, None, None), maps, scales


def _bone_length(joints_rel: np.ndarray, parents: tuple[int, ...]) -> np.ndarray:
    return np.linalg.norm(joints_rel - joints_rel[:, list(parents)], axis=-1).sum(1)


def test_a_perfect_network_decodes_to_the_truth() -> None:
    table = random_table(9)
    assert table.joints_cam is not None and table.root_depth is not None
    output, maps, scales = _perfect(table)
    poses = decode(
        output, maps, scales, SIZE, table.skeleton, camera=table.camera, root_depth=table.root_depth
    )
    assert poses.scale_source == "intrinsics" and poses.joints_cam is not None
    np.testing.assert_allclose(poses.joints_img, table.joints_img, rtol=0, atol=1e-8)
    np.testing.assert_allclose(poses.joints_cam, table.joints_cam, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        poses.joints_rel, table.joints_cam - table.joints_cam[:, :1], rtol=0, atol=1e-6
    )
    np.testing.assert_array_equal(poses.box_index, np.arange(9))
    assert np.isnan(poses.sigma).all() and np.isnan(poses.score).all()
    assert poses.sigma.shape == (9, 18, 3) and poses.score.shape == (9, 18)


def test_depth_in_pixels_becomes_mm_at_the_roots_distance() -> None:
    table = random_table(9, depth_unit="px")
    assert table.joints_cam is not None and table.root_depth is not None
    output, maps, scales = _perfect(table)
    poses = decode(
        output,
        maps,
        scales,
        SIZE,
        table.skeleton,
        camera=table.camera,
        root_depth=table.root_depth,
        depth_unit="px",
    )
    np.testing.assert_allclose(
        poses.joints_rel, table.joints_cam - table.joints_cam[:, :1], rtol=0, atol=1e-6
    )


def test_bone_length_rule_is_the_original(tolerance: Tolerance) -> None:
    golden = np.load(GOLDEN / "flip" / "rescale_pose.npz")
    preds = golden["preds"]  # patch px and score
    size = (256, 256)
    norm = preds[..., :3] / 256 - np.array([0.5, 0.5, 0])
    # A crop of twice the patch: depth in its pixels and the plane's pixels scale alike, as in the patch.
    maps = torch.from_numpy(crop_affine(np.array([300.0, 200.0, 512.0, 512.0]), size)).expand(
        len(preds), 2, 3
    )
    poses = decode(
        NetworkOutput(torch.from_numpy(norm), None, None),
        maps,
        torch.full((len(preds),), 1 / 512),
        size,
        by_name("h36m_18"),
        mean_bone_length_mm=float(golden["target"]),
        depth_unit="px",
    )
    assert poses.scale_source == "bone_length" and poses.joints_cam is None
    np.testing.assert_allclose(poses.joints_rel, golden["out_from_3cols"], rtol=0, atol=tolerance.crop_px)


def test_bone_length_rule_keeps_depth_in_mm() -> None:
    table = random_table(9)
    output, maps, scales = _perfect(table)
    poses = decode(output, maps, scales, SIZE, table.skeleton, mean_bone_length_mm=16000.0)
    np.testing.assert_allclose(_bone_length(poses.joints_rel, table.skeleton.parents), 16000.0, rtol=1e-9)
    np.testing.assert_allclose(poses.joints_rel[..., 2], table.depth, rtol=0, atol=1e-8)
    plane, img = poses.joints_rel[..., :2], table.joints_img - table.joints_img[:, :1]
    ratio = plane[:, 1:] / img[:, 1:]
    np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1, :1], ratio.shape), rtol=1e-6)


def test_bone_length_rule_where_depth_alone_is_too_long() -> None:
    table = random_table(9)
    output, maps, scales = _perfect(table)
    assert (np.abs(table.depth - table.depth[:, list(table.skeleton.parents)]).sum(1) > 2000).all()
    poses = decode(output, maps, scales, SIZE, table.skeleton, mean_bone_length_mm=2000.0)
    flat = poses.joints_rel * [1, 1, 0]
    np.testing.assert_allclose(
        _bone_length(flat, table.skeleton.parents), 500.0
    )  # a quarter lies in the plane


def test_sigma_and_score() -> None:
    table = random_table(3)
    output, maps, scales = _perfect(table)
    maps = torch.from_numpy(crop_affine(np.array([80.0, 60.0, 144.0, 192.0]), SIZE)).expand(3, 2, 3)
    sigma, score = torch.full((3, 18, 3), 0.01), torch.rand(3, 18)
    poses = decode(
        output._replace(sigma_norm=sigma, score=score),
        maps,
        scales,
        SIZE,
        table.skeleton,
        camera=table.camera,
        root_depth=table.root_depth,
    )
    np.testing.assert_allclose(poses.sigma, np.broadcast_to([1.44, 1.92, 20.0], (3, 18, 3)), rtol=1e-6)
    np.testing.assert_array_equal(poses.score, score.double().numpy())


def test_margin_is_the_distance_from_the_nearest_side() -> None:
    table = random_table(1)
    output, maps, scales = _perfect(table)
    norm = torch.zeros(1, 18, 3)
    norm[0, 1], norm[0, 2], norm[0, 3] = (
        torch.tensor(at) for at in ([-0.4, 0.3, 0.0], [0.1, 0.0, 0.45], [0.0, 0.75, 0.1])
    )
    poses = decode(
        output._replace(joints_norm=norm), maps, scales, SIZE, table.skeleton, mean_bone_length_mm=4500.0
    )
    assert poses.margin is not None
    np.testing.assert_allclose(poses.margin[0, :4], [0.5, 0.1, 0.05, -0.25], atol=1e-7)


def test_sigma_of_a_depth_in_pixels_is_in_mm() -> None:
    table = random_table(3, depth_unit="px")
    assert table.camera is not None and table.root_depth is not None
    output, maps, scales = _perfect(table)
    poses = decode(
        output._replace(sigma_norm=torch.full((3, 18, 3), 0.01)),
        maps,
        scales,
        SIZE,
        table.skeleton,
        camera=table.camera,
        root_depth=table.root_depth,
        depth_unit="px",
    )
    expected = 0.01 / scales.numpy() * table.root_depth / table.camera.focal[:, 0]
    np.testing.assert_allclose(poses.sigma[:, 4, 2], expected, rtol=1e-6)


def test_sigma_turns_with_the_patch() -> None:
    table = random_table(1)
    output, _, scales = _perfect(table)
    maps = torch.from_numpy(crop_affine(np.array([80.0, 60.0, 72.0, 96.0]), SIZE, rotation_deg=90))[None]
    sigma = torch.tensor([0.1, 0.2, 0.3]).expand(1, 18, 3)
    poses = decode(
        output._replace(sigma_norm=sigma), maps, scales, SIZE, table.skeleton, mean_bone_length_mm=16000.0
    )
    np.testing.assert_allclose(poses.sigma[0, 0, :2], [0.2 * 96, 0.1 * 72], rtol=1e-6)


def test_what_is_missing_is_said() -> None:
    table = random_table(3)
    output, maps, scales = _perfect(table)
    with pytest.raises(ValueError, match="a camera and the root's depth, or the mean bone length"):
        decode(output, maps, scales, SIZE, table.skeleton, camera=table.camera)
    with pytest.raises(ValueError, match=r"need \[B, 16, 3\] for mpii_16"):
        decode(output, maps, scales, SIZE, by_name("mpii_16"), mean_bone_length_mm=4500.0)
    with pytest.raises(ValueError, match="'mm' and 'px'"):
        decode(output, maps, scales, SIZE, table.skeleton, mean_bone_length_mm=4500.0, depth_unit="m")
