"""The procedural people: labels exact, anatomy sound, pictures a function of (row, image position) alone."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from ipr import config, skeleton
from ipr.config import ConfigError
from ipr.datasets import synthetic
from ipr.datasets._synthetic.body import joints_world, make_subjects
from ipr.datasets._synthetic.pose import ACTIONS, LIMITS, draw_actions, pose_people
from ipr.datasets._synthetic.raster import hit, paint_solids, unpack
from ipr.types import PoseTable, Region

J = {name: i for i, name in enumerate(skeleton.by_name("h36m_18").joints)}


@pytest.fixture(scope="module")
def train() -> PoseTable:
    return synthetic.Config(split="train", count=1000).build()


@pytest.fixture(scope="module")
def valid() -> PoseTable:
    return synthetic.Config(split="valid", count=1000).build()


def joints_in_world(table: PoseTable) -> np.ndarray:
    assert table.camera is not None and table.joints_cam is not None
    return (table.joints_cam - table.camera.t[:, None]) @ table.camera.R


def bend(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[N] angle in degrees between directions [N, 3]."""
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))


def test_table_is_a_function_of_seed_and_index(train: PoseTable) -> None:
    again = synthetic.Config(split="train", count=1000).build()
    np.testing.assert_array_equal(again.joints_img, train.joints_img)
    prefix = synthetic.Config(split="train", count=7).build()
    np.testing.assert_allclose(prefix.joints_img, train.joints_img[:7], atol=1e-6)
    assert prefix.group is not None and train.group is not None
    np.testing.assert_array_equal(prefix.group["subject"], train.group["subject"][:7])
    other = synthetic.Config(split="train", count=1000, seed=1).build()
    assert np.abs(other.joints_img - train.joints_img).mean() > 20


def test_joints_img_is_the_projection_of_joints_cam(train: PoseTable) -> None:
    camera, joints = train.camera, train.joints_cam
    assert camera is not None and joints is not None and train.root_depth is not None
    projected = joints[..., :2] / joints[..., 2:] * camera.focal[:, None] + camera.center[:, None]
    np.testing.assert_allclose(projected, train.joints_img, atol=1e-6)
    np.testing.assert_allclose(
        camera.R @ camera.R.swapaxes(1, 2), np.broadcast_to(np.eye(3), camera.R.shape), atol=1e-9
    )
    np.testing.assert_allclose(np.linalg.det(camera.R), 1, atol=1e-9)
    np.testing.assert_allclose(train.depth, joints[..., 2] - joints[:, :1, 2], atol=1e-9)
    np.testing.assert_array_equal(train.root_depth, joints[:, 0, 2])
    assert (train.weight == 1).all()


def test_cameras_see_the_whole_person_as_in_human36m(train: PoseTable) -> None:
    assert train.camera is not None and train.root_depth is not None
    assert train.joints_img.min() >= 0 and train.joints_img.max() <= 999
    assert (np.abs(train.camera.focal - 1145) < 10).all() and (np.abs(train.camera.center - 512) < 15).all()
    assert train.root_depth.min() > 2300 and train.root_depth.max() < 6800
    low, high = train.joints_img.min(1), train.joints_img.max(1)
    np.testing.assert_array_equal(train.boxes_xywh, np.concatenate([low, high - low], axis=1))


def test_depth_in_px_is_weak_perspective(train: PoseTable) -> None:
    px = synthetic.Config(split="train", count=1000, depth_unit="px").build()
    assert px.depth_unit == "px" and train.camera is not None and train.root_depth is not None
    factor = train.camera.focal[:, 0] / train.root_depth
    np.testing.assert_allclose(px.depth, train.depth * factor[:, None], rtol=1e-12)


def test_splits_share_no_subject_and_have_the_same_poses(train: PoseTable, valid: PoseTable) -> None:
    assert train.group is not None and valid.group is not None
    assert not set(train.group["subject"]) & set(valid.group["subject"])
    assert set(train.group["action"]) == set(valid.group["action"]) == set(ACTIONS)
    spreads = []
    for table in (train, valid):
        assert table.joints_cam is not None
        rel = (table.joints_cam - table.joints_cam[:, :1])[:, :17]
        spreads.append(np.linalg.norm(rel - rel.mean(0), axis=-1).mean())
    assert 240 < spreads[0] < 310  # mm: what a predictor of the mean pose scores
    assert abs(spreads[0] - spreads[1]) < 12


def test_bones_keep_their_length_within_a_subject(train: PoseTable) -> None:
    assert train.group is not None and train.joints_cam is not None
    seventeen = skeleton.by_name("h36m_17")
    joints = train.joints_cam[:, list(skeleton.joint_map(train.skeleton, seventeen))]
    bones = np.linalg.norm(joints - joints[:, list(seventeen.parents)], axis=-1)
    means = []
    for subject in np.unique(train.group["subject"]):
        own = bones[train.group["subject"] == subject]
        assert np.ptp(own, axis=0).max() < 1e-6
        means.append(own[0])
    assert np.std(means, axis=0)[1:].min() > 3  # mm: subjects differ


