"""MPJPE and its alignments against the original's golden values, and the metric's bookkeeping."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from ipr.metrics.mpjpe import Config, align, mean_pose, mean_pose_scores, mpjpe, pa_mpjpe, pa_mpjpe_rigid
from ipr.types import Poses, PoseTable
from tests.conftest import Tolerance
from tests.data import random_table

GOLDEN = Path(__file__).parents[1] / "golden" / "evaluate"


def _poses(joints_rel: np.ndarray, scale_source: str = "intrinsics") -> Poses:
    count, joints = joints_rel.shape[:2]
    unknown = np.full((count, joints, 3), np.nan)
    return Poses(unknown[..., :2], joints_rel, None, unknown, unknown[..., 0], np.arange(count), scale_source)


def _truth(table: PoseTable) -> np.ndarray:
    assert table.joints_cam is not None
    return table.joints_cam - table.joints_cam[:, :1]


def test_alignments_are_the_originals(tolerance: Tolerance) -> None:
    golden = np.load(GOLDEN / "align.npz")
    for name, scale in (("rigid_aligned_A", False), ("sim_Z", True)):
        aligned = align(golden["align_A"], golden["align_B"], scale=scale)
        np.testing.assert_allclose(aligned, golden[name], rtol=0, atol=tolerance.metric)


def test_errors_are_the_originals(tolerance: Tolerance) -> None:
    truth = np.load(GOLDEN / "challenge_relative.npz")["joints_3d_relative"]
    metrics = json.loads((GOLDEN / "challenge_Val.json").read_text())["metrics"]
    noise = np.random.RandomState(75).normal(0, 1, truth.shape)  # the recipe of the golden file
    preds = {"noise_20mm": truth + 20 * noise, "noise_80mm": truth + 80 * noise, "scaled_1.1": truth * 1.1}
    for name, pred in preds.items():
        expected = {key.rstrip(" :;"): value for key, value in metrics[name]}
        aligned = align(pred, truth, scale=False)
        assert abs(mpjpe(pred[:, :17], truth[:, :17]).mean() - expected["hm36_17j"]) < tolerance.metric
        assert (
            abs(mpjpe(aligned[:, :17], truth[:, :17]).mean() - expected["hm36_17j_align"]) < tolerance.metric
        )


def test_what_each_alignment_forgives() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 300, (20, 18, 3))
    turn = np.linalg.qr(rng.normal(size=(20, 3, 3)))[0]
    turn[:, 0] *= np.linalg.det(turn)[:, None]
    moved = truth @ turn + rng.normal(0, 500, (20, 1, 3))
    assert mpjpe(moved, truth).min() > 100
    np.testing.assert_allclose(pa_mpjpe_rigid(moved, truth), 0, atol=1e-9)
    np.testing.assert_allclose(pa_mpjpe(0.3 * moved, truth), 0, atol=1e-9)
    assert pa_mpjpe_rigid(0.3 * moved, truth).min() > 100
    assert pa_mpjpe(moved * [1, 1, -1], truth).min() > 50  # no alignment by a mirror
    np.testing.assert_allclose(
        pa_mpjpe(np.zeros_like(truth), truth), mpjpe(truth * 0 + truth.mean(1, keepdims=True), truth)
    )


def test_mpjpe_by_hand() -> None:
    truth = np.zeros((2, 2, 3))
    pred = np.array([[[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 12.0], [5.0, 12.0, 0.0]]])
    np.testing.assert_allclose(mpjpe(pred, truth), [2.5, 12.5])
    with pytest.raises(ValueError, match=r"need the same \[N, J, 3\]"):
        mpjpe(pred, truth[:1])


def test_metric_counts_17_joints_and_each_action() -> None:
    table = random_table(6)
    pred = _truth(table).copy()
    pred[:, table.skeleton.joints.index("thorax")] += 1000  # does not count
    pred[::2, table.skeleton.joints.index("left_wrist"), 0] += 170  # the walkers
    scores = Config().build()(_poses(pred), table)
    assert scores["MPJPE mm"] == pytest.approx(5.0) and scores["MPJPE mm/action/walk"] == pytest.approx(10.0)
    assert scores["MPJPE mm/action/sit"] == pytest.approx(0.0, abs=1e-9)
    assert scores["MPJPE mm/joint/left_wrist"] == pytest.approx(85.0)
    assert len([name for name in scores if "/joint/" in name]) == 17
    assert Config(joints=18).build()(_poses(pred), table)["MPJPE mm"] > 50
    assert "17 joints" in Config().build().protocol["joints"]


def test_rigid_number_is_fitted_on_all_joints_then_rooted_again() -> None:
    table = random_table(6)
    truth = _truth(table)
    pred = truth + np.random.default_rng(0).normal(0, 60, truth.shape) * (np.arange(18) > 0)[:, None]
    scores = Config().build()(_poses(pred), table)
    aligned = align(pred, truth, scale=False)
    aligned -= aligned[:, :1]
    assert scores["PA-MPJPE-rigid mm"] == pytest.approx(mpjpe(aligned[:, :17], truth[:, :17]).mean())
    assert scores["PA-MPJPE mm"] == pytest.approx(pa_mpjpe(pred[:, :17], truth[:, :17]).mean())


def test_mean_pose_is_the_best_constant() -> None:
    train, valid = random_table(30, seed=1), random_table(10, seed=2)
    pose = mean_pose(train)
    assert pose.shape == (18, 3) and np.abs(pose[0]).max() == 0
    np.testing.assert_allclose(pose, _truth(train).mean(0))
    expected = mpjpe(np.broadcast_to(pose, (10, 18, 3))[:, :17], _truth(valid)[:, :17]).mean()
    assert mean_pose_scores(train, valid)["MPJPE mm"] == pytest.approx(expected)


def test_what_does_not_fit_is_refused() -> None:
    table = random_table(6)
    metric, truth = Config().build(), _truth(table)
    with pytest.raises(ValueError, match=r"'bone_length'.*decode with the table's camera"):
        metric(_poses(truth, "bone_length"), table)
    with pytest.raises(ValueError, match="not one for each row"):
        metric(_poses(truth[:5]), table)
    with pytest.raises(ValueError, match="joints_cam is None"):
        metric(_poses(truth), dataclasses.replace(table, joints_cam=None))
    with pytest.raises(ValueError, match="skeleton mpii_16: use joints=16"):
        metric(_poses(truth[:, :16]), random_table(6, skeleton="mpii_16"))
