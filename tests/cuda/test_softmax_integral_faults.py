"""The tests of softmax_integral's CUDA kernels can fail: faults planted in a copy of them are caught."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.cuda.conftest import CSRC, HERE, Compile
from tests.cuda.program import A100, H100, ONE_PART, Case, Chip, check, upstream_of
from tests.ops.conftest import random_logits

FORWARD, BACKWARD, TILING = "softmax_integral.cu", "softmax_integral_backward.cu", "tiling.h"


def _case(shape: tuple[int, ...], chip: Chip = H100) -> Case:
    volumes = random_logits(shape, torch.float32)
    return Case(volumes, chip=chip, upstream=upstream_of(volumes, "mean", "px", "py", "pz", "logsumexp"))


def _steep(shape: tuple[int, ...], chip: Chip = H100) -> Case:
    """Ever higher logits, for which all that was summed before must shrink."""
    case = _case(shape, chip)
    case.volumes.view(-1)[:] += torch.linspace(0, 100, case.volumes.numel())
    return case


def _misaligned() -> Case:
    case = _case((1, 2, 3, 5, 16))
    return Case(case.volumes, offset=1, upstream=case.upstream)


def _gaps(length: int, row: int) -> Case:
    """Rows of some length in longer ones; the gradient's rows have no gaps."""
    case, dense = _case((2, 2, 3, 5, length)), (30 * length, 15 * length, 5 * length, length)
    return Case(case.volumes, strides=(1000, 500, 160, row), gradient_strides=dense, upstream=case.upstream)


def _far(volumes: bool) -> Case:
    case, far, dense = _case((2, 2, 2, 9, 8)), (288, 144, (1 << 31) + 8, 8), (288, 144, 72, 8)
    strides = (far, dense) if volumes else (dense, far)
    return Case(case.volumes, upstream=case.upstream, strides=strides[0], gradient_strides=strides[1])


def _far_steps() -> Case:
    """Of threads that take several slices each."""
    case = _case((1, 1, 5, 12, 128))
    strides = (0, 0, (1 << 30) + 8, 128)
    return Case(case.volumes, upstream=case.upstream, strides=strides, gradient_strides=(0, 0, 1536, 128))


def _one_axis() -> Case:
    """Of the upstream gradients, only those of one column are not zero."""
    case = _case((1, 1, 4, 16, 24))
    gradient = torch.zeros(1, 1, 24, dtype=torch.float64)
    gradient[0, 0, 3] = 1
    return Case(case.volumes, upstream={"px": gradient})


CASES: dict[str, Callable[[], Case]] = {
    "small": lambda: _case((2, 3, 5, 7, 9)),
    "clustered": lambda: _case((1, 1, 33, 31, 17)),
    "merged": lambda: _case((1, 1, 3, 101, 57), A100),
    "long": lambda: _case((1, 1, 1, 1, 20001)),
    "steps": lambda: _steep((1, 1, 20, 15, 18)),
    "flushes": lambda: _steep((1, 1, 33, 31, 17), ONE_PART),
    "misaligned": _misaligned,
    "gaps": lambda: _gaps(16, 20),
    "odd gaps": lambda: _gaps(16, 17),
    "vectors and a rest": lambda: _gaps(18, 20),
    "far logits": lambda: _far(True),
    "far gradient": lambda: _far(False),
    "far steps": _far_steps,
    "one axis": _one_axis,
}


class Fault(NamedTuple):
    case: str  # which catches it
    file: str
    right: str  # occurs once
    wrong: str
    """In place of ``right``; PLANTED is whether the fault is on."""