def test_thorax_is_the_middle_of_the_shoulders(train: PoseTable) -> None:
    assert train.joints_cam is not None
    middle = 0.5 * (train.joints_cam[:, J["left_shoulder"]] + train.joints_cam[:, J["right_shoulder"]])
    np.testing.assert_allclose(train.joints_cam[:, J["thorax"]], middle, atol=1e-9)


def test_joint_limits_hold() -> None:
    index = np.arange(1000)
    subjects = make_subjects(index % 50, False)
    frames, angles = pose_people(3, index, draw_actions(3, index), subjects.bones)
    assert set(angles) == set(LIMITS)
    for name, value in angles.items():
        low, high = LIMITS[name]
        assert value.min() >= low - 1e-9 and value.max() <= high + 1e-9, name
    # The angles are those of the joints, and knees and elbows bend the way they do.
    joints = joints_world(frames, subjects.head)
    for side, name in enumerate(("left", "right")):
        hip, knee, ankle = (joints[:, J[f"{name}_{part}"]] for part in ("hip", "knee", "ankle"))
        shoulder, elbow, wrist = (joints[:, J[f"{name}_{part}"]] for part in ("shoulder", "elbow", "wrist"))
        np.testing.assert_allclose(bend(knee - hip, ankle - knee), angles["knee"][:, side], atol=1e-4)
        np.testing.assert_allclose(bend(elbow - shoulder, wrist - elbow), angles["elbow"][:, side], atol=1e-4)
        right = joints[:, J["right_hip"]] - joints[:, J["left_hip"]]
        bent = angles["knee"][:, side] > 20
        assert ((np.cross(knee - hip, ankle - knee) * right).sum(-1)[bent] < 0).all()


def test_left_is_on_the_right_of_the_image_for_who_faces_the_camera(train: PoseTable) -> None:
    assert train.joints_cam is not None
    joints = train.joints_cam
    upright = joints[:, J["head"], 1] < joints[:, J["pelvis"], 1] - 500
    facing = upright & (joints[:, J["nose"], 2] < joints[:, J["neck"], 2] - 90)
    turned = upright & (joints[:, J["nose"], 2] > joints[:, J["neck"], 2] + 90)
    assert facing.sum() > 100 and turned.sum() > 100
    x = train.joints_img[..., 0]
    leftness = x[:, J["left_shoulder"]] - x[:, J["right_shoulder"]]
    assert (leftness[facing] > 0).mean() > 0.95 and (leftness[turned] < 0).mean() > 0.95  # heads turn, too


def test_people_stand_on_the_floor(train: PoseTable) -> None:
    assert train.group is not None
    world = joints_in_world(train)
    ankles = np.minimum(world[:, J["left_ankle"], 2], world[:, J["right_ankle"], 2])
    walking = train.group["action"] == "walking"
    assert ankles[walking].min() > 40 and ankles[walking].max() < 260  # mm; someone on tiptoe is high
    assert np.median(ankles[walking]) < 120
    assert world[..., 2].min() > 0


def test_visibility_follows_depth_order(train: PoseTable) -> None:
    assert train.extra is not None and train.joints_cam is not None
    seen, joints = train.extra["visibility"], train.joints_cam
    assert seen.dtype == bool and seen.shape == train.joints_img.shape[:2]
    assert seen.mean(0).min() > 0.4 and seen.mean(0).max() < 0.95
    away = joints[:, J["nose"], 2] > joints[:, J["neck"], 2] + 90
    assert not seen[away, J["nose"]].any()
    towards = joints[:, J["nose"], 2] < joints[:, J["neck"], 2] - 90
    assert seen[towards, J["nose"]].mean() > 0.7


def test_depth_buffer_agrees_with_ray_casting() -> None:
    table = synthetic.Config(count=6).build()
    painter = table.image._painter  # type: ignore[attr-defined]
    for row in range(6):
        x, y, width, height = table.boxes_xywh[row]
        grid = painter.grid(row, x - 30, y - 30, x + width + 30, y + height + 30, 0.12)
        solids = painter._solids(row)
        buffer = np.zeros((grid.height, grid.width), np.int32)
        paint_solids(solids, 1, grid, buffer)
        depth, ids = unpack(buffer)
        dx, dy = np.meshgrid(*(axis.astype(float) for axis in grid.rays()))
        cast = hit(solids, np.stack([dx, dy, np.ones_like(dx)], axis=-1).reshape(-1, 3))
        same = np.isclose(depth.ravel(), cast.max(-1), rtol=3e-4)
        assert same.mean() > 0.995  # a silhouette's grazing rays may fall on either side
        covered = (ids.ravel() > 0) & same
        assert (ids.ravel()[covered] - 1 == cast.argmax(-1)[covered]).mean() > 0.98


