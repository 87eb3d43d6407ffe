"""Tables that were read from files, stored so that they load in seconds: see :func:`stored`.

========================  ====================================================================================
<name>-<options>.json     the index: its own checksum, the key, the folder of the arrays, their checksums, and
                          what of the table is no array
<name>-<options>.<id>/    an .npy file per array
========================  ====================================================================================

The key is a hash of this format, the options, the readers' code, and the names, sizes and times of the
sources. A new table gets a folder of its own, and then the index is replaced in one step: whoever reads sees
the old table or the new one. Several processes may build at once; one that finds the work done uses that.

What is stored is exact. Coordinates keep their type: float32 would move joints 5 m away by 3e-4 mm. Weights
become uint8 where all are 0 or 1. Cameras, groups and image sizes, of which many rows have the same, are
stored as the distinct ones and their numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import shutil
import sys
import time
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ipr import choices, config, geometry, retarget, skeleton
from ipr.images import FileImages
from ipr.types import BoxRule, Camera, PoseTable, Skeleton

_FORMAT = 1
_UNUSED = 7 * 86400.0  # s: a replaced table that nobody has opened for so long is deleted
_DISTINCT = 2**16  # at most, of what is stored as distinct rows and their numbers
# Arrays of which many rows are the same.
_REPEATED = ("camera.", "group.", "image.sizes", "extra.annotation_file")


class Dataset(Protocol):
    """The ``Config`` of a dataset that reads files."""

    def sources(self) -> list[Path]:
        """Every file whose content decides the table."""
        ...


class _Unusable(ValueError):
    """What is stored cannot be used; the message says why."""


def stored(
    build: Callable[[], PoseTable], dataset: Dataset, target: Skeleton, folder: Path | None = None
) -> PoseTable:
    """The table that ``build`` makes of the dataset's files, with the joints of ``target``.

    From ``folder`` (None: :func:`user_folder`), where it is stored and nothing has changed since; otherwise
    it is built and stored there. Arrays are mapped files and cannot be written to. Where it cannot be stored,
    a line on stderr says why, and the table is used as it is.
    """
    try:
        key, place = _key(dataset, target)
    except OSError:
        return build()  # which says better what is missing
    try:
        index = (user_folder() if folder is None else folder) / f"{place}.json"
        return _load(index, key, target)
    except FileNotFoundError:
        pass
    except _Unusable as reason:
        print(f"the stored table {index} is built again: {reason}", file=sys.stderr)
    except (OSError, RuntimeError) as error:
        print(f"the table is not stored: {error}", file=sys.stderr)
        return build()
    table = build()
    try:
        _store(table, index, key, target)
        return _load(index, key, target)
    except (OSError, _Unusable) as error:
        print(f"the table is not stored in {index.parent}: {error}", file=sys.stderr)
        return table


def user_folder() -> Path:
    """The user's own: ``ipr/tables`` in $XDG_CACHE_HOME, or else in ~/.cache. RuntimeError without a home."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ipr" / "tables"


def _key(dataset: Dataset, target: Skeleton) -> tuple[str, str]:
    """(hash of all that decides the table, name of its place: of what it is, whatever its state)."""
    code = Path(inspect.getfile(type(dataset))).parent
    modules = [Path(inspect.getfile(module)) for module in (skeleton, geometry, retarget)]
    readers = b"".join(path.read_bytes() for path in (*sorted(code.rglob("*.py")), *modules))
    states = [(os.path.abspath(path), os.stat(path)) for path in sorted(dataset.sources())]
    names = [path for path, _ in states]
    place = json.dumps([type(dataset).__module__, config.to_dict(dataset), target, names])
    stamps = [(state.st_size, state.st_mtime_ns) for _, state in states]
    key = json.dumps([_FORMAT, place, stamps, hashlib.sha256(readers).hexdigest()])
    name = choices.name_of(dataset) or "table"
    return _hash(key), f"{name}-{_hash(place)[:12]}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# -------------------------------------------------------------------------------------------------- to files


def _store(table: PoseTable, index: Path, key: str, target: Skeleton) -> None:
    header, arrays = _taken_apart(table)
    index.parent.mkdir(parents=True, exist_ok=True)
    folder = index.with_name(f"{index.stem}.{uuid.uuid4().hex[:8]}")
    folder.mkdir()
    temporary = folder.with_suffix(f"{folder.suffix}.tmp")
    files: dict[str, list[int]] = {}
    try:
        for name, array in arrays.items():
            parts = _distinct(array) if name.startswith(_REPEATED) else [array]
            numbers = range(sum(map(len, files.values())), 10**6)
            files[name] = []
            for number, part in zip(numbers, parts, strict=False):
                np.save(_file(folder, number), np.ascontiguousarray(part), allow_pickle=False)
                files[name].append(_checksum(_file(folder, number)))
        content = {"key": key, "folder": folder.name, "header": header, "files": files}
        temporary.write_text(json.dumps([content, _hash(json.dumps(content))]))
        try:
            _load(index, key, target)  # another process was quicker
        except (FileNotFoundError, _Unusable):
            temporary.replace(index)
            _clean(index)
            return
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:02d}.npy"


