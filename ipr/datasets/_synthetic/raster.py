"""Which surface a pixel sees: solids and boxes in an inverse-depth buffer.

A pixel's ray is X = d / w, with d = (dx, dy, 1) and w = 1/z. A solid's quadric f(X) = 0 gives
w = lin.d + sign sqrt(d' disc d) where the ray enters it, and a plane gives w = lin.d: polynomials of the
pixel, without a division.

The buffer [h, w] int32 holds the bits of the float32 w, the last eight of them replaced by the surface's id.
Positive floats order as their bits do, so one maximum is the whole depth test (0.15 mm fine at 5 m).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_ID_BITS = 255
_GROUP = 12  # solids whose windows are alike are evaluated together
_NEAR = 150.0  # mm: what comes nearer to the camera is not drawn


class Grid(NamedTuple):
    """Pixels to paint: columns u0 .., rows v0 .. of the lattice whose (u, v) lies at img (u, v)/scale."""

    u0: int
    v0: int
    width: int
    height: int
    scale: float
    focal: np.ndarray  # [2] px
    center: np.ndarray  # [2] px

    def rays(self) -> tuple[np.ndarray, np.ndarray]:
        """dx [width] and dy [height] of the pixels' rays, float32."""
        dx = ((self.u0 + np.arange(self.width)) / self.scale - self.center[0]) / self.focal[0]
        dy = ((self.v0 + np.arange(self.height)) / self.scale - self.center[1]) / self.focal[1]
        return dx.astype(np.float32), dy.astype(np.float32)

    @property
    def to_ray(self) -> np.ndarray:
        """[3, 3] from (column, row, 1) of this grid to d."""
        step = 1.0 / (self.scale * self.focal)
        start = (np.array([self.u0, self.v0]) / self.scale - self.center) / self.focal
        return np.array([[step[0], 0, start[0]], [0, step[1], start[1]], [0, 0, 1.0]])

    def widened(self, rim: int) -> Grid:
        """The grid with ``rim`` more pixels on each side."""
        size = self.width + 2 * rim, self.height + 2 * rim
        return Grid(self.u0 - rim, self.v0 - rim, *size, self.scale, self.focal, self.center)

    def windows(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """[..., 4] first column and row, end column and row of what spans d ``low`` .. ``high`` [..., 2]."""
        origin, size = np.array([self.u0, self.v0]), np.array([self.width, self.height])
        first = np.floor((low * self.focal + self.center) * self.scale - origin)
        last = np.ceil((high * self.focal + self.center) * self.scale - origin) + 1
        return np.concatenate([np.clip(first, 0, size), np.clip(last, 0, size)], axis=-1).astype(int)


class Quadrics(NamedTuple):
    """Solids before a camera, [..., P]."""

    axes: np.ndarray  # [..., P, 3, 3] columns: own axes in cam
    base: np.ndarray  # [..., P, 3] mm cam
    shift: np.ndarray  # [..., P, 3] base along the own axes
    form: np.ndarray  # [..., P, 3] diagonal of the quadratic form along the own axes
    slope: np.ndarray  # [..., P] half of the squared radius's linear term along the axis
    length: np.ndarray  # [..., P] mm; 0 = absent
    lin: np.ndarray  # [..., P, 3]
    disc: np.ndarray  # [..., P, 6] of dx², dx dy, dx, dy², dy, 1
    sign: np.ndarray  # [..., P] -1 where the camera is inside the endless quadric
    closed: np.ndarray  # [..., P] an ellipsoid needs no clipping at its ends
    reach: np.ndarray  # [..., P, 2] largest semi-axes of the section, mm


def quadrics(
    axes: np.ndarray, base: np.ndarray, length: np.ndarray, section: np.ndarray, radius: np.ndarray
) -> Quadrics:
    """Solids (see body.Solids) whose ``axes`` [..., P, 3, 3] and ``base`` [..., P, 3] are in camera space."""
    section = np.maximum(section, 1.0)
    start, middle, end = radius[..., 0] ** 2, radius[..., 1] ** 2, radius[..., 2] ** 2
    span = np.maximum(length, 1.0)
    linear = (4 * middle - 3 * start - end) / span
    square = (2 * start - 4 * middle + 2 * end) / span**2
    shift = (base[..., None, :] @ axes)[..., 0, :]
    form = np.concatenate([1 / section**2, -square[..., None]], axis=-1)
    pull = form * shift
    c = (
        pull[..., 0] * shift[..., 0]
        + pull[..., 1] * shift[..., 1]
        + (pull[..., 2] + linear) * shift[..., 2]
        - start
    )
    pull[..., 2] += 0.5 * linear
    lin = (axes @ (pull / c[..., None])[..., None])[..., 0]
    shape = (axes * (form / c[..., None])[..., None, :]) @ axes.swapaxes(-1, -2)
    disc = np.stack([lin[..., a] * lin[..., b] - shape[..., a, b] for a, b in _PAIRS], axis=-1) * _TWICE
    closed = (start == 0) & (end == 0)
    reach = section * radius.max(-1, keepdims=True)
    return Quadrics(axes, base, shift, form, 0.5 * linear, length, lin, disc, np.sign(c), closed, reach)


_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
_TWICE = np.array([1.0, 2.0, 2.0, 1.0, 2.0, 1.0])


def hit(q: Quadrics, d: np.ndarray) -> np.ndarray:
    """[..., J, P] inverse depth of the entry of rays d [..., J, 3] into solids [..., P]; 0 where missed."""
    products = np.stack([d[..., a] * d[..., b] for a, b in _PAIRS], axis=-1)
    root = products @ q.disc.swapaxes(-1, -2)
    met = root > 0
    w = d @ q.lin.swapaxes(-1, -2) + q.sign[..., None, :] * np.sqrt(np.maximum(root, 0))
    along = d @ q.axes[..., 2].swapaxes(-1, -2) - q.shift[..., None, :, 2] * w
    met &= ((along >= 0) & (along <= q.length[..., None, :] * w)) | q.closed[..., None, :]
    met &= (w > 0) & (q.length[..., None, :] > 0)
    return np.where(met, w, 0.0)


def _windows(q: Quadrics, grid: Grid) -> np.ndarray:
    """[P, 4] each solid's window of the grid: around its ellipsoid, or around the discs at its two ends."""
    across = (q.axes[..., :2] * q.reach[:, None, :]) ** 2
    section = np.sqrt(across[..., 0] + across[..., 1])  # [P, 3]
    axis = q.axes[..., 2] * q.length[:, None]
    whole = np.sqrt(section**2 + 0.25 * axis**2)
    closed = q.closed[:, None]
    center = np.where(closed, q.base + 0.5 * axis, np.stack([q.base, q.base + axis]))
    half = np.where(closed, whole, section)
    near = np.maximum(center[..., 2:] - half[..., 2:], _NEAR)
    far = np.maximum(center[..., 2:] + half[..., 2:], _NEAR)
    low, high = center[..., :2] - half[..., :2], center[..., :2] + half[..., :2]
    return grid.windows(np.minimum(low / near, low / far).min(0), np.maximum(high / near, high / far).max(0))


def pack(w: np.ndarray, identity: np.ndarray | int) -> np.ndarray:
    """int32 bits of positive float32 ``w`` with the id in the last eight. Changes ``w``."""
    bits = w.view(np.int32)
    bits &= ~_ID_BITS
    bits |= identity
    return bits


def unpack(buffer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inverse depth float32 and id int32 of a buffer."""
    return (buffer & ~_ID_BITS).view(np.float32), buffer & _ID_BITS


def paint_solids(q: Quadrics, first_id: int, grid: Grid, buffer: np.ndarray) -> None:
    """Paint solids [P] into the buffer [h, w]; the id of solid p is ``first_id`` + p."""
    windows = _windows(q, grid)
    width, height = windows[:, 2] - windows[:, 0], windows[:, 3] - windows[:, 1]
    shown = np.flatnonzero((q.length > 0) & (width > 0) & (height > 0))
    shown = shown[np.lexsort((width[shown], (height[shown] + 3) // 4))]
    # Polynomials of (column, row) counted from the window's corner: float32 is then exact enough.
    sx, sy = 1.0 / (grid.scale * grid.focal)
    ox = ((grid.u0 + windows[:, 0]) / grid.scale - grid.center[0]) / grid.focal[0]
    oy = ((grid.v0 + windows[:, 1]) / grid.scale - grid.center[1]) / grid.focal[1]
    xx, xy, x, yy, y, one = q.disc.T
    lx, ly, l1 = q.lin.T
    ax, ay, a1 = q.axes[..., 2].T
    table = np.stack(
        [
            xx * sx**2, sx * (2 * xx * ox + xy * oy + x), sx * sy * xy,
            yy * sy**2, sy * (2 * yy * oy + xy * ox + y),
            (xx * ox + xy * oy + x) * ox + (yy * oy + y) * oy + one,
            lx * sx, ly * sy, lx * ox + ly * oy + l1, ax * sx, ay * sy, ax * ox + ay * oy + a1,
            -q.shift[:, 2], np.where(q.closed, 1e6, q.length), q.sign,
        ]).astype(np.float32)[..., None, None]  # fmt: skip
    steps = np.arange(max(grid.width, grid.height), dtype=np.float32)
    ids = (first_id + np.arange(len(windows), dtype=np.int32))[:, None, None]
    corners = windows.tolist()
    with np.errstate(invalid="ignore"):
        for start in range(0, len(shown), _GROUP):
            group = shown[start : start + _GROUP]
            xx, x, xy, yy, y, one, lx, ly, l1, ax, ay, a1, shift, length, sign = table[:, group]
            i, j = steps[None, None, : width[group].max()], steps[None, : height[group].max(), None]
            w = j * (xy * i)
            w += (xx * i + x) * i
            w += (yy * j + y) * j + one
            np.sqrt(w, out=w)  # NaN where the ray misses
            w *= sign
            w += lx * i
            w += ly * j + l1
            seen = w > 0
            if not q.closed[group].all():
                along = w * shift
                along += ax * i
                along += ay * j + a1
                seen &= (along >= 0) | q.closed[group, None, None]
                seen &= along <= w * length
            bits = pack(w, ids[group])
            bits *= seen
            for p, layer in zip(group.tolist(), bits, strict=True):
                x0, y0, x1, y1 = corners[p]
                target = buffer[y0:y1, x0:x1]
                np.maximum(target, layer[: y1 - y0, : x1 - x0], out=target)


class Boxes(NamedTuple):
    """Boxes before a camera, [..., K]. Faces are ordered -x +x -y +y -z +z of the box."""

    lin: np.ndarray  # [..., K, 6, 3] inverse depth of each face's plane = lin.d
    front: np.ndarray  # [..., K, 6] faces the camera
    corners: np.ndarray  # [..., K, 8, 3] mm cam
    present: np.ndarray  # [..., K]


_CORNERS = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])


def boxes(axes: np.ndarray, center: np.ndarray, half: np.ndarray) -> Boxes:
    """From ``axes`` [..., K, 3, 3] (columns), ``center`` [..., K, 3], ``half`` [..., K, 3] mm (0: none)."""
    along = (center[..., None, :] @ axes)[..., 0, :]
    plane = np.stack(
        [along - half, along + half], axis=-1
    )  # [..., K, 3, 2] where each face lies along its axis
    plane = np.where(np.abs(plane) < 1.0, 1.0, plane)
    lin = axes.swapaxes(-1, -2)[..., :, None, :] / plane[..., None]
    front = np.stack([plane[..., 0] > 0, plane[..., 1] < 0], axis=-1)
    corners = center[..., None, :] + (_CORNERS * half[..., None, :]) @ axes.swapaxes(-1, -2)
    shape = lin.shape[:-3]
    present = (half[..., 0] > 0) & (corners[..., 2].min(-1) > _NEAR)
    return Boxes(lin.reshape(*shape, 6, 3), front.reshape(*shape, 6), corners, present)


def hit_boxes(b: Boxes, d: np.ndarray) -> np.ndarray:
    """[..., J, K] inverse depth of the entry of rays d [..., J, 3] into boxes [..., K]; 0 where missed."""
    enter = np.full((*d.shape[:-1], b.lin.shape[-3]), np.inf)
    leave = np.full(enter.shape, -np.inf)
    for f in range(6):
        w = d @ b.lin[..., f, :].swapaxes(-1, -2)
        front = b.front[..., None, :, f]
        enter = np.minimum(enter, np.where(front, w, np.inf))
        leave = np.maximum(leave, np.where(front, -np.inf, w))
    met = (enter > leave) & (enter > 0) & np.isfinite(enter) & b.present[..., None, :]
    return np.where(met, enter, 0.0)


def paint_boxes(b: Boxes, first_id: int, grid: Grid, buffer: np.ndarray) -> None:
    """Paint boxes [K]; the id of face f of box k is ``first_id`` + 6 k + f."""
    spots = b.corners[..., :2] / np.maximum(b.corners[..., 2:], _NEAR)
    windows = grid.windows(spots.min(1), spots.max(1))
    planes = (b.lin @ grid.to_ray).astype(np.float32)
    for k in np.flatnonzero(b.present).tolist():
        x0, y0, x1, y1 = windows[k].tolist()
        front, back = np.flatnonzero(b.front[k]).tolist(), np.flatnonzero(~b.front[k]).tolist()
        if x1 <= x0 or y1 <= y0 or not front:
            continue
        i = np.arange(x0, x1, dtype=np.float32)[None, :]
        j = np.arange(y0, y1, dtype=np.float32)[:, None]
        w = [planes[k, f, 0] * i + (planes[k, f, 1] * j + planes[k, f, 2]) for f in range(6)]
        # The ray enters through the last of the faces towards the camera, unless it has left before.
        enter = pack(w[front[0]], first_id + 6 * k + front[0])
        for f in front[1:]:
            enter = np.minimum(enter, pack(w[f], first_id + 6 * k + f))
        seen = enter > 0
        for f in back:
            seen &= enter.view(np.float32) > w[f]
        target = buffer[y0:y1, x0:x1]
        np.maximum(target, enter * seen, out=target)
