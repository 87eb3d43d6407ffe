"""What bench/gpu_gate.sh asks of Python; needs the standard library only, so that it runs before the build.

python -m bench.gate tests           pytest's arguments that leave out what cannot run here; why, on stderr
python -m bench.gate spills LOG      registers and spills of every kernel in a compiler's log; 1 if one spills
python -m bench.gate on-cuda JUNIT   how many tests ran, and how many with CUDA; 1 if none with CUDA did
python -m bench.gate ncu CSV         time and memory traffic of the profiled kernels; 1 if there are none
"""

from __future__ import annotations

import ast
import csv
import importlib.util
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
OURS = ("ipr", "tests", "bench")

# Tests that need what a machine without a network does not get, and what that is.
NEED_NETWORK = {
    "tests/test_readme.py::test_command[make train]": "make installs the pinned packages into .venv",
    "tests/test_readme.py::test_command[make test]": "make installs the pinned packages into .venv",
}


def _optional(node: ast.AST) -> bool:
    """Whether a node can do without what it imports: try: import ... except ImportError: ..."""
    caught = [handler.type for handler in node.handlers] if isinstance(node, ast.Try) else []
    return any(
        isinstance(name, ast.Name) and name.id.endswith(("ImportError", "NotFoundError")) for name in caught
    )


def imported(node: ast.AST) -> Iterator[str]:
    """Full names of the modules that a file imports, wherever in it the import stands."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        if not _optional(child):
            yield from imported(child)


def _file_of(module: str, root: Path) -> Path | None:
    stem = root.joinpath(*module.split("."))
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def missing_packages(path: Path, root: Path, seen: set[Path] | None = None) -> set[str]:
    """Packages not installed here that a file imports, itself or through files of this repository."""
    seen = set() if seen is None else seen
    if path in seen:
        return set()
    seen.add(path)
    missing = set()
    for module in imported(ast.parse(path.read_text())):
        package = module.split(".")[0]
        if package in OURS:
            file = _file_of(module, root)
            missing |= missing_packages(file, root, seen) if file else set()
        elif importlib.util.find_spec(package) is None:
            missing.add(package)
    return missing


def left_out(root: Path = ROOT) -> dict[str, str]:
    """pytest's arguments that leave out what cannot run here, and for each the reason."""
    found = {f"--deselect={test}": f"needs a network: {why}" for test, why in NEED_NETWORK.items()}
    for path in sorted((root / "tests").rglob("test_*.py")):
        needed = missing_packages(path, root)
        for conftest in (parent / "conftest.py" for parent in path.parents if parent.is_relative_to(root)):
            needed |= missing_packages(conftest, root) if conftest.is_file() else set()
        if needed:
            found[f"--ignore={path.relative_to(root)}"] = f"not installed: {', '.join(sorted(needed))}"
    return found


def tests() -> int:
    for argument, reason in left_out().items():
        print(argument)
        print(f"left out: {argument.split('=', 1)[1]}: {reason}", file=sys.stderr)
    return 0


class Kernel(NamedTuple):
    """What ptxas says of one kernel for one architecture."""

    name: str
    architecture: str
    registers: int
    stack_bytes: int
    spill_bytes: int


def kernels(log: str) -> list[Kernel]:
    found = []
    for part in re.split(r"Compiling entry function ", log)[1:]:
        names = re.match(r"'(\w+)' for '(\w+)'", part)
        frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"Used (\d+) registers", part)
        if names and frame and registers:
            stack, stores, loads = map(int, frame.groups())
            found.append(Kernel(names[1], names[2], int(registers[1]), stack, stores + loads))
    return found


def spills(log: Path) -> int:
    found = kernels(log.read_text(errors="replace"))
    for kernel in sorted(found, key=lambda kernel: (-kernel.spill_bytes, -kernel.registers)):
        print(
            f"{kernel.registers:4} registers {kernel.stack_bytes:5} B stack {kernel.spill_bytes:5} B spilled",
            end="",
        )
        print(f"  {kernel.architecture} {kernel.name}")
    spilling = [kernel for kernel in found if kernel.spill_bytes]
    most = max((kernel.registers for kernel in found), default=0)
    print(f"{len(found)} kernels, at most {most} registers, {len(spilling)} with spills")
    return 1 if spilling or not found else 0


def on_cuda(junit: Path) -> int:
    if not junit.is_file():
        print("the tests were stopped before their report")
        return 1
    ran = [case for case in ElementTree.parse(junit).iter("testcase") if case.find("skipped") is None]
    # tests/conftest.py and tests/ops/conftest.py: the device is a parameter, test_x[cuda-contiguous].
    with_cuda = [case for case in ran if re.search(r"[\[-]cuda[\]-]", case.get("name", ""))]
    failed = [case for case in ran if case.find("failure") is not None or case.find("error") is not None]
    print(f"{len(ran)} tests ran, {len(failed)} failed; {len(with_cuda)} had the parameter cuda")
    return 0 if with_cuda else 1


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def ncu(table: Path) -> int:
    """``--page raw --csv --print-units base``: a line per kernel, and before them one of the units."""
    lines = [line for line in table.read_text(errors="replace").splitlines() if line.startswith('"')]
    rows = [row for row in csv.DictReader(lines) if row["ID"].isdigit()]
    print(f"{'kernel':60} {'us':>9} {'MB':>9} {'GB/s':>8} {'of peak':>8}")
    for row in rows:
        time_ns, moved = _number(row["gpu__time_duration.sum"]), _number(row["dram__bytes.sum"])
        peak = _number(row["dram__throughput.avg.pct_of_peak_sustained_elapsed"])
        name = re.sub(r"\(anonymous namespace\)::|<unnamed>::|ipr::cuda::|^void ", "", row["Kernel Name"])
        print(f"{name.split('(')[0][:60]:60} {time_ns / 1e3:9.1f} {moved / 1e6:9.1f} ", end="")
        print(f"{moved / time_ns:8.0f} {peak:7.1f}%")
    print(f"{len(rows)} kernels profiled")
    return 0 if rows else 1


def main(words: list[str]) -> int:
    commands = {"spills": spills, "on-cuda": on_cuda, "ncu": ncu}
    if words == ["tests"]:
        return tests()
    if len(words) == 2 and words[0] in commands:
        return commands[words[0]](Path(words[1]))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
