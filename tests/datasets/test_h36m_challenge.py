"""The reader of CHALL_H80K: golden records of the ECCV 2018 code, trees that we write, and bad ones."""

from __future__ import annotations

import json
import os
import pickle
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ipr.datasets.h36m_challenge import Config
from ipr.engine import Trainer
from ipr.geometry import crop_box
from ipr.runlog import Silence
from ipr.validation import bone_length_mm, load_data
from tests.datasets.challenge_trees import SIZE, make, write
from tests.runs import tiny_run

GOLDEN = Path(__file__).parents[1] / "golden" / "datasets"
TOLERANCE = 1e-6  # px and mm, of records


def _golden(name: str, *keys: str) -> list[np.ndarray]:
    records = json.loads((GOLDEN / name).read_text())
    return [np.array([record[key] for record in records]) for key in keys]


@pytest.fixture(scope="module")
def golden_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(GOLDEN / "h36m_challenge.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "hm36_eccv_challenge"


def _boxes(name: str) -> np.ndarray:
    return np.stack(_golden(name, "center_x", "center_y", "width", "height"), axis=1)


def test_golden_records(golden_tree: Path) -> None:
    table = Config(root=str(golden_tree), split="Val").build()
    file = "challenge_jnt_bbox_db_Val_w256xh256.json"
    joints, relative, visible, images = _golden(
        file, "joints_3d", "joints_3d_relative", "joints_3d_vis", "image"
    )
    np.testing.assert_allclose(table.joints_img, joints[..., :2], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(table.depth, joints[..., 2], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(table.joints_cam, relative, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(table.weight, visible)
    crops = crop_box(table.boxes_xywh, table.box_rule, 1.0)
    np.testing.assert_allclose(crops, _boxes(file), rtol=0, atol=TOLERANCE)
    names = [table.image.name(row) for row in range(len(table))]
    assert names == [str(golden_tree.parent / image) for image in images]
    assert table.depth_unit == "px"


def test_golden_boxes_of_a_detector(golden_tree: Path) -> None:
    table = Config(root=str(golden_tree), split="Val", boxes="detector", detector="maskRCNN").build()
    file = "challenge_dt_db_Val_w256xh256.json"
    crops = crop_box(table.boxes_xywh, table.box_rule, 1.0)
    np.testing.assert_allclose(crops, _boxes(file), rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(table.extra["box_score"], _golden(file, "score")[0])


@pytest.mark.parametrize(("aspect", "width"), [(1.0, 1000.0), (288 / 384, 750.0)])
def test_golden_box_without_boxes(golden_tree: Path, aspect: float, width: float) -> None:
    table = Config(root=str(golden_tree), split="Train", boxes="full").build()
    np.testing.assert_array_equal(
        crop_box(table.boxes_xywh, table.box_rule, aspect), np.tile([500.0, 500.0, width, 1000.0], (12, 1))
    )


@pytest.mark.parametrize(
    ("split", "count", "bones_mm"),
    [
        ("Train", 12, 4499.009241357168),
        ("Val", 10, 4497.544556968669),
        ("TrainVal", 22, 4498.343475726033),
        ("Test", 5, None),
    ],
)
def test_golden_counts_and_bone_lengths(
    golden_tree: Path, split: str, count: int, bones_mm: float | None
) -> None:
    table = Config(root=str(golden_tree), split=split).build()
    assert len(table) == len(table.image) == count
    assert bone_length_mm([table]) == (None if bones_mm is None else pytest.approx(bones_mm, abs=TOLERANCE))


# ---------------------------------------------------------------------------------------- trees that we write


@pytest.mark.parametrize("predictions", ["pkl", "json"])
def test_written_tree(tmp_path: Path, predictions: str) -> None:
    made = make(6)
    write(tmp_path, "Train", made, predictions=predictions)
    table = Config(root=str(tmp_path), split="Train").build()
    np.testing.assert_allclose(table.joints_img, made.joints_img, rtol=0, atol=1e-9)  # of unseen joints too
    np.testing.assert_allclose(
        table.depth[:, :17], made.joints_cam[..., 2] * made.px_per_mm[:, None], rtol=0, atol=1e-9
    )
    np.testing.assert_array_equal(table.joints_cam[:, :17], made.joints_cam)
    low, high = made.joints_img.min(1), made.joints_img.max(1)
    np.testing.assert_allclose(table.boxes_xywh, np.concatenate([low, high - low], 1), rtol=0, atol=1e-9)
    assert table.weight.shape == (6, 18, 3)
    assert (table.weight == 1).all()
    assert [table.image.image_size(row) for row in range(6)] == [SIZE] * 6
    assert table.extra["image_id"].tolist() == [1, 2, 3, 4, 5, 6]
    assert table.description == f"CHALL_H80K {tmp_path / 'Train'}: no images left out"


def test_fit_is_least_squares_over_seen_joints(tmp_path: Path) -> None:
    made = make(4)
    noise = np.random.default_rng(1).normal(0, 3, made.joints_img.shape)
    write(tmp_path, "Val", made._replace(joints_img=made.joints_img + noise))
    table = Config(root=str(tmp_path), split="Val").build()
    for row in range(4):
        seen = made.seen[row]
        x, y = table.joints_cam[row, :, 0], table.joints_cam[row, :, 1]
        one, zero = np.ones(18), np.zeros(18)
        # x' = a x - b y + c, y' = b x + a y + d
        equations = np.stack([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)], 1)
        target = (made.joints_img + noise)[row][seen]
        found = np.linalg.lstsq(equations[seen].reshape(-1, 4), target.reshape(-1), rcond=None)[0]
        np.testing.assert_allclose(table.joints_img[row], equations @ found, rtol=0, atol=1e-8)
        scale = np.hypot(found[0], found[1])
        np.testing.assert_allclose(table.depth[row], scale * table.joints_cam[row, :, 2], rtol=0, atol=1e-8)


def test_trainval_is_both(tmp_path: Path) -> None:
    write(tmp_path, "Train", make(3))
    write(tmp_path, "Val", make(2, seed=1))
    both = Config(root=str(tmp_path), split="TrainVal").build()
    parts = [Config(root=str(tmp_path), split=split).build() for split in ("Train", "Val")]
    for name in ("joints_img", "depth", "boxes_xywh", "joints_cam", "weight"):
        np.testing.assert_array_equal(
            getattr(both, name), np.concatenate([getattr(it, name) for it in parts])
        )
    assert both.group["subset"].tolist() == ["Train"] * 3 + ["Val"] * 2
    assert [both.image.name(row) for row in (2, 3)] == [
        str(tmp_path / "Train" / "IMG" / "00003.jpg"),
        str(tmp_path / "Val" / "IMG" / "00001.jpg"),
    ]


def test_test_has_boxes_and_no_labels(tmp_path: Path) -> None:
    made = make(3)
    write(tmp_path, "Test", made, detector="d")
    table = Config(root=str(tmp_path), split="Test").build()
    for row in range(3):
        points = made.joints_img[row][made.seen[row]]
        low, high = points.min(0), points.max(0)
        np.testing.assert_array_equal(table.boxes_xywh[row], [*low, *(high - low)])
    assert not table.weight.any()
    assert np.isfinite(table.joints_img).all()
    assert table.joints_cam is None
    other = Config(root=str(tmp_path), split="Test", boxes="detector", detector="d").build()
    np.testing.assert_allclose(other.boxes_xywh[:, 2:], made.detections[:, 2:4] - made.detections[:, :2])


@pytest.mark.parametrize("options", [{"boxes": "full"}, {"boxes": "detector", "detector": "d"}])
def test_test_needs_predictions_for_their_boxes_only(tmp_path: Path, options: dict[str, Any]) -> None:
    write(tmp_path, "Test", make(2), detector="d", predictions="")
    assert len(Config(root=str(tmp_path), split="Test", **options).build()) == 2
    with pytest.raises(
        ValueError, match=r"Test: has no 2-D predictions.*_Test_2samples_img_res.pkl or .json"
    ):
        Config(root=str(tmp_path), split="Test").build()


@pytest.mark.parametrize("boxes", ["joints", "full"])
def test_images_without_a_fit_are_left_out_and_counted(tmp_path: Path, boxes: Any) -> None:
    made = make(4)
    made.seen[1] = False
    made.seen[2] = np.arange(18) == 5
    write(tmp_path, "Train", made)
    table = Config(root=str(tmp_path), split="Train", boxes=boxes).build()
    assert table.extra["image_id"].tolist() == [1, 4]
    assert table.image.name(1).endswith("00004.jpg")
    assert "2 of 4 images left out: 2 without two predicted joints" in table.description


def test_images_without_a_detection_are_left_out_and_the_best_of_several_counts(tmp_path: Path) -> None:
    made = make(3)
    folder = write(tmp_path, "Val", made, detector="d") / "detection" / "d"
    (folder / "00001.pkl").write_bytes(pickle.dumps([]))
    several = [[0, 0, 9, 9, 0.1], made.detections[1], [0, 0, 5, 5, 0.2]]
    (folder / "00002.pkl").write_bytes(pickle.dumps(several))
    table = Config(root=str(tmp_path), split="Val", boxes="detector", detector="d").build()
    assert table.extra["image_id"].tolist() == [2, 3]
    np.testing.assert_array_equal(table.extra["box_score"], made.detections[1:, 4])
    np.testing.assert_array_equal(table.boxes_xywh[:, :2], made.detections[1:, :2])
    assert "1 of 3 images left out: 1 without a detection" in table.description


def test_sources_are_what_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path, "Train", make(2), detector="d")
    config = Config(root=str(tmp_path), boxes="detector", detector="d")
    files = {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".jpg"}
    assert set(config.sources()) == files | {folder / "IMG"}
    os.unlink(folder / "IMG" / "00001.jpg")  # the files do not fit any more: as build says
    with pytest.raises(ValueError, match="has 1 files without an image"):
        config.sources()


def test_a_training_step(tmp_path: Path) -> None:
    for seed, subset in enumerate(("Train", "Val")):
        write(tmp_path / "data" / "hm36_eccv_challenge", subset, make(4, seed))
    run = tiny_run(
        "data.train=[{name: h36m_challenge}]",
        "data.valid={name: h36m_challenge, split: Val}",
        *(f"data.root={tmp_path / 'data'}", "depth.rule=box", "data.batch=4", "data.on_error=raise"),
    )
    trainer = Trainer(run, tmp_path / "out", load_data(run, tmp_path / "cache"))
    assert 0 < trainer.train_rows(Silence()) < 18 * 3 * 0.5  # as norm units reach from -0.5 to 0.5
    assert trainer.bone_length_mm == pytest.approx(bone_length_mm(trainer.data.train))


# ------------------------------------------------------------------------------------------------- bad trees


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _rename(source: Path, name: str) -> None:
    source.rename(source.with_name(name))


def _change_predictions(path: Path, change: Callable[[list[Any]], None]) -> None:
    content = pickle.loads(path.read_bytes())
    change(content)
    path.write_bytes(pickle.dumps(content))


def _replace_line(path: Path, line: int, text: str) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:line], text, *lines[line + 1 :]]))


