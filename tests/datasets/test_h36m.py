"""Human3.6M: the original's records from its files, one table from all layouts, one message a bad folder."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ipr import config, loader, skeleton, validation
from ipr.datasets._h36m import mmpose
from ipr.datasets._h36m.clips import SPLITS, Video
from ipr.datasets.h36m import Config
from ipr.geometry import cam_to_img, crop_box, img_to_cam
from ipr.types import Pixels, PoseTable, Region
from tests.datasets import h36m_trees as trees

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "datasets"
RECORD = 1e-6  # px and mm
FRAMES = 60
CROWD = trees.people(trees.videos(), FRAMES)  # act_05

WRITERS: dict[str, Callable[[Path, list[trees.Person]], object]] = {
    "matlab_meta": trees.write_matlab_meta,
    "json": trees.write_json,
    "mmpose": trees.write_mmpose,
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tree of act_05 by layout. Tests leave them as they are."""
    folders = {name: tmp_path_factory.mktemp(name) for name in WRITERS}
    for name, write in WRITERS.items():
        write(folders[name], CROWD)
    return folders


def act_05(root: Path, **options: Any) -> PoseTable:
    return Config(root=str(root), split="act_05", **options).build()


def names(table: PoseTable) -> list[str]:
    return [Path(table.image.name(row)).name for row in range(len(table))]


