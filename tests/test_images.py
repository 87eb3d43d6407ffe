"""Image files as a source: exact regions, reduced decoding, and every kind of bad file as one clear error."""

from __future__ import annotations

import os
import pickle
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from ipr.images import FileImages, ImageError
from ipr.types import ImageSource, Pixels, Region
from tests.data import random_images

SIZE = (151, 203)  # odd, and no multiple of 4 or 8
WHOLE = Region(0, 0, SIZE[1], SIZE[0])


def _smooth(size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    """uint8 [h, w, 3]: soft blobs, on which a shift by a fraction of a pixel can be measured."""
    noise = np.random.default_rng(seed).normal(size=(*size, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 8)
    return cv2.normalize(soft, None, 20, 235, cv2.NORM_MINMAX).astype(np.uint8)


def _jpeg(image: np.ndarray, progressive: bool = False) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, 98, cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive)]
    return cv2.imencode(".jpg", image[..., ::-1], options)[1].tobytes()


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _tagged(jpeg: bytes, orientation: int, preview: bytes = b"") -> bytes:
    """With an EXIF segment behind the start marker: orientation, and a preview that nothing points to."""
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return jpeg[:2] + _segment(0xE1, exif + preview) + jpeg[2:]


def _encoded(kind: str, image: np.ndarray) -> bytes:
    if kind == "tagged":
        return _tagged(_jpeg(image), 6, preview=_jpeg(_smooth((40, 60))))
    return _png(image) if kind == "png" else _jpeg(image, progressive=kind == "progressive")


def _raw_png(
    size: tuple[int, int], bits: int, color: int, rows: bytes, *chunks: tuple[bytes, bytes]
) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    head = struct.pack(">IIBBBBB", size[1], size[0], bits, color, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def _cmyk_jpeg(cmyk: tuple[int, int, int, int]) -> bytes:
    """8 x 8 px of one colour, inverted as Adobe has it (255: no ink): four blocks of a mean and no waves."""
    bits = ""
    for value in cmyk:
        mean = value - 128
        length = abs(mean).bit_length()
        low = mean if mean >= 0 else mean + (1 << length) - 1
        bits += f"{length:04b}" + (f"{low:0{length}b}" if length else "") + "0"
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    components = b"".join(bytes([number, 0x11, 0]) for number in range(1, 5))
    lengths = bytes([0, 0, 0, 9] + [0] * 12)  # nine codes of 4 bits: how many bits a mean has
    return (
        b"\xff\xd8"
        + _segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 0))
        + _segment(0xDB, bytes([0]) + bytes([8] * 64))
        + _segment(0xC0, struct.pack(">BHHB", 8, 8, 8, 4) + components)
        + _segment(0xC4, bytes([0x00]) + lengths + bytes(range(9)))
        + _segment(0xC4, bytes([0x10, 1] + [0] * 15 + [0]))  # the one code "0": end of block
        + _segment(0xDA, bytes([4, 1, 0, 2, 0, 3, 0, 4, 0, 0, 63, 0]))
        + data
        + b"\xff\xd9"
    )


def _source(
    folder: Path, content: bytes, name: str = "a.jpg", size: tuple[int, int] | None = None
) -> FileImages:
    (folder / name).write_bytes(content)
    return FileImages([folder / name], None if size is None else np.array([size]))


def _read(source: FileImages, region: Region | None = None, scale: float = 1.0) -> Pixels:
    height, width = source.image_size(0)
    return source.read(0, region or Region(0, 0, width, height), scale)


