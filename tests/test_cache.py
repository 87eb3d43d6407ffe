"""The crop cache: what it stores, when it is built again, and what it refuses."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest

from ipr.cache import CropCache
from ipr.config import DepthConfig, PatchConfig
from ipr.geometry import crop_box
from ipr.loader import Mix, batch_to_patches
from ipr.types import Pixels, Region
from tests.data import AUGMENT, ArrayImages, random_images, random_table

CROPS = np.array([[80.0, 60.0, 40.0, 50.0], [10.0, 100.0, 60.0, 30.0], [150.0, 20.0, 20.0, 20.0]] * 7)
SIZE = (120, 160)


class Unreadable(ArrayImages):
    """Refuses every read; with ``first_bad`` only from that row on."""

    def __init__(self, images: np.ndarray, first_bad: int = 0) -> None:
        super().__init__(images)
        self.first_bad = first_bad

    def read(self, row: int, region: Region, scale: float) -> Pixels:
        if row >= self.first_bad:
            raise OSError("cannot render")
        return super().read(row, region, scale)


def _images(seed: int = 0) -> np.ndarray:
    return random_images(len(CROPS), SIZE, seed)


@pytest.mark.parametrize("processes", [0, 2])
def test_stored_crops_are_the_sources_pixels(tmp_path: Path, processes: int) -> None:
    source = ArrayImages(_images())
    cache = CropCache(source, CROPS, 64, 0.5, tmp_path / "crops", processes)
    for row, (cx, cy, width, height) in enumerate(CROPS):
        data, (x0, y0), scale = cache.read(row, Region(0, 0, 1, 1), 1.0)
        side = max(width, height) * 1.5
        assert scale == 1.0 and data.dtype == np.uint8
        assert x0 == max(0, np.floor(cx - side / 2)) and y0 == max(0, np.floor(cy - side / 2))
        assert x0 + data.shape[1] - 1 == min(SIZE[1] - 1, np.ceil(cx + side / 2))
        rows, columns = slice(int(y0), int(y0) + data.shape[0]), slice(int(x0), int(x0) + data.shape[1])
        np.testing.assert_array_equal(data, source.images[row, rows, columns])
    assert cache.image_size(1) == SIZE and cache.name(1) == "picture 1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crops"]


def test_built_once_and_again_when_anything_changes(tmp_path: Path) -> None:
    path, images = tmp_path / "crops", _images()
    first = CropCache(ArrayImages(images), CROPS, 64, 0.5, path, processes=0)
    again = CropCache(Unreadable(images), CROPS, 64, 0.5, path, processes=0)  # reads nothing of its source
    np.testing.assert_array_equal(
        first.read(3, Region(0, 0, 1, 1), 1).data, again.read(3, Region(0, 0, 1, 1), 1).data
    )
    assert first.fingerprint() == again.fingerprint()
    changes = [
        (ArrayImages(_images(seed=1)), CROPS, 64, 0.5),
        (ArrayImages(images), CROPS + np.array([0, 0, 0, 1.0]), 64, 0.5),
        (ArrayImages(images), CROPS, 48, 0.5),
        (ArrayImages(images), CROPS, 64, 0.25),
    ]
    for source, crops, size_px, margin in changes:
        with pytest.raises(ValueError, match="cannot render"):
            CropCache(Unreadable(source.images), crops, size_px, margin, path, processes=0)
        changed = CropCache(source, crops, size_px, margin, path, processes=0)
        assert changed.fingerprint() != first.fingerprint()


def test_damaged_pixels_are_rendered_again(tmp_path: Path) -> None:
    path, images = tmp_path / "crops", _images()
    expected = (
        CropCache(ArrayImages(images), CROPS, 64, 0.5, path, processes=0)
        .read(20, Region(0, 0, 1, 1), 1)
        .data.copy()
    )
    pixels = (path / "pixels.bin").read_bytes()
    (path / "pixels.bin").write_bytes(pixels[:-100])
    cache = CropCache(ArrayImages(images), CROPS, 64, 0.5, path, processes=0)
    np.testing.assert_array_equal(cache.read(20, Region(0, 0, 1, 1), 1).data, expected)


@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_a_damaged_index_is_made_again(tmp_path: Path, keep: float) -> None:
    path, images = tmp_path / "crops", _images()
    CropCache(ArrayImages(images), CROPS, 64, 0.5, path, processes=0)
    index = (path / "index.npz").read_bytes()
    (path / "index.npz").write_bytes(index[: int(keep * len(index)) if isinstance(keep, float) else keep])
    CropCache(ArrayImages(images), CROPS, 64, 0.5, path, processes=0)
    assert (path / "index.npz").read_bytes() == index


def test_two_runs_may_build_one_cache(tmp_path: Path) -> None:
    """The slower one takes what the quicker one, which may read from it already, has left."""
    path, images = tmp_path / "crops", _images()

    class Slow(ArrayImages):
        def read(self, row: int, region: Region, scale: float) -> Pixels:
            if not path.exists():
                CropCache(ArrayImages(images), CROPS, 64, 0.5, path, processes=0)
                stamps.append((path / "pixels.bin").stat().st_ino)
            return super().read(row, region, scale)

    stamps: list[int] = []
    CropCache(Slow(images), CROPS, 64, 0.5, path, processes=0)
    assert stamps == [(path / "pixels.bin").stat().st_ino]
    assert [file.name for file in tmp_path.iterdir()] == ["crops"]


def test_a_failed_build_leaves_the_old_cache(tmp_path: Path) -> None:
    path, images = tmp_path / "crops", _images()
    CropCache(ArrayImages(images), CROPS, 64, 0.5, path, processes=0)
    with pytest.raises(ValueError, match="row 18, picture 18: OSError: cannot render"):
        CropCache(Unreadable(images, first_bad=18), CROPS, 32, 0.5, path, processes=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["crops"]
    CropCache(Unreadable(images), CROPS, 64, 0.5, path, processes=0)


def test_a_directory_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("keep me")
    with pytest.raises(ValueError, match="no crop cache"):
        CropCache(ArrayImages(_images()), CROPS, 64, 0.5, tmp_path, processes=0)
    assert (tmp_path / "letters.txt").read_text() == "keep me"


def test_no_crops_and_crops_outside_the_image(tmp_path: Path) -> None:
    source = ArrayImages(_images())
    with pytest.raises(ValueError, match="there are no crops"):
        CropCache(source, CROPS[:0], 64, 0.5, tmp_path / "a", processes=0)
    with pytest.raises(ValueError, match=r"row 0, picture 0: .*outside the image"):
        CropCache(source, CROPS + np.array([1000.0, 0, 0, 0]), 64, 0.5, tmp_path / "b", processes=0)


def test_a_worker_gets_a_small_copy(tmp_path: Path) -> None:
    cache = CropCache(
        ArrayImages(_images()[:, :1, :1]), CROPS * 0 + 0.5, 64, 0.5, tmp_path / "crops", processes=0
    )
    before = cache.read(5, Region(0, 0, 1, 1), 1.0)
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.__dict__["_pixels"] is None
    np.testing.assert_array_equal(copy.read(5, Region(0, 0, 1, 1), 1.0).data, before.data)


def test_training_from_the_cache_is_training_from_the_source(tmp_path: Path) -> None:
    table = random_table(10)
    crops = crop_box(table.boxes_xywh, table.box_rule, 1.0)
    assert isinstance(table.image, ArrayImages)
    cache = CropCache(table.image, crops, 64, 1.0, tmp_path / "crops", processes=0)
    patch, augment = PatchConfig(height=32, width=32), AUGMENT
    batches = [
        Mix([source], patch, DepthConfig(), augment, seed=0)[0, range(10)]
        for source in (table, dataclasses.replace(table, image=cache))
    ]
    one, two = (batch_to_patches(batch, patch.size, patch.mean, patch.std) for batch in batches)
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-3)
