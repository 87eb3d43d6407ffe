"""The records that travel through ipr, and the legend of their shapes.

Legend: ``B`` people in a batch, ``N`` rows of a table, ``J`` joints, ``D H W`` volume (depth, height, width),
``C`` channels. Coordinates are (x, y, z); sizes are (height, width); boxes are (x, y, width, height).

A joint tensor is named by its space:

========  ===========================================================================================
world     mm, the capture room's axes
cam       mm, camera axes (x right, y down, z away from the camera)
img       px of the image, corner-index (the first pixel's centre is 0, no half-pixel shift)
patch     px of the network's input, same convention
norm      x/patch_width - 0.5, y/patch_height - 0.5, depth scaled by the depth rule; all about -0.5..0.5
========  ===========================================================================================

Records are tuples of arrays (numpy in tables, tensors in batches); nothing changes one after it is made.
Annotations are evaluated here (no ``from __future__ import annotations``): TorchScript reads those of
``NetworkOutput``.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch

if TYPE_CHECKING:  # the records need no operators
    from ipr.ops import Occluders


class Skeleton(NamedTuple):
    """Joint names and their tree; ``parents[root] == root``."""

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    root: int

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    @property
    def flip_permutation(self) -> tuple[int, ...]:
        """[J] index of each joint's mirror twin (itself where it has none)."""
        permutation = list(range(self.num_joints))
        for left, right in self.flip_pairs:
            permutation[left], permutation[right] = right, left
        return tuple(permutation)


class Camera(NamedTuple):
    """Pinhole cameras, one per row: X_cam = R X_world + t, x_img = focal * X_cam[:2] / X_cam[2] + center.

    Readers convert other conventions (such as Human3.6M's R (X - T)) to this one. ``distortion`` is OpenCV's
    (k1, k2, k3, p1, p2), and where there are seven its s1 and s3 of a thin prism.
    """

    focal: np.ndarray  # [N, 2] px
    center: np.ndarray  # [N, 2] px
    R: np.ndarray  # [N, 3, 3]
    t: np.ndarray  # [N, 3] mm
    distortion: np.ndarray | None = None  # [N, 5] or [N, 7]


class Region(NamedTuple):
    """Whole pixels inside an image: columns x0 .. x0+width-1, rows y0 .. y0+height-1."""

    x0: int
    y0: int
    width: int
    height: int


class Pixels(NamedTuple):
    """Pixels of a source: the centre of ``data[v, u]`` is img (origin_x + u/scale, origin_y + v/scale)."""

    data: np.ndarray  # uint8 [h, w, 3] RGB
    origin: tuple[float, float]  # img px
    scale: float  # data pixels per image pixel; 1 = full resolution


class ImageSource(Protocol):
    """Where the pixels of a table's rows come from: files, a procedural renderer or a cache.

    Picklable: every worker gets a copy.
    """

    def image_size(self, row: int) -> tuple[int, int]:
        """(height, width) px of the row's full image."""
        ...

    def read(self, row: int, region: Region, scale: float) -> Pixels:
        """At least ``region``, with at least ``scale`` (0 < scale <= 1) data pixels per image pixel."""
        ...

    def name(self, row: int) -> str:
        """What to call the row's image in a message: a path, or the seed and index of a rendered one."""
        ...


class BoxRule(NamedTuple):
    """How a raw box becomes the crop; applied once, by ``geometry.crop_box``.

    ``fit="grow"`` lengthens the short side to the patch's aspect; ``fit="square"`` does so taking the box for
    a square, as one in the scene is whose pixels are a little higher than wide; ``fit="height"`` keeps the
    height and sets the width.
    """

    pad: float = 1.25
    fit: str = "grow"


class DepthRule(NamedTuple):
    """How depth becomes norm units.

    ``rect3d``: z_norm = z_mm / (extent_mm * s), as for Human3.6M in the ECCV 2018 code. ``box``: z_norm =
    z_px / (crop_width_px * s), as for its 3-D challenge. s: the augmentation's scale; crop: the padded box.
    """

    name: str = "rect3d"
    extent_mm: float = 2000.0