# ------------------------------------------------------------------------------------------- the original's


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One video of the golden tree under the names of all 16 of act_05."""
    root = tmp_path_factory.mktemp("golden")
    text = gzip.decompress((GOLDEN / "s_09_act_07_subact_01_ca_01_matlab_meta.txt.gz").read_bytes())
    for person in CROWD:
        path = root / "annot" / person.name / "matlab_meta.txt"
        path.parent.mkdir(parents=True)
        path.write_bytes(text)
        for frame in range(45):
            (root / "images" / person.name).mkdir(parents=True, exist_ok=True)
            (root / "images" / person.image(frame)).touch()
    return root


@pytest.mark.parametrize(
    ("boxes", "file"),
    [
        ("rect3d", "hm36_gt_db_act_05_w64xh64_first8.json"),
        ("joints", "hm36_jnt_bbox_db_act_05_w64xh64_first4.json"),
    ],
)
def test_records_of_the_original(original: Path, boxes: Any, file: str) -> None:
    """For the frames that it drew; here several draws are searched for them."""
    records = json.loads((GOLDEN / file).read_text())
    rows: dict[str, tuple[PoseTable, int]] = {}
    for seed in range(6):
        table = act_05(original, boxes=boxes, seed=seed)
        rows |= {f"hm36/images/{Path(n).parent.name}/{Path(n).name}": (table, i) for i, n in listed(table)}
    for record in records:
        table, row = rows[record["image"]]
        joints = np.array(record["joints_3d"])
        np.testing.assert_allclose(table.joints_img[row], joints[:, :2], rtol=0, atol=RECORD)
        np.testing.assert_allclose(table.depth[row], joints[:, 2], rtol=0, atol=RECORD)
        np.testing.assert_array_equal(table.weight[row], record["joints_3d_vis"])
        assert table.joints_cam is not None and table.camera is not None and table.root_depth is not None
        np.testing.assert_allclose(table.joints_cam[row], record["joints_3d_cam"], rtol=0, atol=RECORD)
        np.testing.assert_allclose(table.joints_cam[row, 0], record["pelvis"], rtol=0, atol=RECORD)
        assert table.root_depth[row] == table.joints_cam[row, 0, 2]
        np.testing.assert_array_equal(table.camera.focal[row], record["fl"])
        np.testing.assert_array_equal(table.camera.center[row], record["c_p"])
        box = [record[name] for name in ("center_x", "center_y", "width", "height")]
        crop = crop_box(table.boxes_xywh[[row]], table.box_rule, 1.0)[0]
        np.testing.assert_allclose(crop, box, rtol=0, atol=RECORD)
        assert table.image.image_size(row) == (251, 250)
    assert table.skeleton == skeleton.by_name("h36m_18")
    assert list(table.skeleton.parents) == records[0]["parent_ids"]
    assert {tuple(sorted(pair)) for pair in records[0]["flip_pairs"]} == {
        tuple(sorted(pair)) for pair in table.skeleton.flip_pairs
    }


def listed(table: PoseTable) -> list[tuple[int, str]]:
    return list(enumerate(table.image.name(row) for row in range(len(table))))


# ------------------------------------------------------------------------------------ one table, many layouts


def same_table(one: PoseTable, other: PoseTable, *, world: bool = True) -> None:
    """Joints, cameras, boxes and groups to rounding."""
    assert one.joints_cam is not None and other.joints_cam is not None
    assert one.camera is not None and other.camera is not None
    assert one.group is not None and other.group is not None
    assert one.group.keys() == other.group.keys()
    for name in one.group:
        np.testing.assert_array_equal(one.group[name], other.group[name], name)
    pairs = {
        "boxes": (one.boxes_xywh, other.boxes_xywh),
        "img": (one.joints_img, other.joints_img),
        "cam": (one.joints_cam, other.joints_cam),
        "depth": (one.depth, other.depth),
        "root": (one.root_depth, other.root_depth),
        "weight": (one.weight, other.weight),
        "focal": (one.camera.focal, other.camera.focal),
        "center": (one.camera.center, other.camera.center),
    }
    if world:
        pairs |= {"R": (one.camera.R, other.camera.R), "t": (one.camera.t, other.camera.t)}
    for name, (a, b) in pairs.items():
        np.testing.assert_allclose(a, b, rtol=0, atol=RECORD, err_msg=name)


def same_as_crowd(table: PoseTable) -> None:
    """The rows are the known people, seen by the known cameras."""
    assert table.group is not None and table.camera is not None and table.joints_cam is not None
    by_video = {person.video: person for person in CROWD}
    numbers = [table.group[name] for name in ("subject", "subaction", "camera", "frame")]
    for row, (subject, subaction, camera, frame) in enumerate(zip(*numbers, strict=True)):
        person = by_video[subject, 7, subaction, camera]
        cam = person.joints_cam[frame]
        np.testing.assert_allclose(table.joints_cam[row, :17], cam, rtol=0, atol=RECORD)
        np.testing.assert_allclose(table.joints_cam[row, 17], cam[[11, 14]].mean(0), rtol=0, atol=RECORD)
        np.testing.assert_allclose(table.joints_img[row, :17], trees.project(cam), rtol=0, atol=RECORD)
        np.testing.assert_allclose(table.camera.R[row], person.R, rtol=0, atol=1e-12)
        np.testing.assert_allclose(table.camera.t[row], -person.R @ person.T, rtol=0, atol=RECORD)
    assert set(table.group["action"]) == {"Posing"}


@pytest.mark.parametrize("layout", WRITERS)
def test_each_layout_holds_the_known_people(roots: dict[str, Path], layout: str) -> None:
    table = act_05(roots[layout])
    assert len(table) == 16 * 40
    same_as_crowd(table)
    assert f"layout {layout} at {roots[layout]}" in table.description
    assert table.image.image_size(0) == trees.SIZE
    picture = table.image.read(5, Region(3, 4, 20, 10), 1.0)
    assert isinstance(picture, Pixels) and picture.data.shape == (10, 20, 3)


@pytest.mark.parametrize("boxes", ["rect3d", "joints", "full"])
def test_layouts_agree(roots: dict[str, Path], boxes: Any, tmp_path: Path) -> None:
    first = act_05(roots["matlab_meta"], boxes=boxes)
    for layout in ("json", "mmpose"):
        same_table(first, act_05(roots[layout], boxes=boxes))
    lens = act_05(roots["matlab_meta"], boxes=boxes, distortion=True)
    same_table(lens, act_05(roots["mmpose"], boxes=boxes, distortion=True))


def test_a_cache_has_its_own_frames(tmp_path: Path) -> None:
    write = trees.write_cache
    frames = [50, 3, 17]
    write(tmp_path, CROWD, "act_05", frames)
    table = act_05(tmp_path)
    assert names(table) == [f"{person.name}_{frame + 1:06d}.jpg" for person in CROWD for frame in frames]
    assert table.image.name(0) == str(tmp_path / "images" / CROWD[0].image(50))
    shutil.rmtree(tmp_path / "images")
    shutil.rmtree(tmp_path / "HM36_act_05_cache")
    trees.write_matlab_meta(tmp_path, CROWD)
    whole = act_05(tmp_path, seed=4)
    in_cache = {name: row for row, name in enumerate(names(table))}
    shared = [(row, in_cache[name]) for row, name in enumerate(names(whole)) if name in in_cache]
    assert len(shared) > 10
    for row, other in shared:
        for field in ("joints_cam", "joints_img", "boxes_xywh", "depth"):
            a, b = getattr(whole, field)[row], getattr(table, field)[other]
            np.testing.assert_allclose(a, b, rtol=0, atol=RECORD)


def test_beside_the_annotations_a_cache_is_read_where_asked(tmp_path: Path) -> None:
    trees.write_matlab_meta(tmp_path, CROWD)
    shutil.rmtree(tmp_path / "images")
    path = trees.write_cache(tmp_path, CROWD, "act_05", [1, 2])
    assert len(act_05(tmp_path)) == 640
    assert len(act_05(tmp_path, layout="cache")) == 32
    shutil.rmtree(tmp_path / "images")
    trees.write_cache(tmp_path, CROWD, "act_05", [4], "jntBBox_db")  # drew other frames
    assert len(act_05(tmp_path, layout="cache", boxes="joints")) == 16
    shutil.rmtree(tmp_path / "images")
    trees.write_cache(tmp_path, CROWD, "act_05", [1, 2])
    assert len(act_05(tmp_path, layout="cache", boxes="rect3d")) == 32
    path.unlink()
    assert len(act_05(tmp_path, layout="cache")) == 16


# --------------------------------------------------------------------------------------------------- cameras


def test_conventions_of_cameras_are_told_apart(tmp_path: Path) -> None:
    """Position or translation, mm or m, written where the layout has the other."""
    written: dict[str, Callable[[Path], object]] = {
        "R X + t by who is in the picture": lambda root: trees.write_matlab_meta(
            root, CROWD, translation=True
        ),
        "R (X - T) by who is in the picture, joints in m": lambda root: trees.write_matlab_meta(
            root, CROWD, unit=1000.0
        ),
        "R (X - T) by reprojection into the boxes, joints in mm (not R X + t": lambda root: trees.write_json(
            root, CROWD, position=True
        ),
        "R X + t by reprojection into the boxes, joints in m": lambda root: trees.write_json(
            root, CROWD, unit=1000.0
        ),
        "R X + t by their agreement": lambda root: trees.write_mmpose(root, CROWD, world_to_cam=True),
        "R' (X - T) by their agreement, joints in mm": lambda root: trees.write_mmpose(root, CROWD, unit=1.0),
    }
    for number, (said, write) in enumerate(written.items()):
        root = tmp_path / str(number)
        write(root)
        table = act_05(root)
        assert f"cameras follow {said}" in table.description, table.description
        same_as_crowd(table)


@pytest.mark.parametrize("layout", WRITERS)
def test_cameras_that_fit_nothing_are_refused(tmp_path: Path, layout: str) -> None:
    turned = [p._replace(R=p.R[[2, 0, 1]]) if p.video[3] == 2 else p for p in CROWD]
    WRITERS[layout](tmp_path, turned)
    with pytest.raises(
        ValueError, match=r"cameras? .*s_09_act_07_subact_01_ca_02|S of s_09_act_07_subact_01_ca_02"
    ):
        act_05(tmp_path)


def test_the_lens_bends_joints_and_squares(roots: dict[str, Path]) -> None:
    straight, bent = (act_05(roots["mmpose"], distortion=lens) for lens in (False, True))
    assert bent.joints_cam is not None and bent.camera is not None and straight.camera is not None
    truth = trees.project_through_lens(bent.joints_cam)
    np.testing.assert_allclose(bent.joints_img, truth, rtol=0, atol=1e-9)
    assert 0.01 < np.abs(bent.joints_img - straight.joints_img).max() < 1
    root = bent.joints_cam[:, 0]
    corners = [trees.project_through_lens(root + np.array([sign * 1000, sign * 1000, 0])) for sign in (-1, 1)]
    np.testing.assert_allclose(bent.boxes_xywh[:, :2], corners[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(bent.boxes_xywh[:, 2:], corners[1] - corners[0], rtol=0, atol=1e-9)
    np.testing.assert_allclose(cam_to_img(bent.joints_cam, bent.camera), bent.joints_img, rtol=0, atol=1e-9)
    back = img_to_cam(bent.joints_img, bent.joints_cam[..., 2], bent.camera)
    np.testing.assert_allclose(back, bent.joints_cam, rtol=0, atol=1e-6)
    assert straight.camera.distortion is None
    with pytest.raises(ValueError, match=r"distortion: true given, but the layout json of .* does not have"):
        act_05(roots["json"], distortion=True)


# --------------------------------------------------------------------------------------------- splits, frames


def test_splits_are_the_original_s() -> None:
    assert len(SPLITS) == 24
    assert [len(SPLITS[name].videos()) for name in ("train", "validmin", "act_05")] == [600, 240, 16]
    assert {video.action for video in SPLITS["act_05"].videos()} == {7}
    assert str(SPLITS["act_14"].videos()[-1]) == "s_11_act_16_subact_02_ca_04"
    assert str(SPLITS["trainfull"].videos()[0]) == "s_01_act_02_subact_01_ca_01"
    frames, video = np.arange(1000), Video(9, 7, 1, 1)
    kept = {name: len(split.pick(frames, video, 0)) for name, split in SPLITS.items()}
    assert [kept[f"train{part}"] for part in ("", "full", "sample2", "sample10")] == [200, 1000, 500, 100]
    assert [kept[f"valid{part}"] for part in ("", "min", "full", "sample2")] == [40, 10, 1000, 500]
    assert kept["act_00"] == 40
    assert SPLITS["validsample10"].pick(frames, video, 3).tolist() == list(range(0, 1000, 10))
    few = SPLITS["train"].pick(np.arange(30), video, 0)
    assert few.tolist() == list(range(30))  # the original stops where a video has fewer frames than it draws


def test_a_draw_depends_on_seed_and_video_alone() -> None:
    split, frames = SPLITS["validmin"], np.arange(1000)
    draw = split.pick(frames, Video(9, 7, 1, 1), 0)
    assert draw.tolist() == [82, 117, 129, 271, 280, 744, 795, 822, 896, 916]  # for ever, on any machine
    assert (np.diff(draw) > 0).all()
    assert not np.array_equal(draw, split.pick(frames, Video(9, 7, 1, 2), 0))
    seeds = [split.pick(frames, Video(9, 7, 1, 1), seed).tolist() for seed in (0, 1, 2**32, 2**63 - 1)]
    assert len({tuple(seed) for seed in seeds}) == 4


def test_a_draw_of_one_video_does_not_need_the_others(roots: dict[str, Path], tmp_path: Path) -> None:
    trees.write_matlab_meta(tmp_path, trees.people(trees.videos(actions=range(2, 17)), 45))
    valid = Config(root=str(tmp_path), split="valid").build()
    one = Config(root=str(tmp_path), split="act_05").build()
    assert [name for name in names(valid) if "_act_07_" in name] == names(one)
    # The damaged three are 12 videos; of an act_NN without them none is left out.
    damaged = "s_09_act_05_subact_02, s_09_act_10_subact_02, s_09_act_13_subact_01"
    assert f"{12 * 40} of {240 * 40} rows left out, labels beside the person: {damaged}" in valid.description
    assert len(valid) == 228 * 40 and "left out" not in one.description
    everything = Config(root=str(tmp_path), split="valid", damaged="keep").build()
    assert len(everything) == 240 * 40 and "left out" not in everything.description
    assert set(names(valid)) < set(names(everything))
    # Nobody has this one.
    shutil.rmtree(tmp_path / "annot" / "s_11_act_02_subact_02_ca_01")
    fewer = Config(root=str(tmp_path), split="valid").build()
    assert len(fewer) == 227 * 40
    assert "s_11_act_02_subact_02_ca_01 is not in it, as usual" in fewer.description


def test_every_fifth_frame_of_mmpose(tmp_path: Path) -> None:
    trees.write_mmpose(tmp_path, CROWD, fps=10)
    table = act_05(tmp_path)
    assert table.group is not None and set(table.group["frame"]) == set(range(0, FRAMES, 5))
    assert len(table) == 16 * FRAMES // 5 and "fps10, every fifth frame;" in table.description
    same_as_crowd(table)


@pytest.mark.parametrize(
    ("name", "video"),
    [
        ("S1_Directions_1.54138969", (1, 2, 1, 1)),
        ("S1_Directions.60457274", (1, 2, 2, 4)),
        ("S1_TakingPhoto_1.55011271", (1, 12, 1, 2)),
        ("S1_WalkingDog.58860488", (1, 15, 2, 3)),
        ("S5_Discussion_3.58860488", (5, 3, 2, 3)),
        ("S6_Waiting_3.58860488", (6, 13, 1, 3)),
        ("S9_SittingDown.54138969", (9, 10, 1, 1)),
        ("S9_SittingDown_1.54138969", (9, 10, 2, 1)),  # damaged, as are the next two
        ("S9_Greeting.54138969", (9, 5, 2, 1)),
        ("S9_Waiting_1.54138969", (9, 13, 1, 1)),
        ("S11_Directions.54138969", (11, 2, 2, 1)),  # absent
        ("S11_Phoning_3.54138969", (11, 6, 1, 1)),
        ("S11 Phoning 2.54138969".replace(" ", "_"), (11, 6, 2, 1)),
    ],
)
def test_names_of_mmpose(name: str, video: tuple[int, int, int, int]) -> None:
    assert mmpose._video(Path("x.npz"), name, name) == video


def test_sources_are_all_that_decides(roots: dict[str, Path], tmp_path: Path) -> None:
    def sources(root: Path, **options: Any) -> list[str]:
        files = Config(root=str(root), split="act_05", **options).sources()
        assert all(path.is_file() for path in files)
        return [str(path.relative_to(root)) for path in files]

    assert sources(roots["matlab_meta"]) == [f"annot/{person.name}/matlab_meta.txt" for person in CROWD]
    assert sources(roots["json"]) == [
        f"annotations/Human36M_subject{subject}_{part}.json"
        for subject in (9, 11)
        for part in ("data", "camera", "joint_3d")
    ]
    folder = "annotation_body3d"
    assert sources(roots["mmpose"]) == [f"{folder}/fps50/h36m_test.npz", f"{folder}/cameras.pkl"]
    trees.write_cache(tmp_path, CROWD, "act_05", [0])
    write_boxes(tmp_path / "HM36_act_05_cache", act_05(tmp_path, boxes="joints"))
    cache = "HM36_act_05_cache/"
    assert sources(tmp_path, boxes="detector", detector="mask") == [
        f"{cache}HM36_act_05_w256xh256_keypoint_db_sample40.pkl",
        f"{cache}detection/mask/kpts_bbox.pkl",
    ]
    joints, found = act_05(tmp_path, boxes="joints"), act_05(tmp_path, boxes="detector", detector="mask")
    np.testing.assert_allclose(found.boxes_xywh, joints.boxes_xywh, rtol=0, atol=1e-4)  # float32


# ----------------------------------------------------------------------------------------------------- boxes


def write_boxes(folder: Path, table: PoseTable, turn: int = 0) -> Path:
    """The table's boxes as a detector's, each for the row ``turn`` rows later."""
    low = np.roll(table.boxes_xywh[:, :2], turn, 0)
    high = low + np.roll(table.boxes_xywh[:, 2:], turn, 0)
    path = folder / "detection" / "mask" / "kpts_bbox.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps([np.float32([*a, *b, 0.9]) for a, b in zip(low, high, strict=True)], 2))
    return path


def test_box_rules(roots: dict[str, Path]) -> None:
    root = roots["json"]
    rect3d, joints, full = (act_05(root, boxes=boxes) for boxes in ("rect3d", "joints", "full"))
    assert rect3d.joints_cam is not None
    depth = rect3d.joints_cam[:, 0, 2:]
    np.testing.assert_allclose(rect3d.boxes_xywh[:, 2:], 2000 * trees.FOCAL / depth, rtol=1e-12)
    crops = crop_box(rect3d.boxes_xywh, rect3d.box_rule, 1.0)
    np.testing.assert_allclose(crops[:, 2:], rect3d.boxes_xywh[:, 2:], rtol=1e-12)  # as it is
    low, high = joints.joints_img.min(1), joints.joints_img.max(1)
    np.testing.assert_allclose(joints.boxes_xywh, np.concatenate([low, high - low], 1), rtol=0, atol=1e-9)
    crop = crop_box(full.boxes_xywh[:1], full.box_rule, 0.75)[0]
    assert crop.tolist() == [500, 500, 750, 1000]
    assert joints.box_rule.pad == 1.25 and rect3d.box_rule.pad == full.box_rule.pad == 1.0


def test_detections(tmp_path: Path) -> None:
    trees.write_matlab_meta(tmp_path, CROWD)
    options: dict[str, Any] = {"boxes": "detector", "detector": "mask"}
    with pytest.raises(
        ValueError, match=r"HM36_act_05_cache/detection/mask/kpts_bbox\.pkl: is missing, and so"
    ):
        act_05(tmp_path, **options)
    joints = act_05(tmp_path, boxes="joints")
    path = write_boxes(tmp_path, joints)
    found = act_05(tmp_path, **options)
    np.testing.assert_allclose(found.boxes_xywh, joints.boxes_xywh, rtol=0, atol=1e-4)  # float32
    assert found.box_rule.pad == 1.25
    write_boxes(tmp_path, joints, turn=160)
    with pytest.raises(
        ValueError, match=r"kpts_bbox\.pkl: .*% of the boxes miss the person .* layout: cache"
    ):
        act_05(tmp_path, **options)
    path.write_bytes(pickle.dumps([[0.0, 0.0, 1.0, 1.0]] * 7))
    with pytest.raises(ValueError, match=r"has 7 boxes for the split's 640 rows"):
        act_05(tmp_path, **options)
    path.write_bytes(pickle.dumps({"boxes": 3}))
    with pytest.raises(ValueError, match=r"is no list of boxes \[x1, y1, x2, y2\]"):
        act_05(tmp_path, **options)


def test_detections_of_damaged_videos_are_left_out_with_them(tmp_path: Path) -> None:
    crowd = trees.people(trees.videos(actions=[5]), 3)
    trees.write_json(tmp_path, crowd)
    joints = Config(root=str(tmp_path), split="act_03", boxes="joints", damaged="keep").build()
    write_boxes(tmp_path, joints)
    options: dict[str, Any] = {"boxes": "detector", "detector": "mask"}
    found = Config(root=str(tmp_path), split="act_03", **options).build()
    assert "12 of 48 rows left out" in found.description
    rows = [row for row, name in enumerate(names(joints)) if not name.startswith("s_09_act_05_subact_02")]
    np.testing.assert_allclose(found.boxes_xywh, joints.boxes_xywh[rows], rtol=0, atol=1e-4)


# ------------------------------------------------------------------------------------------------- bad input


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, copy_function=lambda a, b: Path(b).hardlink_to(a))
    return target


def edited(path: Path, change: Callable[[Any], Any]) -> None:
    """Of a copied tree: replaces the file, which is linked to the original's."""
    text = path.read_text()
    path.unlink()
    if path.suffix == ".json":
        content = json.loads(text)
        change(content)
        path.write_text(json.dumps(content))
    else:
        path.write_text(change(text))


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=rf"hm36: there is no such folder \({tmp_path} is there\), need one of"
    ):
        act_05(tmp_path / "hm36")
    with pytest.raises(ValueError, match=rf"{tmp_path}: holds nothing, need one of matlab_meta: annot/s_01"):
        act_05(tmp_path)
    (tmp_path / "readme.txt").touch()
    with pytest.raises(ValueError, match=r"holds readme\.txt, need one of"):
        Config(root=str(tmp_path)).sources()
    with pytest.raises(ValueError, match=r"readme\.txt: is no folder"):
        act_05(tmp_path / "readme.txt")


