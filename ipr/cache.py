"""Crops of an image source, stored once in memory-mapped shards: see ``CropCache``.

A shard is a file of consecutive rows (``ipr.shard``), written beside its place and renamed: it is there as a
whole or not at all. Checked are: when a cache is opened, each shard's size, key and index; when a build goes
on that was interrupted, all pixels; in each process, the pixels of a crop when they are first read there,
which doubles the loader's time of that epoch, and costs nothing after it.

Pixels are stored raw: as JPEG they take a tenth of the space and four times the loader's time
(bench/README.md).
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from tqdm import tqdm

from ipr.geometry import clip_region
from ipr.images import ImageError
from ipr.loader import start_worker
from ipr.shard import Damaged, Shard, write
from ipr.types import ImageSource, Pixels, Region

_FORMAT = 2
_SHARD_BYTES, _SHARD_ROWS = 2**28, 1024  # at most: what an interrupted build may lose per process
_GRACE = 1000  # rows of which the share of missing ones is taken at least
_STALE = 3600.0  # s: a shard is written in less, so an older half-written one was left by a killed build


class CacheableSource(ImageSource, Protocol):
    """A source that can say what its pixels depend on."""

    def fingerprint(self, rows: range) -> str:
        """A text that changes whenever the pixels of any of the rows would."""
        ...


class CropCache:
    """An ImageSource of stored crops. ``read`` gives as much of the region as the row's stored crop has.

    A stored crop is the square around the row's crop, ``1 + margin`` times its longer side wide (clipped to
    the image), with at most ``size_px`` pixels across that width: it is shrunk to that by the mean of areas
    where the source gives more, and not enlarged. A warp that leaves it sees black.

    ``path`` is a directory of this cache alone. Shards that are missing, damaged, or of another source, other
    crops or settings are built by ``processes`` workers (0: by this process); those that are right are kept,
    so an interrupted build goes on, and a replaced image costs its own shard. Several runs may build at once.

    Rows whose image cannot be used are stored as missing: reading one raises the ``ImageError`` that the
    source raised. The build says how many there are, and ends with an error if they are more than
    the share ``most_missing`` of the rows so far (of 1000 at least); with 0, the first one is an error.
    """

    def __init__(
        self,
        source: CacheableSource,
        crops_cxcywh: np.ndarray,
        size_px: int,
        margin: float,
        path: str | os.PathLike[str],
        processes: int | None = None,
        most_missing: float = 0.0,
    ) -> None:
        if len(crops_cxcywh) == 0:
            raise ValueError(f"nothing to store in the crop cache {os.fspath(path)}: there are no crops")
        if not 0 <= most_missing <= 1:
            raise ValueError(f"most_missing: {most_missing!r} given, must be a share in 0..1")
        shards = _Shards(source, crops_cxcywh, size_px, margin, Path(path), most_missing)
        if not all(map(shards.is_current, range(len(shards)))):
            _build(shards, os.cpu_count() or 1 if processes is None else processes)
        self._name, self._path, self._step, self._keys = source.name, shards.path, shards.step, shards.keys
        self._open: dict[int, Shard] = {}

    def image_size(self, row: int) -> tuple[int, int]:
        shard, index = self._place(row)
        return shard.image_size(index)  # as it was when the crop was stored: no image file is touched

    def name(self, row: int) -> str:
        return self._name(row)

    def read(self, row: int, region: Region, scale: float) -> Pixels:
        shard, index = self._place(row)
        return _cut(shard.read(index), region)

    def _place(self, row: int) -> tuple[Shard, int]:
        """The shard of a row, and the row's number in it."""
        number, index = divmod(row, self._step)
        if number not in self._open:
            path = _file(self._path, number)
            shard = Shard(path)
            if shard.key != self._keys[number]:
                raise ValueError(
                    f"{path} was replaced by a run with other images, crops or settings while this one "
                    "used it: give them different directories"
                )
            self._open[number] = shard
        return self._open[number], index

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # each process maps the files that it reads from


