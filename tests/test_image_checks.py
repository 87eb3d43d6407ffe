"""Images that are missing, damaged, copies or of another size are found; good ones are not."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ipr import image_checks
from ipr.findings import Finding
from ipr.images import FileImages
from ipr.types import PoseTable
from tests.data import people, write_images

COUNT = 24


@pytest.fixture
def table(tmp_path: Path) -> PoseTable:
    made = people(COUNT)
    return replace(made, image=write_images(tmp_path / "images", made))


def found(table: PoseTable, processes: int = 0) -> list[Finding]:
    findings, looked = image_checks.image_findings(table, all_images=True, processes=processes)
    assert looked == COUNT
    return findings


def path(table: PoseTable, row: int) -> Path:
    return Path(table.image.name(row))


@pytest.mark.parametrize("processes", [0, 2])
def test_nothing_in_a_clean_set(table: PoseTable, processes: int) -> None:
    assert found(table, processes) == []


def test_procedural_images(table: PoseTable) -> None:
    assert found(people(COUNT)) == []


@pytest.mark.parametrize("processes", [0, 2])
def test_missing_and_unreadable(table: PoseTable, processes: int) -> None:
    path(table, 3).unlink()
    path(table, 20).write_bytes(path(table, 20).read_bytes()[:-40])
    path(table, 7).write_bytes(b"")
    missing, broken = found(table, processes)
    assert (missing.level, missing.rows, missing.of, missing.first) == ("error", 1, COUNT, (3,))
    assert missing.examples == (str(path(table, 3)),) and "data.root" in missing.fix
    assert (broken.level, broken.rows, broken.first) == ("error", 2, (7, 20))
    assert "is empty" in broken.examples[0] and "is cut short" in broken.examples[1]


def test_a_hundred_thousand_missing_images(tmp_path: Path) -> None:
    """Counted, the first 20 named."""
    count = 100_000
    few = people(1)
    arrays = {n: v.repeat(count, 0) for n, v in vars(few).items() if isinstance(v, np.ndarray)}
    image = FileImages(f"{tmp_path}/images/S{row % 7}/{row}.jpg" for row in range(count))
    many = replace(few, **arrays, image=image, camera=None, group=None, extra=None)
    start = time.perf_counter()
    findings, looked = image_checks.image_findings(many, all_images=True, processes=2)
    assert time.perf_counter() - start < 60
    (missing,) = findings
    assert looked == missing.rows == count and len(missing.examples) == 20
    assert f"{tmp_path}/images/S0 does not exist, but {tmp_path} does (7 folders" in missing.fix
    assert len(str(missing).splitlines()) == 23 and str(missing).endswith("and 99980 more")


def test_a_sample_is_opened(table: PoseTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_checks, "SAMPLE", 5)
    path(table, 0).unlink()
    path(table, 1).unlink()
    (missing,), looked = image_checks.image_findings(table, all_images=False, processes=0)
    assert looked == missing.of == 5 and missing.first == (0,)


def test_people_of_one_image_open_it_once(table: PoseTable) -> None:
    shared = replace(table, image=FileImages([path(table, 0)] * COUNT))
    findings, looked = image_checks.image_findings(shared, all_images=True, processes=0)
    assert (findings, looked) == ([], 1)


def test_files_of_the_same_content(table: PoseTable) -> None:
    path(table, 9).write_bytes(path(table, 2).read_bytes())
    (copy,) = found(table)
    assert (copy.level, copy.rows, copy.first) == ("warning", 1, (9,))
    assert copy.examples == (f"{path(table, 9)} is {path(table, 2)}",)


def test_resized_images(table: PoseTable) -> None:
    for row in range(COUNT):
        image = cv2.imread(str(path(table, row)))
        cv2.imwrite(str(path(table, row)), cv2.resize(image, None, fx=0.4, fy=0.4))
    findings = {finding.what: finding for finding in found(table)}
    assert findings["people most of whose joints lie outside the image"].level == "error"
    center = findings["cameras whose centre is far from the image's middle"]
    assert center.rows == COUNT and "were the images resized? They have 0.39 times" in center.fix
    assert "image of 400 x 400 px" in center.examples[0]


def test_height_and_width_exchanged(table: PoseTable) -> None:
    assert table.camera is not None
    wide = np.array([200.0, 700.0])
    for row in range(COUNT):
        cv2.imwrite(str(path(table, row)), np.full((400, 1400, 3), row, np.uint8))
    turned = replace(table, camera=table.camera._replace(center=np.tile(wide, (COUNT, 1))))
    (center,) = (finding for finding in found(turned) if "centre" in finding.what)
    assert "exchanged" in center.fix


def test_a_size_that_the_annotations_do_not_say(table: PoseTable) -> None:
    paths = [path(table, row) for row in range(COUNT)]
    (broken,) = found(replace(table, image=FileImages(paths, np.full((COUNT, 2), 900))))
    assert broken.rows == COUNT and "its annotation says 900 x 900 px" in broken.examples[0]


def test_joints_and_boxes_outside(table: PoseTable) -> None:
    joints_img, boxes = table.joints_img.copy(), table.boxes_xywh.copy()
    joints_img[4, 3:5] = [1200, 500]
    boxes[6] = [1100, 100, 50, 50]
    joints, box = found(replace(table, joints_img=joints_img, boxes_xywh=boxes))
    assert (joints.level, joints.first) == ("warning", (4,)) and "2 joints, image of 1000" in joints.examples[
        0
    ]
    assert (box.level, box.first) == ("error", (6,)) and "[1100.0, 100.0, 50.0, 50.0]" in box.examples[0]
