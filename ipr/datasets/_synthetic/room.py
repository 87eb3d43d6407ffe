"""Floor and walls of a row's room, and the shadow on the floor."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from ipr.datasets._synthetic import textures
from ipr.datasets._synthetic.pose import FRAMES, Frames
from ipr.datasets._synthetic.raster import Grid
from ipr.datasets._synthetic.scene import Objects, Scene

_CELLS, _CELL_MM = 128, 36.0  # of the map of the shadow
_FLAGS = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
_SHADE = 0.72  # share of the direct light that a shadow takes
_WALLS = (
    (0, 1.0),
    (0, -1.0),
    (1, 1.0),
    (1, -1.0),
)  # axis and direction of the walls' normals, as in Scene.walls
_AT = {name: i for i, name in enumerate(FRAMES)}
_TIPS = ("head", "left_hand", "right_hand", "left_foot", "right_foot")
_TIP_MM = np.array([[0, 10, 190], [0, 0, -130], [0, 0, -130], [0, 140, -50], [0, 140, -50]], np.float32)
# Strokes between two joints (or a joint and the tip of its frame) and their widths in mm.
_STROKES = (
    ("pelvis", "chest", 280), ("chest", "head", 280), ("head", "head tip", 150),
    *((f"{side}_{a}", f"{side}_{b}", width)
    for side in ("left", "right")
    for a, b, width in (
        ("upper_arm", "forearm", 95), ("forearm", "hand", 72), ("hand", "hand tip", 72),
        ("thigh", "shin", 145), ("shin", "foot", 95), ("foot", "foot tip", 95),
    )),
)  # fmt: skip
_POINTS = (*FRAMES, *(f"{name} tip" for name in _TIPS))
_STROKE_ENDS = np.array([[_POINTS.index(a), _POINTS.index(b)] for a, b, _ in _STROKES])


class Room(NamedTuple):
    """What a grid sees of the empty room."""

    texture: np.ndarray  # [h, w, 3] uint8, unlit
    light: np.ndarray  # [h, w] float32, about 0..1
    depth: np.ndarray  # [h, w] float32, 1/mm: the inverse depth


def paint_room(scene: Scene, row: int, grid: Grid, frames: Frames, held_out: bool) -> Room:
    """``frames`` is the body [16, ...] that throws the shadow."""
    R, eye = scene.R[row], -scene.R[row].T @ scene.t[row]
    rx, ry, rz = R.T @ grid.to_ray  # directions of the pixels in world axes
    reach = np.array([-eye[2], *(scene.walls[row] - eye[[0, 0, 1, 1]])])  # to each plane along its axis
    planes = np.stack([rz, rx, rx, ry, ry]) / reach[:, None]
    corners = np.array([[0, 0, 1], [grid.width, 0, 1], [0, grid.height, 1], [grid.width, grid.height, 1]])
    i = np.arange(grid.width, dtype=np.float32)[None, :]
    j = np.arange(grid.height, dtype=np.float32)[:, None]
    depth = np.zeros((grid.height, grid.width), np.float32)
    which = np.zeros(depth.shape, np.uint8)
    visible = np.flatnonzero((corners @ planes.T).max(0) > 0).tolist()
    for number in visible:  # inside a convex room the nearest plane is the one that is seen
        a, b, c = planes[number].astype(np.float32)
        w = a * i + (b * j + c)
        nearer = w > depth
        np.copyto(depth, w, where=nearer)
        np.copyto(which, np.uint8(number), where=nearer)

    texture = np.zeros((*depth.shape, 3), np.uint8)
    light = np.ones(depth.shape, np.float32)
    pixel_mm = abs(scene.t[row, 2]) / (scene.focal[row, 0] * grid.scale)
    ambient = float(scene.ambient[row])
    for number in visible:
        mask = which == number
        on_rows, on_columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(on_rows):
            continue
        y0, y1, x0, x1 = on_rows[0], on_rows[-1] + 1, on_columns[0], on_columns[-1] + 1
        mask = mask[y0:y1, x0:x1]
        window = np.array([[1, 0, x0], [0, 1, y0], [0, 0, 1.0]])
        size = (int(x1 - x0), int(y1 - y0))
        if number == 0:
            to_plane = np.stack([eye[0] * rz - eye[2] * rx, eye[1] * rz - eye[2] * ry, rz]) @ window
            level = _level(2.0 * pixel_mm / textures.FLOOR_MM)
            picture = textures.floor(int(scene.floor_number[row]), held_out)[level]
            to_texel = np.diag([1 / (textures.FLOOR_MM * 2**level)] * 2 + [1.0]) @ to_plane
            painted = cv2.warpPerspective(picture, to_texel, size, flags=_FLAGS, borderMode=cv2.BORDER_WRAP)
            shadow, middle = _shadow(scene.light[row], scene.objects, row, frames)
            offset = _CELLS / 2 - middle / _CELL_MM
            to_cell = (
                np.array([[1 / _CELL_MM, 0, offset[0]], [0, 1 / _CELL_MM, offset[1]], [0, 0, 1]]) @ to_plane
            )
            shade = cv2.warpPerspective(shadow, to_cell, size, flags=_FLAGS)
            np.copyto(
                light[y0:y1, x0:x1], 1 - shade * np.float32(_SHADE * (1 - 0.5 * ambient) / 255), where=mask
            )
        else:
            axis, inward = _WALLS[number - 1]
            across, along = (rx, ry) if axis == 0 else (ry, rx)
            level = _level(1.4 * pixel_mm / textures.WALL_MM)
            picture = textures.wall(int(scene.wall_number[row, number - 1]), held_out)[level]
            mm = textures.WALL_MM * 2**level
            column = eye[1 - axis] * across + reach[number] * along
            line = (mm * picture.shape[0] - eye[2]) * across - reach[number] * rz
            to_texel = np.stack([column / mm, line / mm, across]) @ window
            painted = cv2.warpPerspective(
                picture, to_texel, size, flags=_FLAGS, borderMode=cv2.BORDER_REFLECT
            )
            facing = max(0.0, inward * float(scene.light[row, axis]))
            np.copyto(
                light[y0:y1, x0:x1],
                np.float32(0.62 + 0.3 * ambient + 0.35 * (1 - ambient) * facing),
                where=mask,
            )
        cv2.copyTo(painted, mask.view(np.uint8), texture[y0:y1, x0:x1])
    return Room(texture, light, depth)


def _level(texels_per_pixel: float) -> int:
    """Of a pyramid of four: the finest whose texels are not smaller than half a pixel."""
    return int(np.clip(np.log2(max(texels_per_pixel, 1.0)), 0, 3))


def _shadow(light: np.ndarray, objects: Objects, row: int, frames: Frames) -> tuple[np.ndarray, np.ndarray]:
    """Map [128, 128] uint8 of the shadow on the floor around the person, and its middle [2] mm world."""
    slide = light[:2] / light[2]
    tips = np.array([_AT[name] for name in _TIPS])
    ends = frames.origin[tips] + (frames.rotation[tips] @ _TIP_MM[..., None])[..., 0]
    points = np.concatenate([frames.origin, ends])
    middle = points[0, :2] - slide * points[0, 2]

    def cast(world: np.ndarray) -> np.ndarray:
        """1/16 cells, as OpenCV draws them."""
        ground = world[..., :2] - slide * world[..., 2:] - middle
        return np.rint((ground / _CELL_MM + _CELLS / 2) * 16).clip(-30000, 30000).astype(np.int32)

    shadow = np.zeros((_CELLS, _CELLS), np.uint8)
    for (a, b), (_, _, width) in zip(cast(points)[_STROKE_ENDS].tolist(), _STROKES, strict=True):
        cv2.line(shadow, a, b, 255, round(width / _CELL_MM), cv2.LINE_8, 4)
    for corners in cast(objects.corners(row)):
        cv2.fillConvexPoly(shadow, cv2.convexHull(corners), 255, cv2.LINE_8, 4)
    posts, radii = objects.posts(row)
    for (a, b), radius in zip(cast(posts).tolist(), radii.tolist(), strict=True):
        cv2.line(shadow, a, b, 255, max(1, round(2 * radius / _CELL_MM)), cv2.LINE_8, 4)
    return cv2.GaussianBlur(shadow, (5, 5), 1.4), middle
