"""The crop cache: what it stores, when it is built again, what an interruption leaves, what it refuses."""

from __future__ import annotations

import dataclasses
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from ipr import cache
from ipr.cache import CropCache
from ipr.config import DepthConfig, PatchConfig
from ipr.geometry import crop_box
from ipr.images import FileImages, ImageError
from ipr.loader import Mix, batch_to_patches
from ipr.types import Pixels, Region
from ipr.validation import file_crops
from tests.data import AUGMENT, ArrayImages, random_images, random_table

CROPS = np.array([[80.0, 60.0, 40.0, 50.0], [10.0, 100.0, 60.0, 30.0], [150.0, 20.0, 20.0, 20.0]] * 7)
SIZE = (120, 160)
ALL = Region(0, 0, SIZE[1], SIZE[0])
STEP = 4  # rows of a shard here: 6 shards
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_SHARD_ROWS", STEP)


class Watched(ArrayImages):
    """Remembers which rows were read, and refuses some."""

    def __init__(
        self, images: np.ndarray, refused: dict[int, BaseException] | None = None, pause: float = 0
    ) -> None:
        super().__init__(images)
        self.refused, self.pause = refused or {}, pause
        self.rows: list[int] = []

    def read(self, row: int, region: Region, scale: float) -> Pixels:
        time.sleep(self.pause)
        self.rows.append(row)
        if row in self.refused:
            raise self.refused[row]
        return super().read(row, region, scale)


def _images(seed: int = 0) -> np.ndarray:
    return random_images(len(CROPS), SIZE, seed)


def _build(source: ArrayImages, path: Path, processes: int = 0, most_missing: float = 0.0) -> CropCache:
    return CropCache(source, CROPS, 128, 0.5, path, processes, most_missing)


def _files(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir())


SHARDS = [f"{number:06d}.crops" for number in range(6)]


@pytest.mark.parametrize("processes", [0, 2])
def test_stored_crops_are_the_sources_pixels(tmp_path: Path, processes: int) -> None:
    source = ArrayImages(_images())
    stored = _build(source, tmp_path / "crops", processes)
    for row, (cx, cy, width, height) in enumerate(CROPS):
        data, (x0, y0), scale = stored.read(row, ALL, 1.0)
        side = max(width, height) * 1.5
        assert scale == 1.0 and data.dtype == np.uint8 and not data.flags.writeable
        assert x0 == max(0, np.floor(cx - side / 2)) and y0 == max(0, np.floor(cy - side / 2))
        assert x0 + data.shape[1] - 1 == min(SIZE[1] - 1, np.ceil(cx + side / 2))
        rows, columns = slice(int(y0), int(y0) + data.shape[0]), slice(int(x0), int(x0) + data.shape[1])
        np.testing.assert_array_equal(data, source.images[row, rows, columns])
    assert stored.image_size(1) == SIZE and stored.name(1) == "picture 1"
    assert _files(tmp_path) == ["crops"] and _files(tmp_path / "crops") == SHARDS


def test_read_gives_the_regions_part_and_a_pixel_around_it(tmp_path: Path) -> None:
    source = ArrayImages(_images())
    stored = _build(source, tmp_path / "crops")
    data, origin, _ = stored.read(0, Region(70, 40, 11, 21), 1.0)
    assert origin == (69, 39) and data.shape == (23 + 1, 13 + 1, 3)
    np.testing.assert_array_equal(data, source.images[0, 39:63, 69:83])
    assert stored.read(0, Region(0, 0, 1, 1), 1.0).data.shape == (1, 1, 3)  # the nearest that there is


