"""The pictures show what they say: a crop's map is the drawing's, and a skeleton's axes are equal."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from ipr import visualize
from ipr.geometry import apply_affine
from ipr.skeleton import by_name
from ipr.types import Poses, PoseTable
from tests.data import random_images, random_table


def poses_of(table: PoseTable, shift_px: float) -> Poses:
    """The truth, moved sideways."""
    assert table.joints_cam is not None
    rel = table.joints_cam - table.joints_cam[:, [table.skeleton.root]]
    unknown = np.full_like(rel, np.nan)
    joints_img = table.joints_img + np.array([shift_px, 0.0])
    return Poses(joints_img, rel, None, unknown, unknown[..., 0], np.arange(len(table)), "intrinsics")


def test_a_dot_at_a_joint_is_under_it_in_the_crop() -> None:
    table = random_table(count=3, images=np.zeros((3, 120, 160, 3), np.uint8))
    for row in range(3):
        inside = ((table.joints_img[row] > 4) & (table.joints_img[row] < [155, 115])).all(1)
        x, y = table.joints_img[row, np.flatnonzero(inside)[0]].round().astype(int)
        images = np.zeros((3, 120, 160, 3), np.uint8)
        images[row, y - 1 : y + 2, x - 1 : x + 2] = 255
        image, affine = visualize.crop(random_table(count=3, images=images), row, (192, 160))
        assert image.shape == (192, 160, 3) and image.max() > 200
        mass = image[..., 0] / image[..., 0].sum()
        found = (mass * np.arange(160)).sum(), (mass.T * np.arange(192)).sum()
        expected = apply_affine(affine, np.array([[x, y]], float))[0]
        np.testing.assert_allclose(found, expected, atol=0.3)


def has_color(picture: np.ndarray, color: str) -> bool:
    return bool((np.abs(picture / 255 - to_rgb(color)).max(-1) < 0.05).sum() > 20)


def test_prediction_and_truth_are_drawn(tmp_path: Path) -> None:
    table = random_table(count=6, images=random_images(6, (120, 160)) // 4)
    visualize.poses_picture(tmp_path / "val.png", table, poses_of(table, 9.0), [0, 1, 3, 4, 5])
    picture = cv2.cvtColor(cv2.imread(str(tmp_path / "val.png")), cv2.COLOR_BGR2RGB)
    for color in (visualize.PREDICTION, visualize.TRUTH, visualize.LEFT, visualize.RIGHT):
        assert has_color(picture, color)


def test_axes_of_a_skeleton_are_equal() -> None:
    axes = Figure().add_subplot(projection="3d")
    table = random_table(count=1)
    rel = poses_of(table, 0).joints_rel[0]
    visualize.skeletons_3d(axes, by_name("h36m_18"), rel, rel * 1.1)
    lengths = [high - low for low, high in (axes.get_xlim(), axes.get_ylim(), axes.get_zlim())]
    np.testing.assert_allclose(lengths, lengths[0])
    aspect = axes._box_aspect
    np.testing.assert_allclose(aspect, aspect[0])
    assert axes.get_zlim()[0] < -rel[:, 1].max() and axes.get_zlim()[1] > -rel[:, 1].min()  # up is -y


def test_curves(tmp_path: Path) -> None:
    records = [
        {"kind": "run", "step": 0},
        *({"kind": "step", "seconds": 6.0 * i, "loss": 3.0 / i} for i in range(1, 9)),
        *({"kind": "epoch", "seconds": 24.0 * i, "loss": 2.0 / i, "MPJPE mm": 200.0 / i} for i in (1, 2)),
        {"kind": "epoch", "seconds": 72.0, "loss": 1.0, "MPJPE mm": None, "PA-MPJPE mm": 80.0},
    ]
    baselines = {
        "mean pose": {"MPJPE mm": 290.0, "PA-MPJPE mm": 150.0},
        "constant image": {"MPJPE mm": 250.0},
    }
    visualize.curve_picture(tmp_path / "curve.png", records, baselines)
    picture = cv2.cvtColor(cv2.imread(str(tmp_path / "curve.png")), cv2.COLOR_BGR2RGB)
    assert has_color(picture, visualize.PREDICTION) and has_color(picture, visualize.LEFT)


def test_table_of_scores() -> None:
    scores = {
        "MPJPE mm": 100.0,
        "PA-MPJPE mm": 70.0,
        "MPJPE mm/joint/nose": 90.0,
        "MPJPE mm/joint/head": 110.0,
    }
    text = visualize.table(scores, {"mean pose": {"MPJPE mm": 250.0, "PA-MPJPE mm": 140.0}}, "all joints")
    lines = text.splitlines()
    assert "100.00" in lines[1] and "70.00" in lines[1]
    assert lines[2].startswith("mean pose") and "0.400" in lines[2]
    assert lines[3] == "MPJPE mm by joint, worst first: head 110.0, nose 90.0"
    assert lines[4] == "protocol: all joints"


def test_of_correct_joints_the_lowest_share_comes_first() -> None:
    scores = {"3DPCK@150 %": 80.0, "3DPCK@150 %/joint/nose": 90.0, "3DPCK@150 %/joint/head": 70.0}
    lines = visualize.table(scores | {"a name longer than its column": 1.0}, {}, "").splitlines()
    assert "3DPCK@150 % by joint, worst first: head 70.0, nose 90.0" in lines
    assert len(lines[0]) == len(lines[1])


def test_markdown_tables() -> None:
    scores = {"MPJPE mm": 100.0, "AUC %": 40.0, "MPJPE mm/joint/nose": 90.0}
    text = visualize.markdown(scores, {"mean pose": {"MPJPE mm": 250.0}}, {"data": "mine"})
    assert text.splitlines() == [
        "| | MPJPE mm | AUC % |",
        "|--|--:|--:|",
        "| prediction | 100.00 | 40.00 |",
        "| mean pose | 250.00 |  |",
        "",
        "| by | | |",
        "|--|--|--:|",
        "| MPJPE mm, joint | nose | 90.00 |",
        "",
        "| protocol | |",
        "|--|--|",
        "| data | mine |",
    ]
