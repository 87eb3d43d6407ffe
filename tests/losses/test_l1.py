"""The weighted L1 against the original's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ipr.losses import l1
from ipr.types import NetworkOutput

GOLDEN = Path(__file__).parents[1] / "golden" / "softmax_integral"


def test_original() -> None:
    golden = np.load(GOLDEN / "weighted_losses.npz")
    prediction, truth, weight = (
        torch.from_numpy(golden[name]).unflatten(1, (-1, 3)) for name in ("pred", "gt", "weight")
    )
    loss = l1.Config().build()(NetworkOutput(prediction, None, None), truth, weight)
    assert loss.item() == pytest.approx(golden["l1_avg"].item(), rel=1e-5)


def test_gradient_is_the_errors_sign() -> None:
    prediction = torch.randn(2, 4, 3, requires_grad=True)
    weight = torch.rand(2, 4, 3)
    l1.Config().build()(NetworkOutput(prediction, None, None), torch.zeros(2, 4, 3), weight).backward()
    assert prediction.grad is not None
    torch.testing.assert_close(prediction.grad, prediction.detach().sign() * weight / 2)
