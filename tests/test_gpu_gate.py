"""bench/gpu_gate.sh without a GPU: what it would run exists, and the tools' output is read right."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench import exercise, gate, softmax_integral, train_step, warp_patch
from tests.test_readme import COMMANDS

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "bench" / "gpu_gate.sh"
BASH = shutil.which("bash")
needs_bash = pytest.mark.skipif(BASH is None, reason="no bash on this machine")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(SCRIPT), *arguments]
    env = {**os.environ, "PYTHON": sys.executable, **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def commands() -> str:
    """What the gate would run."""
    if BASH is None:
        pytest.skip("no bash on this machine")
    done = run("--dry-run")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dry_run_names_what_exists(commands: str) -> None:
    stages = re.findall(r"^== (\w+), at most (\d+) s$", commands, re.M)
    assert [name for name, _ in stages] == [
        "device",
        "build",
        "tests",
        "memcheck",
        "racecheck",
        "bench",
        "ncu",
    ]
    python = re.escape(sys.executable)
    modules = re.findall(rf"{python} -m ([\w.]+)", commands)
    benches = {"bench.softmax_integral", "bench.warp_patch"}
    assert {"bench.gate", "bench.exercise", "ipr.ops", "pytest"} | benches <= set(modules)
    for module in set(modules) - {"pytest"}:
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    assert re.findall(rf"{python} (\w+\.py)", commands) == ["setup.py"]
    for argument in gate.left_out():
        assert argument in commands.replace("\\", "")


@pytest.mark.parametrize("module", [softmax_integral, warp_patch, exercise, train_step])
def test_dry_run_gives_options_that_the_programs_have(
    module: ModuleType, commands: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        module.main(["--help"])
    known = set(re.findall(r"--[\w-]+", capsys.readouterr().out))
    lines = [line for line in commands.splitlines() if f"-m {module.__name__} " in line]
    assert lines
    for line in lines:
        options = re.findall(r"(?<= )--[\w-]+", line.split(f"-m {module.__name__} ")[1])
        assert options and set(options) <= known


@needs_bash
@pytest.mark.parametrize("arguments", [("--stage",), ("--stage", "unknown"), ("now",)])
def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "stage" in done.stderr


@needs_bash
def test_a_stage_without_its_tool_is_skipped_with_the_reason() -> None:
    if shutil.which("ncu"):
        pytest.skip("this machine has ncu")
    done = run("--stage", "ncu")
    assert done.returncode == 77
    assert done.stdout == "SKIPPED: no ncu on this machine\n"


def test_deselected_tests_exist() -> None:
    names = {f"tests/test_readme.py::test_command[{command}]" for command in COMMANDS}
    assert set(gate.NEED_NETWORK) <= names


def test_files_with_missing_packages_are_ignored(tmp_path: Path) -> None:
    tests, package = tmp_path / "tests", tmp_path / "ipr"
    for folder in (tests, package):
        folder.mkdir()
    (package / "__init__.py").touch()
    (package / "reader.py").write_text("def read():\n    import no_such_reader\n")
    (tests / "conftest.py").write_text("import json\n")
    (tests / "test_direct.py").write_text("import no_such_package.part\n")
    (tests / "test_through.py").write_text("from ipr import reader\nfrom tests import conftest\n")
    guarded = "try:\n    import no_such_extra\nexcept ImportError:\n    pass\n"
    (tests / "test_fine.py").write_text(f"import ipr\nimport pytest\n{guarded}")
    ignored = {argument: why for argument, why in gate.left_out(tmp_path).items() if "--ignore" in argument}
    assert ignored == {
        "--ignore=tests/test_direct.py": "not installed: no_such_package",
        "--ignore=tests/test_through.py": "not installed: no_such_reader",
    }
    (tests / "conftest.py").write_text("import no_such_plugin\n")
    assert "no_such_plugin" in gate.left_out(tmp_path)["--ignore=tests/test_fine.py"]


PTXAS = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN3ipr1aE' for 'sm_90'
ptxas info    : Function properties for _ZN3ipr1aE
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 16 bytes smem
ptxas info    : Compiling entry function '_ZN3ipr1bE' for 'sm_90'
ptxas info    : Function properties for _ZN3ipr1bE
    24 bytes stack frame, {stores} bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers
"""


def test_spills_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    log.write_text(PTXAS.format(stores=16))
    assert gate.main(["spills", str(log)]) == 1
    assert "2 kernels, at most 255 registers, 1 with spills" in capsys.readouterr().out
    log.write_text(PTXAS.split("ptxas info    : Compiling entry function '_ZN3ipr1bE'")[0])
    assert gate.main(["spills", str(log)]) == 0
    log.write_text("nothing was compiled\n")
    assert gate.main(["spills", str(log)]) == 1


def test_tests_on_cuda_are_counted(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    case = '<testcase classname="tests.cuda.test_emulator" name="test_x[{}]">{}</testcase>'
    skipped = case.format("cuda-contiguous", "<skipped/>") + case.format("no CUDA operators", "")
    report.write_text(f"<testsuites><testsuite>{skipped}</testsuite></testsuites>")
    assert gate.main(["on-cuda", str(report)]) == 1
    report.write_text(f"<testsuites><testsuite>{case.format('float32-cuda', '')}</testsuite></testsuites>")
    assert gate.main(["on-cuda", str(report)]) == 0


NCU = """==PROF== Connected to process 1
"ID","Kernel Name","gpu__time_duration.sum","dram__bytes.sum",\
"dram__throughput.avg.pct_of_peak_sustained_elapsed"
"","","ns","byte","%"
"0","void ipr::cuda::(anonymous namespace)::sum_parts<float, 4>(int)","150,000","604,000,000","91.5"
"""


def test_profile_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "ncu.csv"
    table.write_text(NCU)
    assert gate.main(["ncu", str(table)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^sum_parts<float, 4> +150\.0 +604\.0 +4027 +91\.5%$", out, re.M), out
    table.write_text("==PROF== No kernels were profiled.\n")
    assert gate.main(["ncu", str(table)]) == 1
