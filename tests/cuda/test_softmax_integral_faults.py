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
from tests.cuda.program import A100, CHANNELS_LAST, H100, ONE_PART, Case, Chip, check, upstream_of
from tests.ops.conftest import random_logits

FORWARD, BACKWARD, TILING = "softmax_integral.cu", "softmax_integral_backward.cu", "tiling.h"
MAPS, MAPS_BACKWARD, MAP_TILING = (
    "softmax_integral_maps.cu",
    "softmax_integral_maps_backward.cu",
    "map_tiling.h",
)
FILES = (FORWARD, BACKWARD, TILING, MAPS, MAPS_BACKWARD, MAP_TILING)


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


def _maps(joints: int, height: int, width: int, chip: Chip = H100, steep: float = 0) -> Case:
    """channels_last; ever higher logits, ``steep`` higher at the end."""
    case = _case((1, joints, 1, height, width), chip)
    case.volumes[:] += torch.linspace(0, steep, height * width).view(height, width)
    return Case(case.volumes, CHANNELS_LAST, chip=chip, upstream=case.upstream)


def _maps_apart(width: int, step: int, row: int, logits: bool = True) -> Case:
    """Pixels ``step`` apart and rows ``row``, of the logits or of the gradient; the others' are dense."""
    case, apart = _maps(17, 9, width), (0, 1, row, step)
    dense = (0, 1, width * 17, 17)
    first, second = (apart, dense) if logits else (dense, apart)
    return Case(case.volumes, CHANNELS_LAST, first, second, upstream=case.upstream)


