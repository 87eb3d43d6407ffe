"""The integral head against the original's volumes, and what it says beyond coordinates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ipr import ops
from ipr.heads import integral
from ipr.heads.integral import Integral
from tests.conftest import Tolerance

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoint"
CASES = {
    name: case
    for name, case in json.loads((GOLDEN / "heads.json").read_text()).items()
    if "kernel_size" in case
}


def golden_head(name: str) -> tuple[Integral, torch.Tensor, np.ndarray]:
    """(the original's head in evaluation mode, features [1,C,3,2], logits [1,J*D,12,8])"""
    case, arrays = CASES[name], np.load(GOLDEN / "heads.npz")
    config = integral.Config(
        deconv_layers=case["num_layers"],
        filters=case["num_filters"],
        kernel=case["kernel_size"],
        final_kernel=case["conv_kernel_size"],
        depth_bins=case["depth_dim"],
    )
    head = config.build(case["in_channels"], case["num_joints"])
    prefix = f"{name}/sd/"
    state = {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}
    head.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return head.eval(), torch.from_numpy(arrays[f"{name}/x"]), arrays[f"{name}/y"]


def small(kernel: int = 4, final_kernel: int = 1, init: str = "scratch") -> Integral:
    config = integral.Config(
        deconv_layers=2, filters=64, kernel=kernel, final_kernel=final_kernel, depth_bins=4, init=init
    )
    return config.build(in_channels=32, num_joints=3)


def test_every_kernel_is_there() -> None:
    kernels = {(case["kernel_size"], case["conv_kernel_size"]) for case in CASES.values()}
    assert kernels == {(kernel, final) for kernel in (2, 3, 4) for final in (1, 3)}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_original(name: str, dtype: torch.dtype, tolerance: Tolerance) -> None:
    head, features, logits = golden_head(name)
    volume = logits.astype(np.float64).reshape(3, 4, 12, 8)
    p = np.exp(volume) / np.exp(volume).sum((1, 2, 3), keepdims=True)
    z, y, x = np.meshgrid(*(np.arange(n) / n - 0.5 for n in (4, 12, 8)), indexing="ij")
    expected = np.stack([(p * axis).sum((1, 2, 3)) for axis in (x, y, z)], 1)
    output = head.to(dtype)(features.to(dtype))
    assert output.joints_norm.dtype == dtype
    np.testing.assert_allclose(
        output.joints_norm[0].detach(), expected, rtol=0, atol=tolerance.network_norm[dtype]
    )
    np.testing.assert_allclose(head.features(features.to(dtype)).detach(), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("final_kernel", [1, 3])
def test_spread_and_score_are_the_volumes(final_kernel: int) -> None:
    head = small(final_kernel=final_kernel).eval()
    features = torch.randn(2, 32, 3, 2)
    output = head(features)
    volume = ops.softmax_integral_reference(head.features(features), num_joints=3)
    size = torch.tensor([8, 12, 4])
    torch.testing.assert_close(output.joints_norm, volume.mean / size - 0.5)
    torch.testing.assert_close(output.sigma_norm, volume.variance.sqrt() / size)
    torch.testing.assert_close(output.score, volume.score)
    assert output.score.std() > 1e-3


def test_one_cell_that_holds_everything() -> None:
    head = small().eval()
    with torch.no_grad():
        head.features[-1].weight.mul_(1e5)
    output = head(torch.randn(2, 32, 3, 2))
    assert output.score.min() > 0.999
    assert output.sigma_norm.max() < 1e-3
    (output.joints_norm.sum() + output.sigma_norm.sum()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())


@pytest.mark.parametrize("final_kernel", [1, 3])
def test_bf16_autocast_keeps_fp32_coordinates(final_kernel: int) -> None:
    head = small(final_kernel=final_kernel).eval()
    with torch.no_grad():
        head.features[-1].weight.mul_(4)
    features = torch.randn(4, 32, 3, 2).contiguous(memory_format=torch.channels_last)
    exact = head(features)
    with torch.autocast("cpu", torch.bfloat16):
        output = head(features)
    assert [tensor.dtype for tensor in output[:3]] == [torch.float32] * 3
    assert exact.joints_norm.std(0).max() > 0.05
    torch.testing.assert_close(output.joints_norm, exact.joints_norm, rtol=0, atol=0.01)


def test_initialisation() -> None:
    features = torch.randn(64, 32, 3, 2).relu() * 2**0.5  # as a trunk that preserves variance would give them
    flat, alive = small(init="original"), small(init="scratch")
    assert flat.features(features).std() < 0.02
    assert 0.5 < alive.features(features).std() < 2
    assert flat(features).joints_norm.std(0).max() < 1e-3
    assert alive(features).joints_norm.std(0).min() > 5e-3
    for head in (flat, alive):
        assert head.features[-1].bias.abs().max() == 0


@pytest.mark.parametrize(
    "options",
    [{"deconv_layers": -1}, {"filters": 0}, {"kernel": 5}, {"final_kernel": 2}, {"depth_bins": 0}],
)
def test_options_out_of_range(options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name}: "):
        integral.Config(**options)
