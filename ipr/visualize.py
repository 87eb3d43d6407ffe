"""The pictures and the table at the end of a run, and the pictures of a check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.axes3d import Axes3D  # type: ignore[import-untyped]

from ipr import geometry
from ipr.loader import touched_region
from ipr.types import Poses, PoseTable, Skeleton

PREDICTION, TRUTH = "#ff7f0e", "#00c8c8"
LEFT, RIGHT, MIDDLE, GREY = "#1f77b4", "#d62728", "#222222", "#b0b0b0"
CROP_HEIGHT = 192  # px
VIEW = {"elev": 12.0, "azim": -65.0}  # degrees; from the camera's side, a little above


def crop(table: PoseTable, row: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The row's centred crop, uint8 [h, w, 3], and its map img -> crop [2, 3]."""
    height, width = size
    crop_cxcywh = geometry.crop_box(table.boxes_xywh[row : row + 1], table.box_rule, width / height)[0]
    affine = geometry.crop_affine(crop_cxcywh, size)
    region, scale = touched_region(affine, size, table.image.image_size(row))
    pixels = table.image.read(row, region, scale)
    x, y = pixels.origin
    data_to_img = np.array([[1 / pixels.scale, 0, x], [0, 1 / pixels.scale, y], [0, 0, 1]])
    return cv2.warpAffine(pixels.data, affine @ data_to_img, (width, height)), affine


def poses_picture(path: Path, table: PoseTable, poses: Poses, rows: Sequence[int]) -> None:
    """Each row's crop with prediction and truth drawn in, and beside it both skeletons in 3-D."""
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(columns * 4.4, lines * 2.4), layout="constrained")
    grid = figure.add_gridspec(lines, columns * 2)
    crops = geometry.crop_box(table.boxes_xywh, table.box_rule, 1.0)
    for place, row in enumerate(rows):
        line, column = divmod(place, columns)
        size = (CROP_HEIGHT, round(CROP_HEIGHT * crops[row][2] / crops[row][3]))
        image, affine = crop(table, row, size)
        flat = figure.add_subplot(grid[line, 2 * column])
        flat.imshow(image)
        flat.set(xlim=(-0.5, size[1] - 0.5), ylim=(size[0] - 0.5, -0.5))
        flat.set_title(table.image.name(row), fontsize=7)
        flat.axis("off")
        for joints_img, color in ((table.joints_img[row], TRUTH), (poses.joints_img[row], PREDICTION)):
            joints_patch = geometry.apply_affine(affine, joints_img)
            for joint, parent in _bones(table.skeleton):
                flat.plot(*joints_patch[[joint, parent]].T, color=color, linewidth=1.4)
        solid = figure.add_subplot(grid[line, 2 * column + 1], projection="3d")
        truth = (
            None
            if table.joints_cam is None
            else table.joints_cam[row] - table.joints_cam[row, table.skeleton.root]
        )
        skeletons_3d(solid, table.skeleton, poses.joints_rel[row], truth)
    figure.suptitle(
        "crop: prediction orange, truth cyan;  3-D: prediction left blue, right red, truth grey", fontsize=9
    )
    figure.savefig(path, dpi=90)


def contact_sheet(path: Path, table: PoseTable, rows: Sequence[int]) -> None:
    """Each row's crop with its labels and its raw box; a row that cannot be shown says why."""
    columns = min(6, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(columns * 2.2, lines * 2.4 + 0.4), layout="constrained")
    figure.suptitle("labels: left blue, right red;  raw box grey", fontsize=9)
    for place, row in enumerate(rows):
        axes = figure.add_subplot(lines, columns, place + 1)
        axes.set_title(f"row {row}\n{table.image.name(row)[-36:]}", fontsize=6)
        axes.axis("off")
        try:
            image, affine = crop(table, row, (CROP_HEIGHT, CROP_HEIGHT))
        except (ValueError, OSError) as error:
            axes.text(0.5, 0.5, str(error), fontsize=6, wrap=True, ha="center", va="center")
            continue
        axes.imshow(image)
        axes.set(xlim=(-0.5, CROP_HEIGHT - 0.5), ylim=(CROP_HEIGHT - 0.5, -0.5))
        x, y, width, height = table.boxes_xywh[row]
        corners = np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]])
        axes.plot(*geometry.apply_affine(affine, corners).T, color=GREY, linewidth=0.8)
        joints_patch = geometry.apply_affine(affine, table.joints_img[row])
        known = (table.weight[row, :, :2] != 0).all(1)
        for joint, parent in _bones(table.skeleton):
            color = _side_color(table.skeleton.joints[joint])
            if known[joint] and known[parent]:
                axes.plot(*joints_patch[[joint, parent]].T, color=color, linewidth=1.2)
        axes.plot(*joints_patch[known].T, ".", color=TRUTH, markersize=2)
    figure.savefig(path, dpi=110)


def skeletons_3d(axes: Axes3D, skeleton: Skeleton, prediction: np.ndarray, truth: np.ndarray | None) -> None:
    """Both [J, 3] mm from the root, camera axes, in one view with equal axes."""
    poses = [(truth, None)] if truth is not None else []
    for joints_rel, side in [*poses, (prediction, skeleton)]:
        for joint, parent in _bones(skeleton):
            color = GREY if side is None else _side_color(skeleton.joints[joint])
            x, y, z = joints_rel[[joint, parent]].T
            axes.plot(
                x, z, -y, color=color, linewidth=1.6
            )  # the camera looks along y of the drawing, up is up
    shown = np.concatenate([joints_rel for joints_rel, _ in [*poses, (prediction, None)]])
    center = (shown.min(0) + shown.max(0)) / 2
    half = (shown.max(0) - shown.min(0)).max() / 2 + 50.0
    axes.set(xlim=(center[0] - half, center[0] + half), ylim=(center[2] - half, center[2] + half))
    axes.set_zlim(-center[1] - half, -center[1] + half)
    axes.set_box_aspect((1, 1, 1), zoom=1.3)
    axes.view_init(**VIEW)
    axes.tick_params(labelbottom=False, labelleft=False, labelright=False, length=0)