def _one_axis_of_maps() -> Case:
    case = _maps(17, 5, 8)
    gradient = torch.zeros(1, 17, 8, dtype=torch.float64)
    gradient[:, ::2, 3] = 1
    return Case(case.volumes, CHANNELS_LAST, upstream={"px": gradient})


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
    "maps": lambda: _maps(17, 9, 8),
    "maps' steps": lambda: _maps(17, 70, 16, ONE_PART, steep=100),
    "maps' turns": lambda: _maps(33, 20, 120, ONE_PART, steep=100),
    "clustered maps": lambda: _maps(17, 60, 32),
    "merged maps": lambda: _maps(17, 60, 32, A100),
    "maps apart": lambda: _maps_apart(8, 20, 176),
    "maps' gradient apart": lambda: _maps_apart(8, 20, 176, logits=False),
    "narrow maps": lambda: _maps_apart(6, 17, 104),
    "far pixels": lambda: _maps_apart(40, (1 << 31) + 16, 17),
    "far pixels of the gradient": lambda: _maps_apart(40, (1 << 31) + 16, 17, logits=False),
    "far rows": lambda: _maps_apart(8, 17, (1 << 31) + 16),
    "one axis of maps": _one_axis_of_maps,
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
    "a joint's reference is forgotten": Fault(
        "maps' steps", MAPS, "next == reference ?", "PLANTED || next == reference ?"
    ),
    "records of maps keep their reference": Fault(
        "maps' steps", MAPS, "* size + i] *= factor;", "* size + i] *= PLANTED ? 1 : factor;"
    ),
    "columns of maps keep their reference": Fault(
        "maps' steps", MAPS, "columns[j].at[i] *= factor;", "columns[j].at[i] *= PLANTED ? 1 : factor;"
    ),
    "lanes of other joints": Fault(
        "maps' steps", MAP_TILING, "vector * kVec % joints)", "(vector * kVec + PLANTED) % joints)"
    ),
    "threads without vectors store": Fault(
        "maps",
        MAPS,
        "if (place.used) store(shared.buffer + (i *",
        "if (PLANTED || place.used) store(shared.buffer + (i *",
    ),
    "no memory for the records of maps": Fault(
        "maps",
        MAPS,
        "+ v.joints * record_size(v, tiling)) *",
        "+ !PLANTED * v.joints * record_size(v, tiling)) *",
    ),
    "columns of the first part": Fault(
        "clustered maps", MAPS, "record_of(part)[1 + x]", "record_of(PLANTED ? 0 : part)[1 + x]"
    ),
    "rows of another part": Fault(
        "clustered maps",
        MAPS,
        "part_of(height, parts, part).begin;",
        "part_of(height, parts, part).begin * !PLANTED;",
    ),
    "workspace of another part of a map": Fault(
        "merged maps", MAPS, "(map * tiling.parts + part)", "(map * tiling.parts + part * !PLANTED)"
    ),
    "gaps between pixels not looked at": Fault(
        "maps apart", MAP_TILING, "(pixels == 1 ||", "(PLANTED || pixels == 1 ||"
    ),
    "width not looked at": Fault(
        "narrow maps", MAP_TILING, "v.mid % pixels == 0", "(PLANTED || v.mid % pixels == 0)"
    ),
    "32 bits for the columns of maps": Fault(
        "far pixels",
        MAP_TILING,
        "pixel * v.mid_stride",
        "(PLANTED ? int(pixel * v.mid_stride) : pixel * v.mid_stride)",
    ),
    "32 bits for the rows of maps": Fault(
        "far rows",
        MAP_TILING,
        "return row * v.outer_stride",
        "return (PLANTED ? int(row * v.outer_stride) : row * v.outer_stride)",
    ),
    "32 bits for a step of maps": Fault(
        "far pixels",
        MAPS,
        "(tiling.pixels * v.mid_stride);",
        "(tiling.pixels * (PLANTED ? int(v.mid_stride) : v.mid_stride));",
    ),
    "32 bits for a step of the gradient of maps": Fault(
        "far pixels of the gradient",
        MAPS_BACKWARD,
        "(tiling.pixels * gradient_volumes.mid_stride);",
        "(tiling.pixels * (PLANTED ? int(gradient_volumes.mid_stride) : gradient_volumes.mid_stride));",
    ),
    "offset of the logits of maps": Fault(
        "maps' gradient apart",
        MAPS_BACKWARD,
        "place.offset(gradient_volumes, tiling",
        "place.offset(PLANTED ? v : gradient_volumes, tiling",
    ),
    "one row of maps too many backward": Fault(
        "maps", MAPS_BACKWARD, "if (i >= own_rows)", "if (i >= own_rows + PLANTED)"
    ),
    "one column of maps too many backward": Fault(
        "narrow maps",
        MAPS_BACKWARD,
        "          if (j < own_columns)",
        "          if (PLANTED || j < own_columns)",
    ),
    "a lane's own opinion": Fault(
        "one axis of maps",
        MAPS_BACKWARD,
        "!__any_sync(kAllLanes, any)",
        "!(PLANTED ? any : __any_sync(kAllLanes, any))",
    ),
}


BARRIER = re.compile(r"__syncthreads\(\);|__syncwarp\(\);|cluster_sync\(\);")
# All of them: file, and the how-manieth in it.
BARRIERS = [
    (file, number)
    for file in FILES
    for number, _ in enumerate(BARRIER.findall((CSRC / "cuda" / file).read_text()))
]


@pytest.fixture(scope="module")
def faulty(compile_program: Compile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program in which every fault and every missing barrier has a number; its argument turns one on."""
    csrc = tmp_path_factory.mktemp("faulty") / "csrc"
    shutil.copytree(CSRC, csrc)
    texts = {file: (csrc / "cuda" / file).read_text() for file in FILES}
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
    maps = ("maps' steps", "maps' turns", "clustered maps", "merged maps")
    for name in maps if barrier[0] in (MAPS, MAPS_BACKWARD) else ("small", "clustered", "merged", "flushes"):
        try:
            check(faulty, CASES[name](), str(number))
        except AssertionError:
            return
    pytest.fail("the results are right without it, under every order of threads")
