"""The sanitized build finds what it is for: faults planted into a copy of the operators."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import sanitize

pytestmark = pytest.mark.skipif(not sanitize.runtimes(), reason="needs GCC with AddressSanitizer")

KERNEL = "csrc/cpu/softmax_integral_tile.h"
PROGRAM = """
import sys, torch
from ipr.ops import _library
shape = [int(size) for size in sys.argv[1].split(",")]
torch.ops.ipr.softmax_integral(torch.randn(shape))
print("nothing found")
"""


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, f"{file.name} has {text.count(old)} times: {old}"
    file.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sanitized package of baseline kernels with one fault for each sanitizer."""
    source, folder = tmp_path_factory.mktemp("faulty"), tmp_path_factory.mktemp("sanitized")
    shutil.copy(sanitize.ROOT / "CMakeLists.txt", source)
    for name in ("csrc", "ipr"):
        shutil.copytree(sanitize.ROOT / name, source / name, ignore=shutil.ignore_patterns("lib", "include"))
    # One instruction set: a third of the time.
    replace(source / "CMakeLists.txt", "list(APPEND isas avx2 avx512)", "")
    for name in ("isa.h", "isa.cpp"):
        replace(source / "csrc/cpu" / name, "#if defined(__x86_64__)", "#if 0")
    # The last vector of the last row is read whole, beyond the logits' end.
    replace(source / KERNEL, "is_tail(i) && end - p < kLanes ?", "false ?")
    # From two blocks per joint on, this is more than 2^63.
    replace(
        source / "csrc/cpu/softmax_integral.cpp",
        "kBlockElements * per_row /",
        "INT64_MAX / 2 * per_row * (per_row + 1) /",
    )
    sanitize.build(source, folder, sanitize.FLAGS.replace("-O1", "-O0"))
    return folder


def integrate(folder: Path, shape: str) -> subprocess.CompletedProcess[str]:
    command, env = [sys.executable, "-c", PROGRAM, shape], sanitize.environment(folder)
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_nothing_is_reported_where_no_fault_is_met(faulty: Path) -> None:
    done = integrate(faulty, "2,3,4,5,8")  # whole vectors, and one block
    assert done.returncode == 0 and done.stdout == "nothing found\n", done.stderr


def test_a_read_beyond_the_logits_is_reported(faulty: Path) -> None:
    done = integrate(faulty, "2,3,4,5,7")
    assert done.returncode != 0 and not done.stdout
    assert "ERROR: AddressSanitizer" in done.stderr and "READ of size" in done.stderr
    assert KERNEL in done.stderr


def test_an_overflow_of_integers_is_reported(faulty: Path) -> None:
    done = integrate(faulty, "1,1,40,33,32")
    assert done.returncode != 0 and not done.stdout
    assert "csrc/cpu/softmax_integral.cpp" in done.stderr
    assert "runtime error: signed integer overflow" in done.stderr
