"""The integral head's temperature and its debiased coordinates, on volumes that are known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ipr import config, ops, validation
from ipr.config import ConfigError
from ipr.heads import integral
from ipr.heads.integral import Integral
from ipr.skeleton import by_name
from ipr.types import NetworkOutput
from tests.conftest import Tolerance

SIZE = (8, 10, 12)  # D, H, W of the known volumes
PEAK = torch.tensor([9.0, 2.0, 5.0], dtype=torch.float64)  # x, y, z in cells


def small(final_kernel: int = 1, **options: Any) -> Integral:
    head = integral.Config(
        deconv_layers=1, filters=16, final_kernel=final_kernel, depth_bins=4, init="scratch", **options
    ).build(in_channels=8, num_joints=3)
    torch.nn.init.normal_(head.features[-1].bias)
    return head.double().eval()


def of_logits(logits: torch.Tensor, final_kernel: int = 1, **options: Any) -> NetworkOutput:
    """What a head says of the volumes [B,J,D,H,W]: its convolution passes them on."""
    joints, depth = logits.shape[1:3]
    channels = joints * depth
    head = integral.Config(deconv_layers=0, final_kernel=final_kernel, depth_bins=depth, **options).build(
        channels, joints
    )
    with torch.no_grad():
        centre = final_kernel // 2
        head.features[-1].weight.zero_()[:, :, centre, centre] = torch.eye(channels)
    return head.to(logits.dtype)(logits.flatten(1, 2))


def cells(output: NetworkOutput) -> torch.Tensor:
    """[B,J,3] coordinates in cells of the known volumes."""
    return (output.joints_norm + 0.5) * torch.tensor(SIZE[::-1])


def squared_distance(size: tuple[int, int, int] = SIZE, peak: torch.Tensor = PEAK) -> torch.Tensor:
    """[1,1,D,H,W] squared cells from the peak."""
    z, y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij")
    return ((x - peak[0]) ** 2 + (y - peak[1]) ** 2 + (z - peak[2]) ** 2)[None, None]


# ------------------------------------------------------------------------------------------------ temperature


@pytest.mark.parametrize("final_kernel", [1, 3])
@pytest.mark.parametrize("beta", [0.3, 1.0, 2.5])
def test_temperature_is_a_factor_of_the_logits(final_kernel: int, beta: float) -> None:
    head, features = small(final_kernel, temperature=beta), torch.randn(2, 8, 3, 2, dtype=torch.float64)
    output = head(features)
    wanted = ops.softmax_integral_reference(beta * head.features(features), num_joints=3)
    torch.testing.assert_close(output.joints_norm, wanted.mean / torch.tensor([4, 6, 4]) - 0.5)
    torch.testing.assert_close(output.marginals, wanted.marginals)
    output.joints_norm.square().sum().backward()
    found = [parameter.grad for parameter in head.parameters()]
    gradients = torch.autograd.grad(
        (wanted.mean / torch.tensor([4, 6, 4]) - 0.5).square().sum(), list(head.parameters())
    )
    torch.testing.assert_close(found, list(gradients))


def test_above_1_sharpens() -> None:
    volume = torch.randn(1, 1, *SIZE)
    score = [of_logits(volume, temperature=beta).score.item() for beta in (0.5, 1.0, 2.0, 4.0)]
    assert score == sorted(score) and score[-1] > 2 * score[0]


def test_options_leave_the_parameters_alone() -> None:
    plain, other = small(), small(temperature=2.0, debias=True, background=-1.0)
    other.load_state_dict(plain.state_dict())
    assert list(other.state_dict()) == list(plain.state_dict())


class Operations(TorchDispatchMode):
    """Counts what is computed: operator and sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[Any, ...]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        sizes = [tuple(argument.shape) for argument in args if isinstance(argument, torch.Tensor)]
        self.seen[(str(func), *sizes)] += 1
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("final_kernel", [1, 3])
def test_temperature_costs_two_products_of_parameters(final_kernel: int) -> None:
    """And 1 costs nothing: no pass over the volume in either case."""

    def operations(**options: float) -> Counter[tuple[Any, ...]]:
        head = small(final_kernel, **options)
        with torch.no_grad(), Operations() as counted:
            head(torch.randn(2, 8, 3, 2, dtype=torch.float64))
        return counted.seen

    plain, heated = operations(), operations(temperature=2.0)
    assert plain == operations(temperature=1.0)
    assert not plain - heated
    assert heated - plain == {
        ("aten.mul.Tensor", (12, 16, final_kernel, final_kernel)): 1,
        ("aten.mul.Tensor", (12,)): 1,
    }