def test_a_wrong_level_of_the_tree(roots: dict[str, Path]) -> None:
    root = roots["matlab_meta"]
    for wrong in (root / "annot", root / "annot" / CROWD[0].name, root.parent):
        with pytest.raises(ValueError, match=r"; \S+ has it: set root to that$"):
            act_05(wrong)
    with pytest.raises(ValueError, match=rf"; {root} has it: set root to that$"):
        act_05(root / "images")
    with pytest.raises(ValueError, match=r"which layout: json needs; it has the layout matlab_meta"):
        act_05(root, layout="json")


def test_mixed_layouts(roots: dict[str, Path], tmp_path: Path) -> None:
    root = copied(roots["json"], tmp_path / "both")
    shutil.copytree(roots["matlab_meta"] / "annot", root / "annot")
    with pytest.raises(
        ValueError, match=r"has the layouts matlab_meta and json: say which with layout: NAME"
    ):
        act_05(root)
    same_table(act_05(root, layout="json"), act_05(root, layout="matlab_meta"))


def test_partial_extraction(roots: dict[str, Path], tmp_path: Path) -> None:
    root = copied(roots["matlab_meta"], tmp_path / "tree")
    shutil.rmtree(root / "images" / CROWD[3].name)
    with pytest.raises(
        ValueError, match=rf"{CROWD[3].name}_0000\d\d\.jpg: .* of 1 of 16 videos: extract or link"
    ):
        act_05(root)
    shutil.rmtree(root / "images")
    with pytest.raises(ValueError, match=r"images are missing of 16 of 16 videos"):
        act_05(root)
    for person in CROWD[8:]:
        shutil.rmtree(root / "annot" / person.name)
    with pytest.raises(
        ValueError, match=r"8 of the split's 16 videos .* s_11_act_07_.*; of subject 11 there is none"
    ):
        act_05(root)
    shutil.rmtree(root / "annot")
    (root / "annot").mkdir()
    (root / "annot" / "annot.zip").touch()
    with pytest.raises(ValueError, match=r"annot: has no <video>/matlab_meta\.txt, but annot\.zip: extract"):
        act_05(root)