def curve_picture(
    path: Path, records: Sequence[dict[str, Any]], baselines: dict[str, dict[str, float]]
) -> None:
    """Training loss and validation scores over minutes of training, from the records of ``log.jsonl``."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss_axes, score_axes = figure.subplots(1, 2)
    steps = [record for record in records if record["kind"] == "step"]
    epochs = [record for record in records if record["kind"] == "epoch"]
    loss_axes.plot(*_series(steps, "loss"), color=GREY, linewidth=0.8, label="since the last record")
    loss_axes.plot(*_series(epochs, "loss"), color=PREDICTION, marker=".", label="epoch mean")
    loss_axes.set(xlabel="minutes", ylabel="training loss", xlim=(0, None), ylim=(0, None))
    loss_axes.legend(fontsize=8)
    for name, color in (("MPJPE mm", PREDICTION), ("PA-MPJPE mm", LEFT)):
        score_axes.plot(
            *_series(epochs, name), color=color, marker=".", label=f"validation {name.removesuffix(' mm')}"
        )
        for number, (baseline, scores) in enumerate(baselines.items()):
            if scores.get(name) is not None:
                score_axes.axhline(scores[name], color=color, linestyle="--", linewidth=0.9)
                _label(score_axes, f"{baseline}, {name.removesuffix(' mm')}", number, scores[name], color)
    score_axes.set(xlabel="minutes", ylabel="mm", xlim=(0, None), ylim=(0, None))
    score_axes.legend(fontsize=8)
    figure.savefig(path, dpi=90)


def _series(records: Sequence[dict[str, Any]], name: str) -> tuple[list[float], list[float]]:
    known = [(record["seconds"] / 60, record[name]) for record in records if record.get(name) is not None]
    return [minutes for minutes, _ in known], [value for _, value in known]


def _label(axes: Axes, text: str, number: int, height: float, color: str) -> None:
    """On a horizontal line; labels of lines that nearly coincide stand side by side."""
    left = 0.01 + 0.33 * (number % 3)
    axes.annotate(
        text, (left, height), xycoords=("axes fraction", "data"), fontsize=7, color=color, va="bottom"
    )


def _bones(skeleton: Skeleton) -> list[tuple[int, int]]:
    return [(joint, parent) for joint, parent in enumerate(skeleton.parents) if joint != parent]


def _side_color(joint: str) -> str:
    return LEFT if joint.startswith("left_") else RIGHT if joint.startswith("right_") else MIDDLE


def table(scores: dict[str, float], baselines: dict[str, dict[str, float]], protocol: str) -> str:
    """The scores as lines of text: beside the baselines, by group, and the worst joints."""
    overall = {name: value for name, value in scores.items() if "/" not in name}
    primary = next(iter(overall))
    width = max(len("prediction"), *map(len, baselines)) if baselines else len("prediction")
    column = max(18, *map(len, overall))
    lines = [f"{'':{width}}  " + "  ".join(f"{name:>{column}}" for name in overall)]
    for label, row in {"prediction": overall, **baselines}.items():
        cells = "  ".join(f"{row[name]:{column}.2f}" if name in row else f"{'':{column}}" for name in overall)
        ratio = (
            f"  the prediction has {overall[primary] / row[primary]:.3f} of it"
            if label != "prediction" and primary in row
            else ""
        )
        lines.append(f"{label:{width}}  {cells}{ratio}")
    groups: dict[str, list[tuple[float, str]]] = {}
    for name, value in scores.items():
        if "/" in name:
            metric, kind, member = name.split("/", 2)
            groups.setdefault(f"{metric} by {kind}", []).append((value, member))
    for label, members in groups.items():
        worst_first = sorted(members, reverse="PCK" not in label)  # a share of correct joints is worst if low
        lines.append(
            f"{label}, worst first: " + ", ".join(f"{member} {value:.1f}" for value, member in worst_first)
        )
    return "\n".join([*lines, f"protocol: {protocol}"])


def markdown(scores: dict[str, float], baselines: dict[str, dict[str, float]], card: dict[str, str]) -> str:
    """The scores and the protocol card as Markdown tables."""
    overall = {name: value for name, value in scores.items() if "/" not in name}
    lines = [f"| | {' | '.join(overall)} |", f"|--|{'--:|' * len(overall)}"]
    for label, row in {"prediction": overall, **baselines}.items():
        cells = (f"{row[name]:.2f}" if name in row else "" for name in overall)
        lines.append(f"| {label} | {' | '.join(cells)} |")
    parts = {name: value for name, value in scores.items() if "/" in name}
    if parts:
        lines += ["", "| by | | |", "|--|--|--:|"]
        for name, value in parts.items():
            metric, kind, member = name.split("/", 2)
            lines.append(f"| {metric}, {kind} | {member} | {value:.2f} |")
    lines += ["", "| protocol | |", "|--|--|", *(f"| {name} | {value} |" for name, value in card.items())]
    return "\n".join(lines) + "\n"
