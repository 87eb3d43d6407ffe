"""integral_head against its definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ipr.nn import IntegralHead
from ipr.ops import integral_head, integral_head_reference, softmax_integral
from tests.conftest import Tolerance

JOINTS, DEPTH = 3, 5


def _inputs(dtype: torch.dtype = torch.float64, channels_last: bool = False) -> tuple[torch.Tensor, ...]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    features = torch.randn(2, 7, 6, 4, dtype=dtype).contiguous(memory_format=layout)
    return features, torch.randn(JOINTS * DEPTH, 7, dtype=dtype), torch.randn(JOINTS * DEPTH, dtype=dtype)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_matches_the_definition(dtype: torch.dtype, channels_last: bool, tolerance: Tolerance) -> None:
    features, weight, bias = _inputs(dtype, channels_last)
    for given in (bias, None):
        result = integral_head(features, weight, given, JOINTS)
        exact = integral_head_reference(
            features.double(), weight.double(), None if given is None else given.double(), JOINTS
        )
        limit = tolerance.coords_cells if dtype == torch.float32 else 1e-12
        for value, truth in zip(result, exact, strict=True):
            torch.testing.assert_close(value.double(), truth, atol=limit, rtol=1e-6)


def test_gradcheck() -> None:
    inputs = [tensor.requires_grad_() for tensor in _inputs()]
    assert torch.autograd.gradcheck(lambda f, w, b: integral_head(f, w, b, JOINTS).mean, inputs)


def test_module_in_eager_script_and_export() -> None:
    module = IntegralHead(7, JOINTS, DEPTH)
    features = torch.randn(2, 7, 6, 4)
    expected = softmax_integral(F.conv2d(features, module.weight[..., None, None], module.bias), JOINTS)
    scripted = torch.jit.script(module)
    exported = torch.export.export(module, (features,)).module()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for variant in (module, scripted, exported, compiled):
        for value, truth in zip(variant(features), expected, strict=True):
            torch.testing.assert_close(value, truth)


def test_volumes_are_nearly_flat_before_training() -> None:
    mean = IntegralHead(7, JOINTS, DEPTH)(torch.randn(2, 7, 6, 4)).mean
    torch.testing.assert_close(mean, torch.tensor([1.5, 2.5, 2.0]).expand_as(mean), atol=0.05, rtol=0)


def test_empty_batch() -> None:
    _, weight, bias = _inputs(torch.float32)
    assert integral_head(torch.zeros(0, 7, 6, 4), weight, bias, JOINTS).mean.shape == (0, JOINTS, 3)


def test_wrong_shapes() -> None:
    features, weight, bias = _inputs()
    for function in (integral_head, integral_head_reference):
        with pytest.raises(ValueError, match=r"of the same C; got \[2, 7, 6, 4\] and \[15, 6\]"):
            function(features, weight[:, 1:], bias, JOINTS)
        with pytest.raises(ValueError, match=r"whole depth D; got \[15, 7\] with num_joints=4"):
            function(features, weight, bias, 4)


def test_mixed_devices_and_types() -> None:
    features, weight, bias = _inputs()
    for function in (integral_head, integral_head_reference):
        for weight_there, bias_there in ((weight.to("meta"), bias), (weight, bias.to("meta"))):
            with pytest.raises(ValueError, match=r"\[J\*D, C\].* one device.* got \[2, 7, 6, 4\] .*meta"):
                function(features, weight_there, bias_there, JOINTS)
        for weight_there, bias_there in ((weight.float(), bias), (weight, bias.float())):
            with pytest.raises(TypeError, match=r"\[J\*D\] of one type; got \[2, 7, 6, 4\] .*float64 "):
                function(features, weight_there, bias_there, JOINTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # converts what it is given
        mixed = integral_head(features.bfloat16(), weight.float(), bias.float(), JOINTS)
    assert mixed.mean.shape == (2, 3, 3)


def test_wrong_bias() -> None:
    features, weight, bias = _inputs()
    for function in (integral_head, integral_head_reference):
        with pytest.raises(ValueError, match=r"bias \[J\*D\] .*got .*\[15, 7\] .*\[14\]"):
            function(features, weight, bias[1:], JOINTS)