PREDICTIONS = "HM36_eccv_challenge_Train_3samples_img_res.pkl"
BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no images": (
        lambda it: [path.unlink() for path in (it / "IMG").iterdir()],
        r"Train/IMG: has no images: need 00001.jpg",
    ),
    "no IMG": (lambda it: _rename(it / "IMG", "image"), r"which has Train/IMG, but it has Train"),
    "no POSE": (lambda it: _rename(it / "POSE", "pose"), r"Train/POSE: no such folder: need 00001.csv there"),
    "a pose is missing": (
        lambda it: (it / "POSE" / "00002.csv").unlink(),
        r"Train/POSE: lacks the .csv of 1 of 3 images, first of 00002",
    ),
    "an image is missing": (
        lambda it: (it / "IMG" / "00003.jpg").unlink(),
        r"Train/POSE: has 1 files without an image in IMG, first of 00003",
    ),
    "a detection is missing": (
        lambda it: (it / "detection" / "d" / "00001.pkl").unlink(),
        r"detection/d: lacks the .pkl of 1 of 3 images, first of 00001",
    ),
    "another detector": (
        lambda it: _rename(it / "detection" / "d", "maskRCNN"),
        r"detection/d: no such folder: detection/ has maskRCNN",
    ),
    "no detections": (
        lambda it: _rename(it / "detection", "boxes"),
        r"detection/d: no such folder: need 00001.pkl there",
    ),
    "csv cut short": (
        lambda it: _replace_line(it / "POSE" / "00002.csv", 16, ""),
        r"00002.csv: has numbers of shape \[16, 3\]: need 17 lines of x,y,z in mm",
    ),
    "csv ragged": (
        lambda it: _replace_line(it / "POSE" / "00002.csv", 4, "1.0,2.0"),
        r"00002.csv: is no pose",
    ),
    "csv with words": (
        lambda it: _replace_line(it / "POSE" / "00001.csv", 0, "x,y,z"),
        r"00001.csv: is no pose .*could not convert string to float: 'x'.*: need 17 lines",
    ),
    "csv of bytes": (
        lambda it: (it / "POSE" / "00001.csv").write_bytes(b"\xff\xd8\xff"),
        r"00001.csv: is no pose",
    ),
    "csv with NaN": (
        lambda it: _replace_line(it / "POSE" / "00003.csv", 6, "1,nan,2"),
        r"00003.csv: says nan for left_ankle: need finite numbers",
    ),
    "no predictions": (
        lambda it: (it / PREDICTIONS).unlink(),
        r"Train: has no 2-D predictions, .* need \S+_Train_3samples_img_res.pkl or .json",
    ),
    "two files of predictions": (
        lambda it: (it / "a_3samples_img_res.json").write_text("[]"),
        r"Train: has 2 files of 2-D predictions, HM36\S+pkl, a_3samples_img_res.json: keep the one",
    ),
    "predictions cut short": (lambda it: _cut(it / PREDICTIONS), rf"{PREDICTIONS}: .*cut short or damaged"),
    "predictions that run code": (
        lambda it: (it / PREDICTIONS).write_bytes(b"cos\nsystem\n(S'echo'\ntR."),
        rf"{PREDICTIONS}: .*os.system",
    ),
    "too few predictions": (
        lambda it: _change_predictions(it / PREDICTIONS, lambda entries: entries.pop()),
        rf"{PREDICTIONS}: is a list of 2, but \S+Train/IMG has 3 images",
    ),
    "predictions of another kind": (
        lambda it: (it / PREDICTIONS).write_bytes(pickle.dumps({"kpts": []})),
        rf"{PREDICTIONS}: is dict, but \S+Train/IMG has 3 images",
    ),
    "predictions of 17 joints": (
        lambda it: _change_predictions(it / PREDICTIONS, lambda them: them[1].update(kpts=np.zeros((17, 3)))),
        rf"{PREDICTIONS}: entry 1: need a dict whose 'kpts' is an array of shape \[18, 3\]",
    ),
    "predictions without vis": (
        lambda it: _change_predictions(it / PREDICTIONS, lambda entries: entries[2].pop("vis")),
        rf"{PREDICTIONS}: entry 2: need a dict whose 'vis' is an array of shape \[18, 3\]",
    ),
    "a prediction is NaN": (
        lambda it: _change_predictions(
            it / PREDICTIONS, lambda them: them[0]["kpts"].__setitem__((0, 1), np.nan)
        ),
        rf"{PREDICTIONS}: entry 0 says .*nan.* for pelvis: need finite numbers where 'vis' is not 0",
    ),
    "nothing is visible": (
        lambda it: _change_predictions(
            it / PREDICTIONS, lambda them: [entry["vis"].fill(0) for entry in them]
        ),
        r"Train: 3 of 3 images left out: 3 without two predicted joints; need at least one image",
    ),
    "detection of four numbers": (
        lambda it: (it / "detection" / "d" / "00002.pkl").write_bytes(pickle.dumps([[1, 2, 3, 4]])),
        r"00002.pkl: need rows of five finite numbers, \[\[x1, y1, x2, y2, score\]",
    ),
    "detection of width and height": (
        lambda it: (it / "detection" / "d" / "00002.pkl").write_bytes(pickle.dumps([[50, 20, 9, 30, 0.5]])),
        r"00002.pkl: x1, y1, x2, y2 of the best box are \[50.0, 20.0, 9.0, 30.0\]: need x1 < x2, y1 < y2",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_trees(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, "Train", make(3), detector="d")
    change, message = BAD[name]
    change(folder)
    with pytest.raises(ValueError, match=message) as caught:
        Config(root=str(tmp_path), boxes="detector", detector="d").build()
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_json_predictions_cut_short(tmp_path: Path) -> None:
    folder = write(tmp_path, "Train", make(3), predictions="json")
    _cut(folder / "HM36_eccv_challenge_Train_3samples_img_res.json")
    with pytest.raises(ValueError, match=r"_img_res.json: is no complete JSON file \(\d+ bytes"):
        Config(root=str(tmp_path)).build()


def test_a_missing_or_wrong_folder(tmp_path: Path) -> None:
    write(tmp_path / "data" / "hm36_eccv_challenge", "Train", make(2))
    right = tmp_path / "data" / "hm36_eccv_challenge"
    for wrong in (tmp_path / "data", right / "Train", right / "Train" / "IMG"):
        with pytest.raises(
            ValueError, match=rf"^{re.escape(str(wrong))}: .*; give root: {re.escape(str(right))}$"
        ):
            Config(root=str(wrong)).build()
    with pytest.raises(ValueError, match=r"nowhere: root must be .* which has Train/IMG, but no such folder"):
        Config(root=str(tmp_path / "a" / "b" / "nowhere")).build()
    with pytest.raises(ValueError, match=r"which has Val/IMG, but it has Train$"):
        Config(root=str(right), split="Val").build()


def test_other_files_beside_the_images_are_no_images(tmp_path: Path) -> None:
    folder = write(tmp_path, "Train", make(2))
    for name in ("Thumbs.db", "._00001.jpg", "00003.jpg.part"):
        (folder / "IMG" / name).write_bytes(b"")
    assert len(Config(root=str(tmp_path)).build()) == 2
