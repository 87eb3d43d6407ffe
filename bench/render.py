"""Crops per second of the procedural data set on one core: ``python bench/render.py [--json FILE]``.

Each repetition renders the person crops of all rows; the figure is the median over the repetitions, by
processor time, so that other work on the machine disturbs it little.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import cv2
import numpy as np

from ipr.datasets import synthetic
from ipr.types import PoseTable, Region


def person_region(table: PoseTable, row: int) -> tuple[Region, float]:
    """The padded square around a person, cut to the image, and its side in img px."""
    x, y, width, height = table.boxes_xywh[row]
    side = max(width, height) * table.box_rule.pad
    rows, columns = table.image.image_size(row)
    x0, y0 = (int(max(0, np.floor(c - side / 2))) for c in (x + width / 2, y + height / 2))
    x1, y1 = (
        min(columns, int(np.ceil(x + width / 2 + side / 2))),
        min(rows, int(np.ceil(y + height / 2 + side / 2))),
    )
    return Region(x0, y0, x1 - x0, y1 - y0), side


def crops_per_second(table: PoseTable, size_px: int, repetitions: int) -> np.ndarray:
    """[repetitions] crops of ``size_px`` per second of processor time."""
    regions = [person_region(table, row) for row in range(len(table))]
    rates = []
    for repetition in range(repetitions + 1):
        start = time.process_time()
        for row, (region, side) in enumerate(regions):
            table.image.read(row, region, min(1.0, size_px / side))
        if repetition:  # the first draws the pictures of walls and floors
            rates.append(len(regions) / (time.process_time() - start))
    return np.array(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    started = time.process_time()
    synthetic.Config(count=20000).build()
    figures: dict[str, float] = {"build 20000 rows, s": time.process_time() - started}
    for split in ("train", "valid"):
        table = synthetic.Config(split=split, count=arguments.rows).build()
        for size_px in (64, 96, 128, 256):
            low, median, high = np.percentile(
                crops_per_second(table, size_px, arguments.repetitions), [25, 50, 75]
            )
            figures[f"{split} {size_px} px, crops/s"] = median
            figures[f"{split} {size_px} px, IQR"] = high - low
    header = {
        "machine": platform.processor() or platform.machine(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }
    print(*(f"{name} {value}" for name, value in header.items()), sep=", ")
    print(*(f"{name:26s} {value:8.1f}" for name, value in figures.items()), sep="\n")
    if arguments.json:
        arguments.json.write_text(json.dumps({**header, **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
