"""What may be wrong with the labels of a table, told from the numbers alone.

``geometry_checks`` has those of cameras and bodies, ``image_checks`` opens the files.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ipr import loader
from ipr.faults import fault, faulty_rows
from ipr.findings import EXAMPLES, Finding, Part, evenly, part
from ipr.geometry import crop_box, good_boxes
from ipr.geometry_checks import geometry_findings
from ipr.retarget import to_skeleton
from ipr.types import PoseTable, Skeleton

MOST = 100_000  # rows, evenly taken, on which geometry is checked


def label_findings(table: PoseTable) -> Iterator[Finding]:
    """All that the numbers of a table tell."""
    faulty = faulty_rows(table)
    whole = Part(table, np.arange(len(table)))
    yield from _faulty(whole, faulty)
    yield from _unlabelled(whole)
    yield from _duplicates(whole)
    good = np.flatnonzero(~faulty)
    if len(good) == 0:
        return
    some = part(table, good[evenly(len(good), MOST)])
    yield from _boxes(some)
    yield from geometry_findings(some)


def fit_findings(table: PoseTable, target: Skeleton, depth_rule: str) -> Iterator[Finding]:
    """Whether a run with these joints and this depth rule can use the table."""
    count = len(table)
    try:
        to_skeleton(part(table, np.arange(min(count, 8))).table, target)
    except ValueError as error:
        yield Finding("error", str(error), "set skeleton to one that the data has", count, count)
    unit = loader.DEPTH_UNITS[depth_rule]
    if table.depth_unit != unit and table.weight[..., 2].any():
        other = next(rule for rule, its in loader.DEPTH_UNITS.items() if its == table.depth_unit)
        what = f"depth is in {table.depth_unit}, but depth.rule: {depth_rule} takes {unit}"
        yield Finding("error", what, f"set depth.rule={other}", count, count)


def described(table: PoseTable) -> str:
    """What the table holds, in lines."""
    has = [name for name in ("joints_cam", "camera", "root_depth") if getattr(table, name) is not None]
    sides = table.boxes_xywh[good_boxes(table.boxes_xywh), 2:].max(1, initial=0)
    box = f"{np.median(sides):.0f} px" if len(sides) else "none"
    lines = [
        f"{len(table)} people, skeleton {table.skeleton.name}, depth in {table.depth_unit}, "
        f"with {', '.join(has) or 'no 3-D joints and no camera'}; longer side of the boxes: {box} (median)"
    ]
    if table.description:
        lines.append(table.description)
    for name, values in (table.group or {}).items():
        distinct, counts = np.unique(values, return_counts=True)
        said = ", ".join(f"{v} {n}" for v, n in zip(distinct[:20], counts.tolist(), strict=False))
        lines.append(f"{name}: {len(distinct)} ({said}{', ...' if len(distinct) > 20 else ''})")
    return "\n".join([*lines, visibility(table)])


def visibility(table: PoseTable) -> str:
    """A line per joint: the share of rows with a place in the image, and with a depth."""
    known = (table.weight != 0).mean(0)
    width = max(map(len, table.skeleton.joints))
    lines = [f"{'joint':{width}}  labelled  with depth"]
    for joint, (x, _, z) in zip(table.skeleton.joints, known.tolist(), strict=True):
        lines.append(f"{joint:{width}}  {x:8.1%}  {z:10.1%}")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------ the single checks


def _faulty(whole: Part, faulty: np.ndarray) -> Iterator[Finding]:
    table = whole.table
    good = good_boxes(table.boxes_xywh)
    said = {int(row): fault(table, int(row)) for row in np.flatnonzero(faulty)[: 2 * EXAMPLES]}
    said |= {int(row): fault(table, int(row)) for row in np.flatnonzero(faulty & good)[:EXAMPLES]}
    fix = "correct the annotation or leave the row out; training counts such rows, evaluation stops"
    yield from whole.finding("error", ~good, "boxes that are empty or not finite", fix, said)
    yield from whole.finding("error", faulty & good, "labels that are not finite", fix, said)


def _unlabelled(whole: Part) -> Iterator[Finding]:
    weight = whole.table.weight
    nothing = ~(weight != 0).any((1, 2))
    level = "error" if nothing.all() else "warning"
    fix = "leave these rows out of the annotations: they cost time and teach nothing"
    yield from whole.finding(level, nothing, "rows without any label (all weights are 0)", fix)
    never = [
        joint
        for joint, seen in zip(whole.table.skeleton.joints, (weight[..., 0] != 0).any(0), strict=True)
        if not seen
    ]
    if never and not nothing.all():
        what = f"joints without a label in any row: {', '.join(never)}"
        fix = "check that the annotations name them; otherwise nothing is learnt of them from this table"
        yield Finding("warning", what, fix, len(weight), len(weight))


def _duplicates(whole: Part) -> Iterator[Finding]:
    table = whole.table
    labels = np.ascontiguousarray(table.joints_img, np.float64).reshape(len(table), -1).view(np.uint64)
    odd = np.random.default_rng(0).integers(0, 2**63, labels.shape[1], dtype=np.uint64) * 2 + 1
    hashes = (labels * odd).sum(1, dtype=np.uint64)
    _, number, count = np.unique(hashes, return_inverse=True, return_counts=True)
    maybe = np.flatnonzero((count[number] > 1) & (table.weight != 0).any((1, 2)))
    twice = np.zeros(len(table), bool)
    seen: dict[tuple[str, bytes], int] = {}
    details: dict[int, str] = {}
    for row in maybe.tolist():
        before = seen.setdefault((table.image.name(row), labels[row].tobytes()), row)
        if before != row:
            twice[row], details[row] = True, f"as row {before}"
    fix = "remove the copies from the annotations: they count twice, in training and in scores"
    yield from whole.finding("warning", twice, "the same image with the same labels again", fix, details)


def _boxes(some: Part) -> Iterator[Finding]:
    seen = np.flatnonzero((some.table.weight[..., :2] != 0).all(2).any(1))
    if len(seen) == 0:
        return
    some = Part(part(some.table, seen).table, some.rows[seen])
    boxes = some.table.boxes_xywh
    said = boxes.round(1).tolist()
    corner, size = boxes[:, :2], boxes[:, 2:]
    off = _distance(some.table, corner, corner + size)
    readings = {
        "x0, y0, x1, y1": (corner, size),
        "centre x, centre y, width, height": (corner - size / 2, corner + size / 2),
    }
    for name, reading in readings.items():
        other = _distance(some.table, *reading)
        if np.median(other) < min(np.median(off) / 2, 0.25) and (reading[0] < reading[1]).mean() > 0.9:
            what = "boxes that fit their joints if their four numbers are read in another way"
            fix = f"they are {name}: convert them to x, y, width, height"
            yield from some.finding("error", other < off, what, fix, said)
            return
    far = _far(some.table, boxes)
    what = "boxes far from their joints: less than half of these lie in the padded box"
    fix = "check the box file: its order of rows, and x, y, width, height in px of the whole image"
    yield from some.finding("error" if far.mean() > 0.5 else "warning", far, what, fix, said)


def _distance(table: PoseTable, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """[n] of a box's corners [n, 2] from those of its joints' own box, as a share of that box's side."""
    known = (table.weight[..., :2] != 0).all(2)[..., None]
    first = np.where(known, table.joints_img, np.inf).min(1)
    last = np.where(known, table.joints_img, -np.inf).max(1)
    return (np.abs(first - low) + np.abs(last - high)).mean(1) / np.maximum((last - first).max(1), 1)


def _far(table: PoseTable, boxes: np.ndarray) -> np.ndarray:
    """[n] less than half of the known joints lie in the crop of the box."""
    known = (table.weight[..., :2] != 0).all(2)
    crops = crop_box(boxes, table.box_rule, 1.0)
    inside = (np.abs(table.joints_img - crops[:, None, :2]) <= crops[:, None, 2:] / 2).all(2)
    return known.any(1) & ((inside & known).sum(1) < 0.5 * known.sum(1))
