"""Tests of our compiled code for the CPU under AddressSanitizer and UndefinedBehaviorSanitizer (GCC's).

    python -m tests.sanitize [more arguments for pytest tests/ops tests/test_jpeg.py]

The operators are built into a package tree of their own, build/sanitize, which the tests then import; the
usual build is left alone. A fault ends the run where it happens, with its stack.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Instead of a build type's: fast to compile, and fast enough to run. -fexpensive-optimizations is the part of
# -O2 that contracts a * b + c, which the kernels' accuracy counts on. Null pointers and addresses that wrap
# around are left to AddressSanitizer: UBSan's checks of them cost a quarter of the compile time.
FLAGS = (
    "-O1 -fexpensive-optimizations -g1 -fno-omit-frame-pointer "
    "-fsanitize=address,undefined -fno-sanitize=null,pointer-overflow -fno-sanitize-recover=all"
)


def tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    return str(beside if beside.exists() else name)


def compiler() -> str:
    return os.environ.get("CXX", "g++")


def runtimes() -> list[str]:
    """Libraries that must be loaded before Python's own; empty where there is no GCC with sanitizers."""
    found = []
    for name in ("libasan.so", "libstdc++.so"):  # the second: ASan looks at its start for what it replaces
        try:
            command = [compiler(), f"-print-file-name={name}"]
            path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return []
        if not Path(path).is_absolute():  # GCC says the bare name of what it does not find
            return []
        found.append(path)
    return found


def build(source: Path, folder: Path, flags: str = FLAGS) -> None:
    """The package of ``source`` in ``folder``/ipr, its operators with sanitizers."""
    shutil.rmtree(folder / "ipr", ignore_errors=True)
    built = shutil.ignore_patterns("lib", "include", "share", "__pycache__")
    shutil.copytree(source / "ipr", folder / "ipr", ignore=built)
    torch = importlib.util.find_spec("torch")
    assert torch and torch.submodule_search_locations
    configure = ["-S", str(source), "-B", str(folder / "cmake"), "-G", "Ninja", "--log-level=NOTICE"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", f"-DCMAKE_CXX_COMPILER={compiler()}"]
    configure += [f"-DIPR_TORCH_DIR={torch.submodule_search_locations[0]}", "-DCMAKE_BUILD_TYPE=Sanitize"]
    configure += [f"-DCMAKE_CXX_FLAGS={flags}", f"-DCMAKE_INSTALL_PREFIX={folder / 'ipr'}"]
    jobs = os.environ.get("MAX_JOBS", str(os.cpu_count()))
    install = ["--build", str(folder / "cmake"), "--target", "install", "-j", jobs]
    for arguments in (configure, install):
        subprocess.run([tool("cmake"), *arguments], check=True)


def environment(folder: Path) -> dict[str, str]:
    """In which Python imports the package in ``folder``."""
    options = {
        # Python and torch keep memory to their end on purpose: thousands of leaks, and none is ours.
        "detect_leaks": 0,
        # New memory is filled with garbage: nobody may count on zeros, and its pages are in use.
        "max_malloc_fill_size": 1 << 26,
    }
    return os.environ | {
        "LD_PRELOAD": " ".join(runtimes()),
        "ASAN_OPTIONS": ":".join(f"{name}={value}" for name, value in options.items()),
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
    }


def run(folder: Path, arguments: Sequence[str]) -> int:
    """pytest with the package in ``folder``."""
    env = environment(folder)
    ask = [sys.executable, "-c", "from ipr.ops import _library; print('library', _library.PATH)"]
    said = subprocess.run(ask, cwd=folder, env=env, capture_output=True, text=True)
    if said.stdout.split() != ["library", str((folder / "ipr/lib/libipr_ops.so").resolve())]:
        raise SystemExit(f"the sanitized operators are not those that load: {said.stdout}{said.stderr}")
    # Without pyproject.toml's pythonpath, which would come first. In that folder, so that programs that tests
    # start find the package too.
    config = ["-c", str(ROOT / "pyproject.toml"), "-o", "pythonpath=", "-p", "no:cacheprovider"]
    # A sanitizer's last words go to the process' own stderr, which pytest must not swallow.
    pytest = [sys.executable, "-m", "pytest", *config, "--capture=sys", *arguments]
    return subprocess.run(pytest, cwd=folder, env=env).returncode


def main() -> int:
    if not runtimes():
        raise SystemExit(f"needs GCC with AddressSanitizer: {compiler()} has none (CXX names another one)")
    folder = ROOT / "build" / "sanitize"
    build(ROOT, folder)
    return run(folder, [str(ROOT / "tests" / "ops"), str(ROOT / "tests" / "test_jpeg.py"), *sys.argv[1:]])


if __name__ == "__main__":
    raise SystemExit(main())
