"""MPJPE over other sets of joints, after scaling, and by axis."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ipr.metrics.mpjpe import Config, axis_errors, mpjpe, n_mpjpe
from tests.conftest import Tolerance
from tests.data import random_table
from tests.metrics.poses import rooted, said

GOLDEN = Path(__file__).parents[1] / "golden" / "evaluate"

# The ECCV 2018 code's indices into its 18 joints
SETS = {16: [*range(7), 8, *range(10, 18)], 14: [*range(1, 7), 8, *range(10, 17)]}


@pytest.mark.parametrize("joints", [16, 14])
def test_the_sets_are_the_originals(joints: int) -> None:
    table = random_table(6)
    truth = rooted(table)
    pred = truth + np.random.default_rng(0).normal(0, 60, truth.shape)
    metric = Config(joints=joints).build()
    scores = metric(said(table, pred), table)
    expected = mpjpe(pred[:, SETS[joints]], truth[:, SETS[joints]]).mean()
    assert scores[f"MPJPE-{joints}j mm"] == pytest.approx(expected)
    assert len([name for name in scores if "/joint/" in name]) == joints
    root_counts = f"MPJPE-{joints}j mm/joint/pelvis" in scores
    assert root_counts == (joints == 16) and f"{joints} joints" in metric.protocol["joints"]
    assert ("does not count" in metric.protocol["joints"]) != root_counts


def test_sets_stand_beside_each_other() -> None:
    table = random_table(6)
    names = [name for joints in (17, 16, 14) for name in Config(joints=joints).build()(said(table), table)]
    assert len(names) == len(set(names))


def test_a_set_that_the_skeleton_lacks() -> None:
    table = random_table(6, skeleton="h36m_17")
    with pytest.raises(ValueError, match="MPJPE over 16 joints does not fit the skeleton h36m_17"):
        Config(joints=16).build()(said(table), table)  # it has no thorax
    with pytest.raises(ValueError, match="joints"):
        Config(joints=0)


def test_scale_alone_is_forgiven() -> None:
    truth = rooted(random_table(6))
    np.testing.assert_allclose(n_mpjpe(0.3 * truth, truth), 0, atol=1e-9)
    turned = truth[..., [1, 0, 2]]
    assert n_mpjpe(turned, truth).min() > 50
    best = [np.linalg.norm(scale * turned - truth, axis=-1).mean(1) for scale in np.linspace(-1, 2, 3001)]
    squares = [((scale * turned - truth) ** 2).sum((1, 2)) for scale in np.linspace(-1, 2, 3001)]
    at = np.argmin(squares, 0)
    np.testing.assert_allclose(n_mpjpe(turned, truth), np.array(best)[at, np.arange(6)], atol=0.3)
    np.testing.assert_allclose(n_mpjpe(0 * truth, truth), mpjpe(0 * truth, truth))


def test_axes_are_the_originals(tolerance: Tolerance) -> None:
    truth = np.load(GOLDEN / "challenge_relative.npz")["joints_3d_relative"]
    noise = np.random.RandomState(75).normal(0, 1, truth.shape)  # the recipe of the golden file
    metrics = json.loads((GOLDEN / "challenge_Val.json").read_text())["metrics"]
    for name, pred in {
        "noise_80mm": truth + 80 * noise,
        "offset": truth + np.array([10.0, 20.0, 30.0]),
    }.items():
        expected = {key.rstrip(" :;"): value for key, value in metrics[name]}
        found = axis_errors(pred[:, :17], truth[:, :17]).mean(0)
        golden = [expected[f"hm36_17j_{axis}"] for axis in "xyz"]
        np.testing.assert_allclose(found, golden, rtol=0, atol=tolerance.metric)
