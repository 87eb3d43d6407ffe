"""The reader of one's own data: the documented example word by word, round trips, and bad files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ipr import config
from ipr.datasets.own import Config
from ipr.engine import Trainer
from ipr.geometry import cam_to_img
from ipr.runlog import Silence
from ipr.skeleton import by_name
from ipr.validation import load_data
from tests.data import random_table
from tests.datasets.own_trees import arrays, draw, write
from tests.runs import TINY

DOC = Path(__file__).parents[2] / "docs" / "own_format.md"


def _block(language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```", DOC.read_text(), re.DOTALL | re.MULTILINE)
    return block


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The folder ``people`` of the documentation."""
    folder = tmp_path / "people"
    folder.mkdir()
    (folder / "train.json").write_text(_block("json"))
    draw(folder, ["images/a.jpg", "images/b.jpg"], (96, 128))
    return folder


def test_the_documented_example(example: Path) -> None:
    table = Config(root=str(example)).build()
    assert table.skeleton.joints == ("pelvis", "thorax", "head", "left_wrist", "right_wrist")
    assert (table.skeleton.parents, table.skeleton.flip_pairs, table.skeleton.root) == (
        (0, 0, 1, 1, 1),
        ((3, 4),),
        0,
    )
    assert [Path(table.image.name(row)).name for row in range(3)] == ["a.jpg", "a.jpg", "b.jpg"]
    assert table.image.image_size(2) == (96, 128)
    assert table.boxes_xywh.tolist() == [[48, 12, 40, 40], [8, 12, 40, 40], [44, 12, 40, 40]]
    assert table.joints_cam is not None
    assert table.camera is not None
    assert table.root_depth is not None
    assert table.joints_cam[0, 3].tolist() == pytest.approx([400, -200, 3200])
    assert table.root_depth.tolist() == [4000] * 3
    assert table.depth[0].tolist() == pytest.approx([0, 0, 0, -800, 1000])
    assert table.depth_unit == "mm"
    missing = np.zeros((3, 5), bool)
    missing[1, 4] = True
    assert (table.weight == np.where(missing, 0.0, 1.0)[..., None]).all()
    assert table.joints_img[missing].tolist() == [[0, 0]]
    projected = cam_to_img(table.joints_cam, table.camera)
    np.testing.assert_allclose(projected[~missing], table.joints_img[~missing], rtol=0, atol=1e-9)
    assert table.group is not None
    assert table.group["action"].tolist() == ["wave", "wave", "stand"]
    assert table.description == f"{example}/train.json: 3 people in 2 images, given boxes, no people left out"


def test_a_training_step_on_the_documented_example(example: Path, tmp_path: Path) -> None:
    (example / "valid.json").write_text(_block("json"))
    (tmp_path / "run.yaml").write_text(_block("yaml"))
    tiny = [word for word in TINY if ".count=" not in word]
    run = config.load(
        tmp_path / "run.yaml", [*tiny, f"data.root={tmp_path}", "data.batch=3", "data.on_error=raise"]
    )
    trainer = Trainer(run, tmp_path / "out", load_data(run, tmp_path / "cache"))
    assert trainer.data.train[0].weight.sum() == 3 * 14  # of 18 joints, the example's; one is not labelled
    assert 0 < trainer.train_rows(Silence()) < 18 * 3 * 0.5


def test_the_documented_script_for_npz(example: Path) -> None:
    subprocess.run([sys.executable, "-c", _block("python")], cwd=example.parent, check=True)
    table = Config(root=str(example), file="random.npz").build()
    assert table.skeleton == by_name("h36m_17")
    assert table.joints_cam is None
    assert (table.weight == 1).all()
    assert np.abs(table.depth).max() > 100
    low, high = table.joints_img.min(1), table.joints_img.max(1)
    np.testing.assert_array_equal(table.boxes_xywh, np.concatenate([low, high - low], 1))


def test_the_documentation_has_all_keys() -> None:
    from ipr.datasets._own_file import NUMBERS, TEXTS

    rows = [line.split("|")[1] for line in DOC.read_text().splitlines() if line.startswith("| `")]
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row)} == {*TEXTS, *NUMBERS}


