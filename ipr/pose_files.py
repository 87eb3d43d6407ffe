"""Files of poses: saved to be scored again without a network, and the challenge's csv and JSON."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ipr.checkpoint import write_atomic
from ipr.skeleton import SKELETONS, joint_map
from ipr.types import Poses, PoseTable


def digest(table: PoseTable) -> str:
    """Of the joints' names and the raw boxes [N, 4] in their order: which rows poses belong to."""
    boxes = np.ascontiguousarray(table.boxes_xywh, np.float64)
    return hashlib.sha256(",".join(table.skeleton.joints).encode() + boxes.tobytes()).hexdigest()[:16]


def save(path: Path, poses: Poses, table: PoseTable, about: Mapping[str, Any]) -> None:
    """``poses`` as .npz, with the digest of the table and ``about`` (plain types, JSON) beside them."""
    buffer = io.BytesIO()
    arrays = {name: value for name, value in poses._asdict().items() if value is not None}
    np.savez(buffer, **arrays, table=digest(table), about=json.dumps(about))
    write_atomic(path, buffer.getbuffer())


def load(path: Path) -> tuple[Poses, str, dict[str, Any]]:
    """(poses, digest of their table, ``about``) of a file that :func:`save` wrote."""
    try:
        with open(path, "rb") as opened, np.load(opened) as file:
            arrays = {name: file[name] for name in file.files}
        table, about = str(arrays.pop("table")), json.loads(str(arrays.pop("about")))
        poses = Poses(**{"joints_cam": None, **arrays, "scale_source": str(arrays["scale_source"])})
    except (ValueError, KeyError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} holds no poses of `python -m ipr.evaluate --save`: {type(error).__name__}: {error}"
        ) from None
    return poses, table, about


def check_table(path: Path, poses: Poses, saved: str, table: PoseTable) -> None:
    """ValueError unless the poses of ``path``, saved with the digest ``saved``, are those of the table."""
    if len(poses.joints_rel) != len(table):
        raise ValueError(
            f"{path} has poses of {len(poses.joints_rel)} rows, the table has {len(table)}: "
            "score them on the data that they were made of (data.valid)"
        )
    if saved != digest(table):
        raise ValueError(
            f"{path} was made of other boxes or joints than the table has ({saved}, here {digest(table)}): "
            "score them on the data that they were made of (data.valid)"
        )


def submit(folder: Path, poses: Poses, table: PoseTable) -> None:
    """Write the ECCV 2018 challenge's files into ``folder``: ``PRED/<image>.csv`` and ``Prediction.JSON``.

    A csv has 17 lines x,y,z in mm from the root, camera axes, with two decimals; the JSON is a list of
    {"image_id": number, "keypoints": [[51 numbers]]}. Numbers: ``table.extra["image_id"]``, or from 1 on.
    """
    at = joint_map(table.skeleton, SKELETONS["h36m_17"])
    if -1 in at:
        raise ValueError(f"the challenge's 17 joints are Human3.6M's, and {table.skeleton.name} lacks some")
    numbers = (table.extra or {}).get("image_id", np.arange(1, len(table) + 1))
    if len(np.unique(numbers)) != len(table):
        raise ValueError("the challenge takes one person per image, and the table has images with more")
    (folder / "PRED").mkdir(parents=True, exist_ok=True)
    answers = []
    for number, joints_rel in zip(numbers.tolist(), poses.joints_rel[:, at], strict=True):
        lines = "".join(f"{x:.2f},{y:.2f},{z:.2f}\n" for x, y, z in joints_rel)
        write_atomic(folder / "PRED" / f"{number:05d}.csv", lines.encode())
        answers.append({"image_id": number, "keypoints": [joints_rel.ravel().tolist()]})
    write_atomic(folder / "Prediction.JSON", json.dumps(answers).encode())
