"""The Jensen-Shannon share by hand, and its bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ipr.losses import l1, l1_js
from ipr.losses._marginals import jensen_shannon, marginal_divergence
from tests.losses.volumes import gaussian_logits, output_of


def test_by_hand() -> None:
    """Against sums over the cells of each axis, written out in numpy."""
    truth = torch.rand(2, 3, 3, dtype=torch.float64) - 0.5
    weight = torch.rand(2, 3, 3, dtype=torch.float64)
    output = output_of(torch.randn(2, 3, 4, 5, 6, dtype=torch.float64))
    expected = 0.0
    for person, joint, axis in np.ndindex(2, 3, 3):
        p = output.marginals[axis][person, joint].numpy()
        label = (truth[person, joint, axis].item() + 0.5) * len(p)
        q = np.exp(-((np.arange(len(p)) - label) ** 2) / (2 * 0.7**2))
        q /= q.sum()
        m = (p + q) / 2
        divergence = (p * np.log(p / m)).sum() / 2 + (q * np.log(q / m)).sum() / 2
        error = abs(output.joints_norm[person, joint, axis].item() - truth[person, joint, axis].item())
        expected += weight[person, joint, axis].item() * (error + 0.3 * divergence) / 2
    loss = l1_js.Config(js=0.3, sigma=0.7).build()(output, truth, weight)
    assert loss.item() == pytest.approx(expected, rel=1e-6)  # probabilities below 1e-9 count as 1e-9


def test_zero_at_the_target_and_log_2_far_from_it() -> None:
    truth = torch.rand(2, 3, 3) - 0.5
    weight = torch.ones(2, 3, 3)
    found = output_of(gaussian_logits(truth, (6, 7, 9), sigma=1.0))
    assert marginal_divergence(found, truth, weight, 1.0, jensen_shannon).item() == pytest.approx(0, abs=1e-5)
    corner = torch.zeros(2, 3, 6, 7, 9)
    corner[..., 0, 0, 0] = 1e4
    far = marginal_divergence(
        output_of(corner), torch.full((2, 3, 3), 0.4), weight, sigma=0.3, divergence=jensen_shannon
    )
    assert far.item() == pytest.approx(9 * math.log(2), rel=1e-3)


def test_symmetric() -> None:
    p, q = torch.rand(2, 2, 3, 5).softmax(-1)
    torch.testing.assert_close(jensen_shannon(p, q), jensen_shannon(q, p))


def test_without_its_share_it_is_l1() -> None:
    output, truth, weight = output_of(torch.randn(2, 3, 4, 5, 6)), torch.rand(2, 3, 3), torch.rand(2, 3, 3)
    loss = l1_js.Config(js=0.0).build()(output, truth, weight)
    assert torch.equal(loss, l1.Config().build()(output, truth, weight))