# --------------------------------------------------------------------------------------------------- debiased


@pytest.mark.parametrize("final_kernel", [1, 3])
@pytest.mark.parametrize("height", [5.0, 8.0, 12.0])
def test_one_cell_above_a_background_of_zeros(final_kernel: int, height: float) -> None:
    volume = torch.where(squared_distance() == 0, height, torch.zeros(1, 1, *SIZE, dtype=torch.float64))
    biased, found = of_logits(volume, final_kernel), of_logits(volume, final_kernel, debias=True)
    assert (cells(biased) - PEAK).abs().max() > 0.01
    torch.testing.assert_close(cells(found), PEAK[None, None], rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("in_logits", [False, True])
def test_a_gaussian_above_a_background_of_zeros(
    in_logits: bool, dtype: torch.dtype, tolerance: Tolerance
) -> None:
    """Of probabilities, or of logits (which is narrower, with longer tails); between the cells' centres."""
    size, peak = (24, 32, 40), torch.tensor([13.25, 20.5, 7.4], dtype=torch.float64)
    distance = squared_distance(size, peak)
    bump = 8 * torch.exp(distance / -12.5) if in_logits else torch.log1p(3000 * torch.exp(distance / -2.9))
    volume = bump.to(dtype)
    biased, found = (
        (of_logits(volume, debias=on).joints_norm + 0.5) * torch.tensor(size[::-1]) for on in (False, True)
    )
    assert (biased - peak).abs().min() > 0.5
    # The tails of the one in logits reach beyond the volume's nearest face.
    atol = 0.01 if in_logits else 40 * tolerance.coords_norm[dtype]
    torch.testing.assert_close(found.double(), peak[None, None], rtol=0, atol=atol)


def test_background_and_temperature() -> None:
    """The background's logit is that of the volume; the temperature scales both."""
    volume = torch.where(squared_distance() == 0, 2.0, torch.full((1, 1, *SIZE), -1.5, dtype=torch.float64))
    found = of_logits(volume, temperature=2.0, debias=True, background=-1.5)
    torch.testing.assert_close(cells(found), PEAK[None, None], rtol=0, atol=1e-9)
    other = of_logits(volume, temperature=2.0, debias=True)  # 0 is above every cell but one
    assert (cells(other) - PEAK).abs().max() > 0.5


def test_by_hand() -> None:
    """rho = n exp(b) / C and x' = (x - rho centre) / (1 - rho), in float64 from all cells."""
    volume = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    share = math.prod(SIZE) * math.exp(-0.7) / volume.exp().sum((2, 3, 4))
    assert share.max() < 0.95
    biased = cells(of_logits(volume))
    centre = (torch.tensor(SIZE[::-1]) - 1) / 2
    expected = (biased - share[..., None] * centre) / (1 - share[..., None])
    found = cells(of_logits(volume, debias=True, background=-0.7))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_a_peak_that_dominates_stays() -> None:
    volume = -squared_distance() + 60
    found, biased = of_logits(volume, debias=True), of_logits(volume)
    torch.testing.assert_close(found.joints_norm, biased.joints_norm, rtol=0, atol=1e-15)


@pytest.mark.parametrize("level", [0.0, -5.0, -1e4])
def test_no_more_than_95_percent_are_background(level: float) -> None:
    """Volumes at the background's level or below: the correction is bounded and its gradient finite."""
    volume = (0.1 * torch.randn(1, 2, *SIZE, dtype=torch.float64) + level).requires_grad_()
    found, biased = of_logits(volume, debias=True), of_logits(volume)
    centre = (torch.tensor(SIZE[::-1]) - 1) / 2
    torch.testing.assert_close(cells(found) - centre, 20 * (cells(biased) - centre))
    found.joints_norm.sum().backward()
    assert volume.grad is not None and volume.grad.isfinite().all() and volume.grad.any()
    flat = of_logits(torch.full((1, 1, *SIZE), level), debias=True)
    torch.testing.assert_close(cells(flat), centre[None, None], rtol=0, atol=1e-4)


def test_only_coordinates_change() -> None:
    volume = torch.randn(2, 3, *SIZE)
    found, biased = of_logits(volume, debias=True, background=-1.0), of_logits(volume)
    assert (found.joints_norm - biased.joints_norm).abs().min() > 0
    assert torch.equal(found.sigma_norm, biased.sigma_norm) and torch.equal(found.score, biased.score)
    for one, other in zip(found.marginals, biased.marginals, strict=True):
        assert torch.equal(one, other)


def test_gradient() -> None:
    """Fine-tuning goes through the share as well."""
    volume = torch.randn(1, 2, 2, 3, 4, dtype=torch.float64, requires_grad=True)

    def joints(volume: torch.Tensor) -> torch.Tensor:
        return of_logits(volume, temperature=1.5, debias=True, background=-1.0).joints_norm

    assert torch.autograd.gradcheck(joints, (volume,))


def test_a_broken_joint_stays_alone() -> None:
    head = small(debias=True)
    with torch.no_grad():
        head.features[-1].bias[5] = math.nan  # the second joint's
    found = head(torch.randn(2, 8, 3, 2, dtype=torch.float64)).joints_norm
    assert found[:, 1].isnan().all() and found[:, [0, 2]].isfinite().all()


def test_mirrored_volumes_have_mirrored_coordinates() -> None:
    """The centre is between the first and the last cell: the flip test agrees with itself."""
    skeleton = by_name("h36m_18")
    volume = torch.randn(1, 18, *SIZE, dtype=torch.float64)
    twin = volume.flip(-1)[:, list(skeleton.flip_permutation)]
    found = of_logits(volume, debias=True, background=-0.5)
    merged = validation.mirror(of_logits(twin, debias=True, background=-0.5), SIZE[2], skeleton)
    torch.testing.assert_close(merged.joints_norm, found.joints_norm, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------------- both


def _scripted(head: Integral, features: torch.Tensor) -> Callable[[torch.Tensor], Any]:
    return torch.jit.script(head)


def _compiled(head: Integral, features: torch.Tensor) -> Callable[[torch.Tensor], Any]:
    return torch.compile(head, fullgraph=True, backend="aot_eager")


def _exported(head: Integral, features: torch.Tensor) -> Callable[[torch.Tensor], Any]:
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(head, (features,), dynamic_shapes=({0: batch},)).module()


@pytest.mark.parametrize("transform", [_scripted, _compiled, _exported])
@pytest.mark.parametrize("final_kernel", [1, 3])
@pytest.mark.parametrize(
    "options",
    [{"temperature": 2.0}, {"debias": True}, {"temperature": 0.5, "debias": True, "background": -1.0}],
)
def test_compilers(
    transform: Callable[..., Callable[[torch.Tensor], Any]], final_kernel: int, options: dict[str, Any]
) -> None:
    head, features = small(final_kernel, **options), torch.randn(3, 8, 3, 2, dtype=torch.float64)
    with torch.no_grad():
        found, wanted = transform(head, features)(features), head(features)
    for one, other in zip([*found[:3], *found[3]], [*wanted[:3], *wanted.marginals], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("final_kernel", [1, 3])
def test_bf16_autocast_keeps_fp32_coordinates(final_kernel: int) -> None:
    head = small(final_kernel, temperature=2.0, debias=True, background=-2.0).float()
    features = torch.randn(4, 8, 3, 2)
    exact = head(features)
    with torch.autocast("cpu", torch.bfloat16):
        output = head(features)
    assert [tensor.dtype for tensor in output[:3]] == [torch.float32] * 3
    torch.testing.assert_close(output.joints_norm, exact.joints_norm, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["temperature=0"], r"model\.head\.temperature: .*positive"),
        (["temperature=-1"], r"model\.head\.temperature: .*positive"),
        (["background=-1"], r"model\.head\.background: .*left out without debias: true"),
        (["debias=1"], r"model\.head\.debias: expected true or false"),
    ],
)
def test_options_out_of_range(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.load(None, [f"model.head.{word}" for word in words])


def test_options_from_the_command_line() -> None:
    words = ["temperature=2", "background=-1", "debias=true"]
    head = config.load(None, [f"model.head.{word}" for word in words]).model.head
    assert (head.temperature, head.debias, head.background) == (2.0, True, -1.0)