def _shift(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[2] (x, y) px by which b's content lies to the right of and below a's: least squares, small shifts."""
    a, b = (image.astype(np.float64).mean(2) for image in (a, b))
    slope_y, slope_x = np.gradient((a + b) / 2)
    inner = np.s_[2:-2, 2:-2]
    system = np.stack([slope_x[inner].ravel(), slope_y[inner].ravel(), np.ones(slope_x[inner].size)], 1)
    return np.linalg.lstsq(system, (a - b)[inner].ravel(), rcond=None)[0][:2]


def test_many_paths_stay_small() -> None:
    count = 20_000
    paths = [Path(f"/data/images/subject_{i // 5000}/frame_{i:06d}.jpg") for i in range(count)]
    sizes = np.tile([1002, 1000], (count, 1))
    source: ImageSource = FileImages(paths, sizes)
    data = pickle.dumps(source)
    assert len(data) < count * (len("frame_000000.jpg") + 12 + 8) + 2000
    copy = pickle.loads(data)
    assert len(copy) == count
    for row in (0, 1, 4999, 5000, count - 1):
        assert source.name(row) == copy.name(row) == str(paths[row])
    assert copy.image_size(7) == (1002, 1000)  # no file was looked for


def test_names_may_be_of_any_letters() -> None:
    names = ["bild.jpg", "/a/übung/ß 1.jpg", "relativ/ö.png", os.fsdecode(b"/b/\xff.jpg")]
    source = FileImages(names)
    assert [source.name(row) for row in range(4)] == names


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"sizes of shape \[2\] for 1 paths: need \[1, 2\]"):
        FileImages(["a.jpg"], np.array([3, 4]))
    with pytest.raises(ValueError, match=r"size of row 1, b.jpg, is \[0, 4\].*at least 1 px"):
        FileImages(["a.jpg", "b.jpg"], np.array([[3, 4], [0, 4]]))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 16), (7, 1), SIZE, (640, 480)])
@pytest.mark.parametrize("kind", ["jpeg", "progressive", "tagged", "png"])
def test_the_headers_size_is_the_decoded_one(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    image = _smooth(size)
    source = _source(tmp_path, _encoded(kind, image))
    assert source.image_size(0) == size
    assert _read(source).data.shape == (*size, 3)
    for step in (2, 4, 8):
        assert _read(source, scale=1 / step).data.shape == (-(-size[0] // step), -(-size[1] // step), 3)


def test_bytes_between_segments_are_skipped(tmp_path: Path) -> None:
    content = _jpeg(_smooth())
    plain = _read(_source(tmp_path, content)).data
    odd = content[:2] + b"\xff\xff\xff\xfe\0\4hm\0\0\0" + content[2:]  # fill bytes, a comment, and garbage
    np.testing.assert_array_equal(_read(_source(tmp_path, odd)).data, plain)


def test_a_region_is_the_crop_of_the_image_in_rgb(tmp_path: Path) -> None:
    image = _smooth()
    region = Region(31, 17, 52, 44)
    crop = image[17:61, 31:83]
    for name, content, tolerance in (("a.png", _png(image), 0), ("a.jpg", _jpeg(image), 12)):
        read = _source(tmp_path, content, name).read(0, region, 1.0)
        assert read.origin == (31.0, 17.0) and read.scale == 1.0
        assert read.data.flags.c_contiguous and read.data.dtype == np.uint8 and read.data.base is None
        assert read.data.shape == crop.shape
        assert np.abs(read.data.astype(int) - crop).max() <= tolerance


@pytest.mark.parametrize(
    ("scale", "step"), [(1.0, 1), (0.51, 1), (0.5, 2), (0.26, 2), (0.25, 4), (0.13, 4), (0.125, 8), (0.01, 8)]
)
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_reduced_region_holds_what_was_asked(tmp_path: Path, kind: str, scale: float, step: int) -> None:
    image = _smooth()
    source = _source(tmp_path, _encoded(kind, image))
    whole = _read(source, scale=scale)
    assert whole.scale == 1 / step and whole.origin == ((step - 1) / 2, (step - 1) / 2)
    for region in (Region(31, 17, 52, 44), Region(0, 0, 1, 1), Region(202, 150, 1, 1), Region(8, 16, 32, 8)):
        read = source.read(0, region, scale)
        assert read.scale == 1 / step >= scale or read.scale == 1 / 8
        left, top = (round((at - (step - 1) / 2) / step) for at in read.origin)
        height, width = read.data.shape[:2]
        # The same pixels as of the whole image, their cells around the region, and no cell beside it
        np.testing.assert_array_equal(read.data, whole.data[top : top + height, left : left + width])
        assert left * step <= region.x0 < (left + 1) * step and top * step <= region.y0 < (top + 1) * step
        assert 0 <= (left + width) * step - (region.x0 + region.width) < step
        assert 0 <= (top + height) * step - (region.y0 + region.height) < step
        assert read.data.flags.c_contiguous


@pytest.mark.parametrize("step", [2, 4, 8])
@pytest.mark.parametrize("kind", ["jpeg", "progressive", "png"])
@pytest.mark.parametrize("size", [(150, 202), (151, 203), (157, 205), (160, 208)])
def test_reduced_pixels_lie_where_the_means_do(
    tmp_path: Path, kind: str, step: int, size: tuple[int, int]
) -> None:
    image = _smooth(size)
    source = _source(tmp_path, _encoded(kind, image))
    full = _read(source).data
    height, width = size[0] // step, size[1] // step
    means = full[: height * step, : width * step].astype(np.float64)
    means = means.reshape(height, step, width, step, 3).mean((1, 3))
    reduced = _read(source, scale=1 / step).data[:height, :width]
    assert np.abs(_shift(means, reduced)).max() < 0.05  # px of the reduced image
    assert np.abs(reduced - means).mean() < 1.5
    moved = np.roll(means, 1, axis=1)  # the measure sees a shift: of a whole pixel, at least half
    assert _shift(means, moved)[0] > 0.5


@pytest.mark.parametrize("step", [2, 4, 8])
@pytest.mark.parametrize("sampling", ["422", "440"])
def test_colour_that_stays_coarse_is_not_moved(tmp_path: Path, sampling: str, step: int) -> None:
    factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}")
    image = _smooth((400, 608))
    content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor])[1].tobytes()
    source = _source(tmp_path, content)
    means = _read(source).data.reshape(400 // step, step, 608 // step, step, 3).mean((1, 3))
    reduced = _read(source, scale=1 / step).data
    for channel in range(3):
        assert np.abs(_shift(means[..., channel, None], reduced[..., channel, None])).max() < 0.05


@pytest.mark.parametrize("step", [2, 4, 8])
def test_a_reduced_png_is_the_mean_of_its_cells(tmp_path: Path, step: int) -> None:
    image = random_images(1, (48, 64))[0]
    means = image.reshape(48 // step, step, 64 // step, step, 3).mean((1, 3))
    reduced = _read(_source(tmp_path, _png(image)), scale=1 / step).data
    assert np.abs(reduced - means).max() <= 0.51  # rounding


def test_the_last_cells_repeat_the_edge(tmp_path: Path) -> None:
    image = np.zeros((5, 5, 3), np.uint8)
    image[:, 4], image[4] = 100, 200
    reduced = _read(_source(tmp_path, _png(image)), scale=0.25)
    np.testing.assert_array_equal(reduced.data[..., 0], [[0, 100], [200, 200]])


def test_a_region_must_lie_in_the_image(tmp_path: Path) -> None:
    source = _source(tmp_path, _png(_smooth()))
    for region in (Region(-1, 0, 5, 5), Region(200, 0, 4, 5), Region(0, 0, 0, 5), Region(0, 151, 5, 1)):
        with pytest.raises(ImageError, match=r"a\.jpg: Region\(.*image of 203 x 151 px .*inside the image"):
            source.read(0, region, 1.0)


def test_grey_and_palette_become_rgb(tmp_path: Path) -> None:
    grey = _smooth()[..., :1].repeat(3, 2)
    for content in (cv2.imencode(ext, grey[..., 0])[1].tobytes() for ext in (".png", ".jpg")):
        read = _read(_source(tmp_path, content)).data
        assert read.shape == (*SIZE, 3) and np.abs(read.astype(int) - grey).max() < 12
    palette = b"\xff\0\0\0\xff\0\0\0\xff\x09\x08\x07"
    content = _raw_png((1, 4), 2, 3, b"\0\x1b", (b"PLTE", palette))
    assert _read(_source(tmp_path, content)).data.tobytes() == palette
    content = _raw_png((1, 4), 2, 3, b"\0\x1b", (b"PLTE", palette), (b"tRNS", b"\0\x80\xff\0"))
    assert _read(_source(tmp_path, content)).data.tobytes() == palette
    assert _read(_source(tmp_path, _raw_png((1, 2), 1, 0, b"\0\x40"))).data.tobytes() == b"\0\0\0\xff\xff\xff"


def test_alpha_is_dropped(tmp_path: Path) -> None:
    rgba = b"\x10\x20\x30\x00\x40\x50\x60\x80\x70\x80\x90\xff"
    read = _read(_source(tmp_path, _raw_png((1, 3), 8, 6, b"\0" + rgba))).data
    assert read.tobytes() == b"\x10\x20\x30\x40\x50\x60\x70\x80\x90"
    assert _read(_source(tmp_path, _raw_png((1, 1), 8, 4, b"\0\x33\x00"))).data.tobytes() == b"\x33\x33\x33"


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.125])
def test_cmyk(tmp_path: Path, scale: float) -> None:
    inverted = (0, 128, 255, 255)  # full cyan, half magenta
    read = _read(_source(tmp_path, _cmyk_jpeg(inverted)), scale=scale)
    expected = np.array([0, 128, 255])
    assert np.abs(read.data.astype(int) - expected).max() <= 2
    half_black = _read(_source(tmp_path, _cmyk_jpeg((255, 255, 128, 128)))).data
    assert np.abs(half_black.astype(int) - [128, 128, 64]).max() <= 2


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_exif_orientation_is_ignored(tmp_path: Path, scale: float) -> None:
    content = _jpeg(_smooth())
    turned = _tagged(content, 6)
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (SIZE[1], SIZE[0], 3)
    plain = _read(_source(tmp_path, content), scale=scale)
    np.testing.assert_array_equal(_read(_source(tmp_path, turned), scale=scale).data, plain.data)


def test_the_bytes_decide_not_the_name(tmp_path: Path) -> None:
    image = _smooth()
    np.testing.assert_array_equal(_read(_source(tmp_path, _png(image), "a.jpg")).data, image)
    assert _read(_source(tmp_path, _jpeg(image), "a.txt")).data.shape == image.shape


BAD_HEADERS = {
    "empty": (b"", r"is empty \(0 bytes\); copy it again"),
    "text": (b"hello, this is no picture", r"neither JPEG nor PNG, but of unknown kind .*b'hello, this '"),
    "html": (b"<!DOCTYPE html><html>404</html>", "a web page or XML, perhaps of a failed download"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer: its content was not"),
    "zeros": (bytes(5000), "zeros: the space of a file that was never written"),
    "gif": (b"GIF89a" + bytes(50), "but a GIF image"),
    "webp": (b"RIFF\x24\0\0\0WEBPVP8 " + bytes(50), "but a WebP image"),
    "bmp": (cv2.imencode(".bmp", _smooth())[1].tobytes(), "but a BMP image"),
    "tiff": (cv2.imencode(".tiff", _smooth())[1].tobytes(), "but a TIFF image"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(50), "but an AVIF or HEIC image"),
    "frameless": (b"\xff\xd8\xff\xd9" + bytes(50), r"a JPEG image without a frame header \(its size\)"),
    "apple": (b"\x89PNG\r\n\x1a\n\0\0\0\4CgBI" + bytes(50), "begins with b'CgBI' in place of IHDR"),
    "no height": (_raw_png((0, 5), 8, 2, b""), r"is of 5 x 0 px .*need at least 1 x 1"),
}


@pytest.mark.parametrize(("content", "message"), BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    source = _source(tmp_path, content)
    for look in (lambda: source.image_size(0), lambda: source.read(0, Region(0, 0, 1, 1), 1.0)):
        with pytest.raises(ImageError, match=rf"a\.jpg: .*{message}"):
            look()


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    source = FileImages([tmp_path / "missing.jpg", tmp_path / "folder.jpg"])
    for row, message in enumerate([r"missing\.jpg: .*No such file", r"folder\.jpg: .*Is a directory"]):
        for look in (source.image_size, lambda row: source.read(row, Region(0, 0, 1, 1), 1.0)):
            with pytest.raises(ImageError, match=message):
                look(row)


def test_16_bits_are_refused(tmp_path: Path) -> None:
    deep = cv2.imencode(".png", _smooth().astype(np.uint16) * 16)[1].tobytes()
    with pytest.raises(ImageError, match=r"a\.jpg: has 16 bits per channel: need 8; convert it"):
        _read(_source(tmp_path, deep))
    content = bytearray(_jpeg(_smooth()))
    content[content.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(ImageError, match="has 12 bits per channel"):
        _read(_source(tmp_path, bytes(content)))


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "tagged", "png"])
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, kind: str) -> None:
    image = random_images(1, SIZE)[0]
    content = _encoded(kind, image)
    assert _read(_source(tmp_path, content)).data.shape == (*SIZE, 3)
    assert _read(_source(tmp_path, content + bytes(500))).data.shape == (*SIZE, 3)  # data after the end
    # The last byte of JPEG's marker; the last that matters of PNG's, whose checksum OpenCV may not ask for.
    last = len(content) - (1 if kind != "png" else 5)
    for length in [*np.linspace(1, last, 40).astype(int).tolist(), last - 1]:
        for filling in (b"", bytes(len(content) - length), b"\xff" * (len(content) - length)):
            if not any(content[length:]) and filling:
                continue
            source = _source(tmp_path, content[:length] + filling, size=SIZE)
            for scale in (1.0, 0.25):
                with pytest.raises(ImageError, match=r"a\.jpg: .*(copy|encode) it again|a\.jpg: .*neither"):
                    source.read(0, WHOLE, scale)


def test_damage_inside_a_png_is_found(tmp_path: Path) -> None:
    content = _png(random_images(1, SIZE)[0])
    for at in np.linspace(60, len(content) - 40, 20).astype(int):
        damaged = bytearray(content)
        damaged[at] ^= 0x55
        with pytest.raises(
            ImageError, match=r"a\.jpg: is a PNG image whose data OpenCV cannot decode: it is dam"
        ):
            _read(_source(tmp_path, bytes(damaged)))


def test_huge_images_are_measured_but_not_decoded(tmp_path: Path) -> None:
    jpeg = bytearray(_jpeg(_smooth()))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 30000, 30000)
    for content in (bytes(jpeg), _raw_png((30000, 30000), 8, 2, b"")):
        source = _source(tmp_path, content)
        assert source.image_size(0) == (30000, 30000)
        with pytest.raises(ImageError, match=r"a\.jpg: is of 30000 x 30000 px .*at most 134217728 pixels"):
            source.read(0, Region(0, 0, 5, 5), 0.1)
    _source(tmp_path, _raw_png((40000, 40000), 8, 2, b""))
    source = FileImages([tmp_path / "a.jpg"], max_pixels=2**40)
    with pytest.raises(ImageError, match=r"a\.jpg: is a PNG image that OpenCV refuses: .*pixels"):
        source.read(0, Region(0, 0, 5, 5), 1.0)


def test_a_size_that_contradicts_the_annotation_is_refused(tmp_path: Path) -> None:
    content = _jpeg(_smooth())
    assert _read(_source(tmp_path, content, size=SIZE)).data.shape == (*SIZE, 3)
    with pytest.raises(ImageError, match=r"a\.jpg: is of 203 x 151 px .*annotation says 640 x 480 px"):
        _source(tmp_path, content, size=(480, 640)).read(0, Region(0, 0, 5, 5), 1.0)
    with pytest.raises(ImageError, match=r"says 151 x 203 px .*exchanged, or .*EXIF"):
        _source(tmp_path, content, size=SIZE[::-1]).read(0, Region(0, 0, 5, 5), 1.0)


def test_the_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    source = _source(tmp_path, b"one")
    seen = {source.fingerprint(), FileImages([tmp_path / "a.jpg"] * 2).fingerprint()}
    assert source.fingerprint() in seen and len(seen) == 2
    (tmp_path / "a.jpg").write_bytes(b"other")
    seen.add(source.fingerprint())
    (tmp_path / "a.jpg").unlink()
    seen.add(source.fingerprint())
    assert len(seen) == 4
