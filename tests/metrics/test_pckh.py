"""PCKh against the original's numbers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from ipr.metrics.pckh import Config
from ipr.types import PoseTable
from tests.conftest import Tolerance
from tests.data import random_table
from tests.metrics.poses import said

GOLDEN = Path(__file__).parents[1] / "golden" / "evaluate"
LINES = {
    "Head": ["head"],
    **{
        part.capitalize(): [f"left_{part}", f"right_{part}"]
        for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    },
}


@pytest.fixture(scope="module")
def table() -> PoseTable:
    """The golden tree's validation people, as a reader of gt_valid.mat makes them."""
    golden = np.load(GOLDEN / "mpii_valid.npz")
    people = random_table(len(golden["joints"]), skeleton="mpii_16")
    diagonal = golden["headboxes_src"][1] - golden["headboxes_src"][0]
    return dataclasses.replace(
        people,
        joints_img=golden["pos_gt_src"] - 1,
        weight=np.repeat(1.0 - golden["jnt_missing"][..., None], 3, axis=2),
        extra={"head_size": 0.6 * np.linalg.norm(diagonal, axis=0)},
    )


@pytest.mark.parametrize("name", ["perfect", "noise_2px", "noise_6px", "noise_15px", "one_based_mistake"])
def test_numbers_are_the_originals(table: PoseTable, name: str, tolerance: Tolerance) -> None:
    joints = np.load(GOLDEN / "mpii_valid.npz")["joints"]
    noise = np.random.RandomState(71).normal(0, 1, (*joints.shape[:2], 3))  # the recipe of the golden file
    pred = {
        "perfect": joints,
        "noise_2px": joints + 2 * noise[..., :2],
        "noise_6px": joints + 6 * noise[..., :2],
        "noise_15px": joints + 15 * noise[..., :2],
        "one_based_mistake": joints + 2 * noise[..., :2] + 1,
    }[name]
    golden = json.loads((GOLDEN / "mpii_valid.json").read_text())["metrics"][name]
    expected = {key.rstrip(" :"): value for key, value in golden}
    found = Config().build()(said(table, joints_img=pred), table)
    assert not [key for key in found if key.endswith(("pelvis", "thorax"))]
    result = {"PCKh@0.5": found["PCKh@0.5 %"], "PCKh@0.1": found["PCKh@0.1 %"]}
    for line, names in LINES.items():
        result[line] = np.mean([found[f"PCKh@0.5 %/joint/{joint}"] for joint in names])
    assert result.keys() == expected.keys()
    for line, value in expected.items():
        assert abs(result[line] - value) < tolerance.metric, line


def test_what_does_not_fit_is_refused(table: PoseTable) -> None:
    metric = Config().build()
    assert metric.higher_is_better and metric.of_pictures
    with pytest.raises(ValueError, match=r'this table has none \(extra\["head_size"\]'):
        metric(said(table), dataclasses.replace(table, extra=None))
    assert table.extra is not None
    sizes = table.extra["head_size"].copy()
    sizes[3] = np.nan
    with pytest.raises(ValueError, match="1 of 24 rows have no head size"):
        metric(said(table), dataclasses.replace(table, extra={"head_size": sizes}))
    with pytest.raises(ValueError, match="no joint of the table is labelled"):
        metric(said(table), dataclasses.replace(table, weight=0 * table.weight))
    with pytest.raises(ValueError, match="thresholds"):
        Config(thresholds=())
