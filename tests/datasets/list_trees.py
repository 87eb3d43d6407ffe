"""Small MPII and COCO trees on disk, in each layout, of people that are known: what a reader must give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from scipy.io import savemat

from ipr.skeleton import by_name

MPII_NAMES = (  # of the joints, as COCO-style files write them
    *("r_ankle", "r_knee", "r_hip", "l_hip", "l_knee", "l_ankle", "pelvis", "throax"),
    *("upper_neck", "head_top", "r_wrist", "r_elbow", "r_shoulder", "l_shoulder", "l_elbow", "l_wrist"),
)
HEAD_NAMES = (  # as gt_valid.mat does
    *("rank", "rkne", "rhip", "lhip", "lkne", "lank", "pelv", "thor"),
    *("neck", "head", "rwri", "relb", "rsho", "lsho", "lelb", "lwri"),
)


class People(NamedTuple):
    """Pixels count from 0. Images are sorted, so that all layouts have the people in this order."""

    images: list[str]  # [I]
    sizes: np.ndarray  # [I, 2] (height, width)
    image: np.ndarray  # [N] index of each person's
    joints_img: np.ndarray  # [N, J, 2]
    seen: np.ndarray  # [N, J] bool
    boxes_xywh: np.ndarray  # [N, 4] around the person, inside the image
    center: np.ndarray  # [N, 2]
    scale: np.ndarray  # [N]
    head: np.ndarray  # [N, 4] x1, y1, x2, y2


def draw_people(joints: int, count: int = 9, name: str = "{:09d}.jpg", seed: int = 0) -> People:
    """In 4 images. Person 3 has one joint, person 4 two, the others lack one to three or none."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(60, 100, (4, 2))
    image = np.sort(rng.permutation(np.arange(count) % 4))
    extent = sizes[image][:, None, ::-1]
    joints_img = np.round(rng.uniform(0.1, 0.9, (count, joints, 2)) * extent, 3)
    seen = rng.random((count, joints)) < 0.9
    seen[3], seen[4] = np.arange(joints) == 5, np.isin(np.arange(joints), (2, 7))
    center = np.round(rng.uniform(0.3, 0.7, (count, 2)) * extent[:, 0], 1)
    corner = np.round(rng.uniform(0.2, 0.4, (count, 2)) * extent[:, 0], 1)
    low, span = np.full((count, 2), 2.0), np.round(rng.uniform(0.5, 0.9, (count, 2)) * extent[:, 0], 2)
    return People(
        [name.format(137 + 37 * i) for i in range(4)],
        *(sizes, image, joints_img, seen),
        boxes_xywh=np.concatenate([low, span], 1),
        center=center,
        scale=np.round(rng.uniform(0.2, 0.5, count), 4),
        head=np.concatenate([corner, corner + rng.integers(6, 15, (count, 2))], 1),
    )


