"""The direct head against the original's, and in bf16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ipr.heads import direct

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoint"


def test_original() -> None:
    arrays = np.load(GOLDEN / "heads.npz")
    head = direct.Config().build(in_channels=10, num_joints=3)
    head.load_state_dict(
        {f"fc.{key}": torch.from_numpy(arrays[f"avg/sd/fc.{key}"]) for key in ("weight", "bias")}
    )
    output = head(torch.from_numpy(arrays["avg/x"]))
    np.testing.assert_allclose(
        output.joints_norm.detach(), arrays["avg/y"].reshape(2, 3, 3), rtol=0, atol=1e-6
    )
    assert output.sigma_norm is None
    assert output.score is None


def test_bf16_autocast_keeps_fp32_coordinates() -> None:
    head = direct.Config().build(in_channels=64, num_joints=18)
    features = torch.randn(4, 64, 2, 2)
    exact = head(features).joints_norm
    with torch.autocast("cpu", torch.bfloat16):
        joints = head(features).joints_norm
    assert joints.dtype == torch.float32
    torch.testing.assert_close(joints, exact, rtol=0, atol=1e-6)