def cut(text: str) -> str:
    return text[: len(text) // 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut, r"says 60 frames, has \d+: is cut short|need \d+ numbers"),
        (lambda text: text[:300], r"has 7 lines, is cut short or no matlab_meta\.txt"),
        (lambda text: "", r"has 0 lines"),
        (lambda text: text.replace("60", "0", 1), r"has 0 frames, need at least one"),
        (
            lambda text: text.replace("jt_list 1 2", "jt_list 1 5"),
            r"names the joints \[1, 5, .* known are \[1, 2",
        ),
        (lambda text: text.replace("\nf ", "\nf x", 1), r"line 5, f: need 2 numbers"),
        (lambda text: text.replace("\nT ", "\nT nan ", 1), r"line 4, T: need 3 numbers"),
    ],
)
def test_a_damaged_matlab_meta(
    roots: dict[str, Path], tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    root = copied(roots["matlab_meta"], tmp_path / "tree")
    edited(root / "annot" / CROWD[2].name / "matlab_meta.txt", change)
    with pytest.raises(ValueError, match=rf"{CROWD[2].name}/matlab_meta\.txt: .*({message})"):
        act_05(root)


def test_a_joint_that_is_no_number(roots: dict[str, Path], tmp_path: Path) -> None:
    crowd = [person._replace(joints_world=person.joints_world.copy()) for person in CROWD]
    for person in crowd[4:8]:
        person.joints_world[:, 4, 1] = np.nan
    where = {
        "matlab_meta": rf"{crowd[4].name}/matlab_meta\.txt: frame \d+ has a joint that is no number",
        "json": r"subject9_joint_3d\.json: action 7, subaction 2, frame \d+ has a joint that is no number",
        "mmpose": r"h36m_test\.npz: S of \S+Posing\.54138969\S+ is not finite",
    }
    for layout, message in where.items():
        WRITERS[layout](tmp_path / layout, crowd)
        with pytest.raises(ValueError, match=message):
            act_05(tmp_path / layout)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("camera", lambda c: c.pop("3"), r"camera 3 is missing, has 1, 2, 4"),
        ("camera", lambda c: c["3"].pop("R"), r"camera 3: need R of the shape \[3, 3\]"),
        ("camera", lambda c: c["3"].update(f=[1.0]), r"camera 3: need f of the shape \[2\]"),
        ("data", lambda c: c.pop("annotations"), r"has no 'annotations': need images with id"),
        ("data", lambda c: c["images"][0].pop("cam_idx"), r"has no 'cam_idx'"),
        (
            "data",
            lambda c: [a.update(bbox=[1, 2, 3]) for a in c["annotations"]],
            r"a bbox of s_09_.*four finite",
        ),
        (
            "data",
            lambda c: c.update(images=[]),
            r"annotations: 8 of the split's 16 videos .* subject 9 there is",
        ),
        ("data", lambda c: c["annotations"].pop(), r"1 images, first s_09_act_07_\S+, have no annotation"),
        ("joint_3d", lambda c: c["7"]["2"].clear(), r"frame \d+ of action 7, subaction 2 is missing"),
        (
            "joint_3d",
            lambda c: c["7"]["2"].update({str(i): [[0, 0]] for i in range(60)}),
            r"need 17 x 3 numbers",
        ),
    ],
)
def test_damaged_json(
    roots: dict[str, Path], tmp_path: Path, part: str, change: Callable[[Any], Any], message: str
) -> None:
    root = copied(roots["json"], tmp_path / "tree")
    edited(root / "annotations" / f"Human36M_subject9_{part}.json", change)
    with pytest.raises(ValueError, match=message):
        act_05(root)


