"""Painting a region of a row's image: surfaces into one depth buffer, then shading, blur and noise.

All is painted straight onto the lattice of the wanted scale (pixel (u, v) at img (u, v)/scale), and every
texture and grain of noise is a function of the scene or of the lattice: regions agree where they overlap.
"""

from __future__ import annotations

import cv2
import numpy as np

from ipr.datasets._synthetic import textures
from ipr.datasets._synthetic.body import Subjects
from ipr.datasets._synthetic.pose import Frames
from ipr.datasets._synthetic.raster import (
    Boxes,
    Grid,
    Quadrics,
    boxes,
    hit,
    hit_boxes,
    pack,
    paint_boxes,
    paint_solids,
    quadrics,
    unpack,
)
from ipr.datasets._synthetic.room import paint_room
from ipr.datasets._synthetic.scene import Scene, about_z
from ipr.datasets._synthetic.shade import Hits, shade_boxes, shade_solids

_RIM = 4  # pixels around a picture that blur and contact shade look at

# How far under the skin a joint of h36m_18 may lie and still count as seen, mm.
_FLESH = np.array(
    [190, 150, 85, 70, 150, 85, 70, 175, 110, 45, 60, 100, 65, 50, 100, 65, 50, 160], dtype=float
)


def all_quadrics(
    subjects: Subjects, subject: np.ndarray, frames: Frames, scene: Scene, rows: np.ndarray
) -> Quadrics:
    """Solids of the bodies [N, P], then the round objects [N, M], of ``rows`` [N] before their cameras.

    ``subject`` [N] indexes ``subjects``; ``frames`` are of these rows.
    """
    s, o, R, t = subjects.solids, scene.objects, scene.R[rows, None], scene.t[rows, None]
    rotation = (R @ frames.rotation)[:, s.frame]
    origin = (R @ frames.origin[..., None])[..., 0] + t
    base = (rotation @ s.base[subject][..., None])[..., 0] + origin[:, s.frame]
    upright = (R @ o.round_base[rows][..., None])[..., 0] + t
    radius = o.round_radius[rows]
    return quadrics(
        np.concatenate([rotation @ s.axes, np.broadcast_to(R, (*radius.shape, 3, 3))], axis=1),
        np.concatenate([base, upright], axis=1),
        np.concatenate([s.length[subject], o.round_length[rows]], axis=1),
        np.concatenate([s.section[subject], np.stack([radius, radius], axis=-1)], axis=1),
        np.concatenate([s.radius[subject], np.broadcast_to(o.round_profile, (*radius.shape, 3))], axis=1),
    )


def object_boxes(scene: Scene, rows: np.ndarray) -> Boxes:
    o, R = scene.objects, scene.R[rows, None]
    center = (R @ o.center[rows][..., None])[..., 0] + scene.t[rows, None]
    return boxes(R @ about_z(o.yaw[rows]), center, o.half[rows])


def visibility(
    subjects: Subjects, subject: np.ndarray, frames: Frames, scene: Scene, joints_cam: np.ndarray
) -> np.ndarray:
    """[N, J] bool: nothing but the flesh around a joint [N, J, 3] lies between it and the camera."""
    seen = np.empty(joints_cam.shape[:2], dtype=bool)
    parts = len(subjects.solids.frame)
    for start in range(0, len(seen), 256):
        rows = np.arange(start, min(start + 256, len(seen)))
        z = joints_cam[rows, :, 2]
        d = joints_cam[rows] / z[..., None]
        some = Frames(frames.rotation[rows], frames.origin[rows])
        solids = hit(all_quadrics(subjects, subject[rows], some, scene, rows), d)
        body, things = solids[..., :parts].max(-1), solids[..., parts:].max(-1)
        things = np.maximum(things, hit_boxes(object_boxes(scene, rows), d).max(-1))
        seen[rows] = (body * (z - _FLESH) <= 1) & (things * z <= 1)
    return seen


