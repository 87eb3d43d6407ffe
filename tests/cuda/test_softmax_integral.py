"""softmax_integral's CUDA kernels, run on the host: against float64, under every order, with sanitizers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ipr.ops import softmax_integral_reference
from tests.conftest import TOLERANCE
from tests.cuda.program import (
    A100,
    CHANNELS_LAST,
    CONTIGUOUS,
    H100,
    ONE_PART,
    Case,
    Chip,
    Shape,
    check,
    execute,
    upstream_of,
)
from tests.ops.conftest import DTYPES, assert_integral, random_logits

INF, NAN = float("inf"), float("nan")
ALL = ("mean", "px", "py", "pz", "logsumexp")
SMALL = [  # of every vector length; one cell; rows longer than a block
    (1, 1, 1, 1, 1),
    (2, 3, 5, 7, 9),
    (1, 2, 8, 16, 24),
    (2, 1, 3, 2, 18),
    (1, 1, 2, 1, 36),
    (1, 1, 1, 2, 1030),
]
# Several parts of a volume: of its slices, of its rows, of both.
LARGE = [(1, 2, 33, 31, 17), (2, 1, 1, 65, 129), (1, 1, 3, 101, 57)]


def case_of(
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.float32,
    *,
    axes: tuple[int, int, int] = CONTIGUOUS,
    chip: Chip = H100,
) -> Case:
    volumes = random_logits(shape, dtype)
    return Case(volumes, axes=axes, chip=chip, upstream=upstream_of(volumes, *ALL))


def is_clustered(shape: Shape) -> bool:
    return shape.forward_launches == 1 and shape.cluster > 1


def is_merged(shape: Shape) -> bool:
    return shape.forward_launches == 2 and shape.backward_blocks > shape.blocks


# Shapes, layouts, elements, chips.


@pytest.mark.parametrize("axes", [CONTIGUOUS, CHANNELS_LAST], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_part(program: Path, dtype: torch.dtype, axes: tuple[int, int, int]) -> None:
    for shape in SMALL:
        outcome = check(program, case_of(shape, dtype, axes=axes))
        assert outcome.shape[:4:3] == (1, 1) and outcome.shape.blocks == shape[0] * shape[1]


@pytest.mark.parametrize("axes", [CONTIGUOUS, CHANNELS_LAST], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_several_parts(program: Path, dtype: torch.dtype, axes: tuple[int, int, int]) -> None:
    """A cluster adds them up where there are clusters, a second kernel where not."""
    number = DTYPES.index(dtype) + axes[0]
    for chip, expected in ((H100, is_clustered), (A100, is_merged)):
        outcome = check(program, case_of(LARGE[number % len(LARGE)], dtype, axes=axes, chip=chip))
        assert expected(outcome.shape), outcome.shape
        number += 1


@pytest.mark.parametrize("shape", LARGE, ids=str)
def test_cuts_of_every_axis(program: Path, shape: tuple[int, ...]) -> None:
    for chip in (H100, A100, ONE_PART, Chip(multiprocessors=2), A100._replace(multiprocessors=1)):
        check(program, case_of(shape, chip=chip))


def test_as_many_parts_as_possible(program: Path) -> None:
    outcome = check(program, case_of((1, 1, 66, 48, 43), torch.bfloat16, chip=A100))
    assert outcome.shape.backward_blocks >= 60 and is_merged(outcome.shape)


# Where the elements lie.


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_misaligned(program: Path, dtype: torch.dtype) -> None:
    for offset in (1, 2, 4):
        case = case_of((1, 2, 3, 5, 16), dtype)
        check(program, Case(case.volumes, offset=offset, upstream=case.upstream))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_part_of_a_larger_tensor(program: Path, dtype: torch.dtype) -> None:
    """What lies between the elements is NaN, and the gradient's gaps must stay as they are."""
    volumes = random_logits((2, 3, 4, 5, 16), dtype)
    upstream = upstream_of(volumes, *ALL)
    packed = (16 * 60, 16 * 20, 16 * 5, 16)
    for row, more in ((16, 0), (16, 1), (16, 2), (16, 4), (17, 3), (18, 0), (20, 2), (24, 8)):
        strides = (3 * (24 * row + more) + more, 24 * row + more, 5 * row + more, row)
        check(program, Case(volumes, strides=strides, gradient_strides=packed, upstream=upstream))
    check(program, Case(volumes, strides=packed, gradient_strides=strides, upstream=upstream))
    broadcast = volumes[:1, :1].expand(2, 3, -1, -1, -1)
    check(program, Case(broadcast, strides=(0, 0, 80, 16), gradient_strides=packed, upstream=upstream))
    rest = random_logits((2, 2, 3, 5, 18), dtype)  # not a whole number of the vectors that the strides allow
    strides, packed = (960, 480, 160, 32), (540, 270, 90, 18)
    upstream_of_rest = upstream_of(rest, *ALL)
    for of_logits, of_gradient in ((strides, packed), (packed, strides), (strides, strides)):
        case = Case(rest, strides=of_logits, gradient_strides=of_gradient, upstream=upstream_of_rest)
        check(program, case)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_in_place_of_the_logits(program: Path, dtype: torch.dtype) -> None:
    for shape in ((2, 3, 5, 7, 9), (1, 1, 6, 16, 24), LARGE[0]):
        case = case_of(shape, dtype)
        check(program, Case(case.volumes, in_place=True, upstream=case.upstream))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_beyond_two_to_the_31_elements(program: Path, dtype: torch.dtype) -> None:
    """A few elements, billions apart along each axis in turn."""
    volumes = random_logits((2, 2, 2, 9, 8), dtype)
    upstream = upstream_of(volumes, *ALL)
    far = (1 << 31) + 8
    dense = (288, 144, 72, 8)
    for axis in range(3):
        strides = (*dense[:axis], far, *dense[axis + 1 :])
        check(program, Case(volumes, strides=strides, gradient_strides=dense, upstream=upstream))
        check(program, Case(volumes, strides=dense, gradient_strides=strides, upstream=upstream))
    slices = random_logits((1, 1, 5, 12, 128), dtype)  # several to a thread
    strides = (0, 0, (1 << 30) + 8, 128)
    check(program, Case(slices, strides=strides, upstream=upstream_of(slices, *ALL)))
    rows = volumes[:1, :1, :1]
    check(program, Case(rows, strides=(0, 0, 0, far // 4), upstream=upstream_of(rows, *ALL)))


def test_long_axes_and_too_long_ones(program: Path) -> None:
    """More shared memory than a kernel gets without asking, and than there is."""
    case = case_of((1, 1, 1, 1, 20001))
    check(program, case)
    with pytest.raises(AssertionError, match="forward: the volume's axes are too long"):
        execute(program, Case(case.volumes, chip=A100._replace(shared_bytes=64 << 10)))


# Extreme values.


def extreme(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    logits = torch.zeros(shape, dtype=torch.float64)
    ramp = torch.linspace(-1e4, 1e4, logits[0, 0].numel(), dtype=torch.float64).view(shape[2:])
    if name == "one hot":
        logits[..., -2, -3, -4] = 1e4
        logits[0] *= -1
    elif name == "offset":
        logits = torch.randn_like(logits) + 1e4
        logits[0] -= 2e4
    elif name.startswith("ramp"):
        logits += ramp if name == "ramp up" else -ramp
    elif name == "towers":  # ever higher ones, after long plains
        for height, cell in enumerate((5, 999, 1000, 2500, 4444, -1)):
            logits.flatten(2)[..., cell] = 3.0**height * 40
    elif name == "masked":
        logits = torch.randn_like(logits)
        logits[:, :, : shape[2] * 3 // 4] = -INF
        logits[0, :, :, 3] = -INF
    elif name == "lowest":
        logits += torch.finfo(dtype).min
        logits[..., -1, 4, 5] = 0
    return logits.to(dtype)


@pytest.mark.parametrize("axes", [CONTIGUOUS, CHANNELS_LAST], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_extreme_values(program: Path, dtype: torch.dtype, axes: tuple[int, int, int]) -> None:
    names = ("equal", "one hot", "offset", "ramp up", "ramp down", "towers", "masked", "lowest")
    for number, name in enumerate(names):
        volumes = extreme(name, (2, 1, 20, 15, 18), dtype)
        chip = (H100, A100)[number % 2]
        check(program, Case(volumes, axes=axes, chip=chip, upstream=upstream_of(volumes, *ALL)))


@pytest.mark.parametrize("chip", [H100, A100, ONE_PART], ids=["clustered", "merged", "one part"])
@pytest.mark.parametrize("name", ["towers", "masked", "ramp up", "offset"])
def test_extreme_values_of_large_volumes(program: Path, name: str, chip: Chip) -> None:
    volumes = extreme(name, (1, 1, 33, 31, 17), torch.float32)
    check(program, Case(volumes, chip=chip, upstream=upstream_of(volumes, *ALL)))


@pytest.mark.parametrize("chip", [H100, A100], ids=["clustered", "merged"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_not_a_number_stays_in_its_joint(program: Path, dtype: torch.dtype, chip: Chip) -> None:
    clean = case_of((1, 3, 17, 23, 11), dtype, chip=chip)
    expected = execute(program, clean)
    for value, cell in ((NAN, (0, 0, 0)), (INF, (16, 22, 10)), (NAN, (8, 12, 5)), (INF, (1, 0, 10))):
        volumes = clean.volumes.clone()
        volumes[0, 1][cell] = value
        outcome = execute(program, Case(volumes, chip=chip, upstream=clean.upstream))
        results = [*zip(outcome.result, expected.result, strict=True), (outcome.gradient, expected.gradient)]
        for tensor, truth in results:
            assert tensor is not None and truth is not None
            assert tensor[0, 1].isnan().all()
            assert torch.equal(tensor[:, ::2], truth[:, ::2]) and not truth.isnan().any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_but_the_largest_or_lowest_number(program: Path, dtype: torch.dtype) -> None:
    for value in (torch.finfo(dtype).min, torch.finfo(dtype).max):
        volumes = torch.full((1, 2, 9, 16, 18), value, dtype=dtype)
        result = execute(program, Case(volumes, upstream=upstream_of(volumes, "mean"))).result
        assert_integral(result, softmax_integral_reference(volumes.double()), TOLERANCE)


def test_nothing_but_minus_infinity_has_no_mean(program: Path) -> None:
    for shape in ((1, 1, 4, 4, 4), LARGE[0]):
        volumes = torch.full(shape, -INF)
        result = execute(program, Case(volumes, upstream=upstream_of(volumes, "mean"))).result
        assert result.mean.isnan().all() and result.px.isnan().all() and (result.logsumexp == -INF).all()


# Upstream gradients.


def test_each_upstream_gradient_alone(program: Path) -> None:
    volumes = random_logits((2, 3, 4, 5, 20), torch.float32)
    for name in ALL:
        check(program, Case(volumes, upstream=upstream_of(volumes, name)))
    assert (execute(program, Case(volumes)).gradient == 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_joints_without_upstream_gradient(program: Path, dtype: torch.dtype) -> None:
    """Exact zeros, whatever is in such a joint's volume, also where its mean is not a number."""
    case = case_of((2, 3, 5, 6, 17), dtype)
    for gradient in case.upstream.values():
        gradient[0, 1] = 0
    outcome = check(program, case)
    assert (outcome.gradient[0, 1] == 0).all() and (outcome.gradient[1, 1] != 0).any()
    case.volumes[0, 1] = NAN
    outcome = execute(program, case)
    assert (outcome.gradient[0, 1] == 0).all() and not outcome.gradient.isnan().any()


def test_gradient_of_a_saturated_joint_keeps_its_digits(program: Path) -> None:
    volumes = torch.zeros(1, 1, 8, 16, 48)
    volumes[0, 0, 5, 9, 40] = 20.0
    for axes in (CONTIGUOUS, CHANNELS_LAST):
        check(program, Case(volumes, axes=axes, upstream=upstream_of(volumes, "mean")))
