"""Crops of a slow image source, rendered once into a memory-mapped file."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from ipr.geometry import clip_region
from ipr.loader import start_worker
from ipr.types import ImageSource, Pixels, Region

_FORMAT = 1


class CacheableSource(ImageSource, Protocol):
    """A source that can say what its pixels depend on."""

    def fingerprint(self) -> str:
        """A text that changes whenever any row's pixels would."""
        ...


class CropCache:
    """An ImageSource of stored crops. ``read`` gives a row's whole stored crop, whatever region is asked.

    A stored crop is the square around the row's crop, ``1 + margin`` times its longer side wide (clipped to
    the image), as the source returned it when asked for ``size_px`` pixels of that width. A warp that leaves
    it sees black.

    ``path`` is a directory of this cache alone: ``pixels.bin``, the crops one after another, and
    ``index.npz``. It is built in ``path.<random>.tmp`` by ``processes`` workers (0: by this one), then
    renamed; one whose source, crops or settings differ is replaced. Several runs may build it at once.
    """

    def __init__(
        self,
        source: CacheableSource,
        crops_cxcywh: np.ndarray,
        size_px: int,
        margin: float,
        path: str | os.PathLike[str],
        processes: int | None = None,
    ) -> None:
        self._source = source
        self._path = Path(path)
        crops = np.ascontiguousarray(crops_cxcywh, np.float64)
        if len(crops) == 0:
            raise ValueError(f"nothing to store in the crop cache {self._path}: there are no crops")
        settings = repr((_FORMAT, source.fingerprint(), size_px, float(margin), crops.shape))
        self._key = hashlib.sha256(settings.encode() + crops.tobytes()).hexdigest()
        if self._path.exists() and not (self._path / "index.npz").is_file():
            raise ValueError(f"{self._path} is no crop cache: give the path of a new directory")
        if not self._is_current():
            workers = os.cpu_count() or 1 if processes is None else processes
            self._build(_Crops(source, crops, size_px, margin), workers)
        with np.load(self._path / "index.npz") as index:
            self._offsets, self._sizes = index["offsets"], index["sizes"]
            self._origins, self._scales = index["origins"], index["scales"]
        self._pixels: np.ndarray | None = None

    def image_size(self, row: int) -> tuple[int, int]:
        return self._source.image_size(row)

    def name(self, row: int) -> str:
        return self._source.name(row)

    def fingerprint(self) -> str:
        return self._key

    def read(self, row: int, region: Region, scale: float) -> Pixels:
        if self._pixels is None:
            self._pixels = np.memmap(self._path / "pixels.bin", np.uint8, mode="r")
        height, width = (int(v) for v in self._sizes[row])
        start = int(self._offsets[row])
        data = self._pixels[start : start + height * width * 3].reshape(height, width, 3)
        x, y = (float(v) for v in self._origins[row])
        return Pixels(data, (x, y), float(self._scales[row]))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pixels": None}  # a pickled memory map would carry the whole file

    def _is_current(self) -> bool:
        if not self._path.exists():
            return False
        try:
            with open(self._path / "index.npz", "rb") as file, np.load(file) as index:
                stored, total = str(index["key"]), int(index["total"])
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):  # cut short by a crash
            return False
        data = self._path / "pixels.bin"
        return stored == self._key and data.is_file() and data.stat().st_size == total

    def _build(self, crops: _Crops, workers: int) -> None:
        # Not the process id: in a container it is often that of the last, killed run.
        temporary = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.mkdir(parents=True)
        try:
            self._write(crops, workers, temporary)
            if self._is_current():  # another run was quicker, and reads from it by now
                return
            if self._path.exists():
                shutil.rmtree(self._path)
            try:
                temporary.rename(self._path)
            except OSError:
                if not self._is_current():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _write(self, crops: _Crops, workers: int, folder: Path) -> None:
        stored: list[tuple[float, ...]] = []  # height, width, origin x, origin y, scale
        with (
            open(folder / "pixels.bin", "wb") as file,
            tqdm(total=len(crops), desc=f"rendering {self._path.name}", unit="crop") as bar,
        ):
            for part in crops.read_all(workers):
                for pixels in part:
                    file.write(np.ascontiguousarray(pixels.data).data)
                    stored.append((*pixels.data.shape[:2], *pixels.origin, pixels.scale))
                bar.update(len(part))
            file.flush()
            os.fsync(file.fileno())
        geometry = np.array(stored, np.float64)
        sizes = geometry[:, :2].astype(np.int64)
        ends = np.cumsum(sizes.prod(1) * 3)
        np.savez(
            folder / "index.npz",
            key=self._key,
            total=ends[-1],
            offsets=np.concatenate([[0], ends[:-1]]),
            sizes=sizes,
            origins=geometry[:, 2:4],
            scales=geometry[:, 4],
        )


class _Crops:
    """What is to be stored, and how a worker of the build reads it."""

    def __init__(self, source: ImageSource, crops_cxcywh: np.ndarray, size_px: int, margin: float) -> None:
        self.source, self.crops, self.size_px, self.margin = source, crops_cxcywh, size_px, margin

    def __len__(self) -> int:
        return len(self.crops)

    def read_all(self, workers: int) -> Iterator[list[Pixels]]:
        """All rows in order, some at a time."""
        # Each task carries a copy of the source to its worker, so there are few: enough to see progress.
        step = max(1, len(self) // (8 * max(workers, 1)))
        tasks = [range(start, min(start + step, len(self))) for start in range(0, len(self), step)]
        if workers == 0:
            yield from map(self.read, tasks)
        else:
            with ProcessPoolExecutor(workers, initializer=start_worker) as pool:
                yield from pool.map(self.read, tasks)

    def read(self, rows: range) -> list[Pixels]:
        return [self._read(row) for row in rows]

    def _read(self, row: int) -> Pixels:
        center, side = self.crops[row, :2], self.crops[row, 2:].max() * (1 + self.margin)
        try:
            region = clip_region(center - side / 2, center + side / 2, self.source.image_size(row), margin=0)
            return self.source.read(row, region, min(1.0, self.size_px / side))
        except Exception as error:
            name = self.source.name(row)
            raise ValueError(f"row {row}, {name}: {type(error).__name__}: {error}") from error