class Painter:
    """Paints regions of the rows of a table."""

    def __init__(
        self, subjects: Subjects, subject: np.ndarray, frames: Frames, scene: Scene, held_out: bool
    ) -> None:
        self._subjects, self._subject, self._scene, self._held_out = subjects, subject, scene, held_out
        self._frames = Frames(frames.rotation.astype(np.float32), frames.origin.astype(np.float32))

    def grid(self, row: int, x0: float, y0: float, x1: float, y1: float, scale: float) -> Grid:
        """The lattice over img x0 .. x1, y0 .. y1 (inclusive)."""
        u0, v0, u1, v1 = np.floor(x0 * scale), np.floor(y0 * scale), np.ceil(x1 * scale), np.ceil(y1 * scale)
        size = int(u1 - u0) + 1, int(v1 - v0) + 1
        return Grid(int(u0), int(v0), *size, scale, self._scene.focal[row], self._scene.center[row])

    def _solids(self, row: int) -> Quadrics:
        at = np.array([row])
        frames = Frames(self._frames.rotation[at].astype(float), self._frames.origin[at].astype(float))
        many = all_quadrics(self._subjects, self._subject[at], frames, self._scene, at)
        return Quadrics(*(field[0] for field in many))

    def silhouette(self, row: int, grid: Grid) -> np.ndarray:
        """[h, w, 3] uint8: 255 where the body is."""
        buffer = np.zeros((grid.height, grid.width), np.int32)
        parts = len(self._subjects.solids.frame)
        paint_solids(Quadrics(*(field[:parts] for field in self._solids(row))), 1, grid, buffer)
        return cv2.merge([np.where(buffer > 0, np.uint8(255), np.uint8(0))] * 3)

    def picture(self, row: int, inner: Grid) -> np.ndarray:
        """[h, w, 3] uint8."""
        grid = inner.widened(_RIM)
        scene = self._scene
        body_frames = Frames(self._frames.rotation[row], self._frames.origin[row])
        room = paint_room(scene, row, grid, body_frames, self._held_out)
        buffer = pack(room.depth, 0)
        solids = self._solids(row)
        crates = Boxes(*(field[0] for field in object_boxes(scene, np.array([row]))))
        count = len(solids.length)
        paint_boxes(crates, count + 1, grid, buffer)
        paint_solids(solids, 1, grid, buffer)
        depth, ids = unpack(buffer)

        # What lies behind a near edge is darker beside it: unsharp masking of the depth (Luft et al. 2006).
        shade = cv2.blur(depth, (5, 5))
        shade = np.clip((depth - shade) * np.float32(2.2 * abs(scene.t[row, 2])), -0.28, 0.0) + np.float32(1)
        room.light[...] *= shade
        tint = scene.tint[row].astype(np.float32)
        image = cv2.multiply(room.texture, cv2.merge([room.light * c for c in tint]), dtype=cv2.CV_32F)
        dx, dy = grid.rays()
        shown = np.flatnonzero(ids)
        line, column = np.divmod(shown, grid.width)
        hits = Hits(ids.ravel()[shown].astype(np.intp) - 1, 1 / depth.ravel()[shown], dx[column], dy[line])
        on_solid, on_box = np.flatnonzero(hits.k < count), np.flatnonzero(hits.k >= count)
        colors = np.empty((3, len(shown)), np.float32)
        if len(on_solid):
            person = int(self._subject[row])
            colors[:, on_solid] = shade_solids(
                scene, self._subjects, person, row, solids, hits.of(on_solid, 0)
            )
        if len(on_box):
            colors[:, on_box] = shade_boxes(scene, row, hits.of(on_box, count))
        colors *= shade.ravel()[shown]
        colors *= tint[:, None]
        image.reshape(-1, 3)[shown] = colors.T
        return self._develop(row, inner, image)

    def _develop(self, row: int, inner: Grid, image: np.ndarray) -> np.ndarray:
        """The lens's blur and the sensor's noise."""
        scene = self._scene
        sigma = float(np.hypot(0.45, scene.blur[row] * inner.scale))
        image = cv2.GaussianBlur(image, (5, 5), sigma)[_RIM:-_RIM, _RIM:-_RIM]
        tile, out = textures.sensor_noise(), np.empty(image.shape, np.uint8)
        side = len(tile) // 2
        for y in range(0, inner.height, side):
            for x in range(0, inner.width, side):
                block = image[y : y + side, x : x + side]
                v, u = (inner.v0 + y + 71 * row) % side, (inner.u0 + x + 113 * row) % side
                noise = tile[v : v + block.shape[0], u : u + block.shape[1]]
                cv2.addWeighted(
                    block,
                    1.0,
                    noise,
                    float(scene.noise[row]),
                    0.0,
                    out[y : y + side, x : x + side],
                    cv2.CV_8U,
                )
        return out