def test_shrunk_crops_stay_where_they_are(tmp_path: Path) -> None:
    """On a ramp, every pixel has the grey level of its place, to rounding, whatever the factor."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    ramp = np.stack([x, y, x + y], -1)[None].repeat(len(CROPS), 0).astype(np.uint8)
    for size_px in (33, 50, 59):
        stored = CropCache(ArrayImages(ramp), CROPS, size_px, 0.5, tmp_path / str(size_px), processes=0)
        for row in range(3):
            data, (x0, y0), scale = stored.read(row, ALL, 1.0)
            assert scale == min(1.0, size_px / (CROPS[row, 2:].max() * 1.5))
            assert max(data.shape) <= size_px + 2
            v, u = np.mgrid[1 : data.shape[0] - 1, 1 : data.shape[1] - 1]
            place = np.stack([x0 + u / scale, y0 + v / scale, x0 + u / scale + y0 + v / scale], -1)
            error = data[1:-1, 1:-1] - place
            assert np.abs(error.mean((0, 1))).max() <= 0.05  # px
            assert np.abs(error).max() <= 0.75  # rounding, and the steps that a ramp of whole numbers has


def test_built_once_and_again_when_anything_changes(tmp_path: Path) -> None:
    path, images = tmp_path / "crops", _images()
    first = _build(ArrayImages(images), path)
    again = _build(source := Watched(images), path)
    np.testing.assert_array_equal(first.read(3, ALL, 1).data, again.read(3, ALL, 1).data)
    assert source.rows == []
    for crops, size_px, margin in (
        (CROPS + np.array([0, 0, 0, 1.0]), 128, 0.5),
        (CROPS, 48, 0.5),
        (CROPS, 48, 0.25),
    ):
        source = Watched(images)
        CropCache(source, crops, size_px, margin, path, processes=0)
        assert source.rows == list(range(len(CROPS)))
    CropCache(ArrayImages(images), CROPS[:10], 48, 0.25, path, processes=0)
    assert _files(path) == SHARDS[:3]  # those of the rows that are gone are gone


def test_a_replaced_image_costs_its_own_shard(tmp_path: Path) -> None:
    path, images = tmp_path / "crops", _images()
    _build(ArrayImages(images), path)
    images[9] = 255 - images[9]
    stored = _build(source := Watched(images), path)
    assert source.rows == [8, 9, 10, 11]
    x0, y0 = (int(v) for v in stored.read(9, ALL, 1).origin)
    np.testing.assert_array_equal(stored.read(9, ALL, 1).data[0, 0], images[9, y0, x0])


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError("cannot render"), ImageError("a.jpg: empty")])
def test_what_ends_a_build_leaves_the_finished_shards(tmp_path: Path, fault: BaseException) -> None:
    path, images = tmp_path / "crops", _images()
    said = {
        OSError: "row 14, picture 14: OSError: cannot render",
        ImageError: "row 14, a.jpg: empty",
    }.get(type(fault))
    kind = KeyboardInterrupt if isinstance(fault, KeyboardInterrupt) else ValueError
    with pytest.raises(kind, match=said):
        _build(Watched(images, {14: fault}), path)
    assert _files(path) == SHARDS[:3]
    _build(source := Watched(images), path)
    assert source.rows == list(range(12, len(CROPS)))


def test_an_error_in_a_worker_says_the_same(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^row 14, a\.jpg: empty$"):
        _build(Watched(_images(), {14: ImageError("a.jpg: empty")}), tmp_path / "crops", processes=2)
    assert not [name for name in _files(tmp_path / "crops") if name.endswith("tmp")]


def test_a_full_disk_keeps_the_finished_shards(tmp_path: Path) -> None:
    """Files may not become larger than those of the first two shards: a real error of the system."""
    path, images = tmp_path / "crops", _images()
    crops = np.tile([80.0, 60.0, 10.0, 10.0], (len(CROPS), 1))
    crops[8:, 2:] = 60.0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, before[1]))
    try:
        with pytest.raises(OSError, match="kept: start again"):
            CropCache(ArrayImages(images), crops, 128, 0.5, path, processes=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert _files(path) == SHARDS[:2]
    CropCache(source := Watched(images), crops, 128, 0.5, path, processes=0)
    assert source.rows == list(range(8, len(CROPS)))


SLOW_BUILD = """
import sys
from pathlib import Path
from ipr import cache
from tests import test_cache
cache._SHARD_ROWS = test_cache.STEP
print("begins", flush=True)
try:
    test_cache._build(test_cache.Watched(test_cache._images(), pause=0.15), Path(sys.argv[1]), processes=2)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_a_worker_that_is_killed_is_an_error(tmp_path: Path) -> None:
    class Killed(ArrayImages):
        def read(self, row: int, region: Region, scale: float) -> Pixels:
            if row == 14:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().read(row, region, scale)

    with pytest.raises(ValueError, match="ended from outside"):
        _build(Killed(_images()), tmp_path / "crops", processes=2)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_kill(tmp_path: Path, how: signal.Signals) -> None:
    path = tmp_path / "crops"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_BUILD, str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # the signal goes to all its processes, as the terminal's Ctrl-C does
    )
    deadline = time.monotonic() + 60
    while not (path / SHARDS[0]).exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, how)
    _, said = process.communicate(timeout=60)
    done = [name for name in _files(path) if name.endswith(".crops")]
    assert 1 <= len(done) < len(SHARDS)
    if how == signal.SIGINT:
        assert process.returncode == 130 and _files(path) == done
        assert "Traceback" not in said
    _build(source := Watched(_images()), path)
    assert sorted(set(source.rows)) == [row for row in range(21) if SHARDS[row // STEP] not in done]


def test_what_a_killed_build_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "crops"
    path.mkdir()
    (path / "000001.0a1b2c3d.tmp").write_bytes(b"half")
    (path / "000002.0a1b2c3d.tmp").write_bytes(b"half")
    os.utime(path / "000001.0a1b2c3d.tmp", (time.time() - 7200,) * 2)
    _build(ArrayImages(_images()), path)
    assert [name for name in _files(path) if name.endswith("tmp")] == ["000002.0a1b2c3d.tmp"]  # being written


@pytest.mark.parametrize("keep", [0, 10, 0.3, -1])
def test_a_shard_cut_short_is_made_again(tmp_path: Path, keep: float) -> None:
    path, images = tmp_path / "crops", _images()
    _build(ArrayImages(images), path)
    whole = (path / SHARDS[1]).read_bytes()
    (path / SHARDS[1]).write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    _build(source := Watched(images), path)
    assert source.rows == [4, 5, 6, 7]
    assert (path / SHARDS[1]).read_bytes()[:1000] == whole[:1000]


def test_a_damaged_index_is_made_again(tmp_path: Path) -> None:
    path, images = tmp_path / "crops", _images()
    _build(ArrayImages(images), path)
    whole = bytearray((path / SHARDS[1]).read_bytes())
    whole[-300] ^= 1
    (path / SHARDS[1]).write_bytes(whole)
    _build(source := Watched(images), path)
    assert source.rows == [4, 5, 6, 7]


def test_damaged_pixels_are_an_error_and_never_seen(tmp_path: Path) -> None:
    path, images = tmp_path / "crops", _images()
    _build(ArrayImages(images), path)
    whole = bytearray((path / SHARDS[1]).read_bytes())
    whole[100] ^= 1  # of row 4
    (path / SHARDS[1]).write_bytes(whole)
    stored = _build(Watched(images, {row: OSError() for row in range(21)}), path)
    with pytest.raises(ImageError, match=r"000001\.crops: .*crop 0 are damaged.*delete this file"):
        stored.read(4, ALL, 1)
    stored.read(5, ALL, 1)
    (path / SHARDS[4]).unlink()  # a build that goes on looks at all pixels
    _build(source := Watched(images), path).read(4, ALL, 1)
    assert source.rows == [4, 5, 6, 7, 16, 17, 18, 19]


def test_a_bad_row_is_missing_and_never_black(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, images = tmp_path / "crops", _images()
    bad: dict[int, BaseException] = {row: ImageError(f"{row}.jpg: is empty") for row in (0, 5)}
    stored = _build(Watched(images, bad), path, processes=2, most_missing=0.01)
    assert (
        "2 of 21 crops are missing, their images cannot be used; first row 0, 0.jpg" in capfd.readouterr().err
    )
    for row in range(21):
        if row in bad:
            with pytest.raises(ImageError, match=f"^{row}.jpg: is empty$"):
                stored.read(row, ALL, 1)
        else:
            assert stored.read(row, ALL, 1).data.any()
    _build(source := Watched(images, bad), path, most_missing=0.01)
    assert source.rows == []
    with pytest.raises(ImageError, match=r"row 0, 0\.jpg"):  # who allows none gets what is there now
        _build(Watched(images, bad), path)
    _build(source := Watched(images), path)
    assert source.rows == list(range(8))


def test_too_many_bad_rows_end_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_GRACE", 10)
    bad: dict[int, BaseException] = {row: ImageError(f"{row}.jpg: is empty") for row in (0, 5, 6)}
    with pytest.raises(ImageError, match="3 of 8 crops are missing"):
        _build(Watched(_images(), bad), tmp_path / "crops", most_missing=0.2)
    with pytest.raises(ValueError, match=r"most_missing: 1\.5 given, must be a share"):
        _build(ArrayImages(_images()), tmp_path / "crops", most_missing=1.5)


def test_two_runs_may_build_one_cache(tmp_path: Path) -> None:
    """The slower one takes what the quicker one, which may read from it already, has left."""
    path, images = tmp_path / "crops", _images()

    class Slow(ArrayImages):
        def read(self, row: int, region: Region, scale: float) -> Pixels:
            if not (path / SHARDS[5]).exists():
                _build(ArrayImages(images), path)
                stamps.extend(file.stat().st_ino for file in sorted(path.glob("*.crops")))
            return super().read(row, region, scale)

    stamps: list[int] = []
    _build(Slow(images), path)
    assert stamps == [file.stat().st_ino for file in sorted(path.glob("*.crops"))]
    assert _files(path) == SHARDS


def test_a_cache_replaced_under_a_run_is_an_error(tmp_path: Path) -> None:
    path, images = tmp_path / "crops", _images()
    stored = _build(ArrayImages(images), path)
    before = stored.read(0, ALL, 1).data.copy()
    _build(ArrayImages(255 - images), path)
    np.testing.assert_array_equal(stored.read(0, ALL, 1).data, before)  # of the file that it has open
    with pytest.raises(ValueError, match=r"000001\.crops was replaced by a run with other images"):
        stored.read(4, ALL, 1)


def test_a_directory_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("keep me")
    with pytest.raises(ValueError, match=r"no crop cache, it holds letters\.txt"):
        _build(ArrayImages(_images()), tmp_path)
    assert _files(tmp_path) == ["letters.txt"]


def test_no_crops_and_crops_outside_the_image(tmp_path: Path) -> None:
    source = ArrayImages(_images())
    with pytest.raises(ValueError, match="there are no crops"):
        CropCache(source, CROPS[:0], 64, 0.5, tmp_path / "a", processes=0)
    outside = CROPS + np.array([1000.0, 0, 0, 0])
    with pytest.raises(ImageError, match=r"row 0, picture 0: .*outside the image"):
        CropCache(source, outside, 64, 0.5, tmp_path / "b", processes=0)
    stored = CropCache(source, outside, 64, 0.5, tmp_path / "b", processes=0, most_missing=1.0)
    with pytest.raises(ImageError, match="outside the image"):  # a shard without a pixel
        stored.read(0, ALL, 1)


def test_a_worker_gets_a_small_copy(tmp_path: Path) -> None:
    stored = _build(ArrayImages(_images()), tmp_path / "crops")
    before = stored.read(5, ALL, 1.0)
    copy = pickle.loads(pickled := pickle.dumps(stored))
    assert len(pickled) < len(pickle.dumps(_images())) + 2000  # the source, and no crops
    assert copy.__dict__["_open"] == {}
    np.testing.assert_array_equal(copy.read(5, ALL, 1.0).data, before.data)


def test_training_from_the_cache_is_training_from_the_source(tmp_path: Path) -> None:
    table = random_table(10)
    patch, augment = PatchConfig(height=32, width=32), AUGMENT
    crops = crop_box(table.boxes_xywh, table.box_rule, 1.0)
    margin, _ = file_crops(patch, augment)
    assert isinstance(table.image, ArrayImages)
    stored = CropCache(table.image, crops, 1000, margin, tmp_path / "crops", processes=0)
    for epoch in range(5):
        batches = [
            Mix([source], patch, DepthConfig(), augment, seed=0)[epoch, range(10)]
            for source in (table, dataclasses.replace(table, image=stored))
        ]
        one, two = (batch_to_patches(batch, patch.size, patch.mean, patch.std) for batch in batches)
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-3)


@pytest.mark.parametrize("augment", [None, AUGMENT])
def test_files_lose_nothing(tmp_path: Path, augment: object) -> None:
    """Patches of smooth pictures from stored, shrunk crops are those from the files, to their corners."""
    y, x = np.mgrid[:600, :600] / 600
    picture = np.stack([127 + 120 * np.sin(9 * x + k) * np.cos(7 * y) for k in range(3)], -1)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    table = dataclasses.replace(
        random_table(8),
        image=FileImages([tmp_path / "a.png"] * 8),
        boxes_xywh=np.array([[200.0, 190, 240, 200]] * 8),
    )
    patch = PatchConfig(height=64, width=64)
    margin, density = file_crops(patch, augment)  # type: ignore[arg-type]
    crops = crop_box(table.boxes_xywh, table.box_rule, 1.0)
    size_px = round(64 * (1 + margin) * density)
    stored = CropCache(table.image, crops, size_px, margin, tmp_path / "crops", processes=0)  # type: ignore[arg-type]
    assert stored.read(0, Region(0, 0, 600, 600), 1.0).scale == pytest.approx(density * 64 / 300, rel=0.01)
    for epoch in range(5):
        batches = [
            Mix([source], patch, DepthConfig(), augment, seed=0)[epoch, range(8)]  # type: ignore[arg-type]
            for source in (table, dataclasses.replace(table, image=stored))
        ]
        one, two = (batch_to_patches(batch, patch.size, (0.0,) * 3, (1.0,) * 3) for batch in batches)
        np.testing.assert_allclose(one, two, rtol=0, atol=2)
