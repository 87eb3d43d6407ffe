"""What holds for every loss: weights, extremes, gradients, and that it trains."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ipr import choices, config, engine
from ipr.config import ConfigError
from ipr.types import NetworkOutput
from tests.losses.volumes import output_of

Loss = Callable[[NetworkOutput, torch.Tensor, torch.Tensor], torch.Tensor]
LOSSES = choices.names("losses")
OF_VOLUMES = [name for name in LOSSES if getattr(choices.load("losses", name).Config, "needs_volume", False)]


def build(name: str) -> Loss:
    loss: Loss = choices.load("losses", name).Config().build()
    return loss


def leaves(output: NetworkOutput) -> NetworkOutput:
    """The output as tensors of their own, to see the gradient of each."""
    assert output.sigma_norm is not None and output.marginals is not None
    x, y, z = (marginal.detach().requires_grad_() for marginal in output.marginals)
    joints_norm, sigma_norm = (tensor.detach().requires_grad_() for tensor in output[:2])
    return NetworkOutput(joints_norm, sigma_norm, None, (x, y, z))


def test_the_losses() -> None:
    assert LOSSES == ["l1", "l1_js", "l1_marginals", "l2", "laplace", "marginals"]
    assert OF_VOLUMES == ["l1_js", "l1_marginals", "laplace", "marginals"]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("label", [-2.0, 1e30, math.inf, math.nan])
def test_a_label_that_is_missing_has_no_say(name: str, label: float) -> None:
    """Whole joints and single axes; whatever stands there, their gradient is exactly 0."""
    weight = torch.ones(2, 4, 3)
    weight[1, 2] = weight[0, 1, 2] = 0
    truth = torch.rand(2, 4, 3) - 0.5
    output = leaves(output_of(torch.randn(2, 4, 3, 5, 6)))
    expected = build(name)(output, truth, weight)
    loss = build(name)(output, truth.masked_fill(weight == 0, label), weight)
    assert torch.equal(loss, expected) and loss.isfinite()
    loss.backward()
    of_joints = [tensor.grad for tensor in output[:2] if tensor.grad is not None]
    of_marginals = [marginal.grad for marginal in output.marginals or () if marginal.grad is not None]
    assert of_joints or of_marginals
    for gradient in of_joints:
        assert not gradient[weight == 0].any() and gradient[weight == 1].all()
    for axis, gradient in enumerate(of_marginals):
        silent = weight[..., axis] == 0
        assert not gradient[silent].any() and gradient[~silent].any(-1).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_broken_prediction_shows_in_spite_of_its_weight(name: str) -> None:
    logits, weight = torch.randn(2, 4, 3, 5, 6), torch.ones(2, 4, 3)
    logits[1, 2], weight[1, 2] = math.nan, 0
    assert build(name)(output_of(logits), torch.zeros(2, 4, 3), weight).isnan()


@pytest.mark.parametrize("name", LOSSES)
def test_sum_over_joints_and_mean_over_people(name: str) -> None:
    logits, truth = torch.randn(2, 4, 3, 5, 6), torch.rand(2, 4, 3) - 0.5
    weight = torch.rand(2, 4, 3)
    once = build(name)(output_of(logits), truth, weight)
    assert once.shape == () and once.dtype == torch.float32
    people = build(name)(
        output_of(logits.repeat(3, 1, 1, 1, 1)), truth.repeat(3, 1, 1), weight.repeat(3, 1, 1)
    )
    joints = build(name)(
        output_of(logits.repeat(1, 3, 1, 1, 1)), truth.repeat(1, 3, 1), weight.repeat(1, 3, 1)
    )
    torch.testing.assert_close(people, once)
    torch.testing.assert_close(joints, 3 * once)
    torch.testing.assert_close(build(name)(output_of(logits), truth, 2 * weight), 2 * once)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("height", [0.0, 20.0, 1e4])  # all cells equal .. one holds everything
@pytest.mark.parametrize("label", [-1000.0, -3.0, -0.5, 0.0, 0.2, 0.75])  # 0.75: beyond the last cell
def test_extremes_have_finite_gradients(name: str, height: float, label: float) -> None:
    logits = torch.zeros(1, 1, 4, 4, 4)
    logits[..., 0, 0, 0] = height
    logits.requires_grad_()
    loss = build(name)(output_of(logits), torch.full((1, 1, 3), label), torch.ones(1, 1, 3))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_gradient(name: str) -> None:
    logits = torch.randn(2, 2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    truth, weight = torch.rand(2, 2, 3, dtype=torch.float64) - 0.5, torch.rand(2, 2, 3, dtype=torch.float64)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return build(name)(output_of(logits), truth, weight)

    assert loss(logits).dtype == torch.float64
    assert torch.autograd.gradcheck(loss, (logits,))


# After the fit: largest error, and the range of the volumes' deviations, both in cells. The means say nothing
# of the spread; the Gaussian at the label has 1; the likelihood narrows towards the cells around the label.
FITS = {
    "l1": (0.05, 1.5, 4.0),
    "l2": (0.05, 1.5, 4.0),
    "l1_js": (0.05, 0.8, 1.6),
    "l1_marginals": (0.05, 0.8, 1.6),
    "marginals": (0.1, 0.8, 1.2),
    "laplace": (0.1, 0.0, 0.8),
}


@pytest.mark.parametrize("name", LOSSES)
def test_volumes_learn_the_label(name: str) -> None:
    largest, narrowest, widest = FITS[name]
    logits = torch.randn(1, 6, 8, 9, 10, requires_grad=True)
    truth, weight = 0.3 * torch.rand(1, 6, 3) - 0.15, torch.ones(1, 6, 3)
    size = torch.tensor([10, 9, 8])
    before = ((output_of(logits).joints_norm - truth).abs() * size).max()
    optimizer = torch.optim.Adam([logits], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 150)
    for _ in range(150):
        optimizer.zero_grad()
        build(name)(output_of(logits), truth, weight).backward()
        optimizer.step()
        schedule.step()
    output = output_of(logits)
    assert output.sigma_norm is not None
    assert before > 1
    assert ((output.joints_norm - truth).abs() * size).max() < largest
    sigma = output.sigma_norm * size
    assert narrowest < sigma.min() and sigma.max() < widest


@pytest.mark.parametrize("name", LOSSES)
def test_a_head_without_a_volume(name: str, tmp_path: Path) -> None:
    """Refused before anything is written, where the loss needs one."""
    run = config.load(None, ["model.head={name: direct}", f"loss={{name: {name}}}"])
    if name in OF_VOLUMES:
        with pytest.raises(ConfigError, match=rf"loss: {name} needs .* the head direct has none: use l1"):
            engine.train(run, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    else:
        engine.refuse_blind_loss(run)
        bare = NetworkOutput(torch.zeros(1, 2, 3), None, None)
        assert build(name)(bare, torch.ones(1, 2, 3), torch.ones(1, 2, 3)) == 6


@pytest.mark.parametrize(
    ("name", "option", "wanted"),
    [
        ("l1_js", "js=-1", "at least 0"),
        ("l1_js", "sigma=0", "positive"),
        ("l1_marginals", "marginals=-0.1", "at least 0"),
        ("l1_marginals", "sigma=-1", "positive"),
        ("marginals", "sigma=0", "positive"),
        ("laplace", "floor=0", "positive"),
        ("l2", "sigma=1", "unknown key"),
    ],
)
def test_options_out_of_range(name: str, option: str, wanted: str) -> None:
    key, _, _ = option.partition("=")
    with pytest.raises(ConfigError, match=rf"loss\.{key}: .*{wanted}"):
        config.load(None, [f"loss.name={name}", f"loss.{option}"])
