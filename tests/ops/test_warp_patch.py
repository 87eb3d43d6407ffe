"""warp_patch against the original's crops, OpenCV and a pixel loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from ipr.geometry import crop_affine, invert_affine
from ipr.ops.warp_patch import warp_patch, warp_patch_reference
from tests.conftest import Tolerance
from tests.ops.patches import on

PATCH = Path(__file__).parents[1] / "golden" / "patch"
PLAIN = ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0])


@pytest.fixture(params=[warp_patch, warp_patch_reference])
def warp(request: pytest.FixtureRequest, device: str) -> Callable[..., torch.Tensor]:
    """An implementation on a device, of arguments and with a result on the CPU."""
    return lambda *arguments: request.param(*on(device, arguments)).cpu()


def _pack(regions: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """pixels, offsets, sizes of regions [h, w, 3]."""
    lengths = [region.size for region in regions]
    return (
        torch.from_numpy(np.concatenate([region.reshape(-1) for region in regions])),
        torch.tensor(np.cumsum([0, *lengths[:-1]])),
        torch.tensor([region.shape[:2] for region in regions], dtype=torch.int32),
    )


def _random(seed: int = 0) -> tuple[list[np.ndarray], torch.Tensor]:
    rng = np.random.default_rng(seed)
    shapes = [(17, 31), (1, 1), (64, 2), (40, 40), (5, 90)]
    regions = [rng.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in shapes]
    linear = rng.normal(0, 0.8, (len(shapes), 2, 2))
    centers = np.array([[w / 2, h / 2] for h, w in shapes])
    shift = centers - linear @ np.array(
        [10.0, 12.0]
    )  # the middle of a 24 x 20 patch sees the region's middle
    return regions, torch.from_numpy(np.concatenate([linear, shift[..., None]], 2)).float()


def _picture() -> np.ndarray:
    """BGR, as the original reads and stores it."""
    image = cv2.imread(str(PATCH / "img_b.png"))
    assert image is not None
    return np.asarray(image, np.uint8)


def _by_pixel(region: np.ndarray, affine: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[3, h, w] of one region, in float64."""
    out = np.zeros((3, *size))
    height, width = region.shape[:2]
    for v in range(size[0]):
        for u in range(size[1]):
            x, y = affine @ np.array([u, v, 1.0])
            left, top = int(np.floor(x)), int(np.floor(y))
            for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
                if 0 <= column < width and 0 <= row < height:
                    out[:, v, u] += (1 - abs(x - column)) * (1 - abs(y - row)) * region[row, column]
    return out


def test_by_pixel(warp: Any) -> None:
    regions, affine = _random()
    out = warp(*_pack(regions), affine, (24, 20), *PLAIN)
    assert out.shape == (5, 3, 24, 20) and out.dtype == torch.float32 and out.amax() > 200
    for region, one, patch in zip(regions, affine.double().numpy(), out.numpy(), strict=True):
        np.testing.assert_allclose(patch, _by_pixel(region, one, (24, 20)), rtol=0, atol=0.02)


def test_crops_are_the_originals(warp: Any, tolerance: Tolerance) -> None:
    arrays, samples = np.load(PATCH / "samples.npz"), json.loads((PATCH / "samples.json").read_text())
    image = _picture()
    for sample in samples:
        crop = np.array([sample[key] for key in ("center_x", "center_y", "width", "height")])
        size = (sample["patch_height"], sample["patch_width"])
        affine = crop_affine(
            crop, size, scale=sample["scale"], rotation_deg=sample["rot"], flip=sample["do_flip"]
        )
        out = warp(*_pack([image]), torch.from_numpy(invert_affine(affine)).float()[None], size, *PLAIN)
        expected = arrays[f"{sample['index']:03d}_patch_u8_bgr_hwc"].transpose(2, 0, 1)
        assert np.abs(out[0].numpy() - expected).max() <= tolerance.grey_level, sample["index"]


def test_normalised_crop_is_the_originals(warp: Any, tolerance: Tolerance) -> None:
    arrays = np.load(PATCH / "samples.npz")
    image = np.ascontiguousarray(_picture()[..., ::-1])  # the network takes RGB
    affine = invert_affine(crop_affine(np.array([80.0, 110.0, 120.0, 120.0]), (64, 64)))
    out = warp(
        *_pack([image]), torch.from_numpy(affine).float()[None], (64, 64), arrays["mean"], arrays["std"]
    )
    levels = np.abs(out[0].numpy() - arrays["004_patch_f32"]) * arrays["std"][:, None, None]
    assert levels.max() <= tolerance.grey_level


def test_color_is_applied_before_the_clip_and_the_normalisation(warp: Any) -> None:
    regions, affine = _random()
    packed, mean, std = _pack(regions), [10.0, 20.0, 30.0], [2.0, 4.0, 5.0]
    color = torch.rand(5, 3) + 0.6
    plain = warp(*packed, affine, (24, 20), *PLAIN)
    out = warp(*packed, affine, (24, 20), mean, std, color)
    expected = (plain * color[:, :, None, None]).clamp(0, 255)
    assert (expected == 255).any()
    expected = (expected - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(out, expected)


def test_empty_batch(warp: Any) -> None:
    out = warp(
        torch.empty(0, dtype=torch.uint8),
        torch.empty(0, dtype=torch.int64),
        torch.empty(0, 2, dtype=torch.int32),
        torch.empty(0, 2, 3),
        (8, 6),
        *PLAIN,
    )
    assert out.shape == (0, 3, 8, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": torch.zeros(9)}, r"pixels must be uint8 \[9\], .* got sizes \[9\] and another type"),
        (
            {"offsets": torch.zeros(1, 1, dtype=torch.int64)},
            r"offsets must be int64 \[1\], .* sizes \[1, 1\]",
        ),
        ({"sizes": torch.ones(1, 3, dtype=torch.int32)}, r"sizes must be int32 \[1, 2\], \(height, width\)"),
        ({"affine": torch.zeros(2, 2, 3)}, r"affine must be float32 \[1, 2, 3\], patch px -> px"),
        ({"color": torch.ones(3)}, r"color must be float32 \[1, 3, 4\], .* or float32 \[B, 3\], factors"),
        ({"color": torch.ones(2, 3)}, r"color must be float32 \[1, 3, 4\], .* got sizes \[2, 3, 4\]"),
        ({"gamma": torch.ones(2)}, r"gamma must be float32 \[1\], exponents; got sizes \[2\]"),
        ({"size": (4, 0)}, r"size \(height, width\) must be at least 1, got \(4, 0\)"),
        ({"mean": [0.0, 0.0]}, "mean and std must be 3 numbers each"),
        ({"dtype": torch.float64}, "dtype must be float32, bfloat16 or float16"),
    ],
)
def test_wrong_arguments_are_named(device: str, change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "pixels": torch.zeros(9, dtype=torch.uint8),
        "offsets": torch.zeros(1, dtype=torch.int64),
        "sizes": torch.tensor([[1, 3]], dtype=torch.int32),
        "affine": torch.zeros(1, 2, 3),
        "size": (4, 4),
        "mean": PLAIN[0],
        "std": PLAIN[1],
    }
    warp_patch(**on(device, arguments))
    with pytest.raises(RuntimeError, match=message):
        warp_patch(**on(device, arguments | change))
