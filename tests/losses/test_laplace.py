"""The Laplace likelihood by hand, at the floor, and that the deviation it learns is the error's."""

from __future__ import annotations

import math

import pytest
import torch

from ipr.losses import l1, laplace
from ipr.types import NetworkOutput
from tests.losses.volumes import output_of


def of_numbers(joint: float, sigma: float, label: float, weight: float = 1.0) -> float:
    """One joint, the same on every axis."""
    numbers = torch.tensor([joint, sigma, label, weight], dtype=torch.float64)
    joints_norm, sigma_norm, truth, weights = numbers[:, None, None, None].expand(4, 1, 1, 3)
    output = NetworkOutput(joints_norm, sigma_norm, None)
    return laplace.Config().build()(output, truth, weights).item()


def test_by_hand() -> None:
    b = math.sqrt((0.05**2 + 1e-3**2) / 2)
    expected = 3 * 0.7 * (abs(0.1 - 0.22) / b + math.log(2 * b))
    assert of_numbers(0.1, 0.05, 0.22, weight=0.7) == pytest.approx(expected, rel=1e-6)
    without_floor = 3 * 0.7 * (0.12 / (0.05 / math.sqrt(2)) + math.log(2 * 0.05 / math.sqrt(2)))
    assert of_numbers(0.1, 0.05, 0.22, weight=0.7) == pytest.approx(without_floor, rel=1e-3)


def test_it_is_a_density() -> None:
    """exp(-loss / 3) over all labels is 1: both halves of the formula have the same b."""
    labels = torch.linspace(-3, 3, 6001, dtype=torch.float64)
    likelihood = [math.exp(-of_numbers(0.0, 0.2, label) / 3) for label in labels[::10].tolist()]
    assert sum(likelihood) * 0.01 == pytest.approx(1, rel=1e-3)


def test_no_deviation_counts_as_less_than_the_floor() -> None:
    b = 1e-3 / math.sqrt(2)
    assert of_numbers(0.3, 0.0, 0.3) == pytest.approx(3 * math.log(2 * b))
    assert of_numbers(0.3, 0.0, 0.4) == pytest.approx(3 * (0.1 / b + math.log(2 * b)), rel=1e-5)


def test_a_certain_volume_that_is_wrong_is_told_to_widen() -> None:
    """Its mean is where the label is not; cells on both sides gain, those near the label most."""
    logits = torch.zeros(1, 1, 1, 1, 9)
    logits[..., 3] = 12.0
    logits.requires_grad_()
    weight = torch.tensor([[[1.0, 0.0, 0.0]]])
    laplace.Config().build()(output_of(logits), torch.full((1, 1, 3), 6 / 9 - 0.5), weight).backward()
    assert logits.grad is not None
    downhill = -logits.grad.flatten()
    assert downhill[3] < 0 and (downhill[[0, 1, 5, 6, 7, 8]] > 0).all()
    assert downhill[8] > downhill[6] > downhill[0]


def test_the_deviation_becomes_the_labels() -> None:
    """One volume, many labels that scatter: its deviation is theirs, sqrt(2) times their mean distance."""
    cells, scale = 48, 2.0
    labels = torch.distributions.Laplace(24.0, scale).sample((500, 1)) / cells - 0.5
    truth = torch.stack((labels, torch.zeros(500, 1), torch.zeros(500, 1)), -1)
    weight = torch.tensor([1.0, 0.0, 0.0]).expand(500, 1, 3)
    sigma = {}
    for name, loss in (("l1", l1.Config().build()), ("laplace", laplace.Config().build())):
        logits = torch.zeros(1, 1, 1, 1, cells, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.05)
        for _ in range(200):
            optimizer.zero_grad()
            output = output_of(logits)
            assert output.sigma_norm is not None
            people = NetworkOutput(
                output.joints_norm.expand(500, 1, 3), output.sigma_norm.expand(500, 1, 3), None
            )
            loss(people, truth, weight).backward()
            optimizer.step()
        sigma[name] = output.sigma_norm[0, 0, 0].item() * cells
    expected = math.sqrt(2) * (labels - labels.median()).abs().mean().item() * cells
    assert sigma["laplace"] == pytest.approx(expected, rel=0.03)
    assert sigma["l1"] > 3 * expected
