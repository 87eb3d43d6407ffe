"""MPII Human Pose: the original's records; four layouts give one table; a message for each bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from ipr import geometry
from ipr.datasets import mpii
from ipr.types import PoseTable, Region
from tests.datasets import list_trees

GOLDEN = Path(__file__).parents[1] / "golden" / "datasets"
RECORDS_PX, CENTERS_PX = 1e-6, 1e-3  # the original's joint-bound centres are float32
PEOPLE = list_trees.draw_people(16)
WRITERS: dict[str, Callable[[Path, list_trees.People], None]] = {
    "simple-baselines": list_trees.write_simple_baselines,
    "mmpose": list_trees.write_mmpose,
    "COCO-style": list_trees.write_mpii_coco_style,
    "official": list_trees.write_release,
}


def build(root: Path, **options: Any) -> PoseTable:
    return mpii.Config(root=str(root), **options).build()


@pytest.fixture(scope="module")
def golden_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("golden") / "mpii"
    shutil.copytree(GOLDEN / "mpii", root)
    (root / "images").mkdir()
    return root


# ----------------------------------------------------------------------------------------- as in the original


@pytest.mark.parametrize(
    ("boxes", "file", "center_px"),
    [
        ("scale", "mpii_gt_db_train_w256xh256.json", RECORDS_PX),
        ("joints", "mpii_jnt_bbox_db_train_w256xh256.json", CENTERS_PX),
    ],
)
def test_records_of_the_original(golden_root: Path, boxes: str, file: str, center_px: float) -> None:
    records = json.loads((GOLDEN / file).read_text())
    table = build(golden_root, boxes=boxes)
    assert len(table) == len(records)
    crops = geometry.crop_box(table.boxes_xywh, table.box_rule, 1.0)
    for i, record in enumerate(records):
        assert table.image.name(i) == str(golden_root / record["image"].removeprefix("mpii/"))
        visible = np.array(record["joints_3d_vis"])
        np.testing.assert_array_equal(table.weight[i], visible)
        labels = np.where(
            visible[:, :2] > 0, np.array(record["joints_3d"])[:, :2], 0
        )  # there -2 where missing
        np.testing.assert_allclose(table.joints_img[i], labels, rtol=0, atol=RECORDS_PX)
        center = record["center_x"], record["center_y"]
        np.testing.assert_allclose(crops[i, :2], center, rtol=0, atol=center_px)
        np.testing.assert_allclose(crops[i, 2:], (record["width"], record["height"]), rtol=0, atol=RECORDS_PX)
    assert not table.depth.any() and table.camera is None


@pytest.mark.parametrize(("boxes", "count"), [("scale", 24), ("joints", 23)])
def test_validation_split_of_the_original(golden_root: Path, boxes: str, count: int) -> None:
    """Head sizes belong to the rows that are left, not to those of the file."""
    table = build(golden_root, split="valid", boxes=boxes)
    assert len(table) == count and table.extra is not None and table.group is not None
    content = loadmat(golden_root / "annot" / "gt_valid.mat")
    corners, positions = content["headboxes_src"], content["pos_gt_src"]
    for row in range(count):
        joint = np.flatnonzero(table.weight[row, :, 0])[0]
        there = np.abs(positions[joint] - 1 - table.joints_img[row, joint][:, None]).max(0)
        person = there.argmin()
        assert there[person] < 1e-9
        head = 0.6 * np.linalg.norm(corners[1, :, person] - corners[0, :, person])
        assert table.extra["head_size"][row] == pytest.approx(head, abs=1e-9)
    assert list(zip(table.group["image"], table.group["person"], strict=True))[:2] == [
        ("m000.jpg", 0),
        ("m001.jpg", 0),
    ]
    assert sorted(table.group["person"][table.group["image"] == "m000.jpg"]) == [0, 1, 2, 3]


def test_scale_box_in_patches_of_each_shape(golden_root: Path) -> None:
    """The height does not depend on the patch; in landscape, which the original refuses, it is wider."""
    person = json.loads((golden_root / "annot" / "train.json").read_text())[0]
    table = build(golden_root)
    square, portrait, landscape = (
        geometry.crop_box(table.boxes_xywh, table.box_rule, width / height)[0]
        for width, height in ((256, 256), (288, 384), (384, 288))
    )
    height = 250 * person["scale"]
    np.testing.assert_allclose(square[2:], (height, height))
    np.testing.assert_allclose(portrait[2:], (0.75 * height, height))
    np.testing.assert_allclose(landscape[2:], (height / 0.75, height))
    np.testing.assert_array_equal(portrait[:2], landscape[:2])


# ------------------------------------------------------------------------------------------------ the layouts


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("boxes", ["scale", "joints"])
def test_layouts_are_equal(tmp_path: Path, layout: str, boxes: str) -> None:
    WRITERS[layout](tmp_path, PEOPLE)
    if (layout, boxes) == ("COCO-style", "scale"):
        with pytest.raises(ValueError, match=r"train\.json: has no centres and scales.*give boxes: joints"):
            build(tmp_path, boxes=boxes)
        return
    rows = np.arange(9) if boxes == "scale" else np.delete(np.arange(9), 3)
    table = build(tmp_path, boxes=boxes)
    assert f"({layout} layout)" in table.description and str(tmp_path) in table.description
    assert ("1 of 9 people left out: 1 with one joint" in table.description) == (boxes == "joints")
    seen = PEOPLE.seen[rows]
    np.testing.assert_array_equal(table.weight, np.stack([seen, seen, 0 * seen], -1))
    expected = np.where(seen[..., None], PEOPLE.joints_img[rows], 0)
    np.testing.assert_allclose(table.joints_img, expected, rtol=0, atol=1e-9)
    if boxes == "scale":
        side = 200 * PEOPLE.scale
        middle = PEOPLE.center + np.stack([0 * side, 15 * PEOPLE.scale], 1)
        box = np.concatenate([middle - side[:, None] / 2, side[:, None], side[:, None]], 1)
    else:
        joints = np.where(seen[..., None], PEOPLE.joints_img[rows], np.nan)
        low, high = np.nanmin(joints, 1), np.nanmax(joints, 1)
        box = np.concatenate([low, high - low], 1)
    np.testing.assert_allclose(table.boxes_xywh, box, rtol=0, atol=1e-9)
    assert table.group is not None
    assert table.group["image"].tolist() == [PEOPLE.images[i] for i in PEOPLE.image[rows]]
    for row, image in enumerate(PEOPLE.image[rows]):
        height, width = PEOPLE.sizes[image]
        assert table.image.image_size(row) == (height, width)
        pixels = table.image.read(row, Region(0, 0, int(width), int(height)), 1.0).data
        assert abs(int(pixels.mean()) - 20 * (1 + image)) <= 1


@pytest.mark.parametrize("layout", WRITERS)
def test_sources_are_the_files_that_are_read(tmp_path: Path, layout: str) -> None:
    WRITERS[layout](tmp_path, PEOPLE)
    files = [path for path in tmp_path.rglob("*") if path.suffix in (".json", ".mat")]
    assert mpii.Config(root=str(tmp_path)).sources() == files


@pytest.mark.parametrize("write", [list_trees.write_simple_baselines, list_trees.write_mmpose])
def test_head_sizes(tmp_path: Path, write: Callable[[Path, list_trees.People, str], None]) -> None:
    write(tmp_path, PEOPLE, "valid")
    config = mpii.Config(root=str(tmp_path), split="valid", boxes="joints")
    assert len(config.sources()) == 2
    table = config.build()
    assert table.extra is not None and "head boxes of" in table.description
    expected = 0.6 * np.linalg.norm(PEOPLE.head[:, 2:] - PEOPLE.head[:, :2], axis=1)
    np.testing.assert_allclose(table.extra["head_size"], np.delete(expected, 3), atol=1e-9)
    config.sources()[1].unlink()
    table = config.build()
    assert table.extra == {} and "no head boxes" in table.description


def test_head_boxes_that_label_other_joints_are_named(tmp_path: Path) -> None:
    list_trees.write_simple_baselines(tmp_path, PEOPLE, "valid")
    seen = PEOPLE.seen.copy()
    seen[0, :2] ^= True
    list_trees.write_head_boxes(tmp_path / "annot" / "gt_valid.mat", PEOPLE._replace(seen=seen))
    description = build(tmp_path, split="valid").description
    assert "gt_valid.mat, which has 2 joints more or fewer than the list" in description


def test_the_official_file(tmp_path: Path) -> None:
    """Head boxes of everybody; a test split without joints; where its archive unpacks it, too."""
    list_trees.write_release(tmp_path, PEOPLE)
    table = build(tmp_path)
    assert table.extra is not None
    expected = 0.6 * np.linalg.norm(PEOPLE.head[:, 2:] - PEOPLE.head[:, :2], axis=1)
    np.testing.assert_allclose(table.extra["head_size"], expected)
    assert "validation images are among them" in table.description
    assert "validation images" not in build(tmp_path, split="trainval").description

    archive = tmp_path / "mpii_human_pose_v1_u12_2"
    archive.mkdir()
    (tmp_path / "mpii_human_pose_v1_u12_1.mat").rename(archive / "mpii_human_pose_v1_u12_1.mat")
    table = build(tmp_path, split="test")
    assert len(table) == 3 and not table.weight.any() and table.extra == {}
    np.testing.assert_allclose(table.boxes_xywh, [[30 - 25, 40 + 3.75 - 25, 50, 50]] * 3)
    with pytest.raises(ValueError, match=r"official layout.*has no split 'valid', but train, trainval, test"):
        build(tmp_path, split="valid")


def test_lists_come_before_the_official_file(tmp_path: Path) -> None:
    list_trees.write_release(tmp_path, PEOPLE)
    list_trees.write_simple_baselines(tmp_path, PEOPLE)
    assert "(simple-baselines layout)" in build(tmp_path).description


def test_people_of_the_test_split_have_no_labels(tmp_path: Path) -> None:
    list_trees.write_simple_baselines(tmp_path, PEOPLE, "test")
    table = build(tmp_path, split="test")
    assert len(table) == 9 and not table.weight.any() and not table.joints_img.any()
    with pytest.raises(ValueError, match="boxes: joints needs joints, which split: test does not have"):
        build(tmp_path, split="test", boxes="joints")


def test_who_is_left_out(tmp_path: Path) -> None:
    people = list_trees.mpii_list(PEOPLE)
    people[0]["center"], people[1]["scale"] = [-1, -1], -1.0
    people[2]["joints_vis"] = [0] * 16
    people[5]["joints_vis"] = [1, 1] + [0] * 14
    people[5]["joints"][1][0] = people[5]["joints"][0][0]
    list_trees.write_simple_baselines(tmp_path, PEOPLE)
    list_trees.write_json(tmp_path / "annot" / "train.json", people)
    table = build(tmp_path)
    assert len(table) == 6 and geometry.good_boxes(table.boxes_xywh).all()
    assert "3 of 9 people left out: 1 without joints, 2 without centre or scale" in table.description
    table = build(tmp_path, boxes="joints")
    assert len(table) == 6 and geometry.good_boxes(table.boxes_xywh).all()
    assert (
        "3 of 9 people left out: 1 without joints, 1 with one joint, 1 with joints on one line along an axis"
        in table.description
    )


# -------------------------------------------------------------------------------------------------- bad input


def edit(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    """Changes the list of a tree."""

    def apply(root: Path) -> None:
        content = list_trees.mpii_list(PEOPLE)
        change(content)
        list_trees.write_json(root / "annot" / "train.json", content)

    return apply


def cut(root: Path) -> None:
    path = root / "annot" / "train.json"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (cut, r"annot/train\.json: is no complete JSON file \(\d+ bytes; .*copy or extract it again"),
        (lambda root: (root / "annot" / "train.json").write_bytes(b""), r"complete JSON file \(0 bytes"),
        (
            lambda root: (root / "annot" / "train.json").rename(root / "annot" / "valid.json"),
            r"annot/train\.json: no such file \(simple-baselines layout\); there is valid\.json",
        ),
        (
            lambda root: shutil.rmtree(root / "images"),
            r"images: no such folder: the images, such as .* belong",
        ),
        (
            lambda root: list_trees.write_mpii_coco_style(root, PEOPLE),
            r"two layouts, simple-baselines \(annot/\*\.json\) and COCO-style .*keep one",
        ),
        (edit(lambda people: people.clear()), r"train\.json: has nobody to show"),
        (
            edit(
                lambda people: people[1]["joints"][np.flatnonzero(PEOPLE.seen[1])[0]].__setitem__(0, np.nan)
            ),
            r"train\.json: person 1 \(\d+\.jpg\): a labelled joint is not finite",
        ),
        (edit(lambda people: people[2].pop("joints")), r"person 2 has no 'joints': need image, center"),
        (edit(lambda people: people[2]["joints"].pop()), r"person 2 \(\d+\.jpg\): need .*16 x 2 in joints"),
        (edit(lambda people: people[2].update(joints=[[1, 2]])), r"person 2 .*16 x 2 in joints"),
        (
            lambda root: list_trees.write_json(root / "annot" / "train.json", {"people": []}),
            r"train\.json: need a list of people with image, center",
        ),
    ],
)
def test_bad_input(tmp_path: Path, break_it: Callable[[Path], Any], message: str) -> None:
    root = tmp_path / "mpii"
    list_trees.write_simple_baselines(root, PEOPLE)
    break_it(root)
    with pytest.raises(ValueError, match=message) as caught:
        build(root)
    assert str(root) in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_level_of_the_tree(tmp_path: Path) -> None:
    root = tmp_path / "data" / "mpii"
    list_trees.write_simple_baselines(root, PEOPLE)
    for wrong in (root / "annot", root / "images", tmp_path / "data", tmp_path / "data" / "MPII"):
        with pytest.raises(
            ValueError, match=rf"^{wrong}: root must be the folder of MPII.*give root: {root}$"
        ):
            build(wrong)
        with pytest.raises(ValueError, match=f"give root: {root}$"):
            mpii.Config(root=str(wrong)).sources()
    with pytest.raises(ValueError, match=r"which has annot/.*, but no such folder$"):
        build(tmp_path / "a" / "b" / "c" / "d")


def test_images_one_folder_too_deep(tmp_path: Path) -> None:
    list_trees.write_simple_baselines(tmp_path, PEOPLE)
    (tmp_path / "images").rename(tmp_path / "inner")
    (tmp_path / "images").mkdir()
    (tmp_path / "inner").rename(tmp_path / "images" / "images")
    with pytest.raises(ValueError, match=r"one folder too deep, in .*images/images: move them up"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda heads: heads.pop("headboxes_src"), "has no headboxes_src"),
        (lambda heads: heads.update(jnt_missing=heads["jnt_missing"][:, 1:]), "is not of the 9 people"),
        (lambda heads: heads.update(pos_gt_src=heads["pos_gt_src"] + 40), "57 px.*it is of other people"),
    ],
)
def test_bad_head_boxes(tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    list_trees.write_simple_baselines(tmp_path, PEOPLE, "valid")
    path = tmp_path / "annot" / "gt_valid.mat"
    content = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
    change(content)
    savemat(path, content)
    with pytest.raises(ValueError, match=rf"gt_valid\.mat: .*{message}"):
        build(tmp_path, split="valid")


def test_bad_official_files(tmp_path: Path) -> None:
    list_trees.write_release(tmp_path, PEOPLE)
    path = tmp_path / "mpii_human_pose_v1_u12_1.mat"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"MATLAB 5.0", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path.name}: is no complete MATLAB file .*extract it again"):
            build(tmp_path)
    savemat(path, {"something": 1})
    with pytest.raises(ValueError, match=rf"{path.name}: need the official file: a struct RELEASE"):
        build(tmp_path)
    points = list_trees._structs([{"x": 1.0, "y": 2.0, "id": 16.0}])
    people = [{"annopoints": {"point": points}, "scale": 1.0}]
    annotations = list_trees._structs([list_trees._image("a.jpg", people)])
    savemat(path, {"RELEASE": {"annolist": annotations, "img_train": np.ones((1, 1))}})
    with pytest.raises(ValueError, match=r"image 0 of annolist: a joint has the id 16.*: need 0\.\.15"):
        build(tmp_path)
    savemat(path, {"RELEASE": {"annolist": annotations, "img_train": np.ones((1, 2))}})
    with pytest.raises(ValueError, match="annolist has 1 images, img_train 2"):
        build(tmp_path)


def test_unknown_joint_names(tmp_path: Path) -> None:
    list_trees.write_mpii_coco_style(tmp_path, PEOPLE)
    path = tmp_path / "annotations" / "train.json"
    path.write_text(path.read_text().replace('"r_ankle"', '"right_toe"'))
    with pytest.raises(ValueError, match=r"train\.json: keypoint 'right_toe' is unknown, .*right_ankle"):
        build(tmp_path, boxes="joints")


def test_matlab_files_need_scipy(tmp_path: Path) -> None:
    list_trees.write_release(tmp_path, PEOPLE)
    code = (
        "import sys; sys.modules['scipy'] = None\n"
        "from ipr.datasets import mpii\n"
        f"try: mpii.Config(root={str(tmp_path)!r}).build()\n"
        "except ValueError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "scipy, which is not installed: pip install 'integral-pose[mat]'" in said