def _clean(index: Path) -> None:
    """Delete earlier tables; not those that a process, perhaps on another machine, may still have mapped."""
    used = json.loads(index.read_text())[0]["folder"]
    for path in index.parent.glob(f"{index.stem}.*"):
        if path.is_dir() and path.name != used and time.time() - path.stat().st_mtime > _UNUSED:
            shutil.rmtree(path, ignore_errors=True)


def _taken_apart(table: PoseTable) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What JSON can hold, and the arrays by name."""
    assert isinstance(table.image, FileImages), "a dataset with sources() has FileImages"
    image, image_arrays = table.image.to_arrays()
    camera = None if table.camera is None else table.camera._asdict()
    records = {"image": image_arrays, "camera": camera, "group": table.group, "extra": table.extra}
    header: dict[str, Any] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, value in (vars(table) | records).items():
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif isinstance(value, dict):
            arrays |= {f"{name}.{field}": array for field, array in value.items() if array is not None}
            header[name] = {}
        elif name != "skeleton":
            header[name] = value
    header["image"] = image
    with np.errstate(invalid="ignore"):  # NaN is no uint8, nor equal to one
        compact = table.weight.astype(np.uint8)
    if (compact == table.weight).all():
        arrays["weight"] = compact
    return header, arrays


def _distinct(array: np.ndarray) -> list[np.ndarray]:
    """[distinct rows, the number of each row's], or the array alone where they are many."""
    rows = np.ascontiguousarray(array).reshape(len(array), -1)
    numbers: dict[bytes, int] = {}
    number_of_row = np.zeros(len(rows), np.uint16)
    for row, content in enumerate(rows.view(f"V{rows.shape[1] * rows.itemsize}")[:, 0].tolist()):
        number_of_row[row] = number = numbers.setdefault(content, len(numbers))
        if number == _DISTINCT - 1:
            return [array]
    first = np.unique(number_of_row, return_index=True)[1]
    return [array[first], number_of_row]


def _checksum(path: Path) -> int:
    """CRC-32 of a file; read and not mapped, so that it takes no memory."""
    crc = 0
    with open(path, "rb", buffering=0) as file:
        while block := file.read(2**22):
            crc = zlib.crc32(block, crc)
    return crc


# ------------------------------------------------------------------------------------------------ from files


def _load(index: Path, key: str, target: Skeleton) -> PoseTable:
    """FileNotFoundError where nothing is stored, ``_Unusable`` where it is old or damaged."""
    text = index.read_text(errors="replace")
    try:
        content, said = json.loads(text)
        whole = said == _hash(json.dumps(content))
    except (ValueError, TypeError):
        whole = False
    if not whole:
        raise _Unusable(f"{index.name} is damaged")
    if content["key"] != key:
        raise _Unusable("its sources, options or reader have changed")
    folder = index.with_name(content["folder"])
    arrays: dict[str, np.ndarray] = {}
    number = 0
    for name, checksums in content["files"].items():
        parts = []
        for checksum in checksums:
            path = _file(folder, number)
            try:
                if _checksum(path) != checksum:
                    raise _Unusable(f"{path} is damaged (checksum)")
            except FileNotFoundError:
                raise _Unusable(f"{path} is missing") from None
            parts.append(np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)))
            number += 1
        arrays[name] = parts[0] if len(parts) == 1 else parts[0][parts[1]]
    with contextlib.suppress(OSError):  # of another user, or a read-only disk
        os.utime(folder)  # in use: see _clean
    return _put_together(content["header"], arrays, target)


def _put_together(header: dict[str, Any], arrays: dict[str, np.ndarray], target: Skeleton) -> PoseTable:
    fields: dict[str, Any] = {**header, "skeleton": target, "box_rule": BoxRule(*header["box_rule"])}
    image: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        record, _, field = name.partition(".")
        if record == "image":
            image[field] = array
        elif field:
            fields[record][field] = array
        else:
            fields[record] = array
    fields["image"] = FileImages.from_arrays(header["image"], image)
    if fields["camera"] is not None:
        fields["camera"] = Camera(**fields["camera"])
    return PoseTable(**fields)
