"""Boxes, cameras and the maps between image, patch and norm, against golden files and OpenCV."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ipr import geometry
from ipr.types import BoxRule, Camera, DepthRule, Region
from tests.conftest import Tolerance

GOLDEN = Path(__file__).parent / "golden"


def test_crop_box_grows_the_short_side() -> None:
    boxes = np.array([[10.0, 20.0, 40.0, 80.0], [10.0, 20.0, 90.0, 30.0]])
    crops = geometry.crop_box(boxes, BoxRule(pad=1.25, fit="grow"), aspect=0.75)
    np.testing.assert_allclose(crops, np.array([[30, 60, 75, 100], [55, 35, 112.5, 150]]))


def test_crop_box_keeps_the_height() -> None:
    crops = geometry.crop_box(
        np.array([[10.0, 20.0, 90.0, 80.0]]), BoxRule(pad=1.0, fit="height"), aspect=0.75
    )
    np.testing.assert_allclose(crops, [[55, 60, 60, 80]])


def test_crop_box_takes_it_for_a_square() -> None:
    boxes, rule = np.array([[10.0, 20.0, 80.0, 79.0]]), BoxRule(pad=1.25, fit="square")
    np.testing.assert_allclose(geometry.crop_box(boxes, rule, aspect=1.0), [[50, 59.5, 100, 98.75]])
    np.testing.assert_allclose(geometry.crop_box(boxes, rule, aspect=0.8), [[50, 59.5, 100, 123.4375]])
    np.testing.assert_allclose(geometry.crop_box(boxes, rule, aspect=1.25), [[50, 59.5, 125, 98.75]])


@pytest.mark.parametrize("bad", [[0, 0, 0, 5], [0, 0, 5, -1], [0, np.nan, 5, 5], [0, 0, np.inf, 5]])
def test_crop_box_names_the_bad_row(bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"row 1 .*positive size"):
        geometry.crop_box(np.array([[0, 0, 5, 5], bad]), BoxRule(), 1.0)


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="'grow', 'square' and 'height'"):
        geometry.crop_box(np.ones((1, 4)), BoxRule(fit="stretch"), 1.0)
    with pytest.raises(ValueError, match="'rect3d' and 'box'"):
        geometry.depth_scale(DepthRule("metres"), 100.0)


def test_crop_affine_is_the_original(tolerance: Tolerance) -> None:
    golden = np.load(GOLDEN / "patch" / "trans_matrices.npz")
    assert golden["params"][:, 6].std() > 0 and golden["params"][:, 7].std() > 0  # scales and rotations vary
    for (cx, cy, src_w, src_h, w, h, scale, rot), inverse in zip(
        golden["params"], golden["inv"], strict=True
    ):
        affine = geometry.crop_affine(
            np.array([cx, cy, src_w, src_h]), (int(h), int(w)), scale=scale, rotation_deg=rot
        )
        corners = np.array([[0, 0], [w, 0], [0, h], [w, h]])
        mapped = geometry.apply_affine(affine, geometry.apply_affine(inverse, corners))
        np.testing.assert_allclose(mapped, corners, rtol=0, atol=tolerance.crop_px)


def test_mirror_is_about_width_minus_one_and_before_the_rotation() -> None:
    crop, size, width = np.array([70.0, 40.0, 50.0, 60.0]), (96, 80), 200
    mirrored_crop = np.array([width - 70.0 - 1, 40.0, 50.0, 60.0])
    points = np.random.default_rng(0).uniform(0, 200, (9, 2))
    mirrored_points = np.stack([width - 1 - points[:, 0], points[:, 1]], 1)
    one = geometry.crop_affine(crop, size, scale=1.1, rotation_deg=25, flip=True)
    two = geometry.crop_affine(mirrored_crop, size, scale=1.1, rotation_deg=25)
    np.testing.assert_allclose(
        geometry.apply_affine(one, points), geometry.apply_affine(two, mirrored_points), rtol=0, atol=1e-9
    )


def test_invert_affine() -> None:
    affine = geometry.crop_affine(np.array([70.0, 40.0, 50.0, 60.0]), (96, 80), rotation_deg=25, flip=True)
    both = np.stack([affine, geometry.invert_affine(affine)])
    points = np.random.default_rng(0).uniform(-50, 200, (2, 9, 2))
    back = geometry.apply_affine(geometry.invert_affine(both), geometry.apply_affine(both, points))
    np.testing.assert_allclose(back, points, rtol=0, atol=1e-9)


def test_norm_to_img_is_the_original(tolerance: Tolerance) -> None:
    golden = np.load(GOLDEN / "flip" / "trans_coords.npz")
    assert len(golden["params"]) > 10
    for preds, (cx, cy, bb_w, bb_h, w, h, rect_w, _), expected in zip(
        golden["preds"], golden["params"], golden["org3d"], strict=True
    ):
        affine = geometry.crop_affine(np.array([cx, cy, bb_w, bb_h]), (int(h), int(w)))
        norm = np.concatenate([preds[:, :2] / [w, h] - 0.5, preds[:, 2:3] / w], axis=1)
        joints_img, depth = geometry.norm_to_img(
            torch.from_numpy(norm)[None],
            torch.from_numpy(affine)[None],
            torch.tensor([1 / rect_w]),
            (int(h), int(w)),
        )
        np.testing.assert_allclose(joints_img[0].numpy(), expected[:, :2], rtol=0, atol=tolerance.crop_px)
        np.testing.assert_allclose(depth[0].numpy(), expected[:, 2], rtol=0, atol=tolerance.crop_px)


def test_norm_and_img_are_inverse_for_every_warp() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        size = (int(rng.integers(16, 400)), int(rng.integers(16, 400)))
        crops = np.concatenate([rng.uniform(-100, 1000, (3, 2)), rng.uniform(5, 900, (3, 2))], 1)
        affine = np.stack(
            [
                geometry.crop_affine(
                    crop,
                    size,
                    scale=rng.uniform(0.5, 2),
                    rotation_deg=rng.uniform(-180, 180),
                    flip=bool(rng.integers(2)),
                )
                for crop in crops
            ]
        )
        joints, depth = (
            torch.from_numpy(rng.uniform(0, 1000, (3, 7, 2))),
            torch.from_numpy(rng.normal(0, 500, (3, 7))),
        )
        maps, scale = torch.from_numpy(affine), torch.from_numpy(rng.uniform(1e-4, 1e-2, 3))
        back, depth_back = geometry.norm_to_img(
            geometry.img_to_norm(joints, depth, maps, scale, size), maps, scale, size
        )
        torch.testing.assert_close(back, joints, rtol=0, atol=1e-8)
        torch.testing.assert_close(depth_back, depth, rtol=0, atol=1e-8)


def test_lifting_is_the_original(tolerance: Tolerance) -> None:
    golden = np.load(GOLDEN / "evaluate" / "hm36_lift.npz")
    camera = Camera(golden["fl"], golden["c_p"], np.tile(np.eye(3), (8, 1, 1)), np.zeros((8, 3)))
    joints, cam = golden["joints_3d"], golden["joints_3d_cam"]
    lifted = geometry.img_to_cam(joints[..., :2], joints[..., 2] + golden["pelvis"][:, 2:], camera)
    np.testing.assert_allclose(lifted, cam, rtol=0, atol=tolerance.metric)
    np.testing.assert_allclose(
        geometry.cam_to_img(cam, camera), joints[..., :2], rtol=0, atol=tolerance.metric
    )


@pytest.mark.parametrize("numbers", [0, 5, 7])
def test_cameras_against_opencv(numbers: int) -> None:
    rng = np.random.default_rng(0)
    turn = cv2.Rodrigues(np.array([0.4, -1.0, 0.7]))[0]
    distortion = np.array([-0.2, 0.24, -0.002, -0.0009, -0.0014, 0.0011, -0.0007])[:numbers]
    camera = Camera(
        np.array([[1145.0, 1143.0]]),
        np.array([[512.0, 515.0]]),
        turn[None],
        np.array([[100.0, 50.0, 5000.0]]),
        distortion[None] if numbers else None,
    )
    world = rng.uniform(-900, 900, (1, 18, 3))
    intrinsics = np.array([[1145.0, 0, 512], [0, 1143, 515], [0, 0, 1]])
    order = np.zeros(12)  # OpenCV's is k1, k2, p1, p2, k3, three for k4 to k6, s1, s2, s3, s4
    order[[0, 1, 4, 2, 3, 8, 10][:numbers]] = distortion
    expected = cv2.projectPoints(world[0], turn, camera.t[0], intrinsics, order)[0][:, 0]

    cam = geometry.world_to_cam(world, camera)
    joints_img = geometry.cam_to_img(cam, camera)
    np.testing.assert_allclose(joints_img[0], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(geometry.cam_to_world(cam, camera), world, rtol=0, atol=1e-9)
    np.testing.assert_allclose(geometry.img_to_cam(joints_img, cam[..., 2], camera), cam, rtol=0, atol=1e-5)


def test_clip_region() -> None:
    low, high = np.array([3.4, -7.0]), np.array([20.2, 11.5])
    assert geometry.clip_region(low, high, (10, 30), margin=1) == Region(2, 0, 21, 10)
    assert geometry.clip_region(np.array([29.5, 0]), np.array([40, 0]), (10, 30), margin=0) == Region(
        29, 0, 1, 1
    )
    with pytest.raises(ValueError, match="outside the image of 30 x 10 px"):
        geometry.clip_region(np.array([30.0, 0]), np.array([40.0, 5]), (10, 30), margin=1)
