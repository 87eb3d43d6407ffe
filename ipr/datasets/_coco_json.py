"""COCO's format of people with keypoints (https://cocodataset.org/#format-data), also used for other sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ipr.choices import not_one_of
from ipr.datasets._listed import read_json

PERSON = 1  # category


class Listing(NamedTuple):
    """A file's images and its annotations of people, those of the first image first."""

    image_id: np.ndarray  # [I]
    file_names: list[str]  # [I]
    image_sizes: np.ndarray  # [I, 2] (height, width) px
    ids: np.ndarray  # [A]
    image: np.ndarray  # [A] index of the image
    boxes_xywh: np.ndarray  # [A, 4] px
    area: np.ndarray  # [A] px^2, of the person's outline
    crowd: np.ndarray  # [A] a box around many
    keypoints: np.ndarray  # [A, J, 3] x, y px and 0 (not labelled), 1 (hidden) or 2 (visible)


def read(path: Path, joints: Sequence[str], spellings: Mapping[str, str] | None = None) -> Listing:
    """``joints`` [J] in the order that is wanted; ``spellings``: how the file writes some of them.

    ValueError naming the file and the entry where something is missing, of a wrong length or not a number.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise ValueError(f"{path}: is not in COCO's format: need an object with 'images' and 'annotations'")
    try:
        images = content["images"]
        image_id = np.array([image["id"] for image in images], np.int64)
        file_names = [image["file_name"] for image in images]
        sizes = np.array([(image["height"], image["width"]) for image in images], np.int64).reshape(-1, 2)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: an image has no {error}: need id, file_name, height and width") from None
    index = {number: i for i, number in enumerate(image_id.tolist())}
    people: list[tuple[Any, ...]] = []
    for number, entry in enumerate(content["annotations"]):
        where = f"{path}: annotation {number} (id {entry.get('id')})"
        try:
            if entry["category_id"] != PERSON:
                continue
            at, box, points = index[entry["image_id"]], entry["bbox"] or (), entry["keypoints"] or ()
            people.append((entry["id"], at, box, entry["area"], bool(entry["iscrowd"]), points))
        except KeyError as error:
            if error.args[0] == entry.get("image_id"):
                raise ValueError(f"{where} is of image {error}, which the file does not list") from None
            raise ValueError(f"{where} has no {error}") from None
        if len(box) != 4 or len(points) != 3 * len(joints):
            raise ValueError(
                f"{where} has {len(box)} numbers in bbox and {len(points)} in keypoints: "
                f"need 4 and 3 x {len(joints)}"
            )
    people.sort(key=lambda person: person[1])  # stable
    columns: Any = zip(*people, strict=True) if people else ((),) * 6
    ids, image, boxes, area, crowd, points = columns
    order = _order(path, content.get("categories", []), joints, spellings or {})
    listing = Listing(
        *(image_id, file_names, sizes),
        ids=np.array(ids, np.int64),
        image=np.array(image, np.int64),
        boxes_xywh=np.array(boxes, np.float64).reshape(-1, 4),
        area=np.array(area, np.float64),
        crowd=np.array(crowd, bool),
        keypoints=np.array(points, np.float64).reshape(len(people), len(joints), 3)[:, order],
    )
    for name, values in (("bbox", listing.boxes_xywh), ("keypoints", listing.keypoints)):
        bad = np.flatnonzero(~np.isfinite(values).all(tuple(range(1, values.ndim))))
        if len(bad):
            raise ValueError(
                f"{path}: {name} of annotation id {listing.ids[bad[0]]}"
                f"{f' and of {len(bad) - 1} more' if len(bad) > 1 else ''}: need finite numbers"
            )
    return listing


def _order(path: Path, categories: Any, joints: Sequence[str], spellings: Mapping[str, str]) -> list[int]:
    """[J] where the file has each joint."""
    named = next((item.get("keypoints") for item in categories if item.get("id") == PERSON), None)
    if not named:
        raise ValueError(f"{path}: 'categories' has no person (id {PERSON}) with the names of its keypoints")
    names = [spellings.get(name, name) for name in named]
    for name in names:
        if name not in joints:
            raise ValueError(f"{path}: keypoint {name!r} is unknown, {not_one_of(name, joints)}")
    if sorted(names) != sorted(joints):
        raise ValueError(f"{path}: names {len(names)} keypoints: need each once of {', '.join(joints)}")
    return [names.index(joint) for joint in joints]
