"""The weighted squared error against the original's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ipr.losses import l2
from ipr.types import NetworkOutput

GOLDEN = Path(__file__).parents[1] / "golden" / "softmax_integral"


def test_original() -> None:
    golden = np.load(GOLDEN / "weighted_losses.npz")
    prediction, truth, weight = (
        torch.from_numpy(golden[name]).unflatten(1, (-1, 3)) for name in ("pred", "gt", "weight")
    )
    loss = l2.Config().build()(NetworkOutput(prediction, None, None), truth, weight)
    assert loss.item() == pytest.approx(golden["l2_avg"].item(), rel=1e-5)
