"""Drives CMake: CMakeLists.txt is the one build definition, and pyproject.toml says what the package is.

Environment: IPR_TORCH_DIR (folder of torch), FORCE_CUDA=0|1, TORCH_CUDA_ARCH_LIST, CUDACXX or CUDA_HOME,
CMAKE_ARGS, MAX_JOBS.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
OLDEST_TORCH = (2, 11)
NO_TORCH = "no torch >= 2.11 found: pip install 'torch>=2.11', or let IPR_TORCH_DIR name the folder of one"


class Torch(NamedTuple):
    """A torch on disk: read, never imported, so that pip's isolated build finds the target environment's."""

    path: Path
    version: str
    cuda: str | None  # the CUDA it was built with


def site_packages() -> list[str]:
    """Where this interpreter, and the one that its virtual environment was made from, keep packages."""
    here = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), site.getusersitepackages()]
    return [*sys.path, *here, *site.getsitepackages([sys.prefix, sys.base_prefix])]


def find_torch(folders: Iterable[Path]) -> Torch | None:
    """The first torch among the folders that is new enough."""
    for path in folders:
        text = (path / "version.py").read_text() if (path / "version.py").is_file() else ""
        version = re.search(r"^__version__ = '((\d+)\.(\d+).*)'", text, re.M)
        cuda = re.search(r"^cuda\b.*= '(.*)'", text, re.M)
        if version and (int(version[2]), int(version[3])) >= OLDEST_TORCH:
            return Torch(path.resolve(), version[1], cuda[1] if cuda else None)
    return None


def torch_here(env: Mapping[str, str]) -> Torch | None:
    given = env.get("IPR_TORCH_DIR")
    return find_torch([Path(given)] if given else [Path(folder, "torch") for folder in site_packages()])


def find_nvcc(env: Mapping[str, str]) -> tuple[str, str] | None:
    """(path, version) of nvcc, from CUDACXX, CUDA_HOME, PATH or the usual place."""
    home = env.get("CUDA_HOME")
    for candidate in (env.get("CUDACXX"), home and f"{home}/bin/nvcc", "nvcc", "/usr/local/cuda/bin/nvcc"):
        path = shutil.which(candidate, path=env.get("PATH")) if candidate else None
        if path:
            output = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
            if version := re.search(r"release (\d+\.\d+)", output):
                return path, version[1]
    return None


def gpu_archs() -> str:
    """Architectures of this machine's GPUs, such as "9.0"; empty where there is none."""
    if not shutil.which("nvidia-smi"):
        return ""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    output = subprocess.run(query, capture_output=True, text=True).stdout
    return ";".join(sorted(set(re.findall(r"^\d+\.\d+$", output, re.M))))


def cuda_arguments(
    env: Mapping[str, str], torch: Torch, nvcc: tuple[str, str] | None, operators: bool
) -> list[str]:
    """CMake's arguments about CUDA: on where torch, nvcc and ``operators`` fit together, else off and why."""
    force = env.get("FORCE_CUDA", "")
    found = f"nvcc {nvcc[1]} found" if nvcc else "no nvcc found"
    if force == "0":
        why = "FORCE_CUDA=0"
    elif not operators:
        why = f"{found}, but no CUDA operators in this version"
    elif not nvcc:
        why = found
    elif force != "1" and not torch.cuda:
        why = f"{found}, but torch {torch.version} is a CPU build"
    elif force != "1" and torch.cuda and torch.cuda.split(".")[0] != nvcc[1].split(".")[0]:
        why = f"{found}, but torch {torch.version} was built with CUDA {torch.cuda}"
    else:
        archs = re.split("[ ;]+", (env.get("TORCH_CUDA_ARCH_LIST") or gpu_archs()).strip())
        # -U: back to CMake's own list, whatever an earlier build had chosen
        chosen = f"-DIPR_CUDA_ARCHS={';'.join(archs)}" if any(archs) else "-UIPR_CUDA_ARCHS"
        return ["-DIPR_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc[0]}", chosen]
    if force == "1":
        raise SystemExit(f"FORCE_CUDA=1 cannot be done: {why} (CUDACXX or CUDA_HOME says where nvcc is)")
    return ["-DIPR_CUDA=OFF", f"-DIPR_CUDA_NOTE=none: {why}"]


def tool(name: str) -> str:
    """A build program from PATH, or from beside this interpreter where its environment is not activated."""
    path = shutil.which(name) or shutil.which(name, path=sysconfig.get_path("scripts"))
    if not path:
        raise SystemExit(f"{name} not found, which builds the operators: pip install cmake ninja")
    return path


class CMakeBuild(build_ext):
    """Builds the operators into ipr/ of the wheel, or of the source tree (-e, --inplace)."""

    def run(self) -> None:
        in_tree = self.inplace or self.editable_mode
        torch = torch_here(os.environ)
        if torch is None:
            given = os.environ.get("IPR_TORCH_DIR")
            raise SystemExit(f"IPR_TORCH_DIR={given}: {NO_TORCH}" if given else NO_TORCH)
        build = Path("build", "ops").resolve()
        prefix = ROOT / "ipr" if in_tree else Path(self.build_lib, "ipr").resolve()
        configure = [tool("cmake"), "--log-level=NOTICE", "-S", str(ROOT), "-B", str(build), "-G", "Ninja"]
        # The ninja is named every time: the cache may hold one of an isolated build that is gone.
        configure += [f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}", f"-DIPR_TORCH_DIR={torch.path}"]
        configure += [f"-DCMAKE_INSTALL_PREFIX={prefix}", f"-DIPR_RELOCATABLE={not in_tree}"]
        operators = any((ROOT / "csrc" / "cuda").glob("*.cu"))
        configure += cuda_arguments(os.environ, torch, find_nvcc(os.environ), operators)
        jobs = os.environ.get("MAX_JOBS", str(os.cpu_count()))
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        compile = [tool("cmake"), "--build", str(build), "-j", jobs, "--target", "install/strip"]
        if subprocess.run(configure).returncode or subprocess.run(compile).returncode:
            raise SystemExit("The operators were not built; the first error above says why.")

    def get_outputs(self) -> list[str]:  # setuptools' own answers are about Python extensions: there are none
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Wheel(bdist_wheel):
    """The library holds no Python: one wheel serves every Python 3 of a platform."""

    def run(self) -> None:
        # setuptools builds on top of what is there: a module deleted since the last build would come back.
        shutil.rmtree(self.get_finalized_command("build").build_lib, ignore_errors=True)
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class OperatorsDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return True


if __name__ == "__main__":
    # Only pip asking for build requirements gets torch as an answer, and only if none is installed or named.
    missing = not os.environ.get("IPR_TORCH_DIR") and torch_here(os.environ) is None
    wanted = ["torch>=2.11"] if "egg_info" in sys.argv and missing else []
    setup(
        distclass=OperatorsDistribution,
        cmdclass={"build_ext": CMakeBuild, "bdist_wheel": Wheel},
        setup_requires=wanted,
    )
