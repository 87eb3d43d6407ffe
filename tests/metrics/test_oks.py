"""OKS: similarity and suppression against the original's, average precision by pycocotools."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ipr.metrics.oks import Config, rescored, similarity, suppress
from ipr.types import PoseTable
from tests.conftest import Tolerance
from tests.data import random_table
from tests.metrics.poses import said

GOLDEN = Path(__file__).parents[1] / "golden" / "evaluate"


@pytest.fixture(scope="module")
def people() -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
    golden = json.loads((GOLDEN / "oks_nms.json").read_text())
    keypoints = np.array([person["keypoints"] for person in golden["kpts"]])
    areas, scores = (np.array([person[key] for person in golden["kpts"]]) for key in ("area", "score"))
    return keypoints[..., :2], areas, scores, golden


def test_similarity_is_the_originals(people: Any, tolerance: Tolerance) -> None:
    joints_img, areas, _, golden = people
    found = similarity(joints_img[0], areas[0], joints_img, areas)
    np.testing.assert_allclose(found, golden["oks_iou_0"], rtol=0, atol=tolerance.metric)


@pytest.mark.parametrize(("threshold", "name"), [(0.3, "03"), (0.5, "05"), (0.9, "09")])
def test_suppression_is_the_originals(people: Any, threshold: float, name: str) -> None:
    joints_img, areas, scores, golden = people
    assert suppress(joints_img, areas, scores, threshold).tolist() == golden[f"oks_keep_{name}"]


def test_scores_below_the_least_do_not_count() -> None:
    joint_score = np.array([[0.2, 0.3, 0.9], [0.1, 0.1, 0.1], [1.0, 1.0, 1.0]])
    np.testing.assert_allclose(rescored(np.array([0.5, 0.5, 0.7]), joint_score), [0.3, 0.0, 0.7])


def _table(count: int = 6) -> PoseTable:
    """Two people in every image."""
    table = random_table(count, skeleton="coco_17")
    extra = {
        "image_id": 100 + np.arange(count) // 2,
        "area": table.boxes_xywh[:, 2] * table.boxes_xywh[:, 3],
        "annotation_id": np.arange(count) + 1,
    }
    return dataclasses.replace(table, extra=extra)


def _annotations(table: PoseTable, folder: Path) -> Path:
    assert table.extra is not None
    file = folder / "person_keypoints.json"
    people = [
        {
            "id": row + 1,
            "image_id": int(table.extra["image_id"][row]),
            "category_id": 1,
            "iscrowd": 0,
            "area": float(table.extra["area"][row]),
            "bbox": table.boxes_xywh[row].tolist(),
            "num_keypoints": 17,
            "keypoints": np.c_[table.joints_img[row], np.full(17, 2)].ravel().tolist(),
        }
        for row in range(len(table))
    ]
    images = [{"id": int(image), "width": 160, "height": 120} for image in np.unique(table.extra["image_id"])]
    content = {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}
    file.write_text(json.dumps(content))
    return file


def test_average_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pycocotools")
    table = _table()
    assert table.extra is not None
    metric = Config(annotations=str(_annotations(table, tmp_path))).build()
    scores = metric(said(table), table)
    assert scores["OKS AP %"] == pytest.approx(100) and scores["OKS AR %"] == pytest.approx(100)
    assert len(scores) == 10 and capsys.readouterr().out == ""
    lost = table.joints_img.copy()
    lost[0] += 1000  # one of six is nowhere near
    assert metric(said(table, joints_img=lost), table)["OKS AR %"] == pytest.approx(100 * 5 / 6)
    # Twice the same person: the lower score goes, and with it the precision that it would have cost.
    twice = table.joints_img.copy()
    twice[1] = twice[0]
    scored = dataclasses.replace(table, extra=table.extra | {"box_score": np.linspace(1, 0.5, 6)})
    kept = metric(said(table, joints_img=twice), scored)["OKS AP %"]
    all_of_them = Config(annotations=metric.annotations, nms=1.0).build()
    assert kept > all_of_them(said(table, joints_img=twice), scored)["OKS AP %"] + 5
    low = Config(annotations=metric.annotations, joint_score="volume").build()
    assert low(said(table), table)["OKS AP %"] == pytest.approx(100)  # ranks do not change


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    table = _table()
    file = _annotations(table, tmp_path)
    metric = Config(annotations=str(file)).build()
    with pytest.raises(ValueError, match="use skeleton: coco_17"):
        metric(said(random_table(4)), random_table(4))
    with pytest.raises(ValueError, match=r"OKS needs extra\['image_id'\]"):
        metric(said(table), dataclasses.replace(table, extra=None))
    with pytest.raises(ValueError, match="needs a head with a volume"):
        no_score = said(table)._replace(score=np.full((6, 17), np.nan))
        Config(annotations=str(file), joint_score="volume").build()(no_score, table)
    assert table.extra is not None
    elsewhere = dataclasses.replace(table, extra=table.extra | {"image_id": np.arange(6)})
    with pytest.raises(ValueError, match="has no image 0, which the table has"):
        metric(said(table), elsewhere)
    with pytest.raises(ValueError, match="needs the option annotations"):
        Config().build()(said(table), table)
    with pytest.raises(OSError, match="missing"):
        Config(annotations=str(tmp_path / "missing.json")).build()(said(table), table)
    file.write_text(file.read_text()[:200])
    with pytest.raises(ValueError, match="is truncated or is no COCO annotation file"):
        metric(said(table), table)