def test_truncated_and_missing_files(roots: dict[str, Path], tmp_path: Path) -> None:
    root = copied(roots["json"], tmp_path / "json")
    path = root / "annotations" / "Human36M_subject11_data.json"
    text = path.read_text()
    path.unlink()
    with pytest.raises(
        ValueError, match=rf"{path}: is missing: the split act_05 needs data, camera and joint_3d"
    ):
        act_05(root)
    path.write_text(cut(text))
    with pytest.raises(ValueError, match=rf"{path}: is no JSON, or cut short: .*; copy it again"):
        act_05(root)

    root = copied(roots["mmpose"], tmp_path / "mmpose")
    path = root / "annotation_body3d" / "fps50" / "h36m_test.npz"
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(ValueError, match=r"h36m_test\.npz: is missing, and so is .*fps10/h36m_test\.npz"):
        act_05(root)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"h36m_test\.npz: is no \.npz of plain arrays, or cut short"):
        act_05(root)
    np.savez(path, imgname=np.array(["a"]))
    with pytest.raises(ValueError, match=r"h36m_test\.npz: need imgname, S and part"):
        act_05(root)
    np.savez(path, imgname=np.array([], str), S=np.zeros((0, 17, 4)), part=np.zeros((0, 17, 3)))
    with pytest.raises(ValueError, match=r"with N of at least 1"):
        act_05(root)
    np.savez(
        path,
        imgname=np.array(["S9_Dancing.54138969_000001.jpg"]),
        S=np.zeros((1, 17, 4)),
        part=np.zeros((1, 17, 3)),
    )
    with pytest.raises(ValueError, match=r"'S9_Dancing\.54138969_000001\.jpg' is no video of Human3\.6M"):
        act_05(root)


