"""Cut-out objects to lay over patches: generated ones, or a folder's RGBA pictures."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm import tqdm

from ipr.images import MAX_PIXELS, ImageError

GENERATED = 256  # objects of the generated set
MAX_BYTES = 2**31  # of all cut-outs of a run as they are kept
_SMALLEST_PX = 8  # longer side at which no coarser level is made
_KEY = 0x0CC1  # of the generated objects' random numbers
_KINDS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey and alpha", 6: "RGBA"}  # PNG's colour types


@dataclass(frozen=True)
class Cutouts:
    """Objects, each as a pyramid of pictures, every level half as fine as the one before.

    The pixels are a tensor, not an array: the loader's workers share it however they are started.
    """

    pixels: Tensor  # uint8 [bytes], RGBA pictures [height, width, 4]; RGB premultiplied by alpha
    offsets: np.ndarray  # int64 [levels], first byte of each
    sizes: np.ndarray  # int32 [levels, 2] (height, width) px
    first: np.ndarray  # int64 [N + 1], object i has the levels first[i] to first[i + 1] - 1
    native: np.ndarray  # float64 [N, 2] (height, width) px of the object as it was given

    def __len__(self) -> int:
        return len(self.native)


def from_folder(folder: str, scale: float, most_px: int) -> Cutouts:
    """Of every file in the folder, in the order of their names; names that begin with a dot do not count.

    They are kept with ``scale`` px per px of the file, at most as many as the file has, and with a longer
    side of at most ``most_px`` px. ImageError for a file that is no PNG picture with 8-bit RGBA.
    """
    try:
        files = sorted(path for path in Path(folder).iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ValueError(f"{folder}: no folder of occluders: {error.strerror}") from error
    if not files:
        raise ValueError(f"{folder}: the folder of occluders is empty: need PNG pictures with 8-bit RGBA")
    with tqdm(files, desc=f"reading {folder}", unit="picture", delay=2) as bar:
        pictures = map(read_rgba, bar)
        return _pack(((p.shape[:2], _reduced(premultiplied(p), scale, most_px)) for p in pictures), folder)


def generate(scale: float, most_px: int, count: int = GENERATED) -> Cutouts:
    """The objects 0 .. count - 1, kept like those of ``from_folder``: always the same."""
    return _pack((_generated(index, scale, most_px) for index in range(count)), "generated objects")


def read_rgba(path: Path) -> np.ndarray:
    """uint8 [height, width, 4] of a PNG file with 8-bit RGBA, or an ImageError that names it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from error
    wanted = "an occluder is a PNG picture with 8-bit RGBA"
    if len(data) < 26 or data[:8] != b"\x89PNG\r\n\x1a\n" or data[12:16] != b"IHDR":
        raise ImageError(f"{path}: is no PNG picture (it begins with {data[:12]!r}): {wanted}")
    width, height, bits, kind = struct.unpack(">IIBB", data[16:26])
    if (bits, kind) != (8, 6):
        raise ImageError(f"{path}: is {_KINDS.get(kind, 'of unknown colours')} with {bits} bits: {wanted}")
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"{path}: is of {width} x {height} px: at most {MAX_PIXELS} pixels are decoded; make it smaller"
        )
    # OpenCV would fill what is missing of a file that was cut short.
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if b"IEND" in data else None
    if image is None or image.shape != (height, width, 4) or image.dtype != np.uint8:
        raise ImageError(f"{path}: is cut short or damaged; copy or encode it again")
    if not image[..., 3].any():
        raise ImageError(f"{path}: is transparent everywhere: there is nothing to lay over a patch")
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)


