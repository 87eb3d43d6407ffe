"""The marginals' share: zero at the target, probability moves to the label, missing labels are silent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ipr import config, engine, ops
from ipr.config import ConfigError
from ipr.losses import l1_marginals
from ipr.losses._weighted import weighted_l1
from ipr.types import NetworkOutput

SIGMA = 0.8


def output_of(logits: torch.Tensor) -> NetworkOutput:
    integral = ops.softmax_integral(logits)
    depth, height, width = logits.shape[2:]
    assert integral.pz is not None
    joints_norm = integral.mean / torch.tensor([width, height, depth]) - 0.5
    return NetworkOutput(joints_norm, None, None, (integral.px, integral.py, integral.pz))


def gaussian_logits(joints_norm: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    """[B,J,D,H,W] whose softmax is the separable Gaussian at the label."""
    axes = []
    for axis, cells in enumerate(reversed(size)):
        label = (joints_norm[..., axis, None] + 0.5) * cells
        axes.append((torch.arange(cells) - label).square() / (-2 * SIGMA**2))
    x, y, z = axes
    return x[:, :, None, None, :] + y[:, :, None, :, None] + z[:, :, :, None, None]


def test_zero_where_the_volume_is_the_target() -> None:
    joints_norm = torch.rand(2, 3, 3) - 0.5
    weight = torch.ones(2, 3, 3)
    output = output_of(gaussian_logits(joints_norm, (6, 7, 9)))
    assert l1_marginals.marginal_divergence(output, joints_norm, weight, SIGMA).item() == pytest.approx(
        0, abs=1e-5
    )
    flat = l1_marginals.marginal_divergence(output_of(torch.zeros(2, 3, 6, 7, 9)), joints_norm, weight, SIGMA)
    assert flat.item() > 1


def test_by_hand() -> None:
    """One joint, two cells per axis, label on the border of x: KL = sum of g log(g / p)."""
    output = output_of(torch.zeros(1, 1, 2, 2, 2))
    near, far = torch.softmax(torch.tensor([0.0, -0.5]), 0).tolist()
    expected = near * torch.tensor(near / 0.5).log() + far * torch.tensor(far / 0.5).log()
    label = torch.full((1, 1, 3), -0.5)
    loss = l1_marginals.marginal_divergence(output, label, torch.tensor([[[2.0, 0.0, 0.0]]]), sigma=1.0)
    assert loss.item() == pytest.approx(2 * expected.item(), rel=1e-5)


def test_probability_moves_to_the_label_where_the_mean_is_right_already() -> None:
    """Two far peaks around the label: L1 is content, the marginals are not."""
    logits = torch.zeros(1, 1, 1, 1, 9)
    logits[..., 0] = logits[..., 8] = 8.0
    logits.requires_grad_()
    label = torch.tensor([[[4 / 9 - 0.5, -0.5, -0.5]]])
    weight = torch.ones(1, 1, 3)
    assert weighted_l1(output_of(logits), label, weight).item() == pytest.approx(0, abs=1e-6)
    l1_marginals.marginal_divergence(output_of(logits), label, weight, SIGMA).backward()
    assert logits.grad is not None
    assert logits.grad.flatten().argmin() == 4 and logits.grad.flatten()[4] < -0.1
    assert logits.grad.flatten()[[0, 8]].min() > 0.1


def test_a_label_that_is_missing_has_no_say() -> None:
    logits = torch.randn(2, 4, 3, 5, 6, requires_grad=True)
    weight = torch.ones(2, 4, 3)
    weight[1, 2] = 0
    truth = torch.rand(2, 4, 3) - 0.5
    truth[1, 2] = -2.0
    loss = l1_marginals.Config().build()(output_of(logits), truth, weight)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert not logits.grad[1, 2].any()
    assert logits.grad[0].any()


def test_a_certain_volume_that_is_wrong_has_a_finite_gradient() -> None:
    logits = torch.zeros(1, 1, 4, 4, 4)
    logits[..., 0] = 1e4
    logits.requires_grad_()
    l1_marginals.Config().build()(
        output_of(logits), torch.full((1, 1, 3), 0.2), torch.ones(1, 1, 3)
    ).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_head_without_a_volume(tmp_path: Path) -> None:
    """Refused before anything is written."""
    run = config.load(None, ["model.head={name: direct}"])
    with pytest.raises(ConfigError, match=r"loss: l1_marginals needs .* the head direct has none: use l1"):
        engine.train(run, tmp_path / "run")
    assert not (tmp_path / "run").exists()