@pytest.mark.parametrize("file", ["train.json", "sub/valid.npz"])
def test_round_trip(tmp_path: Path, file: str) -> None:
    table = random_table(5, skeleton="h36m_17")
    write(tmp_path, arrays(table), file)
    found = Config(root=str(tmp_path), file=file, pad=1.1).build()
    assert found.skeleton == table.skeleton
    for name in ("boxes_xywh", "joints_img", "joints_cam", "root_depth", "weight"):
        np.testing.assert_array_equal(getattr(found, name), getattr(table, name))
    np.testing.assert_allclose(found.depth, table.depth, rtol=0, atol=1e-9)
    assert found.camera is not None
    assert table.camera is not None
    for name in ("focal", "center", "R", "t"):
        np.testing.assert_array_equal(getattr(found.camera, name), getattr(table.camera, name))
    assert found.camera.distortion is not None
    assert found.camera.distortion.shape == (5, 5)
    assert found.group is not None
    assert found.group["subject"].tolist() == [0, 1, 2, 0, 1]
    assert tuple(found.box_rule) == (1.1, "grow")
    assert found.image.name(1) == found.image.name(0) != found.image.name(2)
    assert Config(root=str(tmp_path), file=file).sources() == [tmp_path / file]


def test_metres_and_px(tmp_path: Path) -> None:
    table = random_table(3, skeleton="h36m_17")
    content = arrays(table)
    content |= {"unit": "m", "joints_cam": table.joints_cam / 1000, "t": np.full((3, 3), 0.5)}
    write(tmp_path, content | {"depth_px": table.depth / 10})
    found = Config(root=str(tmp_path)).build()
    np.testing.assert_allclose(found.joints_cam, table.joints_cam, rtol=0, atol=1e-9)
    assert found.camera is not None
    assert (found.camera.t == 500).all()
    assert found.depth_unit == "px"
    np.testing.assert_array_equal(found.depth, table.depth / 10)


def test_labels_that_are_missing(tmp_path: Path) -> None:
    table = random_table(3, skeleton="h36m_17")
    joints_img, depth = table.joints_img.copy(), table.depth.copy()
    joints_img[0, 4] = np.nan
    depth[1, 5] = np.nan
    content = {key: arrays(table)[key] for key in ("skeleton", "images", "image", "unit")}
    write(tmp_path, content | {"joints_img": joints_img, "depth": depth}, "nan.npz")
    found = Config(root=str(tmp_path), file="nan.npz").build()
    missing = np.argwhere(found.weight == 0).tolist()
    assert missing == [[0, 4, 0], [0, 4, 1], [0, 4, 2], [1, 5, 2]]
    assert found.depth[1, 5] == 0
    assert np.isfinite(found.joints_img).all()
    write(tmp_path, content | {"joints_img": table.joints_img}, "flat.json")
    flat = Config(root=str(tmp_path), file="flat.json").build()
    assert flat.weight[..., :2].all()
    assert not flat.weight[..., 2].any()


def test_people_without_a_box_are_left_out_and_counted(tmp_path: Path) -> None:
    content = arrays(random_table(4, skeleton="h36m_17"))
    del content["boxes_xywh"]
    content["visible"][2, 1:] = 0
    write(tmp_path, content)
    found = Config(root=str(tmp_path)).build()
    assert len(found) == len(found.image) == 3
    assert found.group is not None
    assert found.group["subject"].tolist() == [0, 1, 0]
    assert found.camera is not None
    assert len(found.camera.focal) == 3
    assert (
        "boxes of the joints, 1 of 4 people left out: 1 whose labelled joints span no box"
        in found.description
    )


def test_the_description_names_joints_that_are_not_used(example: Path) -> None:
    text = (example / "train.json").read_text().replace("left_wrist", "left_toe")
    (example / "train.json").write_text(text)
    found = Config(root=str(example)).build()
    assert found.description.endswith("; joints of no other skeleton, so unused: left_toe")


# -------------------------------------------------------------------------------------------------- bad files

Content = dict[str, Any]
JOINTS: Content = {
    "joints": [f"j{joint}" for joint in range(17)],
    "parents": ["j0"] * 17,
    "flip_pairs": [["j1", "j2"]],
}


