"""What makes a row of a table useless, whatever its picture holds: its box or its labels."""

from __future__ import annotations

import numpy as np

from ipr.geometry import crop_box, good_boxes
from ipr.types import PoseTable


def faulty_rows(table: PoseTable) -> np.ndarray:
    """[N] which rows :func:`fault` has something to say of."""
    counts = table.weight != 0
    bad_labels = (
        ~np.isfinite(table.weight).all((1, 2))
        | (counts[..., :2] & ~np.isfinite(table.joints_img)).any((1, 2))
        | (counts[..., 2] & ~np.isfinite(table.depth)).any(1)
    )
    return ~good_boxes(table.boxes_xywh) | bad_labels


def fault(table: PoseTable, row: int) -> str:
    """What is wrong with the box or the labels of a faulty row. A label of weight 0 may be anything."""
    box = table.boxes_xywh[row]
    if not good_boxes(box[None])[0]:
        return f"its box is {box.tolist()} (x, y, width, height): need finite numbers and a positive size"
    labels = np.concatenate([table.joints_img[row], table.depth[row, :, None]], axis=1)
    weight = table.weight[row]
    bad = ~np.isfinite(weight) | ((weight != 0) & ~np.isfinite(labels))
    joint = int(np.flatnonzero(bad.any(1))[0])
    return (
        f"its label of joint {table.skeleton.joints[joint]!r} is {labels[joint].tolist()} (x, y, depth) with "
        f"the weights {weight[joint].tolist()}: need finite numbers, or the weight 0 where one is missing"
    )


def refuse_faulty(table: PoseTable, name: str, faulty: np.ndarray) -> None:
    """ValueError where one of the table's ``faulty`` rows [N] is; messages call the table ``name``."""
    rows = np.flatnonzero(faulty)
    if len(rows):
        row, more = int(rows[0]), len(rows) - 1
        raise ValueError(
            f"row {row} of {name}, {table.image.name(row)}: {fault(table, row)}"
            f"{f'; so have {more} more rows bad boxes or labels' if more else ''}"
        )


def crops_of(table: PoseTable, aspect: float, faulty: np.ndarray) -> np.ndarray:
    """[N, 4] (cx, cy, width, height) px, the rows' crops for patches of width / height = ``aspect``.

    Of a ``faulty`` row's box there may be none: a made-up one, which nobody loads, stands there.
    """
    boxes = np.where(faulty[:, None], 1.0, table.boxes_xywh)
    return crop_box(boxes, table.box_rule, aspect)


def refuse_outside(box_xywh: np.ndarray, image_size: tuple[int, int]) -> None:
    """ValueError where a box [4] px has no pixel of its image: padded, it might still show a strip of it."""
    x, y, width, height = box = box_xywh.tolist()
    # An image of 1 px reaches from -0.5 to 0.5, but from 0 to 1 for those who drew boxes from edge to edge.
    if min(x + width, y + height) <= -0.5 or x >= image_size[1] or y >= image_size[0]:
        raise ValueError(
            f"its box {box} (x, y, width, height) lies outside the image "
            f"of {image_size[1]} x {image_size[0]} px (width x height)"
        )
