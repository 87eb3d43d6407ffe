"""Comparing a volume's three marginals with a Gaussian at the label."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ipr.losses._weighted import known, weighted_sum
from ipr.types import NetworkOutput

_LEAST = 1e-9  # a probability below this counts as this: the logarithm stays finite


def marginal_divergence(
    output: NetworkOutput,
    joints_norm: torch.Tensor,
    weight: torch.Tensor,
    sigma: float,
    divergence: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Scalar: sum over joints and axes of weight [B,J,3] * divergence(Gaussian, marginal), divided by B.

    ``divergence`` takes probabilities [B,J,cells] and says [B,J]; the Gaussian lies at joints_norm [B,J,3]
    and has the standard deviation ``sigma``, in cells of every axis.
    """
    assert output.marginals is not None, "the engine refuses heads without a volume"
    labels = known(joints_norm, weight)
    axes = [
        divergence(gaussian(labels[..., axis], marginal, sigma), marginal)
        for axis, marginal in enumerate(output.marginals)
    ]
    return weighted_sum(torch.stack(axes, dim=-1), weight)


def gaussian(label_norm: torch.Tensor, marginal: torch.Tensor, sigma: float) -> torch.Tensor:
    """[B,J,cells] probabilities on an axis: N(label_norm [B,J], sigma cells), shaped like ``marginal``.

    Cell i stands for the coordinate i / cells - 0.5. The Gaussian is cut at the volume's ends and sums to 1:
    of a label outside, the cells nearest to it get everything.
    """
    cells = marginal.size(2)
    label = (label_norm.unsqueeze(2) + 0.5) * cells
    distance = torch.arange(cells, device=marginal.device, dtype=marginal.dtype) - label
    return torch.softmax(distance.square() / (-2 * sigma**2), dim=2)


def kullback_leibler(target: torch.Tensor, marginal: torch.Tensor) -> torch.Tensor:
    """KL(target, marginal) [B,J] = sum of target * log(target / marginal) over the cells.

    The cross-entropy minus the target's entropy, which no weight can change: the same gradient, and 0 at the
    target.
    """
    return (target * (_log(target) - _log(marginal))).sum(2)


def jensen_shannon(target: torch.Tensor, marginal: torch.Tensor) -> torch.Tensor:
    """JS(target, marginal) [B,J] = (KL(target, m) + KL(marginal, m)) / 2 with m = (target + marginal) / 2.

    In 0..log 2, and not steep anywhere: a volume that is certain and wrong is not pushed harder than others.
    """
    mixed = (target + marginal) / 2
    return (kullback_leibler(target, mixed) + kullback_leibler(marginal, mixed)) / 2


def _log(probability: torch.Tensor) -> torch.Tensor:
    return probability.clamp_min(_LEAST).log()