def _set(key: str, *place: int, to: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        content[key] = np.array(content[key], np.float64 if key != "images" else None)
        content[key][place] = to

    return change


def _own_joints(**changed: Any) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        del content["skeleton"]
        content |= JOINTS | changed

    return change


def _drop(*keys: str) -> Callable[[Content], None]:
    return lambda it: [it.pop(key) for key in keys] and None


BAD: dict[str, tuple[Callable[[Content], Any], str]] = {
    "unknown key": (
        lambda it: it.update(boxs_xywh=1),
        r"unknown key 'boxs_xywh', did you mean 'boxes_xywh'\? known: ",
    ),
    "no joints": (
        _drop("joints_img"),
        r"has no 'joints_img': need images, image, joints_img and the skeleton",
    ),
    "width without height": (
        _drop("image_height"),
        r"has image_width: need image_width, image_height together",
    ),
    "no skeleton": (_drop("skeleton"), r"has neither of skeleton and joints: need a name, one of h36m_18, "),
    "two skeletons": (lambda it: it.update(JOINTS), r"has both of skeleton and joints"),
    "unknown skeleton": (
        lambda it: it.update(skeleton="h36m17"),
        r"skeleton: 'h36m17' is none, did you mean 'h36m_17'\?",
    ),
    "joints of mpii": (
        lambda it: it.update(skeleton="mpii_16"),
        r"joints_img has 17 joints: need the 16 of mpii_16",
    ),
    "joints without parents": (
        lambda it: [it.pop("skeleton"), it.update(joints=JOINTS["joints"])],
        r"has joints: need joints, parents, flip_pairs together",
    ),
    "a joint twice": (_own_joints(joints=["j0"] * 2 + JOINTS["joints"][2:]), r"joints: 'j0' is there twice"),
    "too few names": (
        _own_joints(joints=JOINTS["joints"][:5]),
        r"joints has the shape \[5\]: need \[J\] with J = 17",
    ),
    "unknown parent": (
        _own_joints(parents=["j0"] * 16 + ["hip"]),
        r"parents\[16\] is hip: need one of joints, j0, j1",
    ),
    "unknown pair": (
        _own_joints(flip_pairs=[["j1", "j99"]]),
        r"flip_pairs\[0\]\[1\] is j99: need one of joints",
    ),
    "a joint in two pairs": (
        _own_joints(flip_pairs=[["j1", "j2"], ["j3", "j1"]]),
        r"flip_pairs: a joint is in two",
    ),
    "two roots": (_own_joints(parents=["j0"] * 16 + ["j16"]), r"parents: need a tree, .* here j0 and j16 is"),
    "a circle": (_own_joints(parents=["j1", "j0"] + ["j0"] * 15), r"parents: need a tree, .* here none is"),
    "words for numbers": (
        lambda it: it.update(boxes_xywh=[["1", "2", "3", "4"]] * 3),
        r"boxes_xywh must be of numbers: need \[N, 4\] with N = 3",
    ),
    "numbers for words": (lambda it: it.update(images=[1, 2]), r"images must be of text"),
    "an object": (lambda it: it.update(image={"a": 1}), r"image must be of numbers: need \[N\]"),
    "ragged": (
        lambda it: it.update(joints_img=[[[1, 2]] * 17, [[1, 2]] * 16]),
        r"joints_img has rows of different lengths: need \[N, J, 2\] with N = 3",
    ),
    "another shape": (
        lambda it: it.update(joints_cam=np.zeros((3, 16, 3))),
        r"joints_cam has the shape \[3, 16, 3\]: need \[N, J, 3\] with N = 3, J = 17",
    ),
    "a box is null": (
        lambda it: it.update(boxes_xywh=[[1, 2, 3, None]] * 3),
        r"boxes_xywh\[0\]\[3\] is nan: need a finite number; so are 2 more",
    ),
    "a box without size": (
        _set("boxes_xywh", 1, 2, to=0),
        r"boxes_xywh\[1\] is \[.*\]: need a width and a height",
    ),
    "a pose with NaN": (
        _set("joints_cam", 2, 3, 1, to=np.nan),
        r"joints_cam\[2\]\[3\]\[1\] is nan: need a finite",
    ),
    "a visible joint with NaN": (
        _set("joints_img", 0, 6, 0, to=np.nan),
        r"joints_img\[0\]\[6\] is \[nan, .*\]: need two numbers where visible is not 0",
    ),
    "a joint at infinity": (
        lambda it: [it.pop("visible"), _set("joints_img", 0, 6, 0, to=np.inf)(it)],
        r"joints_img\[0\]\[6\]\[0\] is inf: need a finite number",
    ),
    "visible in percent": (_set("visible", 0, 0, to=80), r"visible\[0\]\[0\] is 80.0: need 0, 1 or 2"),
    "images from 1": (
        _set("image", 2, to=2),
        r"image\[2\] is 2.0: need the index of one of the 2 images, 0..1",
    ),
    "no unit": (_drop("unit"), r"has no unit: need 'mm' or 'm', of joints_cam, depth, t"),
    "another unit": (lambda it: it.update(unit="cm"), r"unit is 'cm': need 'mm' or 'm'"),
    "two depths": (lambda it: it.update(depth=np.zeros((3, 17))), r"has depth and joints_cam: need one of"),
    "depth from the camera": (
        lambda it: [it.pop("joints_cam"), it.update(depth=np.full((3, 17), 4000.0))],
        r"depth\[0\]\[0\] is 4000.0: depth is measured from this joint, the pelvis: need 0 or null",
    ),
    "a pose from the root": (
        lambda it: it.update(joints_cam=it["joints_cam"] - it["joints_cam"][:, :1]),
        r"joints_cam\[0\]\[0\] is \[0.0, 0.0, 0.0\]: the root must lie before the camera",
    ),
    "a camera without a center": (
        _drop("center"),
        r"has focal and R and t and distortion: a camera needs focal and",
    ),
    "a camera without a focal length": (
        _set("focal", 1, 0, to=0),
        r"focal\[1\]\[0\] is 0.0: need px above 0",
    ),
    "no rotation": (_set("R", 1, 0, 0, to=2), r"R\[1\] is .*: need a rotation, with which X_cam = R X \+ t"),
    "a mirror": (_set("R", 0, 0, 0, to=-1), r"R\[0\] is .*: need a rotation"),
    "an image is missing": (
        lambda it: it["images"].__setitem__(1, "images/none.jpg"),
        r"1 of 2 images are missing, first \S+/images/none.jpg: need paths relative to ",
    ),
    "no image is there": (
        lambda it: [
            it.update(images=[f"/nowhere/{index}.jpg" for index in range(100000)]),
            *(it.pop(key) for key in ("image_width", "image_height")),
        ],
        r"100000 of 100000 images are missing, first /nowhere/0.jpg",
    ),
    "nobody": (
        lambda it: it.update({key: it[key][:0] for key in it if len(it[key]) == 3}),
        r"joints_img has the shape \[0\]: need \[N, J, 2\]",
    ),
    "nobody labelled": (
        lambda it: [it.pop("boxes_xywh"), it["visible"].fill(0)],
        r"3 of 3 people left out: .*: need people, with boxes_xywh or two labelled joints",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_content(tmp_path: Path, name: str) -> None:
    content = arrays(random_table(3, skeleton="h36m_17"))
    draw(tmp_path, content["images"], (120, 160))
    change, message = BAD[name]
    change(content)
    lists = {key: it.tolist() if isinstance(it, np.ndarray) else it for key, it in content.items()}
    path = tmp_path / "train.json"
    path.write_text(json.dumps(lists))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: ({message})") as caught:
        Config(root=str(tmp_path)).build()
    assert len(str(caught.value)) < 700


def test_npz_with_nobody(tmp_path: Path) -> None:
    content = arrays(random_table(3, skeleton="h36m_17"))
    write(
        tmp_path,
        {key: it[:0] if np.ndim(it) and len(it) == 3 else it for key, it in content.items()},
        "none.npz",
    )
    with pytest.raises(ValueError, match=r"none.npz: .*need people, with boxes_xywh"):
        Config(root=str(tmp_path), file="none.npz").build()


@pytest.mark.parametrize("file", ["train.json", "train.npz"])
def test_a_file_that_is_cut_short(tmp_path: Path, file: str) -> None:
    path = write(tmp_path, arrays(random_table(3, skeleton="h36m_17")), file)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"{file}: is no complete (JSON|npz) file"):
        Config(root=str(tmp_path), file=file).build()


def test_npz_that_would_run_code(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(
        ValueError, match=r"train.npz: is no complete npz file of numbers and text .*allow_pickle"
    ):
        Config(root=str(tmp_path), file="train.npz").build()


def test_json_that_is_a_list(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"train.json: is a list: need an object"):
        Config(root=str(tmp_path)).build()


def test_a_missing_file_or_folder(example: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"^{example.parent}: .* has train.json, but it has people; give root: {example}$"
    ):
        Config(root=str(example.parent)).build()
    with pytest.raises(ValueError, match=r"people: .* which has valid.json, but it has images, train.json$"):
        Config(root=str(example), file="valid.json").build()


def test_bad_options() -> None:
    with pytest.raises(ValueError, match=r"^file: 'train.pkl' given, must be a .json or .npz file"):
        Config(file="train.pkl")
    with pytest.raises(ValueError, match=r"^pad: 0 given, must be positive"):
        Config(pad=0)


def test_names_in_another_spelling(tmp_path: Path) -> None:
    """Where the file system finds a file by a name that its folder does not list, it is there."""
    content = arrays(random_table(2, skeleton="h36m_17"))
    write(tmp_path, content | {"images": ["images/../images/000.jpg"]})
    os.rename(tmp_path / "images" / "000.jpg", tmp_path / "images" / "b.jpg")
    os.symlink("b.jpg", tmp_path / "images" / "000.jpg")
    assert len(Config(root=str(tmp_path)).build()) == 2