def test_a_camera_missing_in_mmpose(roots: dict[str, Path], tmp_path: Path) -> None:
    root = copied(roots["mmpose"], tmp_path / "tree")
    path = root / "annotation_body3d" / "cameras.pkl"
    cameras = pickle.loads(path.read_bytes())
    del cameras["S11", "58860488"]
    path.unlink()
    path.write_bytes(pickle.dumps(cameras))
    with pytest.raises(ValueError, match=r"cameras\.pkl: camera \('S11', '58860488'\) is missing"):
        act_05(root)
    del cameras["S9", "54138969"]["f"]
    path.write_bytes(pickle.dumps(cameras))
    with pytest.raises(
        ValueError, match=r"\('S9', '54138969'\): need f, c, R, T, k, p, w and h: KeyError\('f'\)"
    ):
        act_05(root)


def test_bad_caches(tmp_path: Path) -> None:
    path = trees.write_cache(tmp_path, CROWD, "act_05", [0])
    rows = pickle.loads(path.read_bytes())
    with pytest.raises(ValueError, match=r"has no HM36_valid_w.*; there is HM36_act_05_cache"):
        Config(root=str(tmp_path), split="valid").build()

    def refused(content: object, message: str) -> None:
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match=rf"{path.name}: {message}"):
            act_05(tmp_path)

    refused([], "is no list of dicts, one per row, or an empty one")
    refused({"a": 1}, "is no list of dicts")
    refused([{**rows[0], "image": "/x/one.jpg"}], r"row 0 has the image '/x/one\.jpg'")
    refused([{**rows[0], "fl": None}], r"fl of s_09_act_07_subact_01_ca_01")
    refused([{**rows[0], "joints_3d_cam": np.zeros((17, 3))}], r"joints_3d_cam of .*: need \[18, 3\]")
    refused([{**rows[0], "joints_3d": rows[0]["joints_3d"] + 1}], r"joints_3d of .* px from the projection")
    moved = rows[0]["image"].replace("act_07", "act_08")
    refused([{**rows[0], "image": moved}], r"has s_09_act_08_.*, which is not in the split act_05")
    path.write_bytes(pickle.dumps(rows))
    path.with_name(path.name.replace("256", "288")).write_bytes(pickle.dumps(rows))
    with pytest.raises(ValueError, match=r"whose frames differ: leave one"):
        act_05(tmp_path)


