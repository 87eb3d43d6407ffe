"""The challenge's metric against the original's numbers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from ipr.metrics.mpjpe_rescaled import Config, rescale, scores
from ipr.skeleton import by_name
from tests.conftest import Tolerance
from tests.data import random_table
from tests.metrics.poses import rooted, said

GOLDEN = Path(__file__).parents[1] / "golden"
# Joints of the skeleton in each of the original's lines
LINES = {
    "root": ["pelvis"],
    "Torso": ["torso"],
    "Neck": ["neck"],
    "Nose": ["nose"],
    "Head": ["head"],
    **{
        part.capitalize(): [f"{side}_{part}" for side in ("left", "right")]
        for part in ("hip", "knee", "ankle", "shoulder", "elbow", "wrist")
    },
}


@pytest.mark.parametrize("name", ["noise_20mm", "noise_80mm", "scaled_1.1", "mirrored", "offset", "perfect"])
def test_numbers_are_the_originals(name: str, tolerance: Tolerance) -> None:
    truth = np.load(GOLDEN / "evaluate" / "challenge_relative.npz")["joints_3d_relative"]
    noise = np.random.RandomState(75).normal(0, 1, truth.shape)  # the recipe of the golden file
    pred = {
        "noise_20mm": truth + 20 * noise,
        "noise_80mm": truth + 80 * noise,
        "scaled_1.1": truth * 1.1,
        "mirrored": truth * [1, 1, -1],
        "offset": truth + np.array([10.0, 20.0, 30.0]),
        "perfect": truth,
    }[name]
    golden = json.loads((GOLDEN / "evaluate" / "challenge_Val.json").read_text())["metrics"][name]
    expected = {key.rstrip(" :;").removeprefix("hm36_"): value for key, value in golden}
    found = scores(pred, truth, random_table(len(truth)), 17)
    result = {
        "17j": found["MPJPE-rescaled mm"],
        "17j_align": found["MPJPE-rescaled-rigid mm"],
        **{f"17j_{axis}": found[f"MPJPE-rescaled mm/axis/{axis}"] for axis in "xyz"},
        **{
            line: np.mean([found[f"MPJPE-rescaled mm/joint/{joint}"] for joint in joints])
            for line, joints in LINES.items()
        },
    }
    assert result.keys() == expected.keys()
    for line, value in expected.items():
        assert abs(result[line] - value) < tolerance.metric, line


def test_size_is_the_originals(tolerance: Tolerance) -> None:
    golden = np.load(GOLDEN / "flip" / "rescale_pose.npz")
    rooted_patch = golden["preds"][..., :3] - golden["preds"][:, :1, :3]
    found = rescale(rooted_patch, by_name("h36m_18").parents, float(golden["target"]))
    np.testing.assert_allclose(found, golden["out_from_3cols"], rtol=0, atol=tolerance.crop_px)


def test_size_does_not_count_in_the_prediction() -> None:
    table = random_table(6)
    length = 4502.881
    truth = rescale(rooted(table), table.skeleton.parents, length)
    table = dataclasses.replace(table, joints_cam=truth)
    metric = Config().build()
    found = metric(said(table, 0.7 * truth)._replace(scale_source="bone_length"), table)
    assert found["MPJPE-rescaled mm"] == pytest.approx(0, abs=1e-9)
    assert found["MPJPE-rescaled-rigid mm"] == pytest.approx(0, abs=1e-9)
    assert "4502.88" in metric.protocol["alignment"]
    other = Config(bone_length_mm=2 * length).build()(said(table, 0.7 * truth), table)
    assert other["MPJPE-rescaled mm"] == pytest.approx(np.linalg.norm(truth[:, :17], axis=-1).mean())
    with pytest.raises(ValueError, match="pose 0 has no extent"):
        metric(said(table, 0 * truth), table)
