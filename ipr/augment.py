"""The random warp of a training sample, and the centred one of evaluation."""

from __future__ import annotations

import numpy as np

from ipr.config import AugmentConfig
from ipr.geometry import crop_affine, depth_scale
from ipr.types import DepthRule, Warp

GREY = np.array([0.2989, 0.587, 0.114])  # of R, G and B in what saturation 0 leaves: torchvision's numbers
MIDDLE = 127.5  # the grey level that contrast leaves alone
_UNIT = np.eye(3)


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
    scale, rotation, flip, channels = 1.0, 0.0, False, np.ones(3)
    brightness = contrast = saturation = gamma = 1.0
    if config is not None:
        rng = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, row, 0]))
        # All numbers are drawn always, so that switching one kind off leaves the others as they were.
        normal, uniform, tone = rng.standard_normal(2), rng.random(5), rng.random(4).tolist()
        scale = 1.0 + config.scale * float(np.clip(normal[0], -1.0, 1.0))
        if uniform[0] < config.rotation_probability:
            rotation = config.rotation * float(np.clip(normal[1], -2.0, 2.0))
        flip = bool(uniform[1] < config.flip)
        channels = 1.0 + config.color * (2.0 * uniform[2:] - 1.0)
        brightness = 1.0 + config.brightness * (2.0 * tone[0] - 1.0)
        contrast = 1.0 + config.contrast * (2.0 * tone[1] - 1.0)
        saturation = 1.0 + config.saturation * (2.0 * tone[2] - 1.0)
        gamma = 1.0 + config.gamma * (2.0 * tone[3] - 1.0)
    affine = crop_affine(crop_cxcywh, size, scale=scale, rotation_deg=rotation, flip=flip)
    color = color_matrix(channels * brightness, contrast, saturation)
    return Warp(affine, flip, color, depth_scale(depth_rule, float(crop_cxcywh[2]), scale), gamma)


def color_matrix(factors: np.ndarray, contrast: float, saturation: float) -> np.ndarray:
    """[3, 4] of the factors [3] of R, G and B, then contrast, then saturation (1: nothing changes).

    As torchvision's ``adjust_contrast`` and ``adjust_saturation`` on real numbers, but contrast is about
    ``MIDDLE`` (there: about the mean grey of the image), and nothing is clipped between the steps.
    """
    matrix = np.empty((3, 4))
    mixing = saturation * _UNIT + (1.0 - saturation) * GREY
    matrix[:, :3] = mixing * (factors * contrast)
    matrix[:, 3] = mixing.sum(1) * ((1.0 - contrast) * MIDDLE)
    return matrix
