"""The file of ``own``: its keys, and arrays of the right kinds and shapes (docs/own_format.md)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ipr.choices import not_one_of
from ipr.datasets._listed import read_json
from ipr.skeleton import SKELETONS
from ipr.types import Skeleton

# Axes: M images, N people, J joints, P pairs of joints
TEXTS: dict[str, tuple[str | int, ...]] = {
    "skeleton": (),
    "joints": ("J",),
    "parents": ("J",),
    "flip_pairs": ("P", 2),
    "unit": (),
    "images": ("M",),
    "subject": ("N",),
    "action": ("N",),
}
NUMBERS: dict[str, tuple[str | int, ...]] = {
    "image_width": ("M",),
    "image_height": ("M",),
    "image": ("N",),
    "boxes_xywh": ("N", 4),
    "joints_img": ("N", "J", 2),
    "visible": ("N", "J"),
    "joints_cam": ("N", "J", 3),
    "depth": ("N", "J"),
    "depth_px": ("N", "J"),
    "focal": ("N", 2),
    "center": ("N", 2),
    "R": ("N", 3, 3),
    "t": ("N", 3),
    "distortion": ("N", 5),
}
CAMERA = ("focal", "center", "R", "t", "distortion")
_SHAPES = TEXTS | NUMBERS
_NEEDED = ("images", "image", "joints_img")
_TOGETHER = (("joints", "parents", "flip_pairs"), ("image_width", "image_height"))
_NULLABLE = ("joints_img", "depth", "depth_px")  # null or NaN: not labelled
_LENGTHS = ("joints_cam", "depth", "t")
_MM = {"mm": 1.0, "m": 1000.0}


class OwnFile:
    """``arrays`` by key, those of ``CAMERA`` a row per person, lengths in mm; ``size`` of M, N, J and P.

    ValueError, naming the file and the key, where one is unknown, missing, of another kind or shape, or not
    finite.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        content = _read(path)
        for key in content:
            if key not in _SHAPES:
                raise ValueError(f"{path}: unknown key {key!r}, {not_one_of(key, _SHAPES)}")
        for key in _NEEDED:
            if key not in content:
                raise ValueError(f"{path}: has no {key!r}: need {', '.join(_NEEDED)} and the skeleton")
        for keys in _TOGETHER:
            if any(key in content for key in keys) and not all(key in content for key in keys):
                given = " and ".join(key for key in keys if key in content)
                raise ValueError(f"{path}: has {given}: need {', '.join(keys)} together")
        self.size: dict[str, int] = {}
        self.arrays: dict[str, np.ndarray] = {}
        for key in (*_NEEDED, *(key for key in content if key not in _NEEDED)):  # the first tell M, N and J
            self.arrays[key] = self._checked(key, content[key])
            if key in NUMBERS:
                known = np.isfinite(self.arrays[key]) | (key in _NULLABLE and np.isnan(self.arrays[key]))
                self.refuse(~known, key, "need a finite number")
        self._to_mm()

    def refuse(self, bad: np.ndarray, key: str, why: str) -> None:
        """ValueError with the first value of ``key`` that is ``bad``, a mask over its first axes."""
        places = np.argwhere(bad)
        if len(places):
            at, value = places[0].tolist(), self.arrays[key][tuple(places[0])].tolist()
            more = f"; so are {len(places) - 1} more" if len(places) > 1 else ""
            raise ValueError(f"{self.path}: {key}{''.join(f'[{i}]' for i in at)} is {value}: {why}{more}")

    def _checked(self, key: str, value: Any) -> np.ndarray:
        try:
            array = np.asarray(value)
        except ValueError:  # ragged
            raise ValueError(
                f"{self.path}: {key} has rows of different lengths: need {self._need(key)}"
            ) from None
        array = self._texts(key, array) if key in TEXTS else self._numbers(key, array)
        shape, wanted = array.shape, _SHAPES[key]
        if key in CAMERA and len(shape) == len(wanted) - 1:  # one for all
            shape = (self.size["N"], *shape)
        sizes = dict(self.size)
        if len(shape) != len(wanted) or any(
            have != (need if isinstance(need, int) else sizes.setdefault(need, have))
            for have, need in zip(shape, wanted, strict=True)
        ):
            raise ValueError(f"{self.path}: {key} has the shape {list(array.shape)}: need {self._need(key)}")
        self.size = sizes
        return np.broadcast_to(array, shape)

    def _need(self, key: str) -> str:
        known = ", ".join(f"{axis} = {size}" for axis, size in self.size.items() if axis in _SHAPES[key])
        shape = f"[{', '.join(map(str, _SHAPES[key]))}]" if _SHAPES[key] else "one text"
        return shape + (f" with {known}" if known else "")

    def _texts(self, key: str, array: np.ndarray) -> np.ndarray:
        if array.size == 0:  # an empty list of JSON, whose rows say neither kind nor length
            return np.empty((0, 2) if key == "flip_pairs" else array.shape, str)
        if array.dtype.kind != "U" and not (key in ("subject", "action") and array.dtype.kind in "iu"):
            raise ValueError(
                f"{self.path}: {key} must be of text (in npz: numpy's str), not of {array.dtype}"
            )
        return array

    def _numbers(self, key: str, array: np.ndarray) -> np.ndarray:
        if array.dtype == object and all(it is None or isinstance(it, int | float) for it in array.flat):
            array = array.astype(np.float64)  # null becomes NaN
        if array.dtype.kind not in "iufb":
            raise ValueError(f"{self.path}: {key} must be of numbers: need {self._need(key)}")
        return array.astype(np.float64)

    def _to_mm(self) -> None:
        given = [key for key in _LENGTHS if key in self.arrays]
        unit = str(self.arrays["unit"]) if "unit" in self.arrays else None
        if (given or unit is not None) and unit not in _MM:
            what = "has no unit" if unit is None else f"unit is {unit!r}"
            raise ValueError(f"{self.path}: {what}: need 'mm' or 'm', of {', '.join(_LENGTHS)}")
        for key in given:
            self.arrays[key] = self.arrays[key] * _MM[str(unit)]


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".json":
        content = read_json(path)
        if not isinstance(content, dict):
            raise ValueError(f"{path}: is a {type(content).__name__}: need an object, {{...}}, of arrays")
        return content
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays}
    except Exception as error:  # damage may show in any way
        raise ValueError(
            f"{path}: is no complete npz file of numbers and text (as numpy's savez writes): {error}"
        ) from None


