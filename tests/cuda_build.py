"""Compiles the library with its CUDA kernels, which needs nvcc but no GPU, and reads what ptxas says of them.

    python -m tests.cuda_build [architecture ...]      default: every one of CMakeLists.txt

Prints a table of kernels and fails where one spills registers or has a stack frame: both are memory traffic
that nobody wrote.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "cuda"
# One of ptxas' reports; shared memory is in it only where there is some.
REPORT = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<arch>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)
LOAD = """
import sys, torch
torch.ops.load_library(sys.argv[1])
for name in sys.argv[2:]:
    print(name, torch._C._dispatch_has_kernel_for_dispatch_key("ipr::" + name, "CUDA"))
"""


class Kernel(NamedTuple):
    """What one kernel needs on one architecture."""

    name: str
    arch: str
    registers: int
    stack: int  # bytes, as are the following
    spills: int
    shared: int

    @property
    def faultless(self) -> bool:
        return self.stack == self.spills == 0


def tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    return str(beside if beside.exists() else name)


def nvcc() -> str | None:
    """Where setup.py would look for it."""
    home = os.environ.get("CUDA_HOME")
    candidates = (os.environ.get("CUDACXX"), home and f"{home}/bin/nvcc", "nvcc", "/usr/local/cuda/bin/nvcc")
    return next((path for name in candidates if name and (path := shutil.which(name))), None)


def architectures(source: Path = ROOT) -> list[str]:
    """The one list."""
    found = re.search(r'set\(IPR_CUDA_ARCHS "([^"]*)"', (source / "CMakeLists.txt").read_text())
    assert found, "CMakeLists.txt: no IPR_CUDA_ARCHS"
    return found[1].split(";")


def build(source: Path, folder: Path, archs: Sequence[str]) -> list[Kernel]:
    """Installs the library of ``source`` in ``folder``; its kernels on each architecture."""
    shutil.rmtree(folder, ignore_errors=True)
    torch, compiler = importlib.util.find_spec("torch"), nvcc()
    assert torch and torch.submodule_search_locations and compiler
    configure = ["-S", str(source), "-B", str(folder / "cmake"), "-G", "Ninja", "--log-level=NOTICE"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", f"-DCMAKE_INSTALL_PREFIX={folder}"]
    configure += [f"-DIPR_TORCH_DIR={torch.submodule_search_locations[0]}"]
    configure += ["-DIPR_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={compiler}", f"-DIPR_CUDA_ARCHS={';'.join(archs)}"]
    configure += ["-DCMAKE_CUDA_FLAGS=-Xptxas=-v"]
    jobs = os.environ.get("MAX_JOBS", str(os.cpu_count()))
    install = ["--build", str(folder / "cmake"), "--target", "install", "-j", jobs]
    log = ""
    for arguments in (configure, install):
        done = subprocess.run([tool("cmake"), *arguments], capture_output=True, text=True)
        log += done.stdout + done.stderr
        if done.returncode:
            raise RuntimeError(log)
    return read(log)


def read(log: str) -> list[Kernel]:
    found = list(REPORT.finditer(log))
    names = demangle([match["name"] for match in found])
    kernels = []
    for match, name in zip(found, names, strict=True):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        spills = int(match["stores"]) + int(match["loads"])
        sizes = (int(match["registers"]), int(match["stack"]), spills, int(shared[1]) if shared else 0)
        kernels.append(Kernel(name, match["arch"], *sizes))
    return sorted(kernels)


def demangle(names: Sequence[str]) -> list[str]:
    """Without the namespaces, return types and parameters, which are the same for all."""
    text = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout
    short = [re.sub(r"ipr::cuda::|\(anonymous namespace\)::|^void ", "", line) for line in text.splitlines()]
    return [re.sub(r"\(.*", "", re.sub(r"\((int|bool)\)", "", line)) for line in short]


def table(kernels: Sequence[Kernel]) -> str:
    """A row per kernel, a column per architecture: registers, and what is wrong or shared besides."""
    archs = sorted({kernel.arch for kernel in kernels}, key=lambda arch: int(re.sub(r"\D", "", arch)))
    names = sorted({kernel.name for kernel in kernels})
    cells = {}
    for kernel in kernels:
        notes = {"stack": kernel.stack, "spills": kernel.spills, "shared": kernel.shared}
        said = "".join(f" {what} {size}" for what, size in notes.items() if size)
        cells[kernel.name, kernel.arch] = f"{kernel.registers}{said}"
    header = ["registers", *(f"sm_{arch}" for arch in archs)]
    rows = [header, *([name, *(cells.get((name, arch), "-") for arch in archs)] for name in names)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)


def registered(library: Path, operators: Sequence[str]) -> dict[str, bool]:
    """Whether each operator has CUDA kernels, as a torch without CUDA sees it too."""
    command = [sys.executable, "-c", LOAD, str(library), *operators]
    said = subprocess.run(command, capture_output=True, text=True)
    if said.returncode:
        raise RuntimeError(said.stderr)
    return {name: value == "True" for name, value in (line.split() for line in said.stdout.splitlines())}


def main() -> int:
    if nvcc() is None:
        raise SystemExit("no nvcc found (CUDACXX or CUDA_HOME says where it is)")
    kernels = build(ROOT, FOLDER, sys.argv[1:] or architectures())
    print(table(kernels))
    faulty = [kernel for kernel in kernels if not kernel.faultless]
    for kernel in faulty:
        print(f"{kernel.name} on sm_{kernel.arch}: {kernel.stack} bytes stack, {kernel.spills} bytes spills")
    operators = registered(
        FOLDER / "lib/libipr_ops.so", ["softmax_integral", "softmax_integral_backward", "warp_patch"]
    )
    print(f"registered for CUDA: {operators}")
    return 0 if kernels and not faulty and all(operators.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
