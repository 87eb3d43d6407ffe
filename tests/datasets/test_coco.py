"""COCO keypoints: the original's records; layouts give one table; a message for each bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from ipr import geometry
from ipr.datasets import coco
from ipr.images import ImageError
from ipr.types import PoseTable, Region
from tests.datasets import list_trees

GOLDEN = Path(__file__).parents[1] / "golden" / "datasets"
RECORDS_PX = 1e-6
PEOPLE = list_trees.draw_people(17, name="{:012d}.jpg", seed=1)
FOLDERS = ("{}", "images/{}")


def build(root: Path, split: str = "val2017", **options: Any) -> PoseTable:
    return coco.Config(root=str(root), split=split, **options).build()


def extra(table: PoseTable) -> dict[str, np.ndarray]:
    assert table.extra is not None
    return table.extra


@pytest.fixture(scope="module")
def golden_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("golden") / "coco"
    shutil.copytree(GOLDEN / "coco", root)
    for split in ("train2014", "val2017"):
        (root / "images" / split).mkdir(parents=True)
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    list_trees.write_coco(tmp_path / "coco", PEOPLE)
    return tmp_path / "coco"


def change(root: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edits the annotations of val2017."""
    path = root / "annotations" / "person_keypoints_val2017.json"
    content = json.loads(path.read_text())
    edit(content)
    list_trees.write_json(path, content)


# ----------------------------------------------------------------------------------------- as in the original


def test_records_of_the_original(golden_root: Path) -> None:
    records = json.loads((GOLDEN / "coco_gt_db_train2014_w256xh256.json").read_text())
    table = build(golden_root, "train2014")
    assert len(table) == len(records)
    crops = geometry.crop_box(table.boxes_xywh, table.box_rule, 1.0)
    for i, record in enumerate(records):
        assert table.image.name(i) == str(golden_root / record["image"].removeprefix("coco/"))
        np.testing.assert_array_equal(table.weight[i], record["joints_3d_vis"])
        labels = np.array(record["joints_3d"])
        np.testing.assert_allclose(table.joints_img[i], labels[:, :2], rtol=0, atol=RECORDS_PX)
        np.testing.assert_allclose(table.boxes_xywh[i], record["bbox"], rtol=0, atol=RECORDS_PX)
        crop = [record[name] for name in ("center_x", "center_y", "width", "height")]
        np.testing.assert_allclose(crops[i], crop, rtol=0, atol=RECORDS_PX)
        assert extra(table)["image_id"][i] == record["image_id"]
        assert extra(table)["box_score"][i] == record["score"]
    assert not table.depth.any() and table.camera is None


def test_who_the_original_left_out(golden_root: Path) -> None:
    table = build(golden_root)
    assert len(table) == 15
    assert (
        "4 of 19 annotations left out: 1 marked as crowd, 1 without keypoints, 1 with one keypoint, "
        "1 without an area inside the image" in table.description
    )
    boxes = dict(zip(extra(table)["annotation_id"].tolist(), table.boxes_xywh, strict=True))
    np.testing.assert_allclose(boxes[2005], [280.5, 220.25, 18.5, 18.75])  # 299, 239: the last pixels
    np.testing.assert_allclose(boxes[1006], [0, 44.17, 101.93, 157.86])  # begins at -27: shifted, not cut


def test_detections_of_the_original(golden_root: Path) -> None:
    detections = json.loads((golden_root / "person_detections.json").read_text())
    people = [found for found in detections if found["category_id"] == 1]
    table = build(golden_root, boxes="detector", detections="person_detections.json")
    assert len(table) == len(people) == 16
    assert f"{len(detections) - 16} of {len(detections)} detections left out" in table.description
    np.testing.assert_array_equal(table.boxes_xywh, [found["bbox"] for found in people])  # neither clipped
    assert extra(table)["box_score"].tolist() == [found["score"] for found in people]
    assert extra(table)["image_id"].tolist() == [found["image_id"] for found in people]
    np.testing.assert_allclose(extra(table)["area"], table.boxes_xywh[:, 2] * table.boxes_xywh[:, 3])
    assert "annotation_id" not in extra(table)
    assert not table.weight.any() and not table.joints_img.any() and tuple(table.box_rule) == (1.25, "grow")
    assert table.image.image_size(0) == (280, 220)  # image 137


