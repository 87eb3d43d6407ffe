"""Warps: the original's convention and distributions; numbers that depend on (seed, epoch, row) alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ipr import ops
from ipr.augment import color_matrix, draw
from ipr.geometry import apply_affine, crop_affine, depth_scale, img_to_norm
from ipr.skeleton import by_name
from ipr.types import DepthRule, Warp
from tests.conftest import Tolerance
from tests.data import AUGMENT, random_images

PATCH = Path(__file__).parent / "golden" / "patch"
CROP = np.array([300.0, 200.0, 150.0, 200.0])
SIZE = (128, 96)


def _same(a: Warp, b: Warp) -> bool:
    return (
        np.array_equal(a.img_to_patch, b.img_to_patch)
        and np.array_equal(a.color, b.color)
        and (a.flip, a.depth_scale, a.gamma) == (b.flip, b.depth_scale, b.gamma)
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
    assert len(np.unique(colors[:, 0, 0])) == len(keys)


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

    matrices = np.stack([warp.color for warp in warps])
    color = np.diagonal(matrices, axis1=1, axis2=2)
    assert np.count_nonzero(matrices) == color.size and all(warp.gamma == 1 for warp in warps)
    assert color.min() > 0.8 and color.max() < 1.2 and abs(color.std() - 0.4 / np.sqrt(12)) < 0.005
    assert abs(np.corrcoef(color.T) - np.eye(3)).max() < 0.06  # a factor for each channel


def test_switching_one_kind_off_leaves_the_others() -> None:
    rule = DepthRule()
    for row in range(20):
        full = draw(AUGMENT, 0, 0, row, CROP, SIZE, rule)
        still = draw(replace(AUGMENT, rotation=0.0), 0, 0, row, CROP, SIZE, rule)
        assert full.flip == still.flip and full.depth_scale == still.depth_scale
        np.testing.assert_array_equal(full.color, still.color)


# ---------------------------------------------------------------------------------------------------- tone

TONE = replace(AUGMENT, brightness=0.4, contrast=0.3, saturation=0.8, gamma=0.5)


def _grey(picture: np.ndarray) -> np.ndarray:
    """[..., 3] -> [..., 1], as torchvision's rgb_to_grayscale."""
    return (0.2989 * picture[..., 0] + 0.587 * picture[..., 1] + 0.114 * picture[..., 2])[..., None]


def test_tone_leaves_the_other_draws_as_they_were() -> None:
    for row in range(20):
        plain, toned = (draw(config, 0, 3, row, CROP, SIZE, DepthRule()) for config in (AUGMENT, TONE))
        np.testing.assert_array_equal(plain.img_to_patch, toned.img_to_patch)
        assert (plain.flip, plain.depth_scale) == (toned.flip, toned.depth_scale)
        for name in ("brightness", "contrast", "saturation", "gamma"):  # one alone, as among the others
            alone = draw(replace(AUGMENT, **{name: getattr(TONE, name)}), 0, 3, row, CROP, SIZE, DepthRule())
            assert alone.gamma == (toned.gamma if name == "gamma" else 1.0)
            assert np.array_equal(alone.color, plain.color) == (name == "gamma")


def test_distributions_of_tone() -> None:
    warps = [draw(replace(TONE, color=0.0), 1, 0, row, CROP, SIZE, DepthRule()) for row in range(4000)]
    matrices = np.stack([warp.color for warp in warps])
    # Of grey the saturation cannot be seen: brightness x contrast and the offset of contrast are left.
    rows = matrices[:, :, :3].sum(2)
    assert np.abs(rows - rows[:, :1]).max() < 2e-4  # torchvision's three weights of grey sum to 0.9999
    contrast = 1 - matrices[:, 1, 3] / 127.5
    saturation = (matrices[:, 0, 0] - matrices[:, 1, 0]) / rows[:, 0]
    found = (rows[:, 0] / contrast, contrast, saturation, np.array([warp.gamma for warp in warps]))
    for factor, width in zip(found, (0.4, 0.3, 0.8, 0.5), strict=True):
        assert 1 - width - 2e-3 < factor.min() < 1 - 0.98 * width
        assert 1 + 0.98 * width < factor.max() < 1 + width + 2e-3
        assert abs(factor.std() - 2 * width / np.sqrt(12)) < 0.02 * width
    assert np.abs(np.corrcoef(found) - np.eye(4)).max() < 0.06


