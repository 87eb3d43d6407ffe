"""Units, cameras and sides that do not fit are found, and what they probably are is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ipr.checks import label_findings
from ipr.findings import Finding
from ipr.geometry import world_to_cam
from ipr.geometry_checks import side_evidence
from ipr.types import PoseTable
from tests.data import people

COUNT = 60


@pytest.fixture(scope="module")
def clean() -> PoseTable:
    return people(COUNT)


def by_what(table: PoseTable, words: str) -> Finding:
    (finding,) = (finding for finding in label_findings(table) if words in finding.what)
    return finding


@pytest.mark.parametrize(("factor", "unit"), [(1e-3, "metres"), (0.1, "centimetres")])
def test_units(clean: PoseTable, factor: float, unit: str) -> None:
    assert clean.joints_cam is not None and clean.root_depth is not None
    scaled = {"joints_cam": clean.joints_cam * factor, "root_depth": clean.root_depth * factor}
    (found,) = label_findings(replace(clean, **scaled, depth=clean.depth * factor))
    assert (found.level, found.rows) == ("error", COUNT)
    assert found.fix == f"joints_cam is in {unit}: multiply it by {1 / factor:g}"


def test_depth_in_metres_without_joints_cam(clean: PoseTable) -> None:
    flat = replace(clean, joints_cam=None, camera=None, root_depth=None, depth=clean.depth / 1000)
    (found,) = label_findings(flat)
    assert found.level == "error" and "in metres" in found.what and found.fix == "multiply it by 1000"


def test_impossible_people(clean: PoseTable) -> None:
    assert clean.joints_cam is not None
    joints_cam = clean.joints_cam.copy()
    joints_cam[11, [3, 6]] += 4000  # the ankles
    assert by_what(replace(clean, joints_cam=joints_cam), "thighs and shins").first == (11,)


def test_depth_and_root_depth_of_others(clean: PoseTable) -> None:
    assert clean.root_depth is not None
    depth, root_depth = clean.depth.copy(), clean.root_depth.copy()
    depth[3, 5] += 20
    root_depth[8] -= 700
    one, other = label_findings(replace(clean, depth=depth, root_depth=root_depth))
    assert (one.level, one.first, other.level, other.first) == ("error", (3,), "error", (8,))
    assert one.examples[0].endswith(": 20.0") and "root_depth" in other.what


def test_numbers_of_the_camera_that_are_none(clean: PoseTable) -> None:
    assert clean.camera is not None
    focal = clean.camera.focal.copy()
    focal[5] = np.nan
    (found,) = label_findings(replace(clean, camera=clean.camera._replace(focal=focal)))
    assert (found.level, found.first) == ("error", (5,)) and "not finite" in found.what


def test_one_wrong_camera(clean: PoseTable) -> None:
    assert clean.camera is not None
    center = clean.camera.center.copy()
    center[2] += 50
    (found,) = label_findings(replace(clean, camera=clean.camera._replace(center=center)))
    assert (found.level, found.first) == ("error", (2,)) and "70.71 px" in found.examples[0]


@pytest.mark.parametrize(
    "said",
    [
        "t is the camera's position",
        "t is the translation",
        "R is transposed",
        "world axes",
        "y of joints_cam points up",
        "x and y of the centre",
        "left and right are exchanged in joints_img",
    ],
)
def test_camera_conventions(clean: PoseTable, said: str) -> None:
    """Readers' mistakes, in the direction in which they are made: from world to camera."""
    camera, joints_cam = clean.camera, clean.joints_cam
    assert camera is not None and joints_cam is not None
    world = (joints_cam - camera.t[:, None]) @ camera.R
    position = -(camera.t[:, None] @ camera.R)[:, 0]  # of the camera
    wrong = camera
    joints_img = clean.joints_img
    if said.startswith("t is the camera"):
        wrong = camera._replace(t=position)
    elif said.startswith("t is the translation"):  # the reader made -R t of it
        wrong = camera._replace(t=-(camera.R @ camera.t[..., None])[..., 0])
    elif said.startswith("R is"):
        wrong = camera._replace(R=camera.R.swapaxes(1, 2))
    elif said.startswith("x and y"):
        lower = np.array([0.0, 200.0])
        wrong = camera._replace(center=(camera.center + lower)[:, ::-1])
        joints_img = joints_img + lower
    elif said.startswith("left"):
        joints_img = joints_img[:, list(clean.skeleton.flip_permutation)]
    if said.startswith("world"):
        joints_cam = world
    elif said.startswith("y of"):
        joints_cam = joints_cam * [1, -1, 1]
    else:
        joints_cam = world_to_cam(world, wrong)
    found = by_what(
        replace(clean, joints_cam=joints_cam, camera=wrong, joints_img=joints_img), "seen by the camera"
    )
    assert found.level == "error" and found.rows > COUNT / 2
    assert said in found.fix


def test_labels_of_resized_images(clean: PoseTable) -> None:
    small = replace(clean, joints_img=clean.joints_img / 2, boxes_xywh=clean.boxes_xywh / 2)
    found = by_what(small, "seen by the camera")
    assert "about 0.5 times the projection: were the images resized?" in found.fix


def _exchanged(table: PoseTable, rows: slice = slice(None)) -> PoseTable:
    twin = list(table.skeleton.flip_permutation)
    arrays = {}
    for name in ("joints_img", "depth", "joints_cam"):
        value = getattr(table, name)
        if value is not None:
            arrays[name] = value.copy()
            arrays[name][rows] = value[rows][:, twin]
    return replace(table, **arrays)


@pytest.mark.parametrize("labels", ["joints_cam", "depth in mm", "depth in px"])
def test_left_and_right_exchanged(clean: PoseTable, labels: str) -> None:
    table = clean
    if labels != "joints_cam":
        table = replace(clean, joints_cam=None, camera=None, root_depth=None)
    if labels == "depth in px":
        table = replace(table, depth=table.depth / 5, depth_unit="px")
    assert list(label_findings(table)) == []
    (found,) = label_findings(_exchanged(table))
    assert found.level == "error" and found.rows > 0.9 * COUNT
    assert "100% of the" in found.what and "which way knees bend" in found.what
    evidence, sure = side_evidence(table)
    assert sure and (np.sign(side_evidence(_exchanged(table))[0]) == -np.sign(evidence)).all()


def test_left_and_right_exchanged_in_one_group(clean: PoseTable) -> None:
    camera = np.arange(COUNT) * 4 // COUNT
    table = _exchanged(replace(clean, group={"camera": camera}), slice(15, 30))
    (found,) = label_findings(table)
    assert (found.level, found.rows, found.first[0]) == ("warning", 15, 15)
    assert "where camera is 1" in found.what


def test_left_and_right_from_2d_is_a_guess(clean: PoseTable) -> None:
    """Seen from the front, left is on the right."""
    flat = replace(clean, joints_cam=None, camera=None, root_depth=None, weight=clean.weight * [1, 1, 0])
    left, right = (clean.skeleton.joints.index(f"{side}_shoulder") for side in ("left", "right"))
    front = flat.joints_img[:, left, 0] > flat.joints_img[:, right, 0]
    rows = np.flatnonzero(front)
    assert len(rows) > 15
    arrays = {name: value[rows] for name, value in vars(flat).items() if isinstance(value, np.ndarray)}
    frontal = replace(flat, **arrays, group=None, extra=None)
    assert list(label_findings(frontal)) == []
    (found,) = label_findings(_exchanged(frontal))
    assert found.level == "warning" and "guess" in found.fix
