"""Volumes for the tests of losses, and what a head says of them."""

from __future__ import annotations

import torch

from ipr import ops
from ipr.types import NetworkOutput


def output_of(logits: torch.Tensor) -> NetworkOutput:
    """The integral head's words for logits [B,J,D,H,W], without a score."""
    integral = ops.softmax_integral(logits)
    depth, height, width = logits.shape[2:]
    assert integral.pz is not None
    size = logits.new_tensor([width, height, depth])
    sigma = integral.variance.clamp_min(1e-12).sqrt()
    marginals = (integral.px, integral.py, integral.pz)
    return NetworkOutput(integral.mean / size - 0.5, sigma / size, None, marginals)


def gaussian_logits(joints_norm: torch.Tensor, size: tuple[int, int, int], sigma: float) -> torch.Tensor:
    """[B,J,D,H,W] whose softmax is the separable Gaussian at the label."""
    axes = []
    for axis, cells in enumerate(reversed(size)):
        label = (joints_norm[..., axis, None] + 0.5) * cells
        axes.append((torch.arange(cells) - label).square() / (-2 * sigma**2))
    x, y, z = axes
    return x[:, :, None, None, :] + y[:, :, None, :, None] + z[:, :, :, None, None]
