"""Objects cut out of the photographs of Pascal VOC 2012, for ``occlusion``. Of each photograph it has:

* JPEGImages/ID.jpg
* SegmentationObject/ID.png, a palette picture: object k has the index k, the band around objects 255
* Annotations/ID.xml: the objects in that order, with their class and what is odd about them
"""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from ipr.images import FileImages, ImageError
from ipr.types import Region

FOLDERS = ("SegmentationObject", "Annotations", "JPEGImages")
SMALLEST_AREA = 500  # px; smaller objects are blurred specks
# What is left out: people, who would be people without labels; what the annotators marked as hard to
# recognise, or as cut off, which would show as a straight edge in the middle of a patch; what is small; what
# the mask has and the annotation has not.
_MARKS = ("difficult", "truncated")
REASONS = ("person", *_MARKS, "small", "unlisted")
_FADE_PX = 3.0  # from the outline inwards: behind it is the background of the photograph
_MOST_XML = 2**20  # bytes; VOC's largest has 20 kB


def image_ids(root: Path) -> list[str]:
    """Of the photographs with segmented objects, sorted."""
    return sorted(path.stem for path in (root / "SegmentationObject").glob("*.png"))


def cut_out(root: Path, image_id: str) -> Iterator[tuple[int, str | None, np.ndarray | None]]:
    """(number from 1, None, RGBA [h, w, 4]) of each object, or (number, one of ``REASONS``, None).

    Not premultiplied. ImageError or ValueError, naming the file, where the three files do not fit together.
    """
    mask_path, xml_path, image_path = (
        root / folder / f"{image_id}{suffix}"
        for folder, suffix in zip(FOLDERS, (".png", ".xml", ".jpg"), strict=True)
    )
    images = FileImages([image_path])
    height, width = images.image_size(0)
    masks, objects = _object_numbers(mask_path, (height, width)), _objects(xml_path)
    shown = int(masks[masks < 255].max(initial=0))
    objects += ["unlisted"] * (shown - len(objects))
    rgb = images.read(0, Region(0, 0, width, height), 1.0).data
    for number, odd in enumerate(objects, 1):
        mask = (masks == number).astype(np.uint8)
        reason = odd or ("small" if int(mask.sum()) < SMALLEST_AREA else None)
        yield number, reason, None if reason else _fade(rgb, mask)


def _objects(path: Path) -> list[str | None]:
    """For each object why it is left out, or None."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(text) > _MOST_XML or b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ValueError(f"{path}: is no annotation of VOC: those are small, without entities of their own")
    try:
        tree = ET.fromstring(text)
    except ET.ParseError as error:
        raise ValueError(f"{path}: is no valid XML: {error}") from None
    return [_why_left_out(item, path) for item in tree.findall("object")]


def _why_left_out(item: ET.Element, path: Path) -> str | None:
    name = (item.findtext("name") or "").strip()
    if not name:
        raise ValueError(f"{path}: an object has no <name>: need its class")
    marks = (mark for mark in _MARKS if (item.findtext(mark) or "").strip() == "1")  # some have none at all
    return "person" if name == "person" else next(marks, None)


def _object_numbers(path: Path, size: tuple[int, int]) -> np.ndarray:
    """uint8 [height, width] palette indices of a PNG file of that size."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from error
    palette = _palette(data, path)
    width, height = struct.unpack(">II", data[16:24])
    if (height, width) != size:
        raise ImageError(f"{path}: is of {width} x {height} px, its photograph of {size[1]} x {size[0]} px")
    colors = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if b"IEND" in data else None
    if colors is None or colors.shape[:2] != size:
        raise ImageError(f"{path}: is cut short or damaged; copy it again")
    # OpenCV turns indices into colours; VOC's palette gives each index one of its own.
    index_of = np.full(2**24, 255, np.uint8)
    index_of[palette] = np.arange(len(palette))
    return index_of[_codes(colors[..., ::-1])]


def _palette(data: bytes, path: Path) -> np.ndarray:
    """int64 [entries] colour codes of a PNG file's palette."""
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[24:26] != b"\x08\x03":
        raise ImageError(f"{path}: is no PNG picture with an 8-bit palette, as VOC's masks are")
    at = 8
    while at + 8 <= len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        if name == b"PLTE":
            colors = np.frombuffer(data[at + 8 : at + 8 + length], np.uint8)
            if len(colors) == length and length and length % 3 == 0:
                codes = _codes(colors.reshape(-1, 3))
                if len(np.unique(codes)) == len(codes):
                    return codes
            break
        at += 12 + length
    raise ImageError(f"{path}: its palette is missing, cut short or has a colour twice: give VOC's own file")


def _codes(rgb: np.ndarray) -> np.ndarray:
    """int64 [...] of RGB [..., 3]."""
    return rgb.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def _fade(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """RGBA of the mask's bounding box and a px around it, its alpha rising from 0 inside the outline."""
    around = np.pad(mask, 1)
    alpha = np.clip((cv2.distanceTransform(around, cv2.DIST_L2, 5) - 0.5) / _FADE_PX, 0, 1)
    colors = np.pad(rgb, ((1, 1), (1, 1), (0, 0)), mode="edge")
    x, y, width, height = cv2.boundingRect(around)
    part = slice(y - 1, y + height + 1), slice(x - 1, x + width + 1)
    return np.dstack([colors[part], np.rint(255 * alpha[part]).astype(np.uint8)])
