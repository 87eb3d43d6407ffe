"""The files in which MPII Human Pose is on people's disks, each read to the same ``People``.

All of them count pixels from 1, as MATLAB does; ``People`` counts from 0. (The COCO-style file too: its maker
copied the numbers of the official one.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ipr import skeleton
from ipr.datasets import _coco_json
from ipr.datasets._listed import read_json, read_mat

MAT = "mpii_human_pose_v1_u12_1.mat"
JOINTS = skeleton.by_name("mpii_16").joints
HEAD_FACTOR = 0.6  # PCKh's head size, of the head box's diagonal
_SPELLINGS = {  # of the COCO-style files, as their makers have them
    **{joint.replace("right", "r").replace("left", "l"): joint for joint in JOINTS},
    "throax": "thorax",
    "upper_neck": "neck",
    "head_top": "head",
}


class People(NamedTuple):
    """In the order of the file; NaN where something is not annotated."""

    images: list[str]  # [N] names in images/
    joints_img: np.ndarray  # [N, 16, 2] px
    seen: np.ndarray  # [N, 16] bool, labelled
    center: np.ndarray | None = None  # [N, 2] px
    scale: np.ndarray | None = None  # [N] height of the person / 200 px
    head_size: np.ndarray | None = None  # [N] px
    image_sizes: np.ndarray | None = None  # [N, 2] (height, width) px
    note: str = ""


class Layout(NamedTuple):
    """One way to store the annotations."""

    name: str
    mark: str  # glob pattern that tells it
    files: dict[str, str]  # by split; those that it does not have are missing
    read: Callable[[Path, str], People]


def head_boxes_file(path: Path) -> Path:
    """Where the head boxes of a list are: gt_valid.mat of valid.json, mpii_gt_val.mat of mpii_val.json."""
    name = path.stem.removeprefix("mpii_")
    return path.with_name(f"{'mpii_' if name != path.stem else ''}gt_{name}.mat")


def read_list(path: Path, split: str) -> People:
    """The list of people with centre, scale and joints of simple-baselines, mmpose and others."""
    content = read_json(path)
    if not isinstance(content, list):
        raise ValueError(f"{path}: need a list of people with image, center, scale, joints and joints_vis")
    count = len(content)
    joints, seen = np.zeros((count, len(JOINTS), 2)), np.zeros((count, len(JOINTS)), bool)
    images, center, scale = [], np.full((count, 2), np.nan), np.full(count, np.nan)
    for i, person in enumerate(content):
        try:
            images.append(person["image"])
            center[i], scale[i] = _exactly(2, person["center"]), float(person["scale"])
            if split != "test":  # whose joints are unknown, whatever the file says
                joints[i] = _exactly(2 * len(JOINTS), person["joints"]).reshape(-1, 2)
                seen[i] = _exactly(len(JOINTS), person["joints_vis"]) > 0
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: person {i} has no {error}: need image, center, scale, joints and joints_vis"
            ) from None
        except ValueError:
            raise ValueError(
                f"{path}: person {i} ({person['image']}): need 2 numbers in center, 1 in scale, "
                f"{len(JOINTS)} x 2 in joints and {len(JOINTS)} in joints_vis"
            ) from None
    center[center[:, 0] == -1] = np.nan  # how these lists write that there is none
    people = People(images, joints - 1, seen, center - 1, scale)
    heads = head_boxes_file(path)
    if split == "test" or not heads.is_file():
        return people._replace(note="no head boxes")
    return _with_heads(people, heads)


def _exactly(count: int, values: Any) -> np.ndarray:
    array = np.asarray(values, np.float64).ravel()
    if len(array) != count:
        raise ValueError(f"{len(array)} numbers in place of {count}")
    return array


def _with_heads(people: People, path: Path) -> People:
    content = read_mat(path)
    count = len(people.images)
    if absent := {"headboxes_src", "pos_gt_src", "jnt_missing"} - content.keys():
        raise ValueError(f"{path}: has no {', '.join(sorted(absent))}: need the file of simple-baselines")
    try:
        corners = np.asarray(content["headboxes_src"], np.float64).reshape(2, 2, count)  # corner, x or y
        positions = np.asarray(content["pos_gt_src"], np.float64).reshape(len(JOINTS), 2, count)
        missing = np.asarray(content["jnt_missing"]).reshape(len(JOINTS), count) != 0
    except ValueError as error:
        raise ValueError(f"{path}: is not of the {count} people of its list: {error}") from None
    both = people.seen & ~missing.T
    apart = np.linalg.norm(positions.transpose(2, 0, 1) - 1 - people.joints_img, axis=-1)[both]
    if len(apart) and np.median(apart) > 10:
        raise ValueError(
            f"{path}: its joints are {np.median(apart):.0f} px (median) from those of the list: "
            "it is of other people, or of another order"
        )
    differing = int((people.seen == missing.T).sum())
    return people._replace(
        head_size=HEAD_FACTOR * np.linalg.norm(corners[1] - corners[0], axis=0),
        note=f"head boxes of {path.name}"
        + (f", which has {differing} joints more or fewer than the list" if differing else ""),
    )


def read_coco(path: Path, split: str) -> People:
    """COCO's format, as in the integral-regression code of mks0601."""
    listing = _coco_json.read(path, JOINTS, _SPELLINGS)
    return People(
        [listing.file_names[i].removeprefix("images/") for i in listing.image.tolist()],
        listing.keypoints[..., :2] - 1,
        listing.keypoints[..., 2] > 0,
        image_sizes=listing.image_sizes[listing.image],
    )


