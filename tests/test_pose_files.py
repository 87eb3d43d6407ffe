"""Files of poses: what comes back, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ipr import pose_files
from tests.data import random_table
from tests.metrics.poses import said


def test_saved_poses_come_back(tmp_path: Path) -> None:
    table = random_table(5)
    file = tmp_path / "poses.npz"
    pose_files.save(file, said(table), table, {"flip": True, "checkpoints": ["a.pt"]})
    poses, digest, about = pose_files.load(file)
    assert about == {"flip": True, "checkpoints": ["a.pt"]} and poses.scale_source == "intrinsics"
    assert poses.joints_cam is None and type(poses.scale_source) is str
    for value, expected in zip(poses, said(table), strict=True):
        np.testing.assert_array_equal(value, expected)  # type: ignore[arg-type]
    pose_files.check_table(file, poses, digest, table)
    with pytest.raises(ValueError, match=r"poses\.npz has poses of 5 rows, the table has 4"):
        pose_files.check_table(file, poses, digest, random_table(4))
    other_order = dataclasses.replace(table, boxes_xywh=table.boxes_xywh[::-1])
    for other in (random_table(5, seed=1), other_order):
        with pytest.raises(ValueError, match="made of other boxes or joints"):
            pose_files.check_table(file, poses, digest, other)


@pytest.mark.parametrize("content", ["nothing", "text", "truncated", "arrays", "objects"])
def test_other_files_are_refused(content: str, tmp_path: Path) -> None:
    table, file = random_table(5), tmp_path / "poses.npz"
    pose_files.save(file, said(table), table, {})
    whole = file.read_bytes()
    if content == "arrays":
        np.savez(file, x=np.zeros(3))
    elif content == "objects":  # would need a pickle
        np.savez(file, table=np.array([{}], object), about=np.array("{}"))
    else:
        file.write_bytes({"nothing": b"", "text": b"joints", "truncated": whole[:-200]}[content])
    with pytest.raises(ValueError, match=r"poses\.npz holds no poses of `python -m ipr\.evaluate --save`"):
        pose_files.load(file)


def test_the_challenge_numbers_its_images(tmp_path: Path) -> None:
    table = random_table(2)
    table = dataclasses.replace(table, extra={"image_id": np.array([7, 12])})
    pose_files.submit(tmp_path / "out", said(table), table)
    assert sorted(file.name for file in (tmp_path / "out" / "PRED").iterdir()) == ["00007.csv", "00012.csv"]
    with pytest.raises(ValueError, match="one person per image"):
        twice = dataclasses.replace(table, extra={"image_id": np.array([7, 7])})
        pose_files.submit(tmp_path / "out", said(table), twice)
    with pytest.raises(ValueError, match="mpii_16 lacks some"):
        pose_files.submit(
            tmp_path / "out", said(random_table(2, skeleton="mpii_16")), random_table(2, skeleton="mpii_16")
        )
