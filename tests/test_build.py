"""The wheel, the library in it, and who uses it: Python, a C++ program, people who lack something."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import torch

import ipr
from ipr import ops
from ipr.ops import _library

ROOT = Path(__file__).parents[1]
TORCH = Path(torch.__path__[0])


def run(*command: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    scripts = str(Path(sys.executable).parent)  # cmake and ninja of this environment, activated or not
    path = os.pathsep.join([env.pop("PATH", ""), scripts, os.environ["PATH"]]).strip(os.pathsep)
    environment = os.environ | {"PATH": path} | env
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


def output(*command: str | Path, cwd: Path, **env: str) -> str:
    done = run(*command, cwd=cwd, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the package is built from, without what has been built."""
    tree = tmp_path_factory.mktemp("source")
    for path in (path for path in ROOT.iterdir() if path.is_file()):
        shutil.copy(path, tree)
    built = shutil.ignore_patterns("lib", "include", "share", "__pycache__")
    shutil.copytree(ROOT / "ipr", tree / "ipr", ignore=built)
    shutil.copytree(ROOT / "csrc", tree / "csrc")
    return tree


@pytest.fixture(scope="module")
def plain(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What cmake alone installs. In the folder that setup.py uses, so that the suite compiles once."""
    folder, build = tmp_path_factory.mktemp("plain"), source / "build/ops"
    where = (f"-DIPR_TORCH_DIR={TORCH}", f"-DCMAKE_INSTALL_PREFIX={folder}")
    output("cmake", "-S", source, "-B", build, "-G", "Ninja", *where, cwd=source)
    output("cmake", "--build", build, "--target", "install", cwd=source)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, plain: Path) -> Path:
    pip = (sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation")
    log = output(*pip, "--verbose", "--wheel-dir", source / "dist", source, cwd=source)
    lines = [line for line in log.splitlines() if "ipr operators:" in line]
    assert len(lines) == 1, log
    assert re.search(r"CPU baseline.*; CUDA (none: .+|\d.* for .+); for torch >= 2.11", lines[0])
    (path,) = (source / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's files, as a site-packages would have them."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_wheel_holds_the_package_and_serves_every_python(wheel: Path) -> None:
    assert re.fullmatch(rf"integral_pose-{re.escape(ipr.__version__)}-py3-none-linux_\w+\.whl", wheel.name)
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"ipr/lib/libipr_ops.so", "ipr/include/ipr/ops.h", "ipr/share/cmake/ipr/iprConfig.cmake"} <= names
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "ipr").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert {name.split("/")[0] for name in names} == {"ipr", f"integral_pose-{ipr.__version__}.dist-info"}


def test_library_needs_no_python_and_names_no_path(site: Path, source: Path) -> None:
    library = site / "ipr/lib/libipr_ops.so"
    symbols = output("nm", "-D", library, cwd=site)
    assert "ipr_ops_version" in symbols
    assert not re.search(r"\b_?Py\w*", symbols)
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-d", library, cwd=site))
    assert "libtorch.so" in needed and not any("python" in name for name in needed)
    for path in (library, site / "ipr/share/cmake/ipr/iprConfig.cmake"):
        assert str(TORCH).encode() not in path.read_bytes()
        assert str(source).encode() not in path.read_bytes()


def test_instruction_sets_share_no_code(wheel: Path, source: Path) -> None:
    """Of a function in two objects one copy is linked: an AVX-512 one would end programs on older CPUs."""
    for isa in _library.build_info().isas:
        objects = list((source / "build/ops/CMakeFiles" / f"ipr_kernels_{isa}.dir").rglob("*.o"))
        assert len(objects) == len(list((source / "csrc/cpu").glob("*_kernel.cpp"))) > 0
        for path in objects:
            table = output("nm", "--demangle", "--defined-only", "--extern-only", path, cwd=source)
            assert f"ipr::cpu::{isa}::" in table
            foreign = [line for line in table.splitlines() if f"ipr::cpu::{isa}::" not in line]
            assert not foreign, f"{isa}: {foreign}"


def test_wheel_runs_with_the_instruction_set_that_is_asked_for(site: Path, tmp_path: Path) -> None:
    python = (sys.executable, "-m", "ipr.ops")
    report = output(*python, cwd=tmp_path, PYTHONPATH=str(site), IPR_ISA="baseline")
    facts = dict(line.split(maxsplit=1) for line in report.splitlines() if line)
    assert facts["library"] == str(site / "ipr/lib/libipr_ops.so")
    assert facts["torch"].startswith(torch.__version__)
    assert facts["cpu"].startswith("baseline (compiled: baseline")
    assert facts["softmax_integral"] == "compiled baseline"
    assert set(ops.IMPLEMENTATION) < set(facts)


def test_unknown_instruction_set_is_refused(site: Path, tmp_path: Path) -> None:
    wrong = run(sys.executable, "-m", "ipr.ops", cwd=tmp_path, PYTHONPATH=str(site), IPR_ISA="avx1024")
    assert wrong.returncode == 1
    assert "IPR_ISA=avx1024 is not one of baseline" in wrong.stderr


def test_cpp_program_finds_and_runs_the_operators(site: Path, tmp_path: Path) -> None:
    ask = (sys.executable, "-m", "ipr.ops", "--cmake-prefix")
    prefix = output(*ask, cwd=tmp_path, PYTHONPATH=str(site)).strip()
    assert prefix == str(site / "ipr")
    configure = ("cmake", "-S", ROOT / "tests/cpp", "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={prefix}")
    # The folder that is named, or none: not another torch that happens to lie beside the package.
    shutil.copytree(site, tmp_path / "site")
    (tmp_path / "site/torch").symlink_to(TORCH)
    misled = ("-DIPR_TORCH_DIR=/no/torch", f"-DCMAKE_PREFIX_PATH={tmp_path}/site/ipr")
    for build, arguments in (("alone", ()), ("misled", misled)):
        lacking = run(*configure, "-B", build, *arguments, cwd=tmp_path)
        assert lacking.returncode != 0
        assert "Give -DIPR_TORCH_DIR=" in " ".join(lacking.stderr.split())
    output(*configure, "-B", tmp_path, f"-DIPR_TORCH_DIR={TORCH}", cwd=tmp_path)
    output("cmake", "--build", tmp_path, cwd=tmp_path)
    assert output(tmp_path / "user", cwd=tmp_path).split() == ["2.000", "1.000", "3.000"]


def test_in_place_build_is_found_and_finds_torch(wheel: Path, source: Path, tmp_path: Path) -> None:
    output(sys.executable, "setup.py", "build_ext", "--inplace", cwd=source)
    report = output(sys.executable, "-m", "ipr.ops", cwd=source)
    assert str(source / "ipr/lib/libipr_ops.so") in report
    assert str(TORCH) in (source / "ipr/share/cmake/ipr/iprConfig.cmake").read_text()


def test_plain_cmake_says_what_it_lacks(source: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    header = old / "include/torch/headeronly/version.h"
    header.parent.mkdir(parents=True)
    names = zip(("MAJOR", "MINOR", "PATCH"), (2, 10, 1), strict=True)
    header.write_text("".join(f"#define TORCH_VERSION_{name} {number}\n" for name, number in names))
    for argument, found in (("-DIPR_TORCH_DIR=", "''"), (f"-DIPR_TORCH_DIR={old}", "'2.10.1'")):
        lacking = run("cmake", "-S", source, "-B", tmp_path / "b", "-G", "Ninja", argument, cwd=tmp_path)
        assert lacking.returncode != 0
        assert f"(found: {found}). Give -DIPR_TORCH_DIR=" in " ".join(lacking.stderr.split())


def test_setup_py_names_a_wrong_torch_folder(source: Path, tmp_path: Path) -> None:
    command = (sys.executable, "setup.py", "build_ext", "--inplace")
    wrong = run(*command, cwd=source, IPR_TORCH_DIR=str(tmp_path))
    assert wrong.returncode != 0 and f"IPR_TORCH_DIR={tmp_path}: no torch >= 2.11 found" in wrong.stderr


def test_plain_cmake_gives_a_library_that_torch_loads(plain: Path) -> None:
    program = "import sys, torch; torch.ops.load_library(sys.argv[1]); print(torch.ops.ipr.softmax_integral)"
    output(sys.executable, "-c", program, plain / "lib/libipr_ops.so", cwd=plain)


def test_library_missing_or_unfit(tmp_path: Path) -> None:
    library = tmp_path / "libipr_ops.so"
    with pytest.raises(ImportError, match=r"missing: no file .*libipr_ops\.so.*`pip install \.`"):
        _library.load(library)
    library.write_text("not a library")
    with pytest.raises(ImportError, match=r"do not load with torch .*`python setup\.py build_ext --inplace`"):
        _library.load(library)
    (tmp_path / "old.cpp").write_text('extern "C" int ipr_ops_version() { return 999; }')
    output("c++", "-shared", "-fPIC", "-o", "old.so", "old.cpp", cwd=tmp_path)
    with pytest.raises(ImportError, match=r"another version of ipr: .* has interface 999, .*`pip install"):
        _library.load(tmp_path / "old.so")


def test_the_other_ipr_beside_ours(tmp_path: Path) -> None:
    info = tmp_path / "ipr-3.13.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ipr\nVersion: 3.13.0\n")
    done = run(sys.executable, "-c", "import ipr", cwd=ROOT, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "distribution 'ipr' 3.13.0" in done.stderr and "pip uninstall ipr integral-pose" in done.stderr


@pytest.fixture(scope="module")
def setup_py() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_py", ROOT / "setup.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["setup_py"] = module  # NamedTuple looks its module up
    spec.loader.exec_module(module)
    return module


def torch_folder(folder: Path, version: str, cuda: str | None) -> Path:
    folder.mkdir(parents=True)
    (folder / "version.py").write_text(f"__version__ = {version!r}\ncuda: Optional[str] = {cuda!r}\n")
    return folder


def test_torch_is_found_on_disk(setup_py: ModuleType, tmp_path: Path) -> None:
    old = torch_folder(tmp_path / "old/torch", "2.10.1+cu126", "12.6")
    new = torch_folder(tmp_path / "new/torch", "2.15.0+cu132", "13.2")
    assert setup_py.find_torch([old]) is None
    assert setup_py.find_torch([tmp_path / "none/torch", old, new]) == (new, "2.15.0+cu132", "13.2")
    assert setup_py.torch_here({}) == (TORCH.resolve(), torch.__version__, torch.version.cuda)


CPU, CU12, CU13 = ("2.13.0+cpu", None), ("2.11.0+cu126", "12.6"), ("2.13.0", "13.0")


@pytest.mark.parametrize(
    ("force", "torch_build", "nvcc", "operators", "expected"),
    [
        ("", CU13, "13.0", True, "-DIPR_CUDA=ON"),
        ("", CU13, "13.0", False, "no CUDA operators in this version"),
        ("", CU13, "", True, "no nvcc found"),
        ("", CU12, "13.0", True, "nvcc 13.0 found, but torch 2.11.0+cu126 was built with CUDA 12.6"),
        ("", CPU, "13.0", True, "but torch 2.13.0+cpu is a CPU build"),
        ("0", CU13, "13.0", True, "FORCE_CUDA=0"),
        ("1", CPU, "13.0", True, "-DIPR_CUDA=ON"),
        ("1", CU12, "13.0", True, "-DIPR_CUDA=ON"),
        ("1", CU13, "", True, "cannot be done: no nvcc found"),
        ("1", CU13, "13.0", False, "cannot be done: nvcc 13.0 found, but no CUDA operators"),
    ],
)
def test_cuda_is_decided_and_explained(
    setup_py: ModuleType,
    force: str,
    torch_build: tuple[str, str | None],
    nvcc: str,
    operators: bool,
    expected: str,
) -> None:
    env = {"FORCE_CUDA": force, "TORCH_CUDA_ARCH_LIST": "8.0 9.0+PTX"}
    compiler = ("/opt/nvcc", nvcc) if nvcc else None
    try:
        said = setup_py.cuda_arguments(env, setup_py.Torch(TORCH, *torch_build), compiler, operators)
    except SystemExit as error:
        said = [str(error)]
    assert expected in " ".join(said)
    if expected == "-DIPR_CUDA=ON":
        assert "-DIPR_CUDA_ARCHS=8.0;9.0+PTX" in said and "-DCMAKE_CUDA_COMPILER=/opt/nvcc" in said


def test_nvcc_is_asked_for_its_version(setup_py: ModuleType, tmp_path: Path) -> None:
    compiler = tmp_path / "bin/nvcc"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\necho Cuda compilation tools, release 12.4, V12.4.131\n")
    compiler.chmod(0o755)
    for env in ({"CUDACXX": str(compiler)}, {"CUDA_HOME": str(tmp_path)}, {"PATH": str(tmp_path / "bin")}):
        assert setup_py.find_nvcc(env) == (str(compiler), "12.4")


def test_make_says_which_python_it_needs(tmp_path: Path) -> None:
    make = ("make", "-f", ROOT / "Makefile", f"VENV={tmp_path}/venv", f"{tmp_path}/venv/bin/pip")
    assert "needs Python 3.11 or newer" in run(*make, "PYTHON=no-such-python", cwd=tmp_path).stdout