def test_tone_is_the_chain_of_torchvisions_definitions() -> None:
    """On real numbers, clipped once before gamma; contrast is about 127.5, not the picture's mean."""
    picture = random_images(1, (40, 50))[0]
    regions = (
        torch.from_numpy(picture).flatten(),
        torch.tensor([0]),
        torch.tensor([picture.shape[:2]], dtype=torch.int32),
        torch.eye(2, 3)[None],
    )
    plain = picture.shape[:2], (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    clipped = 0
    for row in range(12):
        warp = draw(TONE, 0, 0, row, CROP, SIZE, DepthRule())
        # The draw's own numbers, in the order in which the generator gives them
        rng = np.random.Generator(np.random.Philox(key=[0, 0], counter=[0, 0, row, 0]))
        rng.standard_normal(2)
        channels = 1 + TONE.color * (2 * rng.random(5)[2:] - 1)
        widths = np.array([TONE.brightness, TONE.contrast, TONE.saturation, TONE.gamma])
        brightness, contrast, saturation, gamma = 1 + widths * (2 * rng.random(4) - 1)
        expected = picture * channels
        expected = expected * brightness  # adjust_brightness
        expected = expected * contrast + (1 - contrast) * 127.5  # adjust_contrast
        expected = expected * saturation + (1 - saturation) * _grey(expected)  # adjust_saturation
        clipped += int(((expected < 0) | (expected > 255)).sum())
        expected = expected.clip(0, 255)
        color = torch.from_numpy(warp.color[None]).float()
        linear = ops.warp_patch(*regions, *plain, color)[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(linear, expected, rtol=0, atol=1e-3)
        exponent = torch.tensor([warp.gamma], dtype=torch.float32)
        patch = ops.warp_patch(*regions, *plain, color, gamma=exponent)[0].permute(1, 2, 0).numpy()
        levels = np.arange(256.0)  # adjust_gamma of these; the operator is linear in between
        expected = np.interp(expected, levels, 255 * (levels / 255) ** gamma)
        np.testing.assert_allclose(patch, expected, rtol=0, atol=5e-3)
    assert clipped > 1000


def test_tone_that_is_off_changes_no_bit() -> None:
    channels = np.array([0.9, 1.1, 1.05])
    np.testing.assert_array_equal(color_matrix(channels, 1.0, 1.0), np.eye(3, 4) * channels[:, None])
    grey = color_matrix(np.ones(3), 1.0, 0.0)
    np.testing.assert_allclose(grey, np.tile([0.2989, 0.587, 0.114, 0.0], (3, 1)))
    np.testing.assert_allclose(color_matrix(np.ones(3), 0.0, 1.0), [[0, 0, 0, 127.5]] * 3)


def test_evaluation_draws_the_centred_warp() -> None:
    for rule, expected in ((DepthRule("rect3d", 2000.0), 1 / 2000), (DepthRule("box"), 1 / 150)):
        warp = draw(None, 3, 5, 8, CROP, SIZE, rule)
        corners = np.array([[225.0, 100.0], [375.0, 300.0]])
        np.testing.assert_allclose(apply_affine(warp.img_to_patch, corners), [[0, 0], [96, 128]], atol=1e-9)
        assert not warp.flip and warp.depth_scale == expected
        np.testing.assert_array_equal(warp.color, np.eye(3, 4))
        assert warp.gamma == 1
