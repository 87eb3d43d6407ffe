"""The random warp of a training sample, and the centred one of evaluation."""

from __future__ import annotations

import numpy as np

from ipr.config import AugmentConfig
from ipr.geometry import crop_affine, depth_scale
from ipr.types import DepthRule, Warp


def draw(
    config: AugmentConfig | None,
    seed: int,
    epoch: int,
    row: int,
    crop_cxcywh: np.ndarray,
    size: tuple[int, int],
    depth_rule: DepthRule,
) -> Warp:
    """The warp of one sample; ``None`` gives the centred one.

    The random numbers are a function of (seed, epoch, row) alone: the same whatever the order, the number of
    workers or a resume. crop_cxcywh [4] px, ``size`` the patch's (height, width) px.
    """
    scale, rotation, flip, color = 1.0, 0.0, False, np.ones(3)
    if config is not None:
        rng = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, row, 0]))
        # All numbers are drawn always, so that switching one kind off leaves the others as they were.
        normal, uniform = rng.standard_normal(2), rng.random(5)
        scale = 1.0 + config.scale * float(np.clip(normal[0], -1.0, 1.0))
        if uniform[0] < config.rotation_probability:
            rotation = config.rotation * float(np.clip(normal[1], -2.0, 2.0))
        flip = bool(uniform[1] < config.flip)
        color = 1.0 + config.color * (2.0 * uniform[2:] - 1.0)
    affine = crop_affine(crop_cxcywh, size, scale=scale, rotation_deg=rotation, flip=flip)
    return Warp(affine, flip, color, depth_scale(depth_rule, float(crop_cxcywh[2]), scale))
