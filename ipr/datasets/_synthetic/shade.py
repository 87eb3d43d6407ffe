"""Colour of the pixels that see a solid or a box: light, cloth, skin, the face, the print on the chest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ipr.datasets._synthetic import textures
from ipr.datasets._synthetic.body import HAIR, SHIRT, TROUSERS, Solids, Subjects
from ipr.datasets._synthetic.raster import Quadrics
from ipr.datasets._synthetic.scene import Scene

_MATERIALS = 7  # six of the body, then the second colour of the shirt; the objects' colours follow
_ROUGH = (0.06, 0.2, 0.17, 0.1, 0.35, 0.1, 0.2)  # how far grain lightens and darkens each


class Hits(NamedTuple):
    """Pixels [n] that see something: what, how far and in which direction."""

    k: np.ndarray  # [n] which solid, or which face of a box
    z: np.ndarray  # [n] mm
    dx: np.ndarray  # [n]
    dy: np.ndarray  # [n]

    def of(self, chosen: np.ndarray, first: int) -> Hits:
        return Hits(self.k[chosen] - first, self.z[chosen], self.dx[chosen], self.dy[chosen])


def shade_solids(
    scene: Scene, subjects: Subjects, person: int, row: int, q: Quadrics, hits: Hits
) -> np.ndarray:
    """[3, n] float32 colours 0..255 of pixels that see the body or a round object (the solids after it)."""
    k, z, dx, dy = hits
    axes, shift, form = (table.astype(np.float32) for table in (q.axes, q.shift, q.form))

    def dot(vectors: np.ndarray, x: np.ndarray, y: np.ndarray, w: np.ndarray | None) -> np.ndarray:
        """vectors [P, 3] of each pixel's solid . (x, y, w), w = None: 1."""
        total = vectors[:, 0].take(k) * x
        total += vectors[:, 1][k] * y
        total += vectors[:, 2][k] if w is None else vectors[:, 2][k] * w
        return total

    place = [dot(axes[..., a], dx, dy, None) * z - shift[:, a][k] for a in range(3)]
    nx, ny, nz = (form[:, a][k] * place[a] for a in range(3))
    nz -= q.slope.astype(np.float32)[k]
    size = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + np.float32(1e-20))
    light, up = (
        (scene.R[row] @ v @ q.axes).astype(np.float32) for v in (scene.light[row], np.array([0, 0, 1.0]))
    )
    ambient = np.float32(scene.ambient[row])
    direct = np.maximum(dot(light, nx, ny, nz) * size * np.float32(0.82) + np.float32(0.18), 0)
    bright = ambient * (np.float32(0.85) + np.float32(0.2) * dot(up, nx, ny, nz) * size)
    bright += (1 - ambient) * np.float32(1.25) * direct

    solids, parts = subjects.solids, subjects.solids.frame.size
    palette = (
        np.concatenate([subjects.colors[person], scene.objects.round_color[row]]).astype(np.float32) * 255
    )
    things = _MATERIALS + np.arange(len(q.length) - parts)
    before = np.concatenate([solids.material[person, :, 0], things])
    behind = np.concatenate([solids.material[person, :, 1], things])
    cut = np.concatenate([solids.cut[person], np.full(len(things), 1e6)]).astype(np.float32)
    material = np.where(place[2] < cut[k], before[k], behind[k])
    color = palette.T.take(material, axis=1)

    column = (place[0] + np.float32(0.6) * place[1]) * np.float32(0.25) + (37 * k).astype(np.float32)
    line = (place[2] + np.float32(0.4) * place[1]) * np.float32(0.25) + (11 * k).astype(np.float32)
    noise = textures.grain().ravel()[((line.astype(np.int32) & 255) << 8) + (column.astype(np.int32) & 255)]
    rough = np.array([*_ROUGH, *([0.2] * len(things))], np.float32)
    bright *= 1 + rough[material] * noise

    for which, cloth in ((0, SHIRT), (1, TROUSERS)):
        contrast = subjects.pattern[person, which]
        if not contrast.any():
            continue
        worn = np.flatnonzero(material == cloth)
        turn = np.float32(2 * np.pi / subjects.period[person, which])
        kind = int(np.argmax(contrast))
        wave = (
            np.sin(place[2][worn] * turn)
            if kind == 0
            else np.sin(place[0][worn] * turn)
            if kind == 1
            else 3 * noise[worn] - 0.4
        )
        share = np.float32(contrast[kind]) * (wave > 0)
        color[:, worn] += share * (palette[_MATERIALS - 1, :, None] - color[:, worn])
    _print_on_chest(int(subjects.print_kind[person]), solids, k, place, material == SHIRT, color, palette)
    _draw_face(solids, person, k, place, color, palette)
    return color * bright


