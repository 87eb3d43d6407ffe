"""Synthetic occlusion of training patches: which cut-outs lie over a patch, where and how large.

After Sarandi, Linder, Arras and Leibe: "How Robust is 3D Human Pose Estimation to Occlusion?" (arXiv
1808.09316) and "Synthetic Occlusion Augmentation with Volumetric Heatmaps for the 2018 ECCV PoseTrack
Challenge on 3D Human Pose Estimation" (arXiv 1809.04987), whose objects are cut out of Pascal VOC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ipr import cutouts
from ipr.cutouts import Cutouts
from ipr.ops import Occluders
from ipr.strict_yaml import require

# The counter's last word sets this stream of random numbers apart from those of warps and of rows.
_STREAM = 8
_SHARPNESS = 0.75  # px of the picture per patch px, at least where it has them
_SIDE_PX = 256.0  # height of the patch at which an object of factor 1 has its own size


@dataclass(frozen=True, kw_only=True)
class OcclusionConfig:
    """Objects laid over training patches, all uniformly drawn: which, how large, and where their centre is.

    Evaluation sees none. A joint that is hidden keeps its weight: to guess it is what is learnt. The numbers
    are Sarandi et al.'s; configs/README.md says how well they are known.
    """

    probability: float = 0.0  # of a patch to have any; 0 is off, theirs 0.5
    objects: str = "generated"  # or a folder of PNG pictures with 8-bit RGBA, from the working directory
    most: int = 8  # objects on such a patch: 1..most
    scale: tuple[float, float] = (0.2, 1.0)  # their own px x U(scale) x height of the patch / 256

    def __post_init__(self) -> None:
        require(0 <= self.probability <= 1, "probability", self.probability, "in 0..1")
        require(bool(self.objects), "objects", self.objects, "generated or a folder")
        require(1 <= self.most <= 100, "most", self.most, "in 1..100")
        low, high = self.scale
        require(0 < low <= high <= 10, "scale", self.scale, "(lowest, highest) in 0..10, above 0")

    def build(self, size: tuple[int, int]) -> Occlusion | None:
        """For patches of this (height, width) px; None where it is off."""
        if self.probability == 0:
            return None
        scale, most_px = self.scale[1] * size[0] / _SIDE_PX, max(size)
        if self.objects == "generated":
            return Occlusion(self, size, cutouts.generate(scale, most_px))
        return Occlusion(self, size, cutouts.from_folder(self.objects, scale, most_px))


class Placed(NamedTuple):
    """One cut-out on one patch."""

    level: int  # of ``Cutouts``
    affine: np.ndarray  # float64 [2, 3], patch px -> px of that picture


class Occlusion:
    """Draws for each sample what lies over its patch, and packs a batch's for ``ops.warp_patch``."""

    def __init__(self, config: OcclusionConfig, size: tuple[int, int], objects: Cutouts) -> None:
        self.config, self.size, self.objects = config, size, objects

    def draw(self, seed: int, epoch: int, row: int) -> list[Placed]:
        """Those of one sample, from below to above: a function of (seed, epoch, row) alone.

        An object's centre is anywhere on the patch, so part of it may lie outside.
        """
        rng = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, row, _STREAM]))
        whether, number = rng.random(2)
        each = rng.random((self.config.most, 4))  # always all: another probability moves no object
        if whether >= self.config.probability:
            return []
        return [self._place(*values) for values in each[: 1 + int(number * self.config.most)].tolist()]

    def _place(self, which: float, grown: float, x: float, y: float) -> Placed:
        index = int(which * len(self.objects))
        low, high = self.config.scale
        extent = self.objects.native[index] * (low + grown * (high - low)) * (self.size[0] / _SIDE_PX)
        first, end = self.objects.first[index : index + 2]
        # The coarsest picture that is not blurred much: finer ones, sampled once per patch px, would alias.
        fine = self.objects.sizes[first:end].max(1) >= _SHARPNESS * extent.max()
        level = int(first) + max(0, int(fine.sum()) - 1)
        height, width = self.objects.sizes[level]
        zoom_y, zoom_x = np.array([height, width]) / extent  # picture px per patch px
        center_x, center_y = x * self.size[1] - 0.5, y * self.size[0] - 0.5
        affine = np.array(
            [
                [zoom_x, 0, (width - 1) / 2 - zoom_x * center_x],
                [0, zoom_y, (height - 1) / 2 - zoom_y * center_y],
            ]
        )
        return Placed(level, affine)

    def pack(self, patches: Sequence[Sequence[Placed]]) -> Occluders:
        """The drawn cut-outs of B patches."""
        placed = [one for patch in patches for one in patch]
        levels = np.array([one.level for one in placed], np.int64)
        sizes = self.objects.sizes[levels]
        starts = self.objects.offsets[levels]
        lengths = 4 * sizes.astype(np.int64).prod(1)
        pixels = self.objects.pixels
        parts = [
            pixels[start : start + n] for start, n in zip(starts.tolist(), lengths.tolist(), strict=True)
        ]
        affine = np.array([one.affine for one in placed], np.float32).reshape(-1, 2, 3)
        return Occluders(
            pixels=torch.cat(parts) if parts else pixels[:0].clone(),
            offsets=torch.from_numpy(np.cumsum(lengths) - lengths),
            sizes=torch.from_numpy(sizes),
            affine=torch.from_numpy(affine),
            first=torch.from_numpy(np.cumsum([0, *map(len, patches)], dtype=np.int64)),
        )