def skeleton_of(own: OwnFile) -> Skeleton:
    """The named skeleton, or the one that joints, parents and flip_pairs describe."""
    arrays = own.arrays
    if ("skeleton" in arrays) == ("joints" in arrays):
        both = "both" if "skeleton" in arrays else "neither"
        raise ValueError(
            f"{own.path}: has {both} of skeleton and joints: need a name, one of {', '.join(SKELETONS)}, or "
            "joints, parents and flip_pairs"
        )
    if "skeleton" in arrays:
        name = str(arrays["skeleton"])
        if name not in SKELETONS:
            raise ValueError(f"{own.path}: skeleton: {name!r} is none, {not_one_of(name, SKELETONS)}")
        skeleton = SKELETONS[name]
        if skeleton.num_joints != own.size["J"]:
            raise ValueError(
                f"{own.path}: joints_img has {own.size['J']} joints: need the {skeleton.num_joints} of {name}"
            )
        return skeleton
    joints: list[str] = arrays["joints"].tolist()
    if len(set(joints)) < len(joints):
        raise ValueError(f"{own.path}: joints: {max(joints, key=joints.count)!r} is there twice")
    for key in ("parents", "flip_pairs"):
        own.refuse(~np.isin(arrays[key], joints), key, f"need one of joints, {', '.join(joints)}")
    parents = [joints.index(parent) for parent in arrays["parents"]]
    pairs = [(joints.index(one), joints.index(other)) for one, other in arrays["flip_pairs"]]
    if len({joint for pair in pairs for joint in pair}) < 2 * len(pairs):
        raise ValueError(f"{own.path}: flip_pairs: a joint is in two pairs, or paired with itself")
    roots = [joint for joint, parent in enumerate(parents) if joint == parent]
    ends = list(range(len(joints)))
    for _ in joints:
        ends = [parents[joint] for joint in ends]
    if len(roots) != 1 or set(ends) != set(roots):
        raise ValueError(
            f"{own.path}: parents: need a tree, in which the root, from which depth is measured, and no "
            f"other joint is its own parent; here {' and '.join(joints[root] for root in roots) or 'none'} is"
        )
    return Skeleton("own", tuple(joints), tuple(parents), tuple(pairs), roots[0])