def read_release(path: Path, split: str) -> People:
    """The official MATLAB file. Of the test split it has centres and scales, but no joints and no heads."""
    release: Any = read_mat(path).get("RELEASE")
    try:
        annotations, is_train = _items(release.annolist), np.atleast_1d(release.img_train)
    except AttributeError:
        raise ValueError(
            f"{path}: need the official file: a struct RELEASE with annolist, img_train"
        ) from None
    if len(annotations) != len(is_train):
        raise ValueError(f"{path}: annolist has {len(annotations)} images, img_train {len(is_train)}")
    images: list[str] = []
    people: list[tuple[Any, ...]] = []
    for number in np.flatnonzero((is_train != 0) == (split != "test")).tolist():
        try:
            found = [_person(person) for person in _items(getattr(annotations[number], "annorect", ()))]
            images += [annotations[number].image.name] * len(found)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: image {number} of annolist: {error}") from None
        people += found
    if not people:
        raise ValueError(f"{path}: has no people in the split {split}")
    joints, seen, center, scale, head = map(np.array, zip(*people, strict=True))
    head_size = HEAD_FACTOR * np.linalg.norm(head[:, 2:] - head[:, :2], axis=1)
    return People(images, joints - 1, seen, center - 1, scale, None if split == "test" else head_size)


def _person(person: Any) -> tuple[np.ndarray, np.ndarray, tuple[float, float], float, list[float]]:
    joints, seen = np.zeros((len(JOINTS), 2)), np.zeros(len(JOINTS), bool)
    for point in _items(getattr(getattr(person, "annopoints", None), "point", ())):
        joint = int(point.id)
        if not 0 <= joint < len(JOINTS):
            raise ValueError(f"a joint has the id {joint}: need 0..{len(JOINTS) - 1}")
        joints[joint], seen[joint] = (point.x, point.y), True
    position = getattr(person, "objpos", None)
    head = [_number(person, corner) for corner in ("x1", "y1", "x2", "y2")]
    return joints, seen, (_number(position, "x"), _number(position, "y")), _number(person, "scale"), head


def _items(value: Any) -> np.ndarray:
    """The structs of a struct array. scipy gives an array of one as its struct, one of none as numbers."""
    return np.empty(0, object) if value is None else np.atleast_1d(np.asarray(value, object))


def _number(struct: Any, field: str) -> float:
    value = np.asarray(getattr(struct, field, np.nan), np.float64)
    return float(value) if value.ndim == 0 else np.nan  # empty where not annotated


_STYLED = "annotations/train.json"
_UNDIVIDED = ("train", "trainval")
_ARCHIVED = f"mpii_human_pose_v1_u12_2/{MAT}"  # as the archive unpacks
LAYOUTS = (
    Layout(
        "simple-baselines",
        "annot/*.json",
        {split: f"annot/{split}.json" for split in ("train", "valid", "trainval", "test")},
        read_list,
    ),
    Layout(
        "mmpose",
        "annotations/mpii_*.json",
        {
            **{split: f"annotations/mpii_{split}.json" for split in ("train", "trainval", "test")},
            "valid": "annotations/mpii_val.json",
        },
        read_list,
    ),
    Layout("COCO-style", _STYLED, dict.fromkeys(_UNDIVIDED, _STYLED), read_coco),
    Layout("official", MAT, dict.fromkeys((*_UNDIVIDED, "test"), MAT), read_release),
    Layout("official", _ARCHIVED, dict.fromkeys((*_UNDIVIDED, "test"), _ARCHIVED), read_release),
)