# ------------------------------------------------------------------------------------------------ the layouts


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("split", coco.SPLITS)
def test_layouts_are_equal(tmp_path: Path, split: str, folder: str) -> None:
    prefix = f"COCO_{split}_" if "2014" in split else ""
    people = PEOPLE._replace(images=[prefix + name for name in PEOPLE.images])
    path = list_trees.write_coco(tmp_path, people, split, folder)
    table = build(tmp_path, split)
    rows = np.delete(np.arange(9), 3)
    seen = PEOPLE.seen[rows]
    np.testing.assert_array_equal(table.weight, np.stack([seen, seen, 0 * seen], -1))
    np.testing.assert_array_equal(table.joints_img, np.where(seen[..., None], PEOPLE.joints_img[rows], 0))
    np.testing.assert_allclose(table.boxes_xywh, PEOPLE.boxes_xywh[rows] - [0, 0, 1, 1])
    images = tmp_path / folder.format(split)
    assert f"{path}, images in {images}: 8 people in 4 images" in table.description
    assert coco.Config(root=str(tmp_path), split=split).sources() == [path, images]
    for row, image in enumerate(PEOPLE.image[rows]):
        height, width = PEOPLE.sizes[image]
        assert table.image.name(row) == str(images / people.images[image])
        assert table.image.image_size(row) == (height, width)
        pixels = table.image.read(row, Region(0, 0, int(width), int(height)), 1.0).data
        assert abs(int(pixels.mean()) - 20 * (1 + image)) <= 1


def test_rows_can_be_found_by_pycocotools(root: Path) -> None:
    """From the table alone: its annotation file, image ids and annotation ids."""
    table = build(root)
    truth = COCO(str(extra(table)["annotation_file"][0]))
    assert extra(table)["annotation_file"].shape == (len(table),)
    for row, number in enumerate(extra(table)["annotation_id"].tolist()):
        annotation = truth.loadAnns(number)[0]
        assert annotation["image_id"] == extra(table)["image_id"][row]
        assert annotation["area"] == extra(table)["area"][row]
        labels = np.array(annotation["keypoints"]).reshape(17, 3)
        np.testing.assert_array_equal(table.joints_img[row], labels[:, :2])
    assert table.group is not None
    assert table.group["image"].tolist() == extra(table)["image_id"].tolist()
    assert table.group["person"].max() >= 1


def test_people_come_in_the_order_of_the_images(root: Path) -> None:
    expected = build(root)
    change(root, lambda content: content["annotations"].reverse())
    table = build(root)
    np.testing.assert_array_equal(extra(table)["image_id"], extra(expected)["image_id"])
    order = np.lexsort([-extra(expected)["annotation_id"], extra(expected)["image_id"]])
    np.testing.assert_array_equal(table.joints_img, expected.joints_img[order])


def test_joints_are_matched_by_name(root: Path) -> None:
    """A file may list its keypoints in another order."""
    expected = build(root)

    def turn(content: dict[str, Any]) -> None:
        content["categories"][0]["keypoints"].reverse()
        for annotation in content["annotations"]:
            points = np.array(annotation["keypoints"]).reshape(17, 3)
            annotation["keypoints"] = points[::-1].ravel().tolist()

    change(root, turn)
    np.testing.assert_array_equal(build(root).joints_img, expected.joints_img)


def test_other_categories_are_no_people(root: Path) -> None:
    change(root, lambda content: content["annotations"][0].update(category_id=2))
    assert 1000 not in extra(build(root))["annotation_id"]


def test_the_folder_that_has_the_images(root: Path) -> None:
    """Not an empty one of the other layout; and one that is linked to is one."""
    expected = build(root).image.name(0)
    (root / "val2017").mkdir()
    assert build(root).image.name(0) == expected
    (root / "val2017").rmdir()
    (root / "val2017").symlink_to(root / "images" / "val2017")
    assert build(root).image.name(0) == expected


