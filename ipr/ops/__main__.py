"""``python -m ipr.ops [--cmake-prefix]``: what was built, for what, where; how operators are implemented."""

from __future__ import annotations

import argparse

import torch

import ipr
from ipr import jpeg, ops
from ipr.ops import _library


def report() -> str:
    """A line per fact, then the table of the operators' implementations."""
    info = _library.build_info()
    device = f", on {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    facts = {
        "ipr": f"{ipr.__version__}, operators' interface {_library.VERSION}",
        "torch": f"{torch.__version__}{device}",
        "library": _library.PATH,
        "compiler": info.compiler,
        "cpu": f"{_library.isa()} (compiled: {' '.join(info.isas)})",
        "cuda": info.cuda,
        "jpeg": jpeg.describe(),
    }
    width = max(map(len, [*facts, *ops.IMPLEMENTATION])) + 2
    lines = [f"{name:{width}}{value}" for name, value in facts.items()]
    table = [f"{name:{width}}{implementation}" for name, implementation in ops.IMPLEMENTATION.items()]
    return "\n".join([*lines, "", *table])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ipr.ops", description="what was built, for what, where")
    parser.add_argument("--cmake-prefix", action="store_true", help="only print what find_package(ipr) needs")
    print(ipr.cmake_prefix_path if parser.parse_args().cmake_prefix else report())


if __name__ == "__main__":
    main()
