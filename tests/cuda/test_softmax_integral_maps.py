"""The CUDA kernels for channels_last heat maps, run on the host as those for volumes are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.cuda.program import (
    A100,
    CHANNELS_LAST,
    H100,
    ONE_PART,
    Case,
    Chip,
    Shape,
    check,
    execute,
    upstream_of,
)
from tests.ops.conftest import DTYPES, random_logits

INF, NAN = float("inf"), float("nan")
ALL = ("mean", "px", "py", "pz", "logsumexp")
JOINTS = (2, 3, 16, 17, 33, 133)
SMALL = ((1, 1), (1, 6), (7, 4), (9, 8), (5, 13), (40, 48))  # height, width


def case_of(
    joints: int,
    height: int,
    width: int,
    dtype: torch.dtype = torch.float32,
    *,
    batch: int = 1,
    chip: Chip = H100,
    strides: tuple[int, ...] = (),
    gradient_strides: tuple[int, ...] = (),
    offset: int = 0,
    in_place: bool = False,
) -> Case:
    """``strides`` of batch, joint, row and pixel."""
    maps = random_logits((batch, joints, 1, height, width), dtype)
    upstream = upstream_of(maps, *ALL)
    return Case(maps, CHANNELS_LAST, strides, gradient_strides, offset, in_place, chip, upstream)


def is_clustered(shape: Shape) -> bool:
    return shape.forward_launches == 1 and shape.cluster > 1


def is_merged(shape: Shape) -> bool:
    return shape.forward_launches == 2


def taken(case: Case, shape: Shape) -> bool:
    """Whether the kernels for maps ran: those for volumes give each joint blocks of its own."""
    return shape.backward_blocks % (case.volumes.shape[0] * case.volumes.shape[1]) != 0


# Shapes, elements, chips.


@pytest.mark.parametrize("joints", JOINTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_part(program: Path, dtype: torch.dtype, joints: int) -> None:
    for height, width in SMALL:
        case = case_of(joints, height, width, dtype, batch=2 if width < 48 else 1, chip=ONE_PART)
        outcome = check(program, case, together=True)
        assert outcome.shape[:4:3] == (1, 1) and outcome.shape.blocks == case.volumes.shape[0]


@pytest.mark.parametrize("joints", JOINTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_several_parts(program: Path, dtype: torch.dtype, joints: int) -> None:
    """A cluster adds them up where there are clusters, a second kernel where not."""
    vectors = 16 // dtype.itemsize * 1024
    height = 3 * vectors // (joints * 40) + 2
    for chip, width, expected in ((H100, 40, is_clustered), (A100, 37, is_merged)):
        outcome = check(program, case_of(joints, height, width, dtype, chip=chip), together=True)
        assert expected(outcome.shape), outcome.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_as_many_parts_as_possible(program: Path, dtype: torch.dtype) -> None:
    for chip, expected in ((H100, is_clustered), (A100, is_merged)):
        outcome = check(program, case_of(17, 130, 120, dtype, chip=chip), together=True)
        assert expected(outcome.shape) and outcome.shape.backward_blocks >= 32, outcome.shape
        assert outcome.shape.cluster == (8 if chip == H100 else 1)
    check(program, case_of(3, 33, 170, dtype, batch=2, chip=H100._replace(multiprocessors=2)), together=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_longer_than_a_block(program: Path, dtype: torch.dtype) -> None:
    for joints, width in ((133, 57), (17, 301), (256, 16), (5, 1030)):
        check(program, case_of(joints, 3, width, dtype, chip=ONE_PART), together=True)


def test_what_does_not_fit_is_left_to_the_kernels_of_volumes(program: Path) -> None:
    small = A100._replace(shared_bytes=64 << 10)
    for joints, width, chip, fits in ((257, 7, H100, False), (260, 7, H100, True), (33, 600, small, False)):
        case = case_of(joints, 2, width, chip=chip)
        outcome = check(program, case, together=True)
        assert taken(case, outcome.shape) == fits


def test_large_records_make_more_parts(program: Path) -> None:
    """Of a block whose sums would leave no room for a second one."""
    case = case_of(133, 90, 12, batch=2, chip=ONE_PART._replace(shared_bytes=100 << 10))
    outcome = check(program, case, together=True)
    assert taken(case, outcome.shape) and outcome.shape.cluster == 8


# Where the elements lie.


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_misaligned(program: Path, dtype: torch.dtype) -> None:
    for offset in (1, 2, 4):
        for joints, width in ((17, 8), (16, 5), (6, 12)):
            check(program, case_of(joints, 5, width, dtype, offset=offset), together=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_part_of_a_larger_tensor(program: Path, dtype: torch.dtype) -> None:
    """What lies between the elements is NaN, and the gradient's gaps must stay as they are."""
    for joints, height, width in ((17, 5, 8), (16, 4, 7), (6, 5, 16)):
        packed = (height * width * joints, 1, width * joints, joints)
        for pixel, row, batch in ((0, 8, 0), (0, 3, 1), (1, 0, 0), (8, 0, 4), (3, 5, 7), (2, 2, 2)):
            step = joints + pixel
            line = width * step + row
            apart = (height * line + batch, 1, line, step)
            for strides, others in ((apart, packed), (packed, apart), (apart, apart)):
                sizes = (joints, height, width, dtype)
                case = case_of(*sizes, batch=2, strides=strides, gradient_strides=others)
                check(program, case, together=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_broadcast(program: Path, dtype: torch.dtype) -> None:
    """One map, one row or one pixel that serves as many."""
    for axes in ((0,), (0, 3), (4,), (0, 3, 4)):
        maps = random_logits((2, 16, 1, 5, 8), dtype)
        strides = [640, 1, 128, 16]
        for axis in axes:
            maps = maps.select(axis, 0).unsqueeze(axis).expand(2, 16, 1, 5, 8)
            strides[axis - 1 if axis > 1 else axis] = 0
        upstream = upstream_of(maps, *ALL)
        case = Case(maps, CHANNELS_LAST, tuple(strides), (640, 1, 128, 16), upstream=upstream)
        check(program, case, together=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_in_place_of_the_logits(program: Path, dtype: torch.dtype) -> None:
    check(program, case_of(17, 9, 8, dtype, batch=2, in_place=True), together=True)
    check(program, case_of(17, 40, 48, dtype, in_place=True), together=True)
    check(program, case_of(16, 5, 7, dtype, strides=(800, 1, 160, 18), in_place=True), together=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_beyond_two_to_the_31_elements(program: Path, dtype: torch.dtype) -> None:
    """A few elements, billions apart along each axis in turn."""
    dense, far = (16 * 12, 1, 16 * 3, 16), (1 << 31) + 16
    for axis in (0, 2, 3):
        strides = (*dense[:axis], far, *dense[axis + 1 :])
        for first, second in ((strides, dense), (dense, strides)):
            case = case_of(16, 4, 3, dtype, batch=2, strides=first, gradient_strides=second)
            check(program, case, together=True)
    step = (1 << 29) + 16  # a thread's next row or period, when no single stride is so large
    for height, width, axis in ((40, 8, 2), (2, 200, 3)):
        dense = (height * width * 16, 1, width * 16, 16)
        strides = (*dense[:axis], step, *dense[axis + 1 :])
        case = case_of(16, height, width, dtype, strides=strides, gradient_strides=dense, chip=ONE_PART)
        check(program, case, together=True)


# Extreme values.


def extreme(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Other ones in each joint."""
    joints = shape[1]
    logits = torch.randn(shape, dtype=torch.float64)
    ramp = torch.linspace(-1e4, 1e4, logits[0, 0].numel(), dtype=torch.float64).view(shape[2:])
    if name == "far apart":
        logits += torch.linspace(-1e4, 1e4, joints, dtype=torch.float64).view(-1, 1, 1, 1)
    elif name == "ramps":
        logits[:, ::2] += ramp
        logits[:, 1::3] -= ramp
    elif name == "towers":  # ever higher ones, after long plains
        cells = logits[0, 0].numel()
        for height in range(6):
            for joint in range(joints):
                logits[:, joint].flatten(1)[:, (joint * 37 + height * cells // 6) % cells] = 3.0**height * 40
    elif name == "masked":
        logits[..., : shape[3] * 3 // 4, :] = -INF
        logits[0, ::3, :, :, 3] = -INF
    elif name == "lowest":
        logits[:] = torch.finfo(dtype).min
        logits[:, :, 0, -1, 4] = 0
        logits[:, ::2, 0, 2] = 0
    elif name == "equal":
        logits[:] = 1
    return logits.to(dtype)


@pytest.mark.parametrize("name", ["far apart", "ramps", "towers", "masked", "lowest", "equal"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_extreme_values(program: Path, dtype: torch.dtype, name: str) -> None:
    for shape, chip in (
        ((2, 17, 1, 20, 24), ONE_PART),
        ((1, 17, 1, 90, 31), H100),
        ((1, 17, 1, 60, 32), A100),
        ((1, 33, 1, 16, 99), ONE_PART),
    ):
        maps = extreme(name, shape, dtype)
        check(program, Case(maps, CHANNELS_LAST, chip=chip, upstream=upstream_of(maps, *ALL)))


@pytest.mark.parametrize("chip", [ONE_PART, H100, A100], ids=["one part", "clustered", "merged"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_not_a_number_stays_in_its_joint(program: Path, dtype: torch.dtype, chip: Chip) -> None:
    clean = case_of(17, 60, 40, dtype, chip=chip)
    expected = execute(program, clean)
    others = [joint for joint in range(17) if joint != 9]
    for value, cell in ((NAN, (0, 0)), (INF, (59, 39)), (NAN, (31, 20)), (INF, (7, 1))):
        maps = clean.volumes.clone()
        maps[0, 9, 0][cell] = value
        outcome = execute(program, Case(maps, CHANNELS_LAST, chip=chip, upstream=clean.upstream))
        results = [*zip(outcome.result, expected.result, strict=True), (outcome.gradient, expected.gradient)]
        for tensor, truth in results:
            assert tensor is not None and truth is not None
            assert tensor[0, 9].isnan().all()
            assert torch.equal(tensor[:, others], truth[:, others]) and not truth.isnan().any()


def test_nothing_but_minus_infinity_has_no_mean(program: Path) -> None:
    for height, chip in ((6, H100), (90, H100), (90, A100)):
        case = case_of(17, height, 28, chip=chip)
        case.volumes[0, 2] = -INF
        result = execute(program, case).result
        assert result.mean[0, 2].isnan().all() and result.px[0, 2].isnan().all()
        assert result.logsumexp[0, 2] == -INF and not result.mean[0, 3:].isnan().any()


# Upstream gradients.


def test_each_upstream_gradient_alone(program: Path) -> None:
    case = case_of(17, 9, 12, batch=2)
    for name in ("mean", "px", "py", "logsumexp"):
        check(program, Case(case.volumes, CHANNELS_LAST, upstream={name: case.upstream[name]}), together=True)
    for upstream in ({}, {"pz": case.upstream["pz"]}):  # pz is 1, whatever the logits are
        assert (execute(program, Case(case.volumes, CHANNELS_LAST, upstream=upstream)).gradient == 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_joints_without_upstream_gradient(program: Path, dtype: torch.dtype) -> None:
    """Exact zeros, whatever is in such a joint's map, also where its mean is not a number."""
    case = case_of(17, 9, 12, dtype, batch=2)
    for gradient in case.upstream.values():
        gradient[0, 1::3] = 0
    outcome = check(program, case, together=True)
    assert (outcome.gradient[0, 1::3] == 0).all() and (outcome.gradient[1] != 0).any()
    case.volumes[0, 1] = NAN
    case.volumes[0, 4] = INF
    outcome = execute(program, case)
    assert (outcome.gradient[0, 1::3] == 0).all() and not outcome.gradient.isnan().any()


def test_gradient_of_a_saturated_joint_keeps_its_digits(program: Path) -> None:
    maps = torch.zeros(1, 17, 1, 16, 48)
    maps[..., 9, 40] = 20.0
    check(program, Case(maps, CHANNELS_LAST, upstream=upstream_of(maps, "mean")), together=True)
