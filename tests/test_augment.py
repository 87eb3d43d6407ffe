"""Warps: the original's convention and distributions; numbers that depend on (seed, epoch, row) alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ipr.augment import draw
from ipr.geometry import apply_affine, crop_affine, depth_scale, img_to_norm
from ipr.skeleton import by_name
from ipr.types import DepthRule, Warp
from tests.conftest import Tolerance
from tests.data import AUGMENT

PATCH = Path(__file__).parent / "golden" / "patch"
CROP = np.array([300.0, 200.0, 150.0, 200.0])
SIZE = (128, 96)


def _same(a: Warp, b: Warp) -> bool:
    return (
        np.array_equal(a.img_to_patch, b.img_to_patch)
        and np.array_equal(a.color, b.color)
        and (a.flip, a.depth_scale) == (b.flip, b.depth_scale)
    )


def test_labels_are_the_originals(tolerance: Tolerance) -> None:
    arrays, samples = np.load(PATCH / "samples.npz"), json.loads((PATCH / "samples.json").read_text())
    assert (
        {sample["do_flip"] for sample in samples}
        == {sample["depth_in_image"] for sample in samples}
        == {True, False}
    )
    for sample in samples:
        crop = np.array([sample[key] for key in ("center_x", "center_y", "width", "height")])
        size, scale = (sample["patch_height"], sample["patch_width"]), sample["scale"]
        rule = DepthRule("box") if sample["depth_in_image"] else DepthRule("rect3d", sample["rect_3d_width"])
        affine = crop_affine(crop, size, scale=scale, rotation_deg=sample["rot"], flip=sample["do_flip"])
        joints = torch.from_numpy(arrays[f"{sample['index']:03d}_joints_in"])[None]
        norm = img_to_norm(
            joints[..., :2],
            joints[..., 2],
            torch.from_numpy(affine)[None],
            torch.tensor([depth_scale(rule, crop[2], scale)], dtype=torch.float64),
            size,
        )[0]
        if sample["do_flip"]:
            norm = norm[list(by_name("h36m_18").flip_permutation)]
        expected = arrays[f"{sample['index']:03d}_label"].reshape(18, 3)
        # A label without weight is whatever the original left there.
        seen = arrays[f"{sample['index']:03d}_label_weight"].reshape(18, 3) > 0
        np.testing.assert_allclose(norm.numpy()[seen], expected[seen], rtol=0, atol=tolerance.label)


def test_a_draw_depends_on_seed_epoch_and_row_alone() -> None:
    config, rule = AUGMENT, DepthRule()
    keys = [(seed, epoch, row) for seed in (0, 7) for epoch in (0, 3) for row in range(20)]
    warps = {key: draw(config, *key, CROP, SIZE, rule) for key in keys}
    for key in reversed(keys):
        assert _same(draw(config, *key, CROP, SIZE, rule), warps[key])
    colors = np.stack([warp.color for warp in warps.values()])
    assert len(np.unique(colors[:, 0])) == len(keys)


def test_distributions_are_the_originals() -> None:
    config, rule = AUGMENT, DepthRule("rect3d", 2000.0)
    warps = [draw(config, 1, 0, row, CROP, SIZE, rule) for row in range(4000)]
    linear = np.stack([warp.img_to_patch[:, :2] for warp in warps])
    flips = np.array([warp.flip for warp in warps])
    scale = 0.64 / np.sqrt(np.abs(np.linalg.det(linear)))  # 0.64 patch px per image px where the scale is 1
    assert np.array_equal(np.linalg.det(linear) < 0, flips) and abs(flips.mean() - 0.5) < 0.03
    np.testing.assert_allclose([warp.depth_scale for warp in warps], 1 / (2000 * scale), rtol=1e-12)

    # Of a normal clipped at one sigma, 15.9 % stands at either end.
    assert (
        abs(np.isclose(scale, 0.75).mean() - 0.159) < 0.03
        and abs(np.isclose(scale, 1.25).mean() - 0.159) < 0.03
    )
    assert scale.min() > 0.75 - 1e-9 and scale.max() < 1.25 + 1e-9

    angle = np.degrees(np.arctan2(linear[:, 0, 1], linear[:, 1, 1]))
    assert abs((np.abs(angle) > 1e-9).mean() - 0.6) < 0.03 and abs(angle.mean()) < 1.5
    assert abs(np.abs(angle).max() - 60) < 1e-9
    assert abs(np.abs(angle[np.abs(angle) > 1e-9]).mean() - 30 * 0.78) < 1.5

    color = np.stack([warp.color for warp in warps])
    assert color.min() > 0.8 and color.max() < 1.2 and abs(color.std() - 0.4 / np.sqrt(12)) < 0.005
    assert abs(np.corrcoef(color.T) - np.eye(3)).max() < 0.06  # a factor for each channel


def test_switching_one_kind_off_leaves_the_others() -> None:
    rule = DepthRule()
    for row in range(20):
        full = draw(AUGMENT, 0, 0, row, CROP, SIZE, rule)
        still = draw(replace(AUGMENT, rotation=0.0), 0, 0, row, CROP, SIZE, rule)
        assert full.flip == still.flip and full.depth_scale == still.depth_scale
        np.testing.assert_array_equal(full.color, still.color)


def test_evaluation_draws_the_centred_warp() -> None:
    for rule, expected in ((DepthRule("rect3d", 2000.0), 1 / 2000), (DepthRule("box"), 1 / 150)):
        warp = draw(None, 3, 5, 8, CROP, SIZE, rule)
        corners = np.array([[225.0, 100.0], [375.0, 300.0]])
        np.testing.assert_allclose(apply_affine(warp.img_to_patch, corners), [[0, 0], [96, 128]], atol=1e-9)
        assert not warp.flip and warp.depth_scale == expected
        np.testing.assert_array_equal(warp.color, np.ones(3))
