"""What may be wrong with the images of a table: each is opened and decoded, by several processes."""

from __future__ import annotations

import hashlib
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ipr.findings import Finding, evenly, part
from ipr.geometry import good_boxes
from ipr.images import FileImages, ImageError
from ipr.loader import start_worker
from ipr.types import ImageSource, PoseTable, Region

SAMPLE = 500  # images that are opened unless all are
NAMED = 20  # missing or unreadable images that are listed
CENTER = 0.2  # of the image's size: how far a camera's centre may be from its middle
_DECODED = 64  # px of an image's longer side: JPEG files are decoded to an eighth at least, which is quicker
_CHUNK = 16


class Looked(NamedTuple):
    """What was seen of one image."""

    row: int
    size: tuple[int, int]  # (height, width) px; 0, 0 where it cannot be used
    digest: bytes  # of a file's content
    problem: str
    missing: bool = False


def image_findings(
    table: PoseTable, *, all_images: bool, processes: int | None = None
) -> tuple[list[Finding], int]:
    """Of a sample of the images, or of all; and how many they were. ``processes=0``: in this one."""
    rows = _distinct_images(table, np.arange(len(table)) if all_images else evenly(len(table), SAMPLE))
    looked = list(_look_at_all(table.image, rows, os.cpu_count() or 1 if processes is None else processes))
    found = [*_unusable(table, looked), *_same_content(table, looked)]
    usable = [image for image in looked if not image.problem]
    if usable:
        sizes = np.array([image.size for image in usable])
        found += _against_sizes(table, np.array([image.row for image in usable]), sizes)
    return found, len(rows)


def _distinct_images(table: PoseTable, rows: np.ndarray) -> list[int]:
    """The first of the rows that show the same image."""
    first: dict[str, int] = {}
    for row in rows.tolist():
        first.setdefault(table.image.name(row), row)
    return list(first.values())


# ----------------------------------------------------------------------------------------- opening the images

_source: list[ImageSource] = []  # of a worker process: set once, by _start


def _start(source: ImageSource) -> None:
    start_worker()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the check
    _source.append(source)


def _look_at_some(rows: list[int]) -> list[Looked]:
    return [_look_at(_source[0], row) for row in rows]


def _look_at_all(source: ImageSource, rows: list[int], processes: int) -> Iterator[Looked]:
    with tqdm(total=len(rows), desc="images", unit="image") as bar:
        if processes == 0:
            for row in rows:
                yield _look_at(source, row)
                bar.update()
            return
        chunks = [rows[first : first + _CHUNK] for first in range(0, len(rows), _CHUNK)]
        workers = min(processes, len(chunks))
        try:  # the source goes to each worker once, not with each task: it may have millions of names
            with ProcessPoolExecutor(workers, initializer=_start, initargs=(source,)) as pool:
                for found in pool.map(_look_at_some, chunks):
                    yield from found
                    bar.update(len(found))
        except BrokenProcessPool as error:
            reason = "a process that opened images was ended from outside, perhaps for want of memory"
            raise ValueError(reason) from error


def _look_at(source: ImageSource, row: int) -> Looked:
    digest = b""
    try:
        if isinstance(source, FileImages):
            path = source.name(row)
            if not os.path.lexists(path):
                return Looked(row, (0, 0), b"", path, missing=True)
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "blake2b").digest()
        height, width = size = source.image_size(row)
        source.read(row, Region(0, 0, width, height), min(1.0, _DECODED / max(size)))
    except (ImageError, OSError) as error:
        return Looked(row, (0, 0), digest, str(error))
    return Looked(row, size, digest, "")


# ------------------------------------------------------------------------------------------ the single checks


