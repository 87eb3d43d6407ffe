"""Parts of JPEG pictures: the pixels that OpenCV gives of the whole, and no harm from damaged files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ipr import jpeg
from ipr.images import FileImages, ImageError
from ipr.types import Region
from tests.test_images import _cmyk_jpeg

REDUCED = {
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
SAMPLINGS = {
    name: getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}") for name in ("411", "420", "422", "440", "444")
}
SIZES = ((211, 333), (64, 48), (17, 9), (1, 1), (250, 8))  # height, width
compiled = pytest.mark.skipif(jpeg.LIBRARY is None, reason="built without libjpeg-turbo")


def _picture(height: int, width: int) -> np.ndarray:
    """Smooth colours with edges and noise, so that chroma matters."""
    random = np.random.default_rng(height)
    coarse = random.integers(0, 256, (5, 5, 3)).astype(np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.add(smooth, random.integers(0, 40, smooth.shape).astype(np.uint8))


def _encode(picture: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90, *options])[1].tobytes()


def _regions(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """(left, top, width, height): all, single pixels in the corners, and random ones."""
    random = np.random.default_rng(width)
    found = [(0, 0, width, height), (0, 0, 1, 1), (width - 1, height - 1, 1, 1), (0, height - 1, width, 1)]
    for _ in range(8):
        left, top = int(random.integers(width)), int(random.integers(height))
        found.append(
            (left, top, int(random.integers(width - left)) + 1, int(random.integers(height - top)) + 1)
        )
    return found


@compiled
@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_pixels_are_those_of_the_whole_picture(sampling: str, progressive: int) -> None:
    options = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling])
    for size in SIZES:
        data = _encode(_picture(*size), *options, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
        for step, flags in REDUCED.items():
            whole = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
            for left, top, width, height in _regions(*whole.shape[:2]):
                part = jpeg.decode_region(data, step, left, top, width, height)
                assert part is not None
                np.testing.assert_array_equal(part, whole[top : top + height, left : left + width])


@compiled
def test_grey_pictures_become_rgb_and_four_components_are_left_to_opencv() -> None:
    grey = _encode(_picture(40, 30)[..., 0])
    whole = cv2.imdecode(np.frombuffer(grey, np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(jpeg.decode_region(grey, 1, 3, 5, 20, 10), whole[5:15, 3:23])
    assert jpeg.decode_region(_cmyk_jpeg((200, 128, 100, 250)), 1, 0, 0, 1, 1) is None


@compiled
def test_what_cannot_be_decoded_says_why() -> None:
    data = _encode(_picture(64, 48))
    with pytest.raises(jpeg.JpegError, match="region lies outside of the picture"):
        jpeg.decode_region(data, 1, 0, 0, 49, 64)
    with pytest.raises(jpeg.JpegError, match="region lies outside of the picture"):
        jpeg.decode_region(data, 2, 0, 32, 24, 1)
    with pytest.raises(jpeg.JpegError, match="Not a JPEG file"):
        jpeg.decode_region(b"GIF89a" + data, 1, 0, 0, 1, 1)
    with pytest.raises(jpeg.JpegError, match="Empty input file"):
        jpeg.decode_region(b"", 1, 0, 0, 1, 1)


@compiled
@pytest.mark.parametrize("progressive", [0, 1])
def test_damaged_data_gives_pixels_or_an_error(progressive: int) -> None:
    data = _encode(_picture(120, 90), cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    random = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(data)
        for place in random.integers(2, len(data), int(random.integers(1, 20))):
            damaged[place] = int(random.integers(256))
        try:
            part = jpeg.decode_region(bytes(damaged[: random.integers(100, len(data))]), 1, 20, 30, 40, 50)
        except jpeg.JpegError as error:
            assert str(error)
        else:
            assert part is None or part.shape == (50, 40, 3)


def test_files_are_read_alike_with_and_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(_encode(_picture(211, 333)))
    images = FileImages([path])
    asked = [(Region(31, 40, 100, 77), scale) for scale in (1.0, 0.5, 0.3, 0.1)]
    read = [images.read(0, *it) for it in asked]
    monkeypatch.setattr(jpeg, "LIBRARY", None)
    assert "OpenCV" in jpeg.describe()
    for ours, theirs in zip(read, (images.read(0, *it) for it in asked), strict=True):
        np.testing.assert_array_equal(ours.data, theirs.data)
        assert ours[1:] == theirs[1:]


@compiled
def test_a_file_with_damaged_tables_is_an_error_that_names_it(tmp_path: Path) -> None:
    data = bytearray(_encode(_picture(64, 48)))
    at = data.index(b"\xff\xc4")  # the first Huffman table: more codes than there are
    data[at + 5 : at + 9] = b"\xff" * 4
    path = tmp_path / "a.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.jpg: is a JPEG image whose data cannot be decoded \(.*Huffman"):
        FileImages([path]).read(0, Region(0, 0, 48, 64), 1.0)
