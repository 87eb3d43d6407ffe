"""softmax_integral against its definition on whatever hypothesis thinks of: sizes, strides, values.

The examples are the same in every run; `HYPOTHESIS_PROFILE=thorough` looks at new ones, and at more.
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ipr.ops import IntegralResult, softmax_integral, softmax_integral_reference
from tests.conftest import Tolerance
from tests.ops.conftest import DTYPES, GRADIENT_LIMIT, assert_integral

# Fixtures choose kernels once per test: hypothesis need not run them again for each example. A busy machine
# is no fault of a test.
CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
COMMON = {"deadline": None, "suppress_health_check": CHECKS}
settings.register_profile("repeatable", derandomize=True, database=None, max_examples=60, **COMMON)
settings.register_profile("thorough", max_examples=3000, **COMMON)
properties = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

INF, NAN = float("inf"), float("nan")
MOST_CELLS = 6000
# Of probabilities, where logits tower above the reference of a block (float32's e^x has an error of 4e-8 |x|)
# or float32 sums of equal terms are rounded the same way each time.
ROUGH = 4e-6


class Case(NamedTuple):
    """Logits as five axes [B, J, D, H, W], and how they lie in memory."""

    sizes: tuple[int, ...]
    dtype: torch.dtype
    values: str
    seed: int
    order: tuple[int, ...]  # of the axes in memory, slowest first
    padding: tuple[int, ...]  # entries of each axis that lie in memory before and after those taken
    steps: tuple[int, ...]  # every how many-th entry of each axis is taken
    repeated: int | None  # an axis whose entries are all the same memory

    def logits(self, device: str) -> Tensor:
        """Of ``values``, strided as the case says."""
        values = self._values().to(self.dtype).to(device)
        if self.repeated is not None:
            values = values.narrow(self.repeated, 0, 1)
        taken = [
            slice(pad, pad + size * step, step)
            for size, step, pad in zip(values.shape, self.steps, self.padding, strict=True)
        ]
        memory = torch.full([part.stop + part.start for part in taken], NAN, dtype=self.dtype, device=device)
        memory = memory.permute(self.order).contiguous().permute([self.order.index(i) for i in range(5)])
        view = memory[tuple(taken)].copy_(values)
        return view if self.repeated is None else view.expand(self.sizes)

    def _values(self) -> Tensor:
        random = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.sizes, generator=random, dtype=torch.float64)
        scale = float(torch.rand((), generator=random)) * 10
        if self.values == "equal":
            return torch.full_like(noise, scale * 100 - 500)
        if self.values == "one hot":
            hot = torch.randint(math.prod(self.sizes[2:]), self.sizes[:2], generator=random)
            return torch.zeros_like(noise).flatten(2).scatter(2, hot[..., None], 1e4).view(self.sizes)
        if self.values == "masked":
            keep = torch.rand(self.sizes, generator=random) < float(torch.rand((), generator=random))
            keep[..., 0, 0, 0] = True
            return noise.where(keep, -INF)
        offset = {"offset": 1e4, "negative offset": -1e4}.get(self.values, 0.0)
        return noise * scale + offset


VALUES = ["normal", "equal", "one hot", "masked", "offset", "negative offset"]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    # Around the widths of vectors, and the cut into blocks of 32768 cells, the first of which is a long row.
    size = st.one_of(st.integers(1, 9), st.sampled_from([15, 16, 17, 31, 33, 64, 65, 79]))
    sizes = draw(st.tuples(st.integers(1, 3), st.integers(1, 4), size, size, size))
    if draw(st.integers(0, 4)) == 0:  # heat maps, whose joints may be the vectors
        sizes = (sizes[0], draw(size), 1, *sizes[3:])
    volume = list(sizes[2:])
    while math.prod(volume) > MOST_CELLS:
        volume[volume.index(max(volume))] //= 2
    plain = draw(st.booleans())  # half of them: whole tensors, contiguous or channels_last
    order = (0, 1, 2, 3, 4) if draw(st.booleans()) else (0, 3, 4, 1, 2)
    return Case(
        sizes=(*sizes[:2], *volume),
        dtype=draw(st.sampled_from(DTYPES)),
        values=draw(st.sampled_from(VALUES)),
        seed=draw(st.integers(0, 2**32)),
        order=order if plain else tuple(draw(st.permutations(range(5)))),
        padding=(0,) * 5 if plain else draw(st.tuples(*[st.integers(0, 3)] * 5)),
        steps=(1,) * 5 if plain else draw(st.tuples(*[st.sampled_from([1, 1, 2])] * 5)),
        repeated=None if plain else draw(st.sampled_from([None, None, *range(5)])),
    )


def _outputs(result: IntegralResult) -> list[Tensor]:
    return [tensor for tensor in result if tensor is not None]


@properties
@given(case=cases())
def test_results(kernels: str, tolerance: Tolerance, case: Case) -> None:
    logits = case.logits(kernels)
    result = softmax_integral(logits)
    assert_integral(result, softmax_integral_reference(logits.double()), tolerance, ROUGH)
    for marginal in (result.px, result.py, result.pz):
        assert marginal is not None and (marginal >= 0).all()
        torch.testing.assert_close(marginal.sum(dim=-1), torch.ones_like(result.logsumexp))
    again = softmax_integral(logits)
    assert all(torch.equal(a, b) for a, b in zip(result, again, strict=True))


@properties
@given(case=cases())
def test_heat_maps(kernels: str, tolerance: Tolerance, case: Case) -> None:
    logits = case.logits(kernels)[:, :, 0]
    truth = softmax_integral_reference(logits.double())
    assert_integral(softmax_integral(logits), truth, tolerance, ROUGH)


def _size_of_terms(logits: Tensor, upstream: list[Tensor | None]) -> float:
    """L2 norm of what a gradient is the sum of. Those of peaked volumes cancel out to next to nothing."""
    p = logits.flatten(2).softmax(dim=-1).view_as(logits)
    result = softmax_integral_reference(logits)
    weights = torch.zeros_like(p)
    if upstream[4] is not None:
        weights += upstream[4].abs()[..., None, None, None]
    for i, (marginal, axis) in enumerate(((result.px, 4), (result.py, 3), (result.pz, 2))):
        assert marginal is not None
        along = [*logits.shape[:2], *(logits.shape[axis] if n == axis else 1 for n in (2, 3, 4))]
        if (of_mean := upstream[0]) is not None:
            distance = torch.arange(marginal.shape[2], device=p.device) - result.mean[..., i, None]
            weights += (distance * of_mean[..., i, None]).abs().view(along)
        if (of_marginal := upstream[1 + i]) is not None:
            expectation = (of_marginal * marginal).sum(dim=-1, keepdim=True)
            weights += (of_marginal.abs() + expectation.abs()).view(along)
    return float((p * weights).norm())


@properties
@given(case=cases(), chosen=st.sets(st.integers(0, 4), min_size=1))
def test_gradients(kernels: str, case: Case, chosen: set[int]) -> None:
    """Of any of mean, px, py, pz and logsumexp: those that got no upstream gradient must not matter."""
    logits = case.logits(kernels).detach().requires_grad_()
    exact = logits.detach().double().requires_grad_()
    outputs, truths = _outputs(softmax_integral(logits)), _outputs(softmax_integral_reference(exact))
    random = torch.Generator().manual_seed(case.seed)
    upstream = [torch.randn(t.shape, generator=random, dtype=torch.float64).to(kernels) for t in truths]
    gradient, again = (
        torch.autograd.grad(
            [outputs[i] for i in chosen],
            logits,
            [upstream[i].to(outputs[i].dtype) for i in chosen],
            retain_graph=True,
        )[0]
        for _ in range(2)
    )
    (expected,) = torch.autograd.grad([truths[i] for i in chosen], exact, [upstream[i] for i in chosen])
    assert torch.equal(gradient, again) and gradient.dtype == logits.dtype
    error = float((gradient.double() - expected).norm())
    size = _size_of_terms(exact.detach(), [upstream[i] if i in chosen else None for i in range(5)])
    limit = 2 * GRADIENT_LIMIT[case.dtype]  # in a few cells rounding does not average out
    if case.dtype == torch.float64:  # logsumexp, saved in float64 itself, carries the offset of all logits
        limit += float(truths[4].detach().abs().max()) * torch.finfo(torch.float64).eps
    step = torch.finfo(case.dtype).smallest_normal * torch.finfo(case.dtype).eps  # float16 has no finer one
    assert error <= limit * size + step * math.sqrt(gradient.numel()), error / size


@properties
@given(case=cases(), value=st.sampled_from([NAN, INF]), data=st.data())
def test_not_a_number_stays_in_its_joint(kernels: str, case: Case, value: float, data: st.DataObject) -> None:
    case = case._replace(repeated=None)
    clean, logits = case.logits(kernels), case.logits(kernels)
    batch, joint, *cell = (data.draw(st.integers(0, size - 1)) for size in case.sizes)
    logits[batch, joint][tuple(cell)] = value
    others = torch.ones(case.sizes[:2], dtype=torch.bool)
    others[batch, joint] = False
    logits.requires_grad_()
    result, expected = softmax_integral(logits), softmax_integral(clean)
    for tensor, truth in zip(_outputs(result), _outputs(expected), strict=True):
        assert tensor[batch, joint].isnan().all()
        assert torch.equal(tensor[others], truth[others])
    (gradient,) = torch.autograd.grad(result.mean.sum(), logits)
    assert gradient[batch, joint].isnan().all() and not gradient[others].isnan().any()


@properties
@given(case=cases())
def test_threads_do_not_change_a_bit(case: Case) -> None:
    outcomes = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            logits = case.logits("cpu").detach().requires_grad_()
            result = softmax_integral(logits)
            loss = result.mean.sum() + result.px.square().sum() + result.logsumexp.sum()
            outcomes.append([*_outputs(result), torch.autograd.grad(loss, logits)[0]])
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))


@pytest.mark.parametrize("values", VALUES)
def test_cases_are_what_they_say(values: str) -> None:
    order, padding, steps = (4, 0, 3, 1, 2), (1, 0, 2, 3, 1), (2, 1, 1, 2, 1)
    logits = Case((2, 2, 3, 4, 5), torch.float64, values, 1, order, padding, steps, repeated=0).logits("cpu")
    assert logits.shape == (2, 2, 3, 4, 5) and not logits.isnan().any()
    joints, depth, height = 2, 3 + 2 * 2, 4 * 2 + 3 * 2  # with the entries left out
    assert logits.stride() == (0, depth, 1, 2 * depth * joints, depth * joints * height * (2 + 2))
    finite = logits[logits > -INF]
    assert (finite.abs().max() > 9000) == (values in ("one hot", "offset", "negative offset"))
    assert (len(finite) < logits.numel()) == (values == "masked")
    assert (finite.std() == 0) == (values == "equal")
