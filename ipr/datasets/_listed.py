"""What the readers of annotation lists share: files, folders, bounds of joints, and who is left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

_LOOKED_AT = 100  # folders beside or below a wrong one, in search of the right one


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
        if parent.is_dir():
            yield parent
            yield from (path for path in sorted(islice(parent.iterdir(), _LOOKED_AT)) if path.is_dir())


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
    gone = int((~keep).sum())
    text = f"{gone} of {len(keep)} {what} left out: {', '.join(counts)}" if gone else f"no {what} left out"
    return np.flatnonzero(keep), text
