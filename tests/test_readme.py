"""Every command and every Python block of the README runs; long ones with the short override given here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.S)
TINY = "data.train.0.count=32 data.valid.count=8 schedule.epochs=1 schedule.warmup_steps=0 data.workers=0"

# What is added to or put in place of a command's words so that it takes seconds; {tmp} is a fresh folder.
SHORT = {
    "make train": [("make train", f'make train ARGS="--out {{tmp}}/default {TINY}"')],
    "make test": [("make test", 'make test ARGS="-q tests/test_choices.py"')],
    "python -m pip install .": [
        ("install .", "install --no-deps --no-build-isolation --target {tmp}/site .")
    ],
    "python -m ipr.train configs": [("runs/mine", "{tmp}/mine"), ("optimizer.lr", f"{TINY} optimizer.lr")],
    "python -m ipr.train --resume": [("runs/mine", "{tmp}/mine")],
    "python -m ipr.evaluate": [("runs/mine", "{tmp}/mine"), ("scores.json", "{tmp}/scores.json")],
    "tensorboard": [("--logdir runs", "--inspect --logdir {tmp}/mine")],
    "cmake": [("build/cpp", "{tmp}/cpp")],
}


@pytest.fixture(scope="module")
def tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for the module: later commands use what earlier ones left, as a reader's would."""
    return tmp_path_factory.mktemp("readme")


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, tmp: Path) -> None:
    line = command
    for start, changes in SHORT.items():
        if command.startswith(start):
            for old, new in changes:
                assert old in line, f"README's {command!r} no longer has {old!r}"
                line = line.replace(old, new.format(tmp=tmp))
    # As after `. .venv/bin/activate`, and without what an outer make hands down.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        line, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_python_block(snippet: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", snippet], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_readme_names_its_commands() -> None:
    """Nothing to run would pass everything above."""
    assert len(COMMANDS) >= 8
    assert len(SNIPPETS) >= 2
    assert all(any(command.startswith(start) for command in COMMANDS) for start in SHORT)


def test_links_and_pictures_exist() -> None:
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in t]
    assert targets
    assert [t for t in targets if not (ROOT / t).exists()] == []


def test_length() -> None:
    assert len(README.splitlines()) <= 150