def test_silhouette_covers_the_joints() -> None:
    table = synthetic.Config(count=40, appearance="silhouette").build()
    hits, total = 0, 0
    for row in range(len(table)):
        pixels = table.image.read(row, Region(0, 0, 1000, 1000), 0.25)
        assert set(np.unique(pixels.data)) == {0, 255}
        spots = np.rint((table.joints_img[row] - pixels.origin) * pixels.scale).astype(int)
        spots = np.delete(spots, J["head"], axis=0)  # the crown lies on the outline itself
        hits += int((pixels.data[spots[:, 1], spots[:, 0], 0] == 255).sum())
        total += len(spots)
    assert hits == total


@pytest.mark.parametrize("split", ["train", "valid"])
def test_regions_agree_where_they_overlap(split: str) -> None:
    table = synthetic.Config(split=split, count=8).build()
    for row in range(8):
        whole = table.image.read(row, Region(100, 60, 800, 880), 0.2)
        part = table.image.read(row, Region(333, 287, 301, 254), 0.2)
        u, v = (round((p - w) * whole.scale) for p, w in zip(part.origin, whole.origin, strict=True))
        height, width = part.data.shape[:2]
        cut = whole.data[v : v + height, u : u + width].astype(int)
        off = np.abs(cut - part.data).max(-1)
        assert (off <= 2).mean() > 0.999 and off.mean() < 0.02


def test_reading_covers_the_region_at_the_scale() -> None:
    table = synthetic.Config(count=2).build()
    for region, scale in (
        (Region(200, 100, 613, 601), 0.21),
        (Region(0, 0, 150, 90), 1.0),
        (Region(900, 950, 100, 50), 0.5),
    ):
        pixels = table.image.read(1, region, scale)
        height, width = pixels.data.shape[:2]
        assert pixels.scale >= scale and pixels.data.dtype == np.uint8
        assert pixels.origin[0] <= region.x0 and pixels.origin[1] <= region.y0
        assert pixels.origin[0] + (width - 1) / pixels.scale >= region.x0 + region.width - 1 - 1e-9
        assert pixels.origin[1] + (height - 1) / pixels.scale >= region.y0 + region.height - 1 - 1e-9


def test_pictures_are_deterministic_and_survive_pickling() -> None:
    table = synthetic.Config(count=3).build()
    copy = pickle.loads(pickle.dumps(table.image))
    region = Region(250, 250, 500, 500)
    for row in range(3):
        first = table.image.read(row, region, 0.2).data
        np.testing.assert_array_equal(copy.read(row, region, 0.2).data, first)
        assert first.std() > 10
    assert table.image.name(2) == "synthetic train seed 0 row 2"
    assert table.image.image_size(0) == (1000, 1000)


def test_fingerprint_tells_pictures_apart() -> None:
    configs = [
        synthetic.Config(count=1),
        synthetic.Config(count=1, seed=1),
        synthetic.Config(count=1, split="valid"),
        synthetic.Config(count=1, appearance="silhouette"),
    ]
    prints = [config.build().image.fingerprint() for config in configs]  # type: ignore[attr-defined]
    assert len(set(prints)) == len(prints)
    assert synthetic.Config(count=2).build().image.fingerprint() == prints[0]  # type: ignore[attr-defined]


def test_scale_changes_resolution_not_content() -> None:
    table = synthetic.Config(count=4).build()
    region = Region(200, 200, 600, 600)
    for row in range(4):
        fine = table.image.read(row, region, 0.4).data.astype(float)[:240, :240]
        coarse = table.image.read(row, region, 0.1).data.astype(float)[:60, :60]
        shrunk = fine.reshape(60, 4, 60, 4, 3).mean((1, 3))
        assert np.corrcoef(shrunk.ravel(), coarse.ravel())[0, 1] > 0.9


def test_constant_appearance_says_nothing() -> None:
    table = synthetic.Config(count=2, appearance="constant").build()
    assert len(np.unique(table.image.read(0, Region(100, 100, 300, 200), 0.3).data)) == 1
    full = synthetic.Config(count=2).build()
    np.testing.assert_array_equal(full.joints_img, table.joints_img)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("split", "trian", "did you mean 'train'"),
        ("depth_unit", "m", "mm, px"),
        ("appearance", "x", "silhouette"),
        ("count", 0, "0 given, must be at least 1"),
        ("seed", -1, "-1 given"),
        ("seed", 2**63, "2\\^63"),
    ],
)
def test_wrong_values_are_refused(field: str, value: object, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.train\.0\.{field}: .*{says}"):
        config.load(None, [f"data.train.0.{field}={value}"])
