"""Draws docs/synthetic.jpg, samples of the procedural people: ``python bench/contact_sheet.py [FILE]``.

From the top: training people, training people with their skeletons, validation people, validation people with
their skeletons (left red, right blue; joints out of sight are black). With ``--occlusion [FOLDER]`` it draws
docs/occlusion.jpg instead: training patches with generated objects, or with a folder's, over each of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from ipr.config import AugmentConfig, DepthConfig, PatchConfig
from ipr.datasets import synthetic
from ipr.loader import Mix, batch_to_patches
from ipr.occlusion import OcclusionConfig
from ipr.types import PoseTable, Region

_COLUMNS, _TILE = 6, 176


def person(table: PoseTable, row: int, overlay: bool) -> np.ndarray:
    """[_TILE, _TILE, 3] uint8 RGB crop of a row's person."""
    x, y, width, height = table.boxes_xywh[row]
    side = max(width, height) * table.box_rule.pad
    corner = np.array([x + width / 2 - side / 2, y + height / 2 - side / 2])
    scale = min(1.0, 1.2 * _TILE / side)
    x0, y0 = np.maximum(0, np.floor(corner)).astype(int).tolist()
    x1, y1 = np.minimum(1000, np.ceil(corner + side)).astype(int).tolist()
    pixels = table.image.read(row, Region(x0, y0, x1 - x0, y1 - y0), scale)
    zoom = _TILE / side  # img px -> tile px
    matrix = np.array(
        [
            [zoom / pixels.scale, 0, (pixels.origin[0] - corner[0]) * zoom],
            [0, zoom / pixels.scale, (pixels.origin[1] - corner[1]) * zoom],
        ]
    )
    tile = cv2.warpAffine(pixels.data, matrix, (_TILE, _TILE), flags=cv2.INTER_AREA)
    if not overlay:
        return tile
    assert table.extra is not None
    spots = np.rint((table.joints_img[row] - corner) * zoom).astype(int).tolist()
    for joint, parent in enumerate(table.skeleton.parents):
        name = table.skeleton.joints[joint]
        color = (255, 70, 60) if "left" in name else (80, 120, 255) if "right" in name else (90, 240, 90)
        cv2.line(tile, spots[joint], spots[parent], color, 1, cv2.LINE_AA)
    for spot, seen in zip(spots, table.extra["visibility"][row], strict=True):
        cv2.circle(tile, spot, 2, (255, 255, 255) if seen else (20, 20, 20), -1, cv2.LINE_AA)
    return tile


def people() -> np.ndarray:
    """uint8 RGB sheet of procedural people."""
    lines = []
    for split in ("train", "valid"):
        table = synthetic.Config(split=split, count=2 * _COLUMNS).build()
        for overlay in (False, True):
            rows = range(_COLUMNS * overlay, _COLUMNS * (1 + overlay))
            lines.append(np.hstack([person(table, row, overlay) for row in rows]))
    return np.vstack(lines)


def occluded(objects: str) -> np.ndarray:
    """uint8 RGB sheet of occluded training patches."""
    count, patch = 4 * _COLUMNS, PatchConfig(height=_TILE, width=_TILE, mean=(0, 0, 0), std=(1, 1, 1))
    augment = AugmentConfig(occlusion=OcclusionConfig(probability=1.0, objects=objects))
    mix = Mix([synthetic.Config(count=count).build()], patch, DepthConfig(), augment, seed=0)
    patches = batch_to_patches(mix[0, range(count)], patch.size, patch.mean, patch.std)
    tiles = patches.round().byte().permute(0, 2, 3, 1).numpy()
    return np.vstack([np.hstack(list(tiles[row : row + _COLUMNS])) for row in range(0, count, _COLUMNS)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--occlusion", nargs="?", const="generated", metavar="FOLDER")
    arguments = parser.parse_args()
    name = "occlusion.jpg" if arguments.occlusion else "synthetic.jpg"
    arguments.file = arguments.file or Path(__file__).parents[1] / "docs" / name
    sheet = occluded(arguments.occlusion) if arguments.occlusion else people()
    sheet = cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)
    if not cv2.imwrite(str(arguments.file), sheet, [cv2.IMWRITE_JPEG_QUALITY, 85]):
        raise OSError(f"could not write {arguments.file}")
    print(f"{arguments.file}: {arguments.file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
