"""Faults in the labels of a table are found, with rows and fix; in a clean table nothing is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ipr.checks import described, fit_findings, label_findings
from ipr.findings import Finding
from ipr.skeleton import by_name
from ipr.types import PoseTable, Skeleton
from tests.data import people

COUNT = 60


@pytest.fixture(scope="module")
def clean() -> PoseTable:
    return people(COUNT)


def only(table: PoseTable) -> Finding:
    (finding,) = label_findings(table)
    return finding


def test_nothing_in_clean_tables(clean: PoseTable) -> None:
    assert list(label_findings(clean)) == []
    flat = {"joints_cam": None, "camera": None, "root_depth": None}
    without_depth = replace(clean, **flat, weight=clean.weight * [1, 1, 0])
    assert list(label_findings(replace(clean, **flat))) == list(label_findings(without_depth)) == []
    assert list(label_findings(replace(clean, weight=clean.weight.astype(np.uint8)))) == []
    assert list(fit_findings(clean, by_name("h36m_17"), "rect3d")) == []


def test_labels_without_weight_may_be_anything(clean: PoseTable) -> None:
    weight, joints_img, depth = clean.weight.copy(), clean.joints_img.copy(), clean.depth.copy()
    weight[::2, 3], joints_img[::2, 3], depth[::2, 3] = 0, np.nan, np.nan
    assert list(label_findings(replace(clean, weight=weight, joints_img=joints_img, depth=depth))) == []


@pytest.mark.parametrize("box", [[10.0, 10, 0, 5], [10.0, 10, np.nan, 5], [10.0, 10, 5, -1]])
def test_boxes_that_are_none(clean: PoseTable, box: list[float]) -> None:
    boxes = clean.boxes_xywh.copy()
    boxes[[7, 9]] = box
    found = only(replace(clean, boxes_xywh=boxes))
    assert (found.level, found.rows, found.of, found.first) == ("error", 2, COUNT, (7, 9))
    assert "synthetic train seed 0 row 7: its box is [10.0, 10.0" in str(found) and "fix: " in str(found)


def test_labels_that_are_not_finite(clean: PoseTable) -> None:
    joints_img = clean.joints_img.copy()
    joints_img[4, 2, 1] = np.nan
    found = only(replace(clean, joints_img=joints_img))
    assert (found.level, found.rows, found.first) == ("error", 1, (4,))
    assert "its label of joint 'right_knee'" in found.examples[0]


def test_rows_and_joints_without_labels(clean: PoseTable) -> None:
    weight = clean.weight.copy()
    weight[:6] = 0
    weight[:, 16] = 0
    rows, joints = label_findings(replace(clean, weight=weight))
    assert (rows.level, rows.rows, joints.level) == ("warning", 6, "warning")
    assert "and 1 more" in str(rows) and "in any row: right_wrist" in joints.what
    assert next(iter(label_findings(replace(clean, weight=weight * 0)))).level == "error"


def test_duplicates(clean: PoseTable) -> None:
    order = np.arange(COUNT)
    order[[20, 30]] = 5
    arrays = {name: value[order] for name, value in vars(clean).items() if isinstance(value, np.ndarray)}
    copies = replace(clean, **arrays, camera=None)
    assert list(label_findings(copies)) == []  # the same labels of other images

    class Renamed:
        def name(self, row: int) -> str:
            return f"{order[row]}.jpg"

    found = only(replace(copies, image=Renamed()))
    assert (found.level, found.rows, found.first) == ("warning", 2, (20, 30))
    assert found.examples[0] == "row 20, 5.jpg: as row 5"


@pytest.mark.parametrize("reading", ["x0, y0, x1, y1", "centre x, centre y, width, height"])
def test_boxes_of_another_format(clean: PoseTable, reading: str) -> None:
    boxes = clean.boxes_xywh.copy()
    if reading.startswith("x0"):
        boxes[:, 2:] += boxes[:, :2]
    else:
        boxes[:, :2] += boxes[:, 2:] / 2
    found = only(replace(clean, boxes_xywh=boxes))
    assert found.level == "error" and found.rows > COUNT / 2
    assert found.fix == f"they are {reading}: convert them to x, y, width, height"


def test_boxes_of_other_rows(clean: PoseTable) -> None:
    boxes = clean.boxes_xywh.copy()
    boxes[3] += [4000, 0, 0, 0]
    found = only(replace(clean, boxes_xywh=boxes))
    assert (found.level, found.first) == ("warning", (3,)) and "far from their joints" in found.what


def test_a_run_that_cannot_use_the_table(clean: PoseTable) -> None:
    (joints,) = fit_findings(clean, Skeleton("animal", ("tail",), (0,), (), 0), "rect3d")
    assert joints.level == "error" and "have no name in common" in joints.what and "skeleton" in joints.fix
    (depth,) = fit_findings(clean, clean.skeleton, "box")
    assert depth.level == "error" and depth.fix == "set depth.rule=rect3d"


def test_description(clean: PoseTable) -> None:
    weight = clean.weight.copy()
    weight[: COUNT // 2, 2] = 0
    said = described(replace(clean, weight=weight, description="a layout, nothing left out"))
    assert said.startswith(
        f"{COUNT} people, skeleton h36m_18, depth in mm, with joints_cam, camera, root_depth"
    )
    assert "a layout, nothing left out\n" in said and "action: 5 (crouching " in said
    assert [line.split() for line in said.splitlines() if line.startswith("right_knee")] == [
        ["right_knee", "50.0%", "50.0%"]
    ]