def _print_on_chest(
    kind: int,
    solids: Solids,
    k: np.ndarray,
    place: list[np.ndarray],
    shirt: np.ndarray,
    color: np.ndarray,
    palette: np.ndarray,
) -> None:
    """0 nothing, 1 disc, 2 block, 3 band, 4 the open front of a jacket, 5 a pocket on the left."""
    if kind == 0:
        return
    # Where a solid of the trunk begins above the torso joint, mm: one print runs over several of them.
    start = np.full(256, np.nan, np.float32)
    for name, base in (("chest", -50), ("bust", 40), ("abdomen", -190), ("belly", -235), ("pelvis", -350)):
        start[solids.name.index(name)] = base
    front = np.flatnonzero(shirt & (place[1] > 8) & ~np.isnan(start)[k])
    x, up = place[0][front], place[2][front] + start[k[front]]
    inside = (
        x**2 + (up - 120) ** 2 < 72**2,
        (np.abs(x) < 85) & (np.abs(up - 120) < 52),
        np.abs(up - 105) < 38,
        np.abs(x) < 36,
        (np.abs(x + 70) < 34) & (np.abs(up - 145) < 40),
    )[kind - 1]
    color[:, front[inside]] = palette[_MATERIALS - 1, :, None]


def _draw_face(
    solids: Solids,
    person: int,
    k: np.ndarray,
    place: list[np.ndarray],
    color: np.ndarray,
    palette: np.ndarray,
) -> None:
    """Eyes, brows and mouth."""
    skull = solids.name.index("skull")
    face = np.flatnonzero((k == skull) & (place[1] > 30))
    if not len(face):
        return
    unit = np.float32(solids.length[person, skull] / 236)
    x, up = np.abs(place[0][face]) / unit, place[2][face] / unit
    color[:, face[(x - 31) ** 2 + 1.6 * (up - 126) ** 2 < 13**2]] *= np.float32(0.25)
    color[:, face[(np.abs(x - 31) < 20) & (np.abs(up - 148) < 6)]] = palette[HAIR, :, None]
    color[:, face[(x < 26) & (np.abs(up - 52) < 8)]] *= np.array([[0.75], [0.45], [0.45]], np.float32)


def shade_boxes(scene: Scene, row: int, hits: Hits) -> np.ndarray:
    """[3, n] float32 colours 0..255 of pixels that see face ``k`` of the boxes [K, 6]."""
    o, R, t = scene.objects, scene.R[row].astype(np.float32), scene.t[row]
    back = (scene.R[row].T @ t).astype(np.float32)
    x, y, up = ((R[0, a] * hits.dx + R[1, a] * hits.dy + R[2, a]) * hits.z - back[a] for a in range(3))
    line, column = ((up + 0.3 * x) * 0.12).astype(np.int32) & 255, ((x + y) * 0.12).astype(np.int32) & 255
    noise = textures.grain().ravel()[(line << 8) + column]
    c, s, zero = np.cos(o.yaw[row]), np.sin(o.yaw[row]), np.zeros(o.yaw.shape[1])
    axes = np.stack([c, s, zero, -s, c, zero, zero, zero, zero + 1], axis=1).reshape(-1, 3, 3)
    normals = np.stack([-axes, axes], axis=2).reshape(-1, 6, 3)  # [K, 6, 3] world
    ambient = scene.ambient[row]
    bright = ambient * (0.85 + 0.2 * normals[..., 2]) + (1 - ambient) * 1.2 * np.maximum(
        0, normals @ scene.light[row]
    )
    table = (bright[..., None] * o.color[row][:, None] * 255).reshape(-1, 3).astype(np.float32)
    return table.T.take(hits.k, axis=1) * (1 + np.float32(0.22) * noise)