@dataclass(frozen=True)
class PoseTable:
    """People with their labels as a struct of arrays; one row is one person in one image."""

    skeleton: Skeleton
    image: ImageSource
    boxes_xywh: np.ndarray  # [N, 4] img px, raw: neither padded nor fitted to an aspect
    box_rule: BoxRule
    joints_img: np.ndarray  # [N, J, 2] px
    depth: np.ndarray  # [N, J] relative to the root, in depth_unit
    depth_unit: str  # "mm" | "px"
    weight: np.ndarray  # [N, J, 3] in 0..1; 0 where a label is missing. uint8 where it was stored as such
    joints_cam: np.ndarray | None = None  # [N, J, 3] mm
    camera: Camera | None = None
    root_depth: np.ndarray | None = None  # [N] mm
    group: dict[str, np.ndarray] | None = None  # [N] per name: subject, action, camera ...
    extra: dict[str, np.ndarray] | None = None  # [N, ...] per name: head size, area, image id ...
    description: str = ""  # for the log: the layout that was found, what was left out and why

    def __len__(self) -> int:
        return len(self.boxes_xywh)


class Warp(NamedTuple):
    """The one geometric truth of a sample: pixels, labels and decoding all use this map."""

    img_to_patch: np.ndarray  # [2, 3] float64, the mirror included
    flip: bool  # left and right joints change places
    color: np.ndarray  # [3, 4] matrix of R, G, B and offset in grey levels
    depth_scale: float  # norm per depth unit
    gamma: float = 1.0  # exponent of grey level / 255, after color


class Failure(NamedTuple):
    """A row that could not be loaded; the message names the file."""

    table: int
    row: int
    message: str

    def __str__(self) -> str:
        return f"row {self.row} of table {self.table}, {self.message}"


class Batch(NamedTuple):
    """One batch as the loader hands it over: ragged pixels in one buffer, labels still in image space."""

    pixels: torch.Tensor  # uint8 [bytes], the regions [h, w, 3] one after another
    offsets: torch.Tensor  # int64 [B], first byte of each region
    sizes: torch.Tensor  # int32 [B, 2] (height, width) of each region
    patch_to_region: torch.Tensor  # float32 [B, 2, 3], patch px -> region px
    color: torch.Tensor  # float32 [B, 3, 4]
    img_to_patch: torch.Tensor  # float64 [B, 2, 3]
    flip: torch.Tensor  # bool [B]
    depth_scale: torch.Tensor  # float64 [B]
    joints_img: torch.Tensor  # float64 [B, J, 2]
    depth: torch.Tensor  # float64 [B, J]
    weight: torch.Tensor  # float32 [B, J, 3]
    row: torch.Tensor  # int64 [B] row of its table
    table: torch.Tensor  # int64 [B] index of its table in the mix
    gamma: torch.Tensor | None = None  # float32 [B]; None: all 1
    occluders: "Occluders | None" = None  # what lies over the patches
    failures: tuple[Failure, ...] = ()  # rows in whose place stand others


class NetworkOutput(NamedTuple):
    """What a network says of each joint. A head without a volume knows its coordinates only."""

    joints_norm: torch.Tensor  # [B, J, 3]
    sigma_norm: torch.Tensor | None  # [B, J, 3] standard deviation of the joint's distribution
    score: torch.Tensor | None  # [B, J] in 0..1
    marginals: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = (
        None  # [B, J, W], [B, J, H], [B, J, D]
    )


class Poses(NamedTuple):
    """Decoded people. ``sigma`` and ``score`` are NaN where the head knows none."""

    joints_img: np.ndarray  # [N, J, 2] px
    joints_rel: np.ndarray  # [N, J, 3] mm from the root
    joints_cam: np.ndarray | None  # [N, J, 3] mm, where a camera and a root depth were given
    sigma: np.ndarray  # [N, J, 3] px, px, mm
    score: np.ndarray  # [N, J] in 0..1
    box_index: np.ndarray  # [N] row of the boxes that were given
    scale_source: str  # "intrinsics" | "bone_length": where the millimetres of x and y came from
    margin: np.ndarray | None = None  # [N, J] norm, from the nearest side of the volume; negative outside