def premultiplied(rgba: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 4] with RGB x alpha / 255: only so may pictures be averaged and interpolated."""
    out = rgba.copy()
    out[..., :3] = (rgba[..., :3] * rgba[..., 3:].astype(np.uint16) + 127) // 255
    return out


def _reduced(picture: np.ndarray, scale: float, most_px: int) -> np.ndarray:
    scale = min(scale, most_px / max(picture.shape[:2]))
    if scale >= 1:
        return picture
    height, width = (max(1, round(scale * side)) for side in picture.shape[:2])
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def _pyramid(picture: np.ndarray) -> Iterator[np.ndarray]:
    yield picture
    while max(picture.shape[:2]) > _SMALLEST_PX:
        height, width = (-(-side // 2) for side in picture.shape[:2])
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        yield picture


def _pack(objects: Iterable[tuple[ArrayLike, np.ndarray]], name: str) -> Cutouts:
    """Of (native height and width, premultiplied picture) of each object."""
    levels: list[np.ndarray] = []
    first, native, total = [0], [], 0
    for size, picture in objects:
        made = list(_pyramid(picture))
        total += sum(level.size for level in made)
        if total > MAX_BYTES:
            raise ValueError(
                f"{name}: more than {MAX_BYTES / 2**30:g} GiB of occluders for this patch size: take fewer"
            )
        levels += made
        first.append(len(levels))
        native.append(size)
    return Cutouts(
        torch.from_numpy(np.concatenate([level.reshape(-1) for level in levels])),
        np.array([0, *itertools.accumulate(level.size for level in levels[:-1])], np.int64),
        np.array([level.shape[:2] for level in levels], np.int32),
        np.array(first, np.int64),
        np.array(native, np.float64),
    )


# ---------------------------------------------------------------------------------------- generated objects


def _generated(index: int, scale: float, most_px: int) -> tuple[np.ndarray, np.ndarray]:
    """(native height and width, premultiplied picture [h, w, 4]) of an object, a function of its index.

    Ellipses, blobs, polygons and bars with a longer side of 64 to 384 px, as objects in photographs of some
    500 px have; their edges fade over about a twentieth of it.
    """
    rng = np.random.Generator(np.random.Philox(key=[_KEY, index]))
    length = 64 * 6 ** rng.random()
    unit = max(16.0, min(scale * length, length, most_px))  # px of the longer side
    sigma = max(0.6, rng.uniform(0.006, 0.02) * unit)  # px, of the edge
    margin = 2.5 * sigma + 1.5  # px: it has faded where the picture ends; OpenCV draws a px too wide
    outline = _outline(rng, index % 4)
    outline -= outline.min(0)
    outline *= (unit - 2 * margin) / outline.max()
    width, height = np.ceil(outline.max(0) + 2 * margin).astype(int).tolist()

    mask = np.zeros((height, width), np.uint8)
    points = np.rint(16 * (outline + margin - 0.5)).astype(np.int32)  # in 1/16 px from the first one's centre
    cv2.fillPoly(mask, [points], 255, lineType=cv2.LINE_AA, shift=4)
    alpha = cv2.GaussianBlur(mask, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    color = np.clip(_texture(rng, height, width, unit), 0, 255).astype(np.uint8)
    native = length / unit * np.array([height, width])
    return native, premultiplied(np.dstack([color, alpha]))


def _outline(rng: np.random.Generator, kind: int) -> np.ndarray:
    """[points, 2] (x, y) of a closed curve, of any size."""
    turn = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    if kind == 0:  # ellipse
        points = np.stack([np.cos(turn), rng.uniform(0.4, 1) * np.sin(turn)], 1)
    elif kind == 1:  # blob
        waves = np.arange(2, 6)[:, None]
        amplitudes, phases = rng.normal(0, 0.35, (4, 1)) / waves, rng.uniform(0, 2 * np.pi, (4, 1))
        radius = np.exp((amplitudes * np.cos(waves * turn + phases)).sum(0))
        points = np.stack([radius * np.cos(turn), rng.uniform(0.5, 1) * radius * np.sin(turn)], 1)
    elif kind == 2:  # polygon with its corners all around
        corners = int(3 + 6 * rng.random())
        around = 2 * np.pi * (np.arange(corners) + rng.uniform(-0.35, 0.35, corners)) / corners
        points = rng.uniform(0.6, 1, (corners, 1)) * np.stack([np.cos(around), np.sin(around)], 1)
    else:  # bar
        thin = rng.uniform(0.08, 0.35)
        points = np.array([[-1, -thin], [1, -thin], [1, thin], [-1, thin]])
    angle = rng.uniform(0, 2 * np.pi)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ turned.T


def _texture(rng: np.random.Generator, height: int, width: int, unit: float) -> np.ndarray:
    """Float32 [height, width, 3] RGB grey levels: two colours in a pattern, light from a side, grain."""
    y, x = np.mgrid[:height, :width].astype(np.float32) / np.float32(unit)
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.04, 0.25)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    waves = np.sin(2 * np.pi / period * along), np.sin(2 * np.pi / period * across)
    pattern = [
        _noise(rng, height, width, (3, 7, 15)),
        3 * waves[0],
        6 * waves[0] * waves[1],
        4 * (waves[0] + waves[1] - 0.8),
        np.zeros_like(x),
    ][int(5 * rng.random())]
    share = np.clip(pattern + 0.5, 0, 1)[..., None]
    grey, tint = rng.uniform(20, 235, (2, 1)), rng.uniform(-1, 1, (2, 3))
    one, other = grey + 90 * tint * rng.random((2, 1)) ** 1.5
    color = one + share * (other - one) * rng.uniform(0.3, 1)
    light = 1 + rng.uniform(0, 0.4) * (along - along.mean()) + 0.1 * _noise(rng, height, width, (4, 12, 40))
    return (color * light[..., None]).astype(np.float32)


def _noise(rng: np.random.Generator, height: int, width: int, cells: Iterable[int]) -> np.ndarray:
    """Float32 [height, width] about -1..1, smooth blotches of several sizes."""
    layers = [rng.standard_normal((number, number)).astype(np.float32) for number in cells]
    grown = [cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC) for layer in layers]
    return sum((grown[i] / (i + 1) for i in range(1, len(grown))), grown[0])