def _cut(pixels: Pixels, region: Region) -> Pixels:
    """The region's part, with a pixel around it for the sampling between pixels."""
    (x, y), scale = pixels.origin, pixels.scale
    height, width = pixels.data.shape[:2]
    left = min(max(int((region.x0 - x) * scale) - 1, 0), width - 1)
    top = min(max(int((region.y0 - y) * scale) - 1, 0), height - 1)
    right = max(int((region.x0 + region.width - 1 - x) * scale) + 3, left + 1)
    bottom = max(int((region.y0 + region.height - 1 - y) * scale) + 3, top + 1)
    return Pixels(pixels.data[top:bottom, left:right], (x + left / scale, y + top / scale), scale)


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.crops"


class _Shards:
    """What is to be stored, as shards of ``step`` rows; every process of a build has one of these."""

    def __init__(
        self,
        source: CacheableSource,
        crops_cxcywh: np.ndarray,
        size_px: int,
        margin: float,
        path: Path,
        most_missing: float,
    ) -> None:
        self.source, self.size_px, self.margin = source, size_px, float(margin)
        self.path, self.most_missing = path, most_missing
        self.crops = np.ascontiguousarray(crops_cxcywh, np.float64)
        self.step = max(1, min(_SHARD_ROWS, _SHARD_BYTES // (3 * size_px**2)))
        self.keys = [self._key(number) for number in range(len(self))]

    def __len__(self) -> int:
        return -(-len(self.crops) // self.step)

    def rows(self, number: int) -> range:
        return range(number * self.step, min((number + 1) * self.step, len(self.crops)))

    def _key(self, number: int) -> str:
        rows = self.rows(number)
        settings = repr((_FORMAT, self.source.fingerprint(rows), self.size_px, self.margin))
        return hashlib.sha256(settings.encode() + self.crops[rows.start : rows.stop].tobytes()).hexdigest()

    def is_current(self, number: int, verify: bool = False) -> bool:
        """Whether the file is what it should be; with ``verify``, all pixels are read for that."""
        try:
            shard = Shard(_file(self.path, number))
            if shard.key != self.keys[number] or (shard.missing and not self.most_missing):
                return False
            if verify:
                shard.verify()
        except (Damaged, ImageError, FileNotFoundError):
            return False
        return True

    def make(self, number: int) -> dict[int, str]:
        """Build a shard unless it is there. Its missing rows, and what is wrong with them."""
        first, path = self.rows(number).start, _file(self.path, number)
        if not self.is_current(number, verify=True):
            # Not the process id: in a container it is often that of the last, killed run.
            temporary = path.with_name(f"{path.stem}.{uuid.uuid4().hex[:8]}.tmp")
            try:
                write(temporary, self.keys[number], self._crops(number))
                if not self.is_current(number, verify=True):
                    temporary.replace(path)  # else another run was quicker, and reads from it by now
            finally:
                temporary.unlink(missing_ok=True)
        return {first + index: said for index, said in Shard(path).missing.items()}

    def _crops(self, number: int) -> Iterator[tuple[tuple[int, int], Pixels] | str]:
        """Of each row of a shard its image's size and its crop, or why it is missing."""
        for row in self.rows(number):
            try:
                yield self._crop(row)
            except ImageError as error:
                if not self.most_missing:
                    raise ImageError(f"row {row}, {error}") from error
                yield str(error)

    def _crop(self, row: int) -> tuple[tuple[int, int], Pixels]:
        """The image's size, and what is stored of it."""
        center, side = self.crops[row, :2], float(self.crops[row, 2:].max() * (1 + self.margin))
        scale = min(1.0, self.size_px / side)
        size = self.source.image_size(row)
        try:
            region = clip_region(center - side / 2, center + side / 2, size, margin=0)
        except ValueError as error:  # outside the image
            raise ImageError(f"{self.source.name(row)}: {error}") from error
        try:
            return size, _shrink(self.source.read(row, region, scale), scale)
        except ImageError:
            raise
        except Exception as error:
            name = self.source.name(row)
            raise ValueError(f"row {row}, {name}: {type(error).__name__}: {error}") from error


def _shrink(pixels: Pixels, scale: float) -> Pixels:
    """Down to ``scale``, each pixel the mean of the area that it covers."""
    factor = scale / pixels.scale
    if factor >= 1:
        return pixels
    # Factors instead of a size, which would be rounded and change the scale. No pixel may be left of a line.
    factors = [max(factor, 1 / length) for length in pixels.data.shape[1::-1]]
    data = cv2.resize(pixels.data, None, fx=factors[0], fy=factors[1], interpolation=cv2.INTER_AREA)
    shift = (1 / factor - 1) / 2 / pixels.scale
    return Pixels(data, (pixels.origin[0] + shift, pixels.origin[1] + shift), scale)


def _build(shards: _Shards, processes: int) -> None:
    path = shards.path
    _claim(path, len(shards))
    missing: dict[int, str] = {}
    done = 0
    try:
        with tqdm(total=len(shards.crops), desc=f"caching {path.name}", unit="crop") as bar:
            for number, found in enumerate(_make_all(shards, processes)):
                missing |= found
                done += len(shards.rows(number))
                bar.update(len(shards.rows(number)))
                if len(missing) > shards.most_missing * max(done, _GRACE):
                    raise ImageError(_summary(missing, done))
    except BrokenProcessPool as error:
        raise ValueError(
            f"a process that filled {path} was ended from outside, perhaps for want of memory (what is "
            "cached so far is kept: start again and it goes on)"
        ) from error
    except OSError as error:  # the disk is full
        error.filename = error.filename or str(path)
        error.strerror = f"{error.strerror} (what is cached so far is kept: start again and it goes on)"
        raise
    if missing:
        print(_summary(missing, done) + f"; to try them again, delete {path}", file=sys.stderr)


def _claim(path: Path, count: int) -> None:
    """Make the directory, and remove from it what earlier builds left and no shard will replace."""
    path.mkdir(parents=True, exist_ok=True)
    for file in path.iterdir():
        if file.suffix == ".tmp" and file.name[:6].isdigit():
            if time.time() - file.stat().st_mtime > _STALE:
                file.unlink(missing_ok=True)
        elif file.suffix == ".crops" and file.stem.isdigit():
            if int(file.stem) >= count:
                file.unlink(missing_ok=True)
        else:
            raise ValueError(
                f"{path} is no crop cache, it holds {file.name}: give the path of a new directory"
            )


def _summary(missing: dict[int, str], done: int) -> str:
    row, said = next(iter(missing.items()))
    return f"{len(missing)} of {done} crops are missing, their images cannot be used; first row {row}, {said}"


_make: list[Callable[[int], dict[int, str]]] = []  # of a worker process: set once, by _start


def _start(shards: _Shards) -> None:
    start_worker()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends the build when this shard is done
    _make.append(shards.make)


def _make_one(number: int) -> dict[int, str]:
    return _make[0](number)


def _make_all(shards: _Shards, processes: int) -> Iterator[dict[int, str]]:
    """``make`` of every shard, in order."""
    if processes == 0:
        yield from map(shards.make, range(len(shards)))
        return
    # The source goes to each worker once, not with each task: it may have millions of names.
    with ProcessPoolExecutor(processes, initializer=_start, initargs=(shards,)) as pool:
        waiting: deque[Future[dict[int, str]]] = deque()
        for number in range(len(shards)):
            if (
                len(waiting) > processes
            ):  # no more than one ahead: Ctrl-C waits for those that were handed out
                yield waiting.popleft().result()
            waiting.append(pool.submit(_make_one, number))
        while waiting:
            yield waiting.popleft().result()
