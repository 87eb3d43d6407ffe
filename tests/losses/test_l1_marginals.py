"""The marginals' share: zero at the target, by hand, and probability moves to the label."""

from __future__ import annotations

import pytest
import torch

from ipr.losses._marginals import kullback_leibler, marginal_divergence
from ipr.losses._weighted import weighted_l1
from ipr.types import NetworkOutput
from tests.losses.volumes import gaussian_logits, output_of

SIGMA = 0.8


def cross_entropy(
    output: NetworkOutput, joints_norm: torch.Tensor, weight: torch.Tensor, sigma: float = SIGMA
) -> torch.Tensor:
    return marginal_divergence(output, joints_norm, weight, sigma, kullback_leibler)


def test_zero_where_the_volume_is_the_target() -> None:
    joints_norm = torch.rand(2, 3, 3) - 0.5
    weight = torch.ones(2, 3, 3)
    output = output_of(gaussian_logits(joints_norm, (6, 7, 9), SIGMA))
    assert cross_entropy(output, joints_norm, weight).item() == pytest.approx(0, abs=1e-5)
    flat = cross_entropy(output_of(torch.zeros(2, 3, 6, 7, 9)), joints_norm, weight)
    assert flat.item() > 1


def test_by_hand() -> None:
    """One joint, two cells per axis, label on the border of x: KL = sum of g log(g / p)."""
    output = output_of(torch.zeros(1, 1, 2, 2, 2))
    near, far = torch.softmax(torch.tensor([0.0, -0.5]), 0).tolist()
    expected = near * torch.tensor(near / 0.5).log() + far * torch.tensor(far / 0.5).log()
    label = torch.full((1, 1, 3), -0.5)
    loss = cross_entropy(output, label, torch.tensor([[[2.0, 0.0, 0.0]]]), sigma=1.0)
    assert loss.item() == pytest.approx(2 * expected.item(), rel=1e-5)


def test_probability_moves_to_the_label_where_the_mean_is_right_already() -> None:
    """Two far peaks around the label: L1 is content, the marginals are not."""
    logits = torch.zeros(1, 1, 1, 1, 9)
    logits[..., 0] = logits[..., 8] = 8.0
    logits.requires_grad_()
    label = torch.tensor([[[4 / 9 - 0.5, -0.5, -0.5]]])
    weight = torch.ones(1, 1, 3)
    assert weighted_l1(output_of(logits), label, weight).item() == pytest.approx(0, abs=1e-6)
    cross_entropy(output_of(logits), label, weight).backward()
    assert logits.grad is not None
    assert logits.grad.flatten().argmin() == 4 and logits.grad.flatten()[4] < -0.1
    assert logits.grad.flatten()[[0, 8]].min() > 0.1
