"""Finds and loads the compiled operators; importing this module registers them as ``torch.ops.ipr``."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import NamedTuple

import torch

from ipr import _distribution

PATH = Path(__file__).resolve().parents[1] / "lib" / "libipr_ops.so"
VERSION = 2  # of the operators' schemas and of what they mean; csrc/ops.cpp: ipr_ops_version()
HOW = "Run `pip install .` in the source folder (while developing: `python setup.py build_ext --inplace`)"


class BuildInfo(NamedTuple):
    """What the library says of itself."""

    compiler: str
    isas: tuple[str, ...]  # instruction sets that the CPU kernels were compiled for
    cuda: str  # nvcc and the architectures, or why there is no CUDA part


def load(path: Path) -> ctypes.CDLL:
    """Registers the operators of ``path``; ImportError says what to run if it is missing or does not fit."""
    if not path.is_file():
        raise ImportError(f"The compiled operators are missing: no file {path}. {HOW}.")
    try:
        torch.ops.load_library(path)
        library = ctypes.CDLL(str(path))
        version = library.ipr_ops_version()
    except (OSError, AttributeError) as error:
        problem = f"The compiled operators do not load with torch {torch.__version__}: {error}"
        raise ImportError(f"{problem}. {HOW}.") from error
    if version != VERSION:
        raise ImportError(
            f"The compiled operators are of another version of ipr: {path} has interface {version}, "
            f"these Python files need {VERSION}. {HOW}."
        )
    library.ipr_ops_build_info.restype = ctypes.c_char_p
    library.ipr_ops_isa.restype = ctypes.c_char_p
    return library


def build_info() -> BuildInfo:
    compiler, isas, cuda = LIBRARY.ipr_ops_build_info().decode().split(" | ")
    return BuildInfo(compiler, tuple(isas.split()), cuda)


def isa() -> str:
    """Instruction set that the CPU kernels run with: the best of this CPU, or what IPR_ISA says."""
    name: str = LIBRARY.ipr_ops_isa().decode()
    if not name:
        asked, offered = os.environ.get("IPR_ISA"), " ".join(build_info().isas)
        raise ImportError(f"IPR_ISA={asked} is not one of {offered}, or this CPU does not have it")
    return name


_distribution.refuse_foreign()
LIBRARY = load(PATH)
