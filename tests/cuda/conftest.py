"""Compiles programs that run CUDA kernels in the emulator, with the sanitizers on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
COMPILER = "g++"  # clang says in another way that the sanitizers are on
FLAGS = (
    "-std=c++20",
    "-Og",
    "-g1",
    "-fno-strict-aliasing",  # nvcc takes no advantage of it either
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=all",
    "-DIPR_CUDA_EMULATOR",
    f"-I{HERE}",
)
# Leaks are looked for with ptrace, which containers forbid; the kernels allocate nothing.
ENVIRONMENT = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}


class Compile(Protocol):
    """Compiles C++ and .cu files together with the emulator; ``csrc`` has the headers that they include."""

    def __call__(self, sources: Sequence[Path], program: Path, csrc: Path = CSRC) -> Path: ...


def run(program: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [str(program), *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, env=os.environ | ENVIRONMENT, timeout=120
    )


def _compile(*arguments: str | Path) -> None:
    done = subprocess.run([COMPILER, *FLAGS, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The emulator, compiled once."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"no {COMPILER}, which compiles CUDA kernels for the emulator")
    folder = tmp_path_factory.mktemp("emulator")
    for name in ("emulator", "fiber"):
        _compile("-O2", "-c", HERE / f"{name}.cpp", "-o", folder / f"{name}.o")
    return sorted(folder.iterdir())


@pytest.fixture(scope="session")
def compile_program(emulator: list[Path]) -> Compile:
    def compile_(sources: Sequence[Path], program: Path, csrc: Path = CSRC) -> Path:
        _compile(f"-I{csrc}", *emulator, "-x", "c++", *sources, "-o", program)
        return program

    return compile_


@pytest.fixture(scope="session")
def program(compile_program: Compile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels of softmax_integral in the emulator."""
    kernels = sorted((CSRC / "cuda").glob("softmax_integral*.cu"))
    path = tmp_path_factory.mktemp("softmax_integral") / "host"
    return compile_program([HERE / "softmax_integral_host.cpp", *kernels], path)
