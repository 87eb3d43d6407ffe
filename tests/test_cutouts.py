"""Cut-outs: soft, premultiplied, bounded, always the same; and what a folder of them may not hold."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ipr import cutouts
from ipr.cutouts import Cutouts, from_folder, generate, premultiplied, read_rgba
from ipr.images import ImageError


def levels(objects: Cutouts, index: int) -> list[np.ndarray]:
    """The pictures [h, w, 4] of an object, the finest first."""
    pixels, found = objects.pixels.numpy(), []
    for level in range(objects.first[index], objects.first[index + 1]):
        height, width = objects.sizes[level].tolist()
        start = int(objects.offsets[level])
        found.append(pixels[start : start + height * width * 4].reshape(height, width, 4))
    return found


def disk(height: int, width: int) -> np.ndarray:
    """RGBA [h, w, 4], orange, with an edge of half alpha."""
    rgba = np.zeros((height, width, 4), np.uint8)
    rgba[..., :3] = 240, 120, 10
    center = width // 2, height // 2
    alpha = np.zeros((height, width), np.uint8)
    cv2.circle(alpha, center, min(center) - 1, 128, -1)
    cv2.circle(alpha, center, min(center) - 3, 255, -1)
    rgba[..., 3] = alpha
    return rgba


def write(path: Path, rgba: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA))
    return path


def test_generated_objects_are_always_the_same() -> None:
    some, more = generate(1.0, 96, count=6), generate(1.0, 96, count=12)
    for index in range(6):
        for a, b in zip(levels(some, index), levels(more, index), strict=True):
            np.testing.assert_array_equal(a, b)
    finest = {levels(more, index)[0].tobytes() for index in range(12)}
    assert len(finest) == 12


@pytest.mark.parametrize(("scale", "most_px"), [(1.0, 256), (0.25, 64)])
def test_generated_objects(scale: float, most_px: int) -> None:
    objects = generate(scale, most_px, count=64)
    native = objects.native.max(1)
    assert native.min() >= 64 and native.max() < 400 and np.median(native) > 120
    for index in range(64):
        picture = levels(objects, index)[0]
        side = max(picture.shape[:2])
        assert side <= most_px + 1 and abs(side - min(most_px, scale * native[index])) <= 1.5
        alpha = picture[..., 3].astype(int)
        border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
        assert alpha.max() > 200 and border.max() < 0.1 * 255, index
        # Nowhere a step from nothing to opaque, unless a pixel is all that the edge has.
        steep = max(np.abs(np.diff(alpha, axis=0)).max(), np.abs(np.diff(alpha, axis=1)).max())
        assert steep < (150 if side > 100 else 230), (index, steep)
        assert ((alpha > 0) & (alpha < 255)).any()
        color = picture[..., :3][alpha == 255]
        assert len(color) == 0 or color.std(0).max() > 1  # a texture, not one colour


def test_premultiplied() -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (50, 40, 4)).astype(np.uint8)
    out = premultiplied(rgba)
    np.testing.assert_array_equal(out[..., 3], rgba[..., 3])
    exact = rgba[..., :3] * (rgba[..., 3:] / 255)
    assert np.abs(out[..., :3] - exact).max() <= 0.5
    assert (out[..., :3] <= out[..., 3:]).all()


def test_no_level_is_brighter_than_its_alpha(tmp_path: Path) -> None:
    write(tmp_path / "disk.png", disk(61, 90))
    for objects in (generate(1.0, 64, count=16), from_folder(str(tmp_path), 1.0, 64)):
        for index in range(len(objects)):
            for picture in levels(objects, index):
                assert (picture[..., :3] <= picture[..., 3:]).all()


def test_pyramid_of_a_folders_pictures(tmp_path: Path) -> None:
    write(tmp_path / "b.png", disk(61, 90))
    write(tmp_path / "a.png", disk(20, 20))
    (tmp_path / ".hidden").write_text("not an object")
    objects = from_folder(str(tmp_path), 1.0, 64)
    assert objects.native.tolist() == [[20, 20], [61, 90]]  # by name
    assert [p.shape[:2] for p in levels(objects, 0)] == [(20, 20), (10, 10), (5, 5)]
    np.testing.assert_array_equal(levels(objects, 0)[0], premultiplied(disk(20, 20)))
    assert [p.shape[:2] for p in levels(objects, 1)] == [(43, 64), (22, 32), (11, 16), (6, 8)]
    # What it covers stays: the mean alpha of every level is the file's.
    for picture in levels(objects, 1):
        assert abs(picture[..., 3].mean() - disk(61, 90)[..., 3].mean()) < 6
    small = from_folder(str(tmp_path), 0.5, 64)
    assert levels(small, 1)[0].shape[:2] == (30, 45) and small.native.tolist() == objects.native.tolist()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("jpeg", "is no PNG picture"),
        ("rgb", "is RGB with 8 bits: an occluder is a PNG picture with 8-bit RGBA"),
        ("deep", "is RGBA with 16 bits"),
        ("short", "is cut short or damaged"),
        ("empty", "is no PNG picture"),
        ("clear", "is transparent everywhere"),
        ("huge", "is of 100000 x 100000 px"),
        ("folder", "cannot be read: Is a directory"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, message: str) -> None:
    rgba, path = disk(30, 30), tmp_path / f"{name}.png"
    write(tmp_path / "a_good_one.png", rgba)
    whole = cv2.imencode(".png", rgba)[1].tobytes()
    contents = {
        "jpeg": cv2.imencode(".jpg", rgba[..., :3])[1].tobytes(),
        "rgb": cv2.imencode(".png", rgba[..., :3])[1].tobytes(),
        "deep": cv2.imencode(".png", rgba.astype(np.uint16) * 257)[1].tobytes(),
        "short": whole[: len(whole) // 2],
        "empty": b"",
        "clear": cv2.imencode(".png", np.zeros_like(rgba))[1].tobytes(),
        "huge": whole[:16] + (100000).to_bytes(4, "big") * 2 + whole[24:],
    }
    path.mkdir() if name == "folder" else path.write_bytes(contents[name])
    with pytest.raises(ImageError) as error:
        from_folder(str(tmp_path), 1.0, 64)
    assert message in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_bad_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"nowhere: no folder of occluders: No such file"):
        from_folder(str(tmp_path / "nowhere"), 1.0, 64)
    with pytest.raises(ValueError, match="is empty: need PNG pictures with 8-bit RGBA"):
        from_folder(str(tmp_path), 1.0, 64)
    write(tmp_path / "disk.png", disk(60, 60))
    monkeypatch.setattr(cutouts, "MAX_BYTES", 60 * 60 * 4)
    with pytest.raises(ValueError, match=r"more than .* GiB of occluders"):
        from_folder(str(tmp_path), 1.0, 64)


def test_read_rgba_gives_what_was_written(tmp_path: Path) -> None:
    rgba = np.random.default_rng(1).integers(0, 256, (9, 14, 4)).astype(np.uint8)
    np.testing.assert_array_equal(read_rgba(write(tmp_path / "x.png", rgba)), rgba)
