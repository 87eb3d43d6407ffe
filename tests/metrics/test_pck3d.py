"""3DPCK, AUC and CPS by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ipr.metrics import cps, pck3d
from ipr.metrics.mpjpe import align
from tests.data import random_table
from tests.metrics.poses import rooted, said


def test_thresholds_by_hand() -> None:
    truth = np.zeros((1, 4, 3))
    pred = truth + np.array([[0, 0, 0], [0, 72, 0], [149, 0, 0], [0, 0, 150]])
    np.testing.assert_array_equal(pck3d.pck3d(pred, truth, 150.0), [[1, 1, 1, 0]])
    assert len(pck3d.AUC_THRESHOLDS) == 31 and pck3d.AUC_THRESHOLDS[-1] == 150
    # Of 0, 5 ... 150, 30 lie above 0, 16 above 72 (75 and on), one above 149, none above 150.
    np.testing.assert_allclose(pck3d.auc(pred, truth), [(30 + 16 + 1 + 0) / (4 * 31)])
    np.testing.assert_allclose(cps.cps(pred, truth), [150.0])
    np.testing.assert_allclose(cps.cps(pred * 3, truth), [0.0])
    with pytest.raises(ValueError, match=r"need the same \[N, J, 3\]"):
        pck3d.auc(pred, truth[:, :2])


def test_metric_counts_its_joints() -> None:
    table = random_table(6)
    pred = rooted(table).copy()
    pred[:, table.skeleton.joints.index("thorax")] += 1000  # does not count
    pred[::2, table.skeleton.joints.index("left_wrist"), 0] += 200  # the walkers
    metric = pck3d.Config().build()
    scores = metric(said(table, pred), table)
    assert metric.higher_is_better and next(iter(scores)) == "3DPCK@150 %"
    assert scores["3DPCK@150 %"] == pytest.approx(100 * (1 - 0.5 / 17))
    assert scores["3DPCK@150 %/action/walk"] == pytest.approx(100 * 16 / 17)
    assert scores["3DPCK@150 %/joint/left_wrist"] == 50
    assert scores["AUC %"] == pytest.approx(100 * (1 - 0.5 / 17) * 30 / 31)
    assert pck3d.Config(threshold=201).build()(said(table, pred), table)["3DPCK@201 %"] == 100
    assert pck3d.Config(joints=14).build()(said(table, pred), table)["3DPCK-14j@150 %"] == pytest.approx(
        100 * (1 - 0.5 / 14)
    )
    with pytest.raises(ValueError, match="this 3DPCK is defined with the ground-truth"):
        metric(said(table, pred)._replace(scale_source="bone_length"), table)


def test_cps_forgives_position_turn_and_size_and_nothing_else() -> None:
    table = random_table(6)
    truth = rooted(table)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.linalg.det(turn)
    metric = cps.Config().build()
    moved = said(table, 0.4 * truth @ turn + 300)._replace(scale_source="bone_length")
    assert metric(moved, table)["CPS mm"] == pytest.approx(300)
    worse = truth.copy()
    worse[:, table.skeleton.joints.index("left_wrist"), 0] += 100  # one joint makes the pose worse
    assert 200 < metric(said(table, worse), table)["CPS mm"] < 230
    # What published code adds up
    judged = [i for i, name in enumerate(table.skeleton.joints) if name != "thorax"]
    aligned = align(worse[:, judged], truth[:, judged], scale=True)
    worst = np.linalg.norm(aligned - truth[:, judged], axis=-1).max(1)
    steps = np.mean([(worst < threshold).mean() for threshold in range(1, 301)]) * 300
    assert abs(metric(said(table, worse), table)["CPS mm"] - steps) < 1