def test_detections_elsewhere(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    list_trees.write_json(
        path, [{"image_id": 137, "category_id": 1, "bbox": [1, 2, size, 4], "score": 0.5} for size in (3, 0)]
    )
    config = coco.Config(root=str(root), split="val2017", boxes="detector", detections=str(path))
    assert config.sources()[-1] == path
    table = config.build()
    assert table.boxes_xywh.tolist() == [[1, 2, 3, 4]]
    assert f"{path}: 1 of 2 detections left out: 1 with an empty box" in table.description


# -------------------------------------------------------------------------------------------------- bad input


def changed(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda root: change(root, edit)


def annotation(**fields: Any) -> Callable[[Path], None]:
    return changed(lambda content: content["annotations"][2].update(fields))


def cut(root: Path) -> None:
    path = root / "annotations" / "person_keypoints_val2017.json"
    path.write_bytes(path.read_bytes()[:-100])


def split_over_two_layouts(root: Path) -> None:
    (root / "val2017").mkdir()
    name = PEOPLE.images[0]
    (root / "images" / "val2017" / name).rename(root / "val2017" / name)


def one_too_deep(root: Path) -> None:
    (root / "images" / "val2017").rename(root / "inner")
    (root / "images" / "val2017").mkdir()
    (root / "inner").rename(root / "images" / "val2017" / "val2017")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (cut, r"val2017\.json: is no complete JSON file \(\d+ bytes; .*copy or extract it again"),
        (
            lambda root: (root / "annotations" / "person_keypoints_val2017.json").rename(
                root / "annotations" / "instances_val2017.json"
            ),
            r"person_keypoints_val2017\.json: no such file: .*; there is instances_val2017\.json",
        ),
        (
            lambda root: shutil.rmtree(root / "images"),
            r"coco/images/val2017 or .*coco/val2017: no such folder: the images, such as 0+137\.jpg, belong",
        ),
        (split_over_two_layouts, r"both have images of this split: two layouts are mixed; move"),
        (one_too_deep, r"one folder too deep, in .*images/val2017/val2017: move them up"),
        (
            changed(lambda content: content["categories"][0]["keypoints"].__setitem__(0, "nos")),
            r"keypoint 'nos' is unknown, did you mean 'nose'",
        ),
        (
            changed(lambda content: content["categories"][0]["keypoints"].pop()),
            r"names 16 keypoints: need each once of nose, left_eye",
        ),
        (changed(lambda content: content.pop("categories")), r"'categories' has no person"),
        (changed(lambda content: content.pop("images")), r"is not in COCO's format"),
        (
            changed(lambda content: content["images"].clear()),
            r"annotation 0 \(id 1000\) is of",
        ),
        (
            changed(lambda content: content["images"][0].pop("width")),
            r"an image has no 'width': need id, file_name, height and width",
        ),
        (
            annotation(image_id=99),
            r"annotation 2 \(id 1002\) is of image 99, which the file does not list",
        ),
        (
            annotation(bbox=[1, 2, 3]),
            r"\(id 1002\) has 3 numbers in bbox and 51 in keypoints: need 4 and",
        ),
        (
            annotation(keypoints=[0] * 48),
            r"has 4 numbers in bbox and 48 in keypoints: need 4 and 3 x 17",
        ),
        (annotation(bbox=[1, float("nan"), 3, 4]), r"bbox of annotation id 1002: need finite numbers"),
        (annotation(keypoints=[float("inf")] * 51), r"keypoints of annotation id 1002: need finite"),
        (
            changed(lambda content: content["annotations"][2].pop("area")),
            r"annotation 2 \(id 1002\) has no 'area'",
        ),
        (
            changed(lambda content: [a.update(iscrowd=1) for a in content["annotations"]]),
            r"has nobody to show: 9 of 9 annotations left out: 9 marked as crowd",
        ),
        (changed(lambda content: content["annotations"].clear()), r"has nobody to show"),
    ],
)
def test_bad_input(root: Path, break_it: Callable[[Path], Any], message: str) -> None:
    break_it(root)
    with pytest.raises(ValueError, match=message) as caught:
        build(root)
    assert str(root) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "has nobody to show"),
        ({"image_id": 1}, "need a list of objects with image_id, category_id, bbox and score"),
        ([{"image_id": 137, "category_id": 1, "bbox": [1, 2, 3, 4]}], "a detection has no 'score'"),
        ([{"image_id": 137, "category_id": 1, "bbox": [1, 2, 3], "score": 1}], "is no number, or none of 4"),
        (
            [{"image_id": 137, "category_id": 1, "bbox": [1, 2, float("nan"), 4], "score": 1}],
            "detection 0 is .*need finite numbers",
        ),
        (
            [{"image_id": 5, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}],
            r"1 of 1 detections are of images that .*val2017\.json does not list \(first: 5\)",
        ),
    ],
)
def test_bad_detections(root: Path, found: Any, message: str) -> None:
    list_trees.write_json(root / "found.json", found)
    with pytest.raises(ValueError, match=rf"found\.json: .*{message}"):
        build(root, boxes="detector", detections="found.json")


def test_missing_detections(root: Path) -> None:
    with pytest.raises(ValueError, match=r"found\.json: cannot be read: No such file"):
        build(root, boxes="detector", detections="found.json")
    with pytest.raises(ValueError, match="detections: empty, but boxes: detector needs a JSON file"):
        coco.Config(boxes="detector")
    with pytest.raises(ValueError, match=r"detections: 'd\.json' is not used with boxes: annotation"):
        coco.Config(detections="d.json")


def test_wrong_level_of_the_tree(root: Path, tmp_path: Path) -> None:
    for wrong in (root / "annotations", root / "images", tmp_path, tmp_path / "COCO"):
        with pytest.raises(
            ValueError, match=rf"^{wrong}: root must be the folder of COCO.*give root: {root}$"
        ):
            build(wrong)


def test_an_image_of_another_size(root: Path) -> None:
    """The annotations' sizes are believed until a file is read."""
    list_trees.write_images(root / "images" / "val2017", PEOPLE._replace(sizes=PEOPLE.sizes + 1))
    with pytest.raises(ImageError, match=r"its annotation says"):
        build(root).image.read(0, Region(0, 0, 9, 9), 1.0)