def _unusable(table: PoseTable, looked: list[Looked]) -> Iterator[Finding]:
    missing = [image for image in looked if image.missing]
    if missing:
        folders = Counter(os.path.dirname(image.problem) for image in missing)
        worst, count = folders.most_common(1)[0]
        there = Path(worst)
        while not there.is_dir() and there != there.parent:
            there = there.parent
        place = (
            f"{worst} lacks {count}" if str(there) == worst else f"{worst} does not exist, but {there} does"
        )
        fix = (
            f"check data.root and whether everything was unpacked: {place} ({len(folders)} folders lack some)"
        )
        yield _of_images("images that do not exist", fix, missing, looked)
    broken = [image for image in looked if image.problem and not image.missing]
    if broken:
        yield _of_images("images that cannot be used", "copy or convert these files again", broken, looked)


def _of_images(what: str, fix: str, bad: list[Looked], looked: list[Looked]) -> Finding:
    named = bad[:NAMED]
    rows, texts = tuple(image.row for image in named), tuple(image.problem for image in named)
    return Finding("error", what, fix, len(bad), len(looked), rows, texts)


def _same_content(table: PoseTable, looked: list[Looked]) -> Iterator[Finding]:
    first: dict[bytes, int] = {}
    twice, texts = [], []
    for image in looked:
        if image.digest and (before := first.setdefault(image.digest, image.row)) != image.row:
            twice.append(image.row)
            texts.append(f"{table.image.name(image.row)} is {table.image.name(before)}")
    if twice:
        what = "different images whose files have the same content"
        fix = "remove the copies, or fetch the right images (a video that stands still has such frames)"
        yield Finding("warning", what, fix, len(twice), len(looked), tuple(twice[:5]), tuple(texts[:5]))


def _against_sizes(table: PoseTable, rows: np.ndarray, sizes: np.ndarray) -> Iterator[Finding]:
    """``sizes`` [n, 2] (height, width) px of the images of the rows."""
    some = part(table, rows)
    extent = sizes[:, ::-1].astype(np.float64)
    said = [f"image of {width} x {height} px" for height, width in sizes.tolist()]
    joints_img, known = some.table.joints_img, (some.table.weight[..., :2] != 0).all(2)
    outside = (known & ~((joints_img >= -0.5) & (joints_img <= extent[:, None] - 0.5)).all(2)).sum(1)
    most = outside > 0.5 * known.sum(1)
    details = [f"{n} joints, {text}" for n, text in zip(outside.tolist(), said, strict=True)]
    fix = "the labels belong to images of another size, or to others: compare them with the contact sheet"
    what = "people most of whose joints lie outside the image"
    yield from some.finding("error" if most.mean() > 0.1 else "warning", most, what, fix, details)
    fix = "right where people are cut by the edge and labels are estimates; otherwise give them weight 0"
    some_out = (outside > 0) & ~most
    yield from some.finding("warning", some_out, "people with joints outside the image", fix, details)
    boxes = some.table.boxes_xywh
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    away = good_boxes(boxes) & ((high <= -0.5) | (low >= extent)).any(1)
    fix = "correct these boxes (px of the whole image) or leave the rows out; evaluation stops at them"
    details = [f"{box}, {text}" for box, text in zip(boxes.round(1).tolist(), said, strict=True)]
    yield from some.finding("error", away, "boxes outside the image", fix, details)
    if some.table.camera is None:
        return
    center = some.table.camera.center
    off = np.any(np.abs(center - extent / 2) > CENTER * extent, axis=1)
    fix = "check focal and center of these cameras"
    if off.mean() > 0.5:
        ratio = float(np.median(extent / (2 * center)))
        turned = (np.abs(center[:, ::-1] - extent / 2) <= CENTER * extent).all(1).mean() > 0.5
        fix = (
            "x and y of the centre, or height and width of the images, are exchanged"
            if turned
            else f"were the images resized? They have {ratio:.3g} times the size that the cameras are of"
        )
    details = [f"centre {c}, {text}" for c, text in zip(center.round(1).tolist(), said, strict=True)]
    yield from some.finding("error", off, "cameras whose centre is far from the image's middle", fix, details)