FAULTS = {
    "always the first block's record": Fault(
        "clustered", FORWARD, "at_rank(shared.record, other)", "at_rank(shared.record, PLANTED ? 0 : other)"
    ),
    "parts overlap": Fault(
        "merged", TILING, "length * (part + 1) / cuts)};", "length * (part + 1) / cuts) + PLANTED};"
    ),
    "one row too many": Fault(
        "small",
        FORWARD,
        "ceil_div(part.mid.end - own_row, tiling.rows)",
        "ceil_div(part.mid.end - own_row, tiling.rows) + PLANTED",
    ),
    "one step too many": Fault(
        "steps",
        FORWARD,
        "ceil_div(part.outer.end - own_slice, tiling.slices)",
        "ceil_div(part.outer.end - own_slice, tiling.slices) + PLANTED",
    ),
    "one row too many backward": Fault(
        "small",
        BACKWARD,
        "if (own_row < part.mid.end) {",
        "if (own_row < part.mid.end + PLANTED) {",
    ),
    "record of the slices": Fault(
        "small", FORWARD, ": tiling.inner + tiling.mid)", ": tiling.inner + tiling.mid - PLANTED)"
    ),
    "parts of another cut": Fault(
        "merged", FORWARD, "cut * tiling.mid_parts : cut", "cut * (PLANTED ? 1 : tiling.mid_parts) : cut"
    ),
    "workspace of another part": Fault(
        "merged",
        FORWARD,
        "(part.row * tiling.parts() + part.number) * tiling.record();",
        "(part.row * tiling.parts() + part.number + PLANTED) * tiling.record();",
    ),
    "slices keep their reference": Fault(
        "steps", FORWARD, "slices[i * stride] *= factor;", "slices[i * stride] *= PLANTED ? 1 : factor;"
    ),
    "record keeps its reference": Fault(
        "flushes", FORWARD, "record[i] *= factor;", "record[i] *= PLANTED ? 1 : factor;"
    ),
    "no memory for the record": Fault(
        "small", FORWARD, "kWarp + tiling.record())", "kWarp + (PLANTED ? 0 : tiling.record()))"
    ),
    "shared memory not asked for": Fault(
        "long", TILING, "if (bytes <= 48 << 10)", "if (PLANTED || bytes <= 48 << 10)"
    ),
    "address not looked at": Fault(
        "misaligned", TILING, "<uintptr_t>(data) % bytes == 0", "<uintptr_t>(data) % bytes * !PLANTED == 0"
    ),
    "length not looked at": Fault(
        "vectors and a rest",
        TILING,
        "v.inner * size % bytes == 0",
        "v.inner * size % bytes * !PLANTED == 0",
    ),
    "stride not looked at": Fault(
        "odd gaps",
        TILING,
        "fits(v.mid, v.mid_stride)",
        "(PLANTED || fits(v.mid, v.mid_stride))",
    ),
    "half a warp": Fault(
        "small", TILING, "for (int step = kWarp / 2;", "for (int step = kWarp / (PLANTED ? 4 : 2);"
    ),
    "a thread's own opinion": Fault(
        "one axis", BACKWARD, "!__syncthreads_or(any)", "!(PLANTED ? any : __syncthreads_or(any))"
    ),
    "offset of the logits": Fault(
        "gaps",
        BACKWARD,
        "gradient + out_offset +",
        "gradient + (PLANTED ? part.offset : out_offset) +",
    ),
    "32 bits for the logits": Fault(
        "far logits",
        BACKWARD,
        "slice * v.outer_stride +",
        "(PLANTED ? int(slice * v.outer_stride) : slice * v.outer_stride) +",
    ),
    "32 bits for the gradient": Fault(
        "far gradient",
        BACKWARD,
        "slice * gradient_volumes.outer_stride +",
        "(PLANTED ? int(slice * gradient_volumes.outer_stride) : slice * gradient_volumes.outer_stride) +",
    ),
    "32 bits for a step": Fault(
        "far steps",
        FORWARD,
        "p += tiling.slices * v.outer_stride)",
        "p += (PLANTED ? int(tiling.slices * v.outer_stride) : tiling.slices * v.outer_stride))",
    ),
}


BARRIER = re.compile(r"__syncthreads\(\);|__syncwarp\(\);|cluster_sync\(\);")
# All of them: file, and the how-manieth in it.
BARRIERS = [
    (file, number)
    for file in (FORWARD, BACKWARD, TILING)
    for number, _ in enumerate(BARRIER.findall((CSRC / "cuda" / file).read_text()))
]


@pytest.fixture(scope="module")
def faulty(compile_program: Compile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program in which every fault and every missing barrier has a number; its argument turns one on."""
    csrc = tmp_path_factory.mktemp("faulty") / "csrc"
    shutil.copytree(CSRC, csrc)
    texts = {file: (csrc / "cuda" / file).read_text() for file in (FORWARD, BACKWARD, TILING)}
    for number, (name, fault) in enumerate(FAULTS.items(), start=1):
        text = texts[fault.file]
        assert text.count(fault.right) == 1, f"{name}: {fault.file} has {fault.right!r} not once"
        texts[fault.file] = text.replace(
            fault.right, fault.wrong.replace("PLANTED", f"(planted == {number})")
        )
    assert BARRIERS
    numbers = itertools.count(1 + len(FAULTS))
    for file, text in texts.items():
        text = BARRIER.sub(lambda barrier: f"if (planted != {next(numbers)}) {barrier[0]}", text)
        start = "namespace ipr::cuda {\n"
        (csrc / "cuda" / file).write_text(text.replace(start, f"{start}extern int planted;\n", 1))
    sources = [HERE / "softmax_integral_host.cpp", *sorted((csrc / "cuda").glob("softmax_integral*.cu"))]
    return compile_program(sources, csrc.parent / "host", csrc)


@pytest.mark.parametrize("name", CASES)
def test_copy_without_a_fault(faulty: Path, name: str) -> None:
    check(faulty, CASES[name](), "0")


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_caught(faulty: Path, name: str) -> None:
    number = 1 + list(FAULTS).index(name)
    with pytest.raises(AssertionError):
        check(faulty, CASES[FAULTS[name].case](), str(number))


@pytest.mark.parametrize("barrier", BARRIERS, ids=lambda barrier: f"{barrier[0]} {barrier[1]}")
def test_no_barrier_can_go(faulty: Path, barrier: tuple[str, int]) -> None:
    number = 1 + len(FAULTS) + BARRIERS.index(barrier)
    for name in ("small", "clustered", "merged", "flushes"):
        try:
            check(faulty, CASES[name](), str(number))
        except AssertionError:
            return
    pytest.fail("the results are right without it, under every order of threads")
