"""Whether joints, cameras and bodies of a table fit: units, projection, and which side is left."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ipr.findings import Finding, Part
from ipr.geometry import cam_to_img
from ipr.types import Camera, PoseTable

LIMB_MM = 150.0, 700.0  # thighs and shins of people, children too
REPROJECTION = 0.02  # of the person's size; Human3.6M without its lens distortion has 0.003
CLEAR = 0.1  # evidence of one person for where left is, from which on it counts
CLEAR_ROWS = 10
_SIDES = ("hip", "knee", "ankle", "shoulder")


def geometry_findings(some: Part) -> Iterator[Finding]:
    """Of rows whose boxes and labels are finite."""
    yield from _cam_numbers(some)
    if all(np.isfinite(array).all() for array in _cam_arrays(some.table)):
        yield from _units(some)
        yield from _depths(some)
        yield from _camera(some)
        yield from _sides(some)


def _cam_arrays(table: PoseTable) -> list[np.ndarray]:
    found = [table.joints_cam, table.root_depth, *(table.camera or ())]
    return [array for array in found if array is not None]


def _cam_numbers(some: Part) -> Iterator[Finding]:
    count = len(some.rows)
    bad = np.zeros(count, bool)
    for array in _cam_arrays(some.table):
        bad |= ~np.isfinite(array.reshape(count, -1)).all(1)
    fix = "correct the annotation: the camera, root_depth and joints_cam of every row must be numbers"
    yield from some.finding("error", bad, "numbers of the camera or of joints_cam that are not finite", fix)


def _units(some: Part) -> Iterator[Finding]:
    table = some.table
    if table.joints_cam is None:
        if table.depth_unit == "mm" and table.weight[..., 2].any():
            reach = float(np.median(np.ptp(table.depth, axis=1)))
            if reach < 5:
                what = f"depth reaches over {reach:.3g} mm from joint to joint: it is in metres"
                yield Finding("error", what, "multiply it by 1000", len(table), len(table))
        return
    limbs = _limbs(table)
    if not np.isfinite(limbs).any():
        return
    median = float(np.nanmedian(limbs))
    units = {"metres": 1000.0, "centimetres": 10.0, "tenths of a mm": 0.1, "micrometres": 1e-3}
    if not LIMB_MM[0] <= median <= LIMB_MM[1]:
        unit = next((n for n, f in units.items() if LIMB_MM[0] <= median * f <= LIMB_MM[1]), None)
        usual = f"people's are {LIMB_MM[0]:g} to {LIMB_MM[1]:g}"
        what = f"thighs and shins are {median:.3g} mm long (median), {usual}"
        fix = (
            f"joints_cam is in {unit}: multiply it by {units[unit]:g}"
            if unit
            else "check the unit of joints_cam"
        )
        yield Finding("error", what, fix, len(table), len(table))
    odd = (limbs < median / 2.5) | (limbs > median * 2.5)
    what = f"people whose thighs and shins are far from the median of {median:.3g} mm"
    fix = "look at them: a joint may be wrong, or the order of the joints another"
    yield from some.finding("warning", odd, what, fix, [f"{length:.3g} mm" for length in limbs])


def _limbs(table: PoseTable) -> np.ndarray:
    """[n] mean length of thighs and shins, mm; NaN where a joint of the legs has no label."""
    assert table.joints_cam is not None
    names = [[f"{side}_{joint}" for joint in ("hip", "knee", "ankle")] for side in ("left", "right")]
    legs = [[table.skeleton.joints.index(name) for name in side] for side in names]
    lengths = np.linalg.norm(np.diff(table.joints_cam[:, legs], axis=2), axis=-1).mean((1, 2))
    return np.where((table.weight[:, legs, 2] != 0).all((1, 2)), lengths, np.nan)


def _depths(some: Part) -> Iterator[Finding]:
    table = some.table
    if table.joints_cam is None:
        return
    z = table.joints_cam[..., 2]
    root = z[:, table.skeleton.root]
    if table.depth_unit == "mm":
        off = np.where(table.weight[..., 2] != 0, np.abs(table.depth - (z - root[:, None])), 0).max(1)
        fix = "depth must be z - z of the root, in mm, of the same joints"
        yield from some.finding("error", off > 1, "depth does not belong to joints_cam", fix, off.round(1))
    if table.root_depth is not None:
        off = np.abs(table.root_depth - root)
        fix = "root_depth must be the root's z in joints_cam, in mm"
        yield from some.finding(
            "error", off > 1, "root_depth does not belong to joints_cam", fix, off.round(1)
        )


def _camera(some: Part) -> Iterator[Finding]:
    table = some.table
    if table.joints_cam is None or table.camera is None:
        return
    known = (table.weight[..., :2] != 0).all(2)
    allowed = np.maximum(REPROJECTION * table.boxes_xywh[:, 2:].max(1), 1.0)

    def error(joints_cam: np.ndarray, camera: Camera, joints_img: np.ndarray) -> np.ndarray:
        """[n] mean distance, px; where a joint is behind the camera, none is right."""
        with np.errstate(all="ignore"):
            distance = np.linalg.norm(cam_to_img(joints_cam, camera) - joints_img, axis=-1)
        distance = np.where(np.isfinite(distance) & (joints_cam[..., 2] > 0), distance, np.inf)
        return np.where(known, distance, 0).sum(1) / np.maximum(known.sum(1), 1)

    cam, camera, img = table.joints_cam, table.camera, table.joints_img
    off = error(cam, camera, img)
    bad = off > allowed
    fix = "check the camera of these rows: focal, center and distortion in px of this image"
    if bad.mean() > 0.5:
        world = (cam - camera.t[:, None]) @ camera.R  # as the reader must have seen it
        turned, t = camera.R.swapaxes(1, 2), camera.t[:, None]
        tries = {
            "t is the camera's position, X_cam = R (X - t): give -R t": ((world - t) @ turned, camera, img),
            "t is the translation, X_cam = R X + t, and was taken for the camera's position": (
                world @ turned - t @ camera.R,
                camera,
                img,
            ),
            "R is transposed": (world @ camera.R + t, camera, img),
            "joints_cam is in world axes: apply R and t": (cam @ turned + t, camera, img),
            "y of joints_cam points up: change its sign": (cam * [1, -1, 1], camera, img),
            "left and right are exchanged in joints_img or in joints_cam": (
                *(cam, camera),
                img[:, list(table.skeleton.flip_permutation)],
            ),
            "x and y of the centre are exchanged": (cam, camera._replace(center=camera.center[:, ::-1]), img),
        }
        for text, (joints_cam, other, joints_img) in tries.items():
            if (error(joints_cam, other, joints_img) <= allowed).mean() > 0.9:
                fix = f"with this the joints meet: {text}"
                break
        else:
            with np.errstate(all="ignore"):
                ratio = float(np.median((img / cam_to_img(cam, camera))[known]))
            if abs(ratio - 1) > 0.02:
                fix += f"; joints_img is about {ratio:.3g} times the projection: were the images resized?"
    what = f"joints_cam seen by the camera is off joints_img (median of all {np.median(off):.3g} px)"
    level = "error" if bad.mean() > 0.01 else "warning"
    yield from some.finding(level, bad, what, fix, [f"{distance:.4g} px" for distance in off])


def _sides(some: Part) -> Iterator[Finding]:
    evidence, sure = side_evidence(some.table)
    clear = np.abs(evidence) > CLEAR
    if clear.sum() < CLEAR_ROWS:
        return
    share = float((evidence[clear] > 0).mean())
    said = f"{1 - share:.0%} of the {clear.sum()} people of whom it can be told have left and right exchanged"
    wrong = clear & (evidence < 0)
    if share < 0.35:
        level = "error" if sure and share < 0.2 else "warning"
        fix = "exchange the names of left and right joints in the annotations" + (
            "" if sure else " (from 2-D alone this is a guess: look at the contact sheet)"
        )
        yield from some.finding(level, wrong, f"{said}, judged by {_how(some.table)}", fix)
        return
    for name, values in (some.table.group or {}).items():
        for value in np.unique(values)[:1000]:
            own = clear & (values == value)
            if own.sum() >= CLEAR_ROWS and (evidence[own] > 0).mean() < 0.2:
                what = f"left and right seem exchanged where {name} is {value}, judged by {_how(some.table)}"
                yield from some.finding("warning", own & wrong, what, "look at these rows in the pictures")


def _how(table: PoseTable) -> str:
    if table.joints_cam is not None or table.weight[..., 2].any():
        return "which way knees bend and faces look"
    eyes = "left_eye" in table.skeleton.joints
    return "eyes that are seen, which look at the camera" if eyes else "people mostly facing the camera"


def side_evidence(table: PoseTable) -> tuple[np.ndarray, bool]:
    """[n] positive where left is left, about 0 where one cannot tell; and whether it comes from 3-D.

    3-D: left - right hip and shoulder x upwards is the direction that a person faces; knees bend and noses
    stick out that way. The sign is the same for any positive scale of the axes. 2-D: of a face that is seen,
    the left eye is on the right; without eyes, the shoulders of most people in photographs are so.
    """
    joints = table.skeleton.joints

    def at(name: str) -> np.ndarray:
        return points[:, joints.index(name)]

    def known(*names: str) -> np.ndarray:
        return (table.weight[:, [joints.index(name) for name in names], 0] != 0).all(1)

    points: np.ndarray = table.joints_img
    if table.joints_cam is None and not table.weight[..., 2].any():
        pair = "eye" if "left_eye" in joints else "shoulder"
        apart = (at(f"left_{pair}") - at(f"right_{pair}"))[:, 0] / np.maximum(table.boxes_xywh[:, 2], 1)
        return np.where(known(f"left_{pair}", f"right_{pair}"), np.sign(apart), 0.0), False
    if table.joints_cam is not None:
        points = table.joints_cam
    else:
        points = np.concatenate([table.joints_img, table.depth[..., None]], 2)
    across = at("left_hip") - at("right_hip") + at("left_shoulder") - at("right_shoulder")
    up = at("left_shoulder") + at("right_shoulder") - at("left_hip") - at("right_hip")
    facing = np.cross(across, up)
    facing /= np.maximum(np.linalg.norm(facing, axis=1, keepdims=True), 1e-9)
    ahead = [2 * at(f"{s}_knee") - at(f"{s}_hip") - at(f"{s}_ankle") for s in ("left", "right")]
    if {"nose", "neck", "head"} <= set(joints):
        ahead.append(2 * at("nose") - at("neck") - at("head"))
    leg = np.linalg.norm(at("left_hip") - at("left_knee"), axis=1) + 1e-9
    evidence = sum((facing * direction).sum(1) for direction in ahead) / leg
    whole = known(*(f"{side}_{joint}" for side in ("left", "right") for joint in _SIDES))
    return np.where(whole, evidence, 0.0), True