def test_people_of_no_possible_size(tmp_path: Path) -> None:
    for layout, write in WRITERS.items():
        write(tmp_path / layout, CROWD, unit=25.4)  # type: ignore[call-arg]  # inches
        with pytest.raises(ValueError, match=r"people are \d+(\.\d+)? large: need about 1700 \(mm\)"):
            act_05(tmp_path / layout)


def test_options_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"split: 'vaild' is no split, did you mean 'valid'\?"):
        Config(split="vaild")
    with pytest.raises(ValueError, match="detector: empty"):
        Config(boxes="detector")
    with pytest.raises(ValueError, match="seed: -1 given"):
        Config(seed=-1)


# --------------------------------------------------------------------------------------------- configurations


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All 840 videos, of 3 frames."""
    root = tmp_path_factory.mktemp("data")
    crowd = trees.people(trees.videos((1, 5, 6, 7, 8, 9, 11), range(2, 17)), 3)
    trees.write_matlab_meta(root / "hm36", crowd)
    return root


@pytest.mark.parametrize("name", ["resnet50_256x256_integral", "resnet50_256x256_direct"])
def test_shipped_configurations_find_their_rows(whole: Path, name: str, tmp_path: Path) -> None:
    run = config.load(ROOT / "configs" / "h36m" / f"{name}.yaml", [f"data.root={whole}"])
    (train,) = (dataset for dataset in run.data.train if isinstance(dataset, Config))
    assert len(run.data.located(train).build()) == 600 * 3
    valid = run.data.located(run.data.valid).build()
    assert len(valid) in (240 * 3, 228 * 3)
    assert valid.image.read(0, Region(0, 0, 100, 102), 1.0).data.shape == (102, 100, 3)
    run = replace(run, data=replace(run.data, batch=4, workers=0))
    table = validation.load_valid(run, tmp_path)
    batches = loader.make_loader(
        [table], run.patch, run.depth, run.augment, batch=4, workers=0, seed=0, train=True
    )
    batch = next(iter(batches))
    assert batch.joints_img.shape == (4, 18, 2) and not batch.failures and (batch.weight == 1).all()