def write_images(folder: Path, people: People) -> None:
    """The grey level of an image is 20 x (1 + its number)."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, size) in enumerate(zip(people.images, people.sizes, strict=True)):
        assert cv2.imwrite(str(folder / name), np.full((*size, 3), 20 * (1 + number), np.uint8))


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def mpii_list(people: People) -> list[dict[str, Any]]:
    """What annot/<split>.json holds: pixels from 1, missing joints at (-1, -1)."""
    return [
        {
            "joints_vis": people.seen[i].astype(int).tolist(),
            "joints": np.where(people.seen[i, :, None], people.joints_img[i] + 1, -1.0).tolist(),
            "image": people.images[people.image[i]],
            "scale": float(people.scale[i]),
            "center": (people.center[i] + 1).tolist(),
        }
        for i in range(len(people.image))
    ]


def write_head_boxes(path: Path, people: People) -> None:
    missing = ~people.seen
    positions = np.where(missing[..., None], 0, people.joints_img + 1)
    savemat(
        path,
        {
            "dataset_joints": np.array([HEAD_NAMES], object),
            "jnt_missing": missing.T.astype(float),
            "pos_gt_src": positions.transpose(1, 2, 0),
            "headboxes_src": (people.head + 1).reshape(-1, 2, 2).transpose(1, 2, 0),
        },
    )


def write_simple_baselines(root: Path, people: People, split: str = "train") -> None:
    write_images(root / "images", people)
    write_json(root / "annot" / f"{split}.json", mpii_list(people))
    if split == "valid":
        write_head_boxes(root / "annot" / "gt_valid.mat", people)


def write_mmpose(root: Path, people: People, split: str = "train") -> None:
    write_images(root / "images", people)
    short = {"valid": "val"}.get(split, split)
    write_json(root / "annotations" / f"mpii_{short}.json", mpii_list(people))
    if split == "valid":
        write_head_boxes(root / "annotations" / "mpii_gt_val.mat", people)


def write_mpii_coco_style(root: Path, people: People) -> None:
    """As the converter of mks0601 makes it of the official file: the numbers of that, from 1."""
    write_images(root / "images", people)
    keypoints = np.concatenate(
        [np.where(people.seen[..., None], people.joints_img + 1, 0), people.seen[..., None]], 2
    )
    write_json(
        root / "annotations" / "train.json",
        coco_content(
            people._replace(images=[f"images/{name}" for name in people.images]), keypoints, MPII_NAMES
        ),
    )


def write_release(folder: Path, people: People, test_people: int = 3) -> None:
    """``people`` and an empty image to train on, and ``test_people`` images of one person each to test on."""
    write_images(folder / "images", people)
    train = [
        _image(name, [_person(people, i) for i in np.flatnonzero(people.image == number)])
        for number, name in enumerate(people.images)
    ]
    known = {"objpos": {"x": 31.0, "y": 41.0}, "scale": 0.25}
    test = [_image(f"test{i}.jpg", [known]) for i in range(test_people)]
    empty = {"image": {"name": "nobody.jpg"}, "annorect": np.empty((0, 0)), "vididx": 1.0}
    annotations = [empty, *train, *test]
    is_train = np.array([[1, *[1] * len(train), *[0] * len(test)]], np.uint8)
    savemat(
        folder / "mpii_human_pose_v1_u12_1.mat",
        {"RELEASE": {"annolist": _structs(annotations), "img_train": is_train, "version": "12"}},
    )


def _structs(records: list[dict[str, Any]]) -> np.ndarray:
    """A MATLAB struct array [1, n]."""
    array = np.empty((1, len(records)), [(name, object) for name in records[0]])
    for i, record in enumerate(records):
        array[0, i] = tuple(record.values())
    return array


def _image(name: str, people: list[dict[str, Any]]) -> dict[str, Any]:
    return {"image": {"name": name}, "annorect": _structs(people), "vididx": 1.0}


def _person(people: People, i: int) -> dict[str, Any]:
    points = [
        {"x": float(x), "y": float(y), "id": float(joint), "is_visible": np.empty((0, 0))}
        for joint, (x, y) in enumerate(people.joints_img[i] + 1)
        if people.seen[i, joint]
    ]
    head = dict(zip(("x1", "y1", "x2", "y2"), (people.head[i] + 1).tolist(), strict=True))
    x, y = people.center[i] + 1
    return {
        **head,
        "annopoints": {"point": _structs(points)} if points else np.empty((0, 0)),
        "scale": float(people.scale[i]),
        "objpos": {"x": float(x), "y": float(y)},
    }


def coco_content(people: People, keypoints: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """keypoints [N, J, 3] as they are in the file. The image id is the number in the image's name."""
    ids = [int(Path(name).stem.split("_")[-1]) for name in people.images]
    return {
        "images": [
            {"id": ids[i], "file_name": name, "height": int(height), "width": int(width)}
            for i, (name, (height, width)) in enumerate(zip(people.images, people.sizes, strict=True))
        ],
        "annotations": [
            {
                "id": 1000 + i,
                "image_id": ids[image],
                "category_id": 1,
                "iscrowd": 0,
                "bbox": people.boxes_xywh[i].tolist(),
                "area": round(float(people.boxes_xywh[i, 2:].prod()) / 2, 3),
                "num_keypoints": int(people.seen[i].sum()),
                "keypoints": keypoints[i].ravel().tolist(),
            }
            for i, image in enumerate(people.image)
        ],
        "categories": [{"id": 1, "name": "person", "keypoints": list(names), "skeleton": []}],
    }


def write_coco(root: Path, people: People, split: str = "val2017", folder: str = "images/{}") -> Path:
    """Gives the annotations' path. Labelled joints are in turn hidden (1) and visible (2)."""
    write_images(root / folder.format(split), people)
    visible = people.seen * (1 + np.arange(people.seen.shape[1]) % 2)
    keypoints = np.concatenate(
        [np.where(people.seen[..., None], people.joints_img, 0), visible[..., None]], 2
    )
    path = root / "annotations" / f"person_keypoints_{split}.json"
    write_json(path, coco_content(people, keypoints, by_name("coco_17").joints))
    return path
