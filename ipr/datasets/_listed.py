"""What the readers of annotation lists share: files, folders, bounds of joints, and who is left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

_LOOKED_AT = 100  # folders beside or below a wrong one, in search of the right one
_SAMPLED = 16  # images whose place tells a folder


def read_json(path: Path) -> Any:
    """ValueError where there is no such file, or not all of it."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError
        size = path.stat().st_size
        raise ValueError(
            f"{path}: is no complete JSON file ({size} bytes; {error}): copy or extract it again"
        ) from None


def read_mat(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file; structs as objects, arrays of one element as the element."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ValueError(
            f"{path}: MATLAB files need scipy, which is not installed: pip install 'integral-pose[mat]'"
        ) from None
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        return loadmat(path, squeeze_me=True, struct_as_record=False)
    except NotImplementedError:
        raise ValueError(f"{path}: is a MATLAB 7.3 file: save it again as version 7 (save -v7)") from None
    except Exception as error:  # which of many depends on where the file is damaged; some share no base class
        raise ValueError(
            f"{path}: is no complete MATLAB file ({type(error).__name__}: {error}): copy or extract it again"
        ) from error


def wrong_root(root: Path, dataset: str, marks: Sequence[str]) -> ValueError:
    """The error for a ``root`` that has none of ``marks`` (glob patterns): a nearby folder may have one."""
    wanted = f"root must be the folder of {dataset}, which has {' or '.join(marks)}"
    if root.is_dir():
        content = sorted(path.name for path in islice(root.iterdir(), 8))
        found = f"it has {', '.join(content)}" if content else "it is empty"
    else:
        found = "it is a file" if root.exists() else "no such folder"
    nearby = next(
        (folder for folder in _nearby(root) if any(next(folder.glob(mark), None) for mark in marks)), None
    )
    hint = "" if nearby is None else f"; give root: {nearby}"
    return ValueError(f"{root}: {wanted}, but {found}{hint}")


def _nearby(root: Path) -> Iterator[Path]:
    """Folders below ``root``, above it and beside it."""
    for parent in (root, root.parent, root.parent.parent):
        yield parent
        yield from sorted(islice(parent.glob("*/"), _LOOKED_AT))


def image_folder(candidates: Sequence[Path], names: Sequence[str]) -> Path:
    """The one of the candidates that has the images; the first that exists where none of them has any.

    A few of the images, spread over ``names`` [N], are looked for. ValueError where no candidate exists,
    more than one has images, or they lie one folder deeper.
    """
    folders = [folder for folder in candidates if folder.is_dir()]
    if not folders:
        places = " or ".join(map(str, candidates))
        raise ValueError(f"{places}: no such folder: the images, such as {names[0]}, belong there")
    some = [names[i] for i in sorted({*np.linspace(0, len(names) - 1, _SAMPLED).astype(int).tolist()})]
    having = [folder for folder in folders if any((folder / name).is_file() for name in some)]
    if len(having) > 1 and not having[0].samefile(having[1]):
        raise ValueError(
            f"{having[0]} and {having[1]} both have images of this split: two layouts are mixed; "
            "move the images into one of the two folders"
        )
    if having:
        return having[0]
    for folder in folders:
        if any((folder / folder.name / name).is_file() for name in some):
            raise ValueError(
                f"{folder}: the images lie one folder too deep, in {folder / folder.name}: move them up"
            )
    return folders[0]


def joint_bounds(joints_img: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """[N, 4] (x, y, width, height) px around the joints [N, J, 2] that are ``seen`` [N, J]; 0 around none."""
    low = np.where(seen[..., None], joints_img, np.inf).min(1)
    high = np.where(seen[..., None], joints_img, -np.inf).max(1)
    known = seen.any(1, keepdims=True)
    return np.where(known, np.concatenate([low, np.where(known, high - low, 0)], 1), 0.0)


def sieve(what: str, reasons: Mapping[str, np.ndarray]) -> tuple[np.ndarray, str]:
    """(rows to keep, text that counts the others); each [N] mask says whom a reason holds for.

    Someone for whom several reasons hold counts for the first.
    """
    masks = list(reasons.values())
    keep = np.ones(len(masks[0]), bool)
    counts = []
    for reason, mask in reasons.items():
        if count := int((keep & mask).sum()):
            counts.append(f"{count} {reason}")
        keep &= ~mask
    if counts:
        text = f"{len(keep) - int(keep.sum())} of {len(keep)} {what} left out: {', '.join(counts)}"
    else:
        text = f"no {what} left out" if len(keep) else f"there are no {what}"
    return np.flatnonzero(keep), text


def person_numbers(image: np.ndarray) -> np.ndarray:
    """[N] which person of its image [N] a row is, from 0, in the order of the rows."""
    order = np.argsort(image, kind="stable")
    ordered = image[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    numbers = np.empty(len(image), np.int64)
    numbers[order] = np.arange(len(image)) - np.repeat(starts, np.diff(np.r_[starts, len(image)]))
    return numbers
