"""The tests of warp_patch's CUDA kernel can fail: faults planted in a copy of it are caught."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from ipr.ops import warp_patch
from tests.cuda.conftest import CSRC, HERE, Compile
from tests.cuda.warp_program import execute
from tests.ops.patches import (
    EVERYTHING,
    MEAN,
    OPTIONS,
    STD,
    UNFIT,
    affines,
    grey_levels,
    occluders,
    packed,
    regions,
)

KERNEL, RECORD = "cuda/warp_patch.cu", "warp.h"
LIMIT = 0.05  # grey levels


def _everything(program: Path, fault: int) -> None:
    options = EVERYTHING | OPTIONS["matrix"]
    for zoom in (1.3, 3.7):
        for multiprocessors in (132, 1):  # a tile per block, and several
            chip = {"multiprocessors": multiprocessors, "fault": fault}
            patches = execute(program, *regions(zoom), **options, **chip)
            assert grey_levels(patches, warp_patch(*regions(zoom), **options)) < LIMIT


def _small(program: Path, fault: int) -> None:
    """One picture, at the very end of its buffer."""
    for shape in ((2, 2), (4, 2), (9, 5)):
        given = (*packed([shape], 3, 4), affines([shape], (12, 12), 0.4, 6), (12, 12), MEAN, STD)
        for shift in range(8):
            patches = execute(program, *given, shift=shift, fault=fault)
            assert grey_levels(patches, warp_patch(*given)) < LIMIT


def _sizes(program: Path, fault: int) -> None:
    for size in ((33, 64), (40, 53), (5, 100)):
        given = (*packed([(50, 60)] * 2, 3, 4), affines([(50, 60)] * 2, size, 1.7, 6), size, MEAN, STD)
        for dtype, channels_last in ((torch.float32, False), (torch.float32, True), (torch.bfloat16, False)):
            for shift in (0, 1):
                options = {"dtype": dtype, "channels_last": channels_last}
                patches = execute(program, *given, **options, shift=shift, fault=fault)
                rounding = 1 if dtype == torch.bfloat16 else LIMIT
                assert grey_levels(patches, warp_patch(*given, **options)) < rounding


def _addresses(program: Path, fault: int) -> None:
    for shift in range(4):
        patches = execute(program, *regions(), occluders=occluders(), shift=shift, fault=fault)
        assert grey_levels(patches, warp_patch(*regions(), occluders=occluders())) < LIMIT


def _unfit(program: Path, fault: int) -> None:
    expected = warp_patch(*regions(), occluders=occluders())
    for unfit in UNFIT.values():
        patches = execute(program, *unfit.regions, occluders=unfit.occluders, fault=fault)
        others = [i for i in range(len(patches)) if i != unfit.patch]
        assert patches[unfit.patch].isnan().all()
        assert grey_levels(patches[others], expected[others]) < LIMIT


class Fault(NamedTuple):
    check: Callable[[Path, int], Any]  # what catches it
    file: str
    right: str  # occurs once
    wrong: str
    """In place of ``right``; PLANTED is whether the fault is on."""


FAULTS = {
    "words beyond the buffer": Fault(
        _small,
        KERNEL,
        "(end + 7 <= pictures.bytes ? 1 : 3)",
        "(end + 7 <= pictures.bytes || PLANTED ? 1 : 3)",
    ),
    "one row is not enough": Fault(
        _small,
        KERNEL,
        "static_cast<float>(result.height - (",
        "static_cast<float>(result.height + (PLANTED && end + 7 > pictures.bytes) - (",
    ),
    "second word of some": Fault(_small, KERNEL, "if ((at & 7) > 2)", "if ((at & 7) > 2 + PLANTED)"),
    "half of the word": Fault(_sizes, KERNEL, "odd = at & 4;", "odd = at & (PLANTED ? 0 : 4);"),
    "no shift": Fault(
        _sizes,
        KERNEL,
        "row[0] = __funnelshift_r(a, b, 8 * at);",
        "row[0] = __funnelshift_r(a, b, PLANTED ? 0 : 8 * at);",
    ),
    "right neighbour": Fault(
        _sizes,
        KERNEL,
        "biased(rows[0], kChannels + channel)",
        "biased(rows[0], kChannels + channel - PLANTED)",
    ),
    "next row": Fault(
        _sizes,
        KERNEL,
        "next = at + 3 * static_cast<unsigned>(picture.width)",
        "next = at + 3 * static_cast<unsigned>(picture.width - PLANTED)",
    ),
    "edges that are not black": Fault(
        _sizes, KERNEL, "u >= 0 && u < width - 1 &&", "u >= 0 && u < width - !PLANTED &&"
    ),
    "no row above": Fault(_sizes, KERNEL, "u < width && v > -1", "u < width && v > -1 + PLANTED"),
    "no column to the right": Fault(
        _sizes, KERNEL, "x >= picture.width ||", "x >= picture.width - PLANTED ||"
    ),
    "row behind the last": Fault(_small, KERNEL, "y >= picture.height)", "y >= picture.height + PLANTED)"),
    "address of an occluder": Fault(_addresses, KERNEL, "at % 4 == 0", "at % 4 * !PLANTED == 0"),
    "middle of the row above": Fault(
        _everything, KERNEL, "(c - kBias) + right", "(c - kBias) + (PLANTED ? down : right)"
    ),
    "as if there were no alpha": Fault(
        _everything, KERNEL, "color[i] * through", "color[i] * (PLANTED ? 1 : through)"
    ),
    "samples of another column": Fault(
        _everything,
        KERNEL,
        "(static_cast<float>(column) + 0.5f)",
        "(static_cast<float>(column) + 0.5f * !PLANTED)",
    ),
    "sum of the samples": Fault(
        _everything, KERNEL, "colors[i][1] *= part * part;", "colors[i][1] *= PLANTED ? part : part * part;"
    ),
    "order of the channels": Fault(
        _everything, KERNEL, "(warp.bgr ? last : first)", "(warp.bgr && !PLANTED ? last : first)"
    ),
    "colours already changed": Fault(
        _everything, KERNEL, "m[4 * i] * r +", "m[4 * i] * (PLANTED ? color[0] : r) +"
    ),
    "offset of the colours": Fault(_everything, KERNEL, "+ m[4 * i + 3];", "+ (PLANTED ? 0 : m[4 * i + 3]);"),
    "gamma in steps": Fault(_everything, KERNEL, "curve[below + 1] - low", "curve[below + !PLANTED] - low"),
    "no memory for the curve": Fault(
        _everything, KERNEL, "warp.gamma ? kCurve", "warp.gamma && !PLANTED ? kCurve"
    ),
    "a short curve": Fault(_everything, KERNEL, "i < kCurve; i", "i < kCurve - PLANTED; i"),
    "tile misses an occluder": Fault(_everything, KERNEL, "du = kHalf * (", "du = (PLANTED ? 0 : kHalf) * ("),
    "one occluder too few": Fault(
        _everything, KERNEL, "valid && i < last; ++i) {", "valid && i < last - PLANTED; ++i) {"
    ),
    "row of tiles": Fault(
        _sizes,
        KERNEL,
        "in_patch / tiles.runs * kTile",
        "in_patch / (PLANTED ? tiles.down : tiles.runs) * kTile",
    ),
    "runs that overlap": Fault(
        _sizes, KERNEL, "% tiles.runs * tiles.run;", "% tiles.runs * (tiles.run - PLANTED);"
    ),
    "a tile too few": Fault(
        _everything,
        KERNEL,
        "min(begin + tiles.run, tiles.across)",
        "min(begin + tiles.run, tiles.across) - (PLANTED && tiles.run > 1)",
    ),
    "rows below the patch": Fault(
        _sizes, KERNEL, "row % kTile >= rows ||", "row % kTile >= rows + PLANTED ||"
    ),
    "columns beside the patch": Fault(
        _sizes, KERNEL, "min(pitch - x * kPixel, kLength)", "min(pitch - x * kPixel + PLANTED, kLength)"
    ),
    "vectors at any address": Fault(
        _sizes, KERNEL, "(first) % 16 == 0 &&", "(first) % 16 * !PLANTED == 0 &&"
    ),
    "rows of any length": Fault(_sizes, KERNEL, "pitch % kVec == 0;", "pitch % kVec * !PLANTED == 0;"),
    "region not looked at": Fault(
        _unfit,
        KERNEL,
        "bool valid = fits(warp.regions, patch, 3);",
        "bool valid = PLANTED || fits(warp.regions, patch, 3);",
    ),
    "occluder not looked at": Fault(
        _unfit,
        KERNEL,
        "valid = fits(warp.occluders, i, 4);",
        "valid = PLANTED || fits(warp.occluders, i, 4);",
    ),
    "number of occluders not looked at": Fault(
        _unfit, KERNEL, "end <= warp.occluders.count;", "(PLANTED || end <= warp.occluders.count);"
    ),
    "first occluder not looked at": Fault(_unfit, KERNEL, "0 <= begin &&", "(PLANTED || 0 <= begin) &&"),
    "falling occluders": Fault(_unfit, KERNEL, "begin <= end &&", "(PLANTED || begin <= end) &&"),
    "zero instead of NaN": Fault(_unfit, KERNEL, ": NAN})", ": PLANTED ? 0 : NAN})"),
    "no height": Fault(_unfit, RECORD, "height >= 1 &&", "(PLANTED || height >= 1) &&"),
    "no width": Fault(_unfit, RECORD, "width >= 1 &&", "(PLANTED || width >= 1) &&"),
    "negative offset": Fault(_unfit, RECORD, "offset >= 0 &&", "(PLANTED || offset >= 0) &&"),
    "bytes in 32 bits": Fault(
        _unfit,
        RECORD,
        "height * width <= INT32_MAX / channels",
        "(PLANTED || height * width <= INT32_MAX / channels)",
    ),
    "end of the buffer": Fault(
        _unfit, RECORD, "offset <= pictures.bytes -", "offset <= pictures.bytes + PLANTED -"
    ),
}
BARRIER = re.compile(r"__syncthreads\(\);")
BARRIERS = range(len(BARRIER.findall((CSRC / KERNEL).read_text())))


@pytest.fixture(scope="module")
def faulty(compile_program: Compile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program in which every fault and every missing barrier has a number; its argument turns one on."""
    csrc = tmp_path_factory.mktemp("faulty") / "csrc"
    shutil.copytree(CSRC, csrc)
    texts = {file: (csrc / file).read_text() for file in (KERNEL, RECORD)}
    for number, (name, fault) in enumerate(FAULTS.items(), start=1):
        text = texts[fault.file]
        assert text.count(fault.right) == 1, f"{name}: {fault.file} has {fault.right!r} not once"
        wrong = fault.wrong.replace("PLANTED", f"(cuda::planted == {number})")
        texts[fault.file] = text.replace(fault.right, wrong)
    numbers = itertools.count(1 + len(FAULTS))
    texts[KERNEL] = BARRIER.sub(
        lambda barrier: f"if (planted != {next(numbers)}) {barrier[0]}", texts[KERNEL]
    )
    start = "namespace ipr {\n"
    texts[RECORD] = texts[RECORD].replace(start, f"{start}namespace cuda {{ extern int planted; }}\n", 1)
    for file, text in texts.items():
        (csrc / file).write_text(text)
    return compile_program([HERE / "warp_patch_host.cpp", csrc / KERNEL], csrc.parent / "host", csrc)


@pytest.mark.parametrize("check", [_everything, _small, _sizes, _addresses, _unfit])
def test_copy_without_a_fault(faulty: Path, check: Callable[[Path, int], Any]) -> None:
    check(faulty, 0)


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_caught(faulty: Path, name: str) -> None:
    with pytest.raises(AssertionError):
        FAULTS[name].check(faulty, 1 + list(FAULTS).index(name))


@pytest.mark.parametrize("barrier", BARRIERS)
def test_no_barrier_can_go(faulty: Path, barrier: int) -> None:
    with pytest.raises(AssertionError):
        _everything(faulty, 1 + len(FAULTS) + barrier)
