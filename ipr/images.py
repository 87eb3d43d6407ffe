"""Image files as an ImageSource: JPEG and PNG, read so that a bad file is an error, never a black picture.

What a file is follows from its bytes, not from its name. Of what OpenCV would decode:

* 8-bit grey, palette, RGB and CMYK (read as Adobe writes it, inverted) become RGB. Alpha is dropped: a
  transparent pixel has the colour that is stored under it.
* EXIF orientation is ignored, in sizes and pixels: the annotators of the data sets saw the stored pixels.
* 16-bit files are refused: which of the bits hold the picture only their maker knows, and the usual answer,
  the upper eight, turns 12-bit data into black.
* Other formats (GIF, WebP, BMP, TIFF ...) are refused. A file that was cut short is refused: see ``_check``.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal, NamedTuple

import cv2
import numpy as np

from ipr import jpeg
from ipr.types import Failure, Pixels, Region

MAX_PIXELS = 2**27  # of one image: 400 MB decoded, in each worker

_REDUCED = {  # image px per data px -> how OpenCV is asked for it (REDUCED_COLOR would be BGR)
    1: cv2.IMREAD_COLOR_RGB,
    2: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_END = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG's SOF markers: the size is behind them
_OTHERS = (  # what people have instead: (at byte, these bytes, which means)
    (0, b"GIF8", "a GIF image"),
    (8, b"WEBP", "a WebP image"),
    (0, b"BM", "a BMP image"),
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
    (4, b"ftyp", "an AVIF or HEIC image, or a film"),
    (0, b"<", "a web page or XML, perhaps of a failed download"),
    (0, b"version https://git-lfs", "a Git LFS pointer: its content was not fetched"),
    (0, bytes(24), "zeros: the space of a file that was never written"),
)


class ImageError(ValueError):
    """An image that cannot be used: the message names the file, what is wrong and what would be right."""


class FileImages:
    """An ImageSource of files; several rows may show the same one.

    ``sizes`` [N, 2] (height, width) px, where the annotations know them: ``image_size`` then touches no file,
    and a file of another size is an error. None: they are read from the files' headers.

    A few arrays, about 12 bytes per row and the file's name: a million rows are quickly sent to a worker, one
    that is forked does not copy them by counting references, and ``to_arrays`` gives them to be stored.
    """

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]],
        sizes: np.ndarray | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        numbers: dict[str, int] = {}  # of the folders, which are few
        folder_of_row, names = [], []
        for path in paths:
            folder, name = os.path.split(os.fspath(path))
            folder_of_row.append(numbers.setdefault(folder, len(numbers)))
            names.append(os.fsencode(name))
        self._folders = tuple(numbers)
        self._folder_of_row = np.array(folder_of_row, np.int32)
        self._ends = np.cumsum([len(name) for name in names], dtype=np.int64)
        self._names = np.frombuffer(b"".join(names), np.uint8)
        self._max_pixels = max_pixels
        self._sizes: np.ndarray | None = None
        if sizes is not None:
            self._sizes = np.asarray(sizes)
            if self._sizes.shape != (len(names), 2):
                raise ValueError(
                    f"sizes of shape {list(self._sizes.shape)} for {len(names)} paths: "
                    f"need [{len(names)}, 2] (height, width)"
                )
            bad = np.flatnonzero(~(self._sizes >= 1).all(1))
            if len(bad):
                raise ValueError(
                    f"size of row {bad[0]}, {self.name(int(bad[0]))}, is {self._sizes[bad[0]].tolist()} "
                    "(height, width): need at least 1 px"
                )
            self._sizes = self._sizes.astype(np.int32)

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """All that it is: what JSON can hold, and arrays."""
        arrays: dict[str, np.ndarray] = {
            "folder_of_row": self._folder_of_row,
            "ends": self._ends,
            "names": self._names,
        }
        if self._sizes is not None:
            arrays["sizes"] = self._sizes
        return {"folders": list(self._folders), "max_pixels": self._max_pixels}, arrays

    @classmethod
    def from_arrays(cls, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> FileImages:
        """What ``to_arrays`` gave; the arrays are used as they are, mapped files too."""
        images = cls([], max_pixels=header["max_pixels"])
        images._folders = tuple(header["folders"])
        images._folder_of_row, images._ends = arrays["folder_of_row"], arrays["ends"]
        images._names, images._sizes = arrays["names"], arrays.get("sizes")
        return images

    def __len__(self) -> int:
        return len(self._folder_of_row)

    def name(self, row: int) -> str:
        start = int(self._ends[row - 1]) if row else 0
        name = os.fsdecode(self._names[start : int(self._ends[row])].tobytes())
        return os.path.join(self._folders[self._folder_of_row[row]], name)

    def image_size(self, row: int) -> tuple[int, int]:
        if self._sizes is not None:
            height, width = self._sizes[row].tolist()
            return height, width
        path = self.name(row)
        with _naming(path), open(path, "rb") as file:
            return _read_header(file).size

    def read(self, row: int, region: Region, scale: float) -> Pixels:
        """The region's pixels, or the cells of the grid of 2 x 2, 4 x 4 or 8 x 8 px that hold them.

        A grid pixel is the mean of its cell (a JPEG's is what libjpeg's small inverse transform makes of it,
        for less time; the colour of one with 4:2:2 sampling is coarser, as it is at full size). The cells
        start at the image's corner, and the last ones may reach beyond its edge.
        """
        path = self.name(row)
        with _naming(path):
            with open(path, "rb", buffering=0) as file:
                data = file.read()
            header = _read_header(io.BytesIO(data))
            self._check(row, data, header)
            x0, y0, width, height = region
            if not (0 <= x0 < x0 + width <= header.width and 0 <= y0 < y0 + height <= header.height):
                raise ImageError(
                    f"{region} was asked of an image of {_px(header.size)}: it must lie inside the image"
                )
            step = next((step for step in (8, 4, 2) if step * scale <= 1), 1)
            left, right = x0 // step, (x0 + width - 1) // step + 1
            top, bottom = y0 // step, (y0 + height - 1) // step + 1
            size = (bottom - top, right - left)
            if header.kind == "JPEG":
                block = _decode_region(data, header, step, Region(left, top, *size[::-1]))
            elif step == 1:
                block = _decode(data, header, step)[top:bottom, left:right].copy()
            else:  # OpenCV would sample every step-th pixel of these, and off centre where the size is odd
                whole = _decode(data, header, 1)
                part = whole[top * step : bottom * step, left * step : right * step]
                block = _mean(part, size, step)
        middle = (step - 1) / 2
        return Pixels(block, (left * step + middle, top * step + middle), 1 / step)

    def fingerprint(self, rows: range | None = None) -> str:
        """Changes with the names, sizes and times of the files of the rows (None: of all).

        Whoever replaces a file is noticed.
        """
        digest = hashlib.sha256()
        last = ""
        for row in range(len(self)) if rows is None else rows:
            path = self.name(row)
            if path != last:  # the people of an image mostly follow one another
                try:
                    state = os.stat(path)
                    digest.update(os.fsencode(f"{path}\0{state.st_size} {state.st_mtime_ns}\n"))
                except OSError:
                    digest.update(os.fsencode(f"{path}\0missing\n"))
            digest.update(b"+")
            last = path
        return digest.hexdigest()

    def _check(self, row: int, data: bytes, header: _Header) -> None:
        """ImageError unless the whole picture is there, of the size and depth that are expected.

        A JPEG without its end marker was cut short, or is the space that a download reserved: libjpeg fills
        what is missing with grey or noise. After the frame's header the marker's bytes can only be the
        marker (data has a zero after each 0xFF), so the embedded preview's does not count, and data after the
        end does no harm. Not found: damage inside the compressed data, which JPEG has no checksum against.
        """
        if data.rfind(_END[header.kind], header.end) < 0:
            raise ImageError(
                f"is cut short: {len(data)} bytes without the end of a {header.kind} image; copy it again"
            )
        if header.bits > 8:
            raise ImageError(f"has {header.bits} bits per channel: need 8; convert it, choosing the range")
        if header.height * header.width > self._max_pixels:
            raise ImageError(
                f"is of {_px(header.size)}: at most {self._max_pixels} pixels are decoded; make it smaller"
            )
        if self._sizes is not None and header.size != (given := tuple(self._sizes[row].tolist())):
            turned = given == header.size[::-1]
            raise ImageError(
                f"is of {_px(header.size)}, but its annotation says {_px(given)}: "
                + (
                    "height and width are exchanged, or it was annotated as its EXIF orientation turns it"
                    if turned
                    else "give the file that was annotated"
                )
            )


class _Header(NamedTuple):
    kind: str  # "JPEG" | "PNG"
    height: int  # px, as stored
    width: int
    bits: int  # per channel
    end: int  # the byte after it

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width


def _px(size: tuple[int, ...]) -> str:
    return f"{size[1]} x {size[0]} px (width x height)"


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Puts the file's name before what is wrong with it."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from error


def _take(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise ImageError("is cut short: it ends inside its header; copy it again")
    return data


def _read_header(file: BinaryIO) -> _Header:
    start = file.read(24)
    if not start:
        raise ImageError("is empty (0 bytes); copy it again")
    if start.startswith(b"\xff\xd8\xff"):
        header = _jpeg_header(file)
    elif start.startswith(b"\x89PNG\r\n\x1a\n"):
        header = _png_header(file)
    else:
        guess = next((text for at, magic, text in _OTHERS if start.startswith(magic, at)), "of unknown kind")
        raise ImageError(
            f"is neither JPEG nor PNG, but {guess} (it begins with {start[:12]!r}); give it as one of them"
        )
    if min(header.size) < 1:
        raise ImageError(f"is of {_px(header.size)}: need at least 1 x 1 px")
    return header


def _jpeg_header(file: BinaryIO) -> _Header:
    file.seek(2)
    while True:
        while _take(file, 1) != b"\xff":  # as libjpeg, which skips what some writers leave between segments
            pass
        while (marker := _take(file, 1)[0]) == 0xFF:  # any number of these may stand before a marker
            pass
        if marker in _FRAMES:
            _, bits, height, width = struct.unpack(">HBHH", _take(file, 7))
            return _Header("JPEG", height, width, bits, file.tell())
        if marker in {0xD9, 0xDA}:  # the end, or the picture's data
            raise ImageError("is a JPEG image without a frame header (its size); copy or encode it again")
        if marker > 1 and not 0xD0 <= marker <= 0xD8:  # those have no content
            length = int.from_bytes(_take(file, 2), "big")
            file.seek(max(0, length - 2), os.SEEK_CUR)


def _png_header(file: BinaryIO) -> _Header:
    file.seek(8)
    _, name, width, height, bits = struct.unpack(">I4sIIB", _take(file, 17))
    if name != b"IHDR":
        raise ImageError(f"is a PNG image that begins with {name!r} in place of IHDR; encode it again")
    return _Header("PNG", height, width, bits, file.tell())


def _decode(data: bytes, header: _Header, step: int) -> np.ndarray:
    """uint8 [ceil(height / step), ceil(width / step), 3] RGB."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[step] | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageError(f"is a {header.kind} image that OpenCV refuses: {error.err or error}") from error
    if image is None:
        raise ImageError(
            f"is a {header.kind} image whose data OpenCV cannot decode: it is damaged, or of a rare kind; "
            "copy or encode it again"
        )
    if image.shape != (-(-header.height // step), -(-header.width // step), 3):
        raise ImageError(
            f"decodes to {_px(image.shape)} with 1 of {step} pixels, but its header says {_px(header.size)}"
        )
    return image


def _decode_region(data: bytes, header: _Header, step: int, region: Region) -> np.ndarray:
    """uint8 [height, width, 3] RGB of a JPEG picture that is ``step`` times smaller."""
    x0, y0, width, height = region
    try:
        block = jpeg.decode_region(data, step, x0, y0, width, height)
    except jpeg.JpegError as error:
        raise ImageError(
            f"is a JPEG image whose data cannot be decoded ({error}): copy or encode it again"
        ) from None
    if block is None:
        # A copy of the region alone frees the picture.
        block = _decode(data, header, step)[y0 : y0 + height, x0 : x0 + width].copy()
    return block


def _mean(part: np.ndarray, size: tuple[int, int], step: int) -> np.ndarray:
    """[h, w, 3] -> [*size, 3], each pixel the mean of its cell; cells cut by the edge repeat the edge."""
    bottom, right = size[0] * step - part.shape[0], size[1] * step - part.shape[1]
    if bottom or right:
        part = cv2.copyMakeBorder(part, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(part, size[::-1], interpolation=cv2.INTER_AREA)


class ErrorPolicy:
    """What the main process does about the rows that its workers could not load.

    ``on_error="raise"``: the first is an error. ``"skip"``: they are counted and the first ``listed`` of them
    kept, and more than the share ``most`` of all rows that were tried is an error. The share is of at least
    ``GRACE`` rows, so that one bad file at the start does not count as many. A checkpoint keeps ``state()``.
    """

    GRACE = 1000

    def __init__(
        self, on_error: Literal["raise", "skip"] = "raise", most: float = 0.01, listed: int = 20
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error: {on_error!r} given, must be 'raise' or 'skip'")
        if not 0 <= most <= 1:
            raise ValueError(f"most: {most!r} given, must be a share in 0..1")
        self.on_error, self.most, self.listed = on_error, most, listed
        self.tried = self.failed = 0
        self.first: dict[tuple[int, int], Failure] = {}  # by table and row: one that fails again is no news

    def count(self, tried: int, failures: Sequence[Failure]) -> list[Failure]:
        """Of ``tried`` rows these failed. Gives those that are newly listed, for the log."""
        self.tried += tried
        self.failed += len(failures)
        new = []
        for failure in failures:
            if failure[:2] not in self.first and len(self.first) < self.listed:
                self.first[failure[:2]] = failure
                new.append(failure)
        if failures and self.on_error == "raise":
            raise ImageError(str(failures[0]))
        if self.failed > self.most * max(self.tried, self.GRACE):
            raise ImageError(f"stopped, as on_error: skip allows {self.most:.2%}: {self.summary()}")
        return new

    def state(self) -> dict[str, Any]:
        return {"tried": self.tried, "failed": self.failed, "first": [list(it) for it in self.first.values()]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on counting where ``state`` was taken."""
        self.tried, self.failed = state["tried"], state["failed"]
        self.first = {(table, row): Failure(table, row, text) for table, row, text in state["first"]}

    def summary(self) -> str:
        """How many failed, and the first of them, a line each; empty where none did."""
        if not self.failed:
            return ""
        lines = [
            f"{self.failed} of {self.tried} rows could not be loaded ({self.failed / self.tried:.2%})",
            *map(str, self.first.values()),
        ]
        return "\n  ".join(lines)
