"""The files of the crop cache, each with the crops of consecutive rows, an index and checksums:

========  ====================================================================================================
pixels    uint8 RGB, the crops [h, w, 3] one after another
index     an .npz: ``key``, a hash of all that the pixels depend on; ``crops``, a record per row (``_CROP``);
          ``missing``, as JSON, what was wrong with the rows whose image cannot be used (their height is 0)
trailer   where the index is, its length and its CRC-32
========  ====================================================================================================
"""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ipr.images import ImageError
from ipr.types import Pixels

_TRAILER = struct.Struct("<8sQQI")
_MAGIC = b"ipr crop"
_CROP = np.dtype(
    [
        ("offset", "<u8"),  # of its first byte
        ("height", "<u4"),
        ("width", "<u4"),
        ("x", "<f8"),  # of the origin, img px, as in Pixels
        ("y", "<f8"),
        ("scale", "<f8"),
        ("image_height", "<u4"),
        ("image_width", "<u4"),
        ("crc", "<u4"),  # CRC-32 of its bytes
    ]
)


class Damaged(ValueError):
    """A file that is no whole shard."""


class Shard:
    """One file, opened. OSError or ``Damaged`` where it cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TRAILER.size))
            trailer = file.read()
            if len(trailer) < _TRAILER.size:
                raise Damaged(f"{path} is cut short")
            magic, start, length, crc = _TRAILER.unpack(trailer)
            if magic != _MAGIC or start + length + _TRAILER.size != size:
                raise Damaged(f"{path} is cut short, or no shard of crops")
            file.seek(start)
            index = file.read(length)
        if zlib.crc32(index) != crc:
            raise Damaged(f"the index of {path} is damaged")
        try:
            with np.load(io.BytesIO(index)) as arrays:
                self.key, self._crops = str(arrays["key"]), arrays["crops"]
                self.missing = {int(row): said for row, said in json.loads(str(arrays["missing"])).items()}
        except (KeyError, ValueError, zipfile.BadZipFile) as error:
            raise Damaged(f"the index of {path} is of another version") from error
        self._pixels = np.zeros(0, np.uint8)
        if start:  # not np.memmap, which would hold a file descriptor, and there may be thousands of shards
            mapped = torch.from_file(str(path), shared=False, size=start, dtype=torch.uint8)
            self._pixels = mapped.numpy()
            self._pixels.flags.writeable = False
        self._verified = np.zeros(len(self._crops), bool)

    def _record(self, index: int) -> tuple[Any, ...]:
        if index in self.missing:
            raise ImageError(self.missing[index])
        return self._crops[index].item()

    def image_size(self, index: int) -> tuple[int, int]:
        return self._record(index)[6:8]

    def read(self, index: int) -> Pixels:
        offset, height, width, x, y, scale, _, _, crc = self._record(index)
        data = self._pixels[offset : offset + height * width * 3]
        if not self._verified[index]:
            if zlib.crc32(data.data) != crc:
                raise ImageError(
                    f"{self._path}: the pixels of its crop {index} are damaged (checksum); delete this file, "
                    "and the next start of the run makes it again"
                )
            self._verified[index] = True
        return Pixels(data.reshape(height, width, 3), (x, y), scale)

    def verify(self) -> None:
        for index in range(len(self._crops)):
            if index not in self.missing:
                self.read(index)


def write(path: Path, key: str, crops: Iterable[tuple[tuple[int, int], Pixels] | str]) -> None:
    """A new file. ``crops``: of each row its image's size and its crop, or why it is missing."""
    records: list[Any] = []
    missing: dict[int, str] = {}
    end = 0
    with open(path, "wb") as file:
        for index, crop in enumerate(crops):
            records.append(np.zeros((), _CROP))
            if isinstance(crop, str):
                missing[index] = crop
                continue
            size, (data, origin, scale) = crop
            data = np.ascontiguousarray(data)
            records[-1][()] = end, *data.shape[:2], *origin, scale, *size, zlib.crc32(data.data)
            end += file.write(data.data)
        content = io.BytesIO()
        np.savez(content, key=key, crops=np.stack(records), missing=json.dumps(missing))
        index_bytes = content.getvalue()
        file.write(index_bytes)
        file.write(_TRAILER.pack(_MAGIC, end, len(index_bytes), zlib.crc32(index_bytes)))
        file.flush()
        os.fsync(file.fileno())
