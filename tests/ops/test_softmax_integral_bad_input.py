"""What softmax_integral says to logits of a wrong shape or type, and to a wrong IPR_ISA."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ipr.ops import IntegralResult, _library, softmax_integral, softmax_integral_reference
from tests.ops.conftest import ISAS

Integral = Callable[[Tensor, int | None], IntegralResult] | Callable[[Tensor], IntegralResult]


@pytest.mark.parametrize(
    ("shape", "num_joints", "message"),
    [
        ((3, 4, 5), None, r"must be \[B, J, D, H, W\], .* got \[3, 4, 5\] with num_joints=None"),
        ((2, 7, 5, 5), 3, r"with num_joints=J, \[B, J\*D, H, W\]; got \[2, 7, 5, 5\] with num_joints=3"),
        ((2, 6, 5, 5), 0, r"with num_joints=0"),
        ((2, 6, 5, 5, 5), 3, r"got \[2, 6, 5, 5, 5\] with num_joints=3"),
    ],
)
def test_wrong_shape(shape: tuple[int, ...], num_joints: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        softmax_integral(torch.zeros(shape), num_joints)
    with pytest.raises(ValueError, match=message):
        softmax_integral_reference(torch.zeros(shape), num_joints)


INTEGRALS = pytest.mark.parametrize("integral", [softmax_integral, softmax_integral_reference])


@INTEGRALS
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64], ids=str)
def test_wrong_type(integral: Integral, device: str, dtype: torch.dtype) -> None:
    """Integers, which cannot have a gradient either: with requires_grad or without."""
    with pytest.raises(
        TypeError, match=rf"float32, float64, bfloat16 or float16; got {dtype} \[1, 2, 3, 4, 5\]"
    ):
        integral(torch.zeros(1, 2, 3, 4, 5, dtype=dtype, device=device))


@INTEGRALS
@pytest.mark.parametrize("shape", [(1, 2, 0, 3, 4), (1, 2, 3, 0, 4), (1, 2, 3, 4, 0), (0, 2, 3, 0, 4)])
def test_volume_of_size_zero(integral: Integral, device: str, shape: tuple[int, ...]) -> None:
    sizes = re.escape(str(list(shape)))
    with pytest.raises(ValueError, match=rf"\[B, J, D, H, W\].* at least 1.* got {sizes}"):
        integral(torch.zeros(shape, device=device))


@INTEGRALS
def test_heat_map_or_packed_volume_of_size_zero(integral: Integral, device: str) -> None:
    """The message has the sizes that were given, not those of the volume made of them."""
    for shape, joints in (((1, 2, 0, 4), None), ((2, 0, 4, 5), 3)):
        with pytest.raises(ValueError, match=rf"at least 1.* got {re.escape(str(list(shape)))}"):
            integral(torch.zeros(shape, device=device), joints)


@INTEGRALS
def test_sparse(integral: Integral) -> None:
    with pytest.raises(TypeError, match=r"\[B, J, D, H, W\].* dense; got .*\[1, 2, 3, 4, 5\]"):
        integral(torch.zeros(1, 2, 3, 4, 5).to_sparse())


def test_an_integer_tensor_cannot_require_a_gradient() -> None:
    with pytest.raises(RuntimeError, match="floating point"):  # torch's own, before any operator is called
        softmax_integral(torch.zeros(1, 2, 3, 4, 5, dtype=torch.int64).requires_grad_())


def test_operator_called_with_another_rank() -> None:
    """As a C++ program may do, which does not come by the Python function; and as torch.compile sees it."""
    for device in ("cpu", "meta"):
        logits = torch.zeros(3, 4, 5, 6, device=device)
        with pytest.raises((RuntimeError, ValueError), match=r"\[B, J, D, H, W\], got \[3, 4, 5, 6\]"):
            torch.ops.ipr.softmax_integral(logits)


def test_messages_are_one_line() -> None:
    for logits, joints in (
        (torch.zeros(3), None),
        (torch.zeros(1, 2, 0, 3), None),
        (torch.ones(1, 5, 2, 2), 2),
    ):
        with pytest.raises((ValueError, RuntimeError, TypeError)) as error:
            softmax_integral(logits, joints)
        assert "\n" not in str(error.value) and "csrc" not in str(error.value)


@pytest.mark.parametrize("isa", [*ISAS, "sse9", ""])
def test_instruction_set_from_the_environment(isa: str) -> None:
    command = "from ipr import ops; print(ops.IMPLEMENTATION['softmax_integral'])"
    environment = {**os.environ, "IPR_ISA": isa}
    run = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True)
    if isa == "sse9":
        assert run.returncode != 0 and "IPR_ISA=sse9 is not one of baseline" in run.stderr
    else:
        compiled, name = run.stdout.split()
        assert compiled == "compiled" and name in ([isa] if isa else _library.build_info().isas)
