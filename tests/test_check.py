"""``python -m ipr.check``: what it prints, its pictures and its exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from ipr import check, cli
from ipr.types import PoseTable
from tests.data import people, write_images
from tests.runs import tiny_run

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs/synthetic/resnet18_64x64_integral.yaml"
FEW = ("data.train.0.count=40", "data.valid.count=20")


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "ipr.check", *map(str, words)]
    return subprocess.run(program, capture_output=True, text=True, cwd=ROOT)


def test_the_synthetic_configuration_is_clean(tmp_path: Path) -> None:
    done = command(CONFIG, *FEW, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    for name, count in (("data.train.0", 40), ("data.valid", 20)):
        assert f"\n{name}: {{'name': 'synthetic'" in done.stdout
        assert f"checked: {count} rows, cameras, boxes and bodies of {count}, {count} images\n" in done.stdout
        assert done.stdout.count("nothing was found to be wrong") == 2
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "images: 100%" in done.stderr and "error" not in done.stderr


def test_errors_and_warnings(tmp_path: Path) -> None:
    """What the run cannot use is an error and status 1, told of each table."""
    done = command(CONFIG, *FEW, "depth.rule=box", "--out", tmp_path)
    assert done.returncode == 1
    assert done.stdout.count("fix: set depth.rule=rect3d") == 2
    assert "error: 1 error in data.train.0, 1 error in data.valid\n" in done.stderr


def test_data_that_is_not_there(tmp_path: Path) -> None:
    """Every table is tried, and each says one thing."""
    config = ROOT / "configs/h36m/resnet50_256x256_integral.yaml"
    done = command(config, f"data.root={tmp_path}", "--out", tmp_path / "out")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stdout.count("ERROR") == done.stdout.count("ERROR: no table: ") == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "arguments are required"),
        (("data.batch=3",), "one configuration is checked, got none"),
        ((CONFIG, CONFIG), "one configuration is checked"),
        ((CONFIG, "data.bach=3"), "bach"),
        ((CONFIG, "--some"), "--some"),
    ],
)
def test_usage(words: tuple[str | Path, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(lambda: check.main([str(word) for word in words])) == 2
    assert said in capsys.readouterr().err


@dataclass(frozen=True)
class Files:
    """Procedural people with image files; ``broken``: one image and one box are not right."""

    folder: str
    broken: bool

    def build(self) -> PoseTable:
        made = people(12)
        table = replace(made, image=write_images(Path(self.folder), made))
        if self.broken:
            Path(table.image.name(2)).unlink()
            boxes = table.boxes_xywh.copy()
            boxes[5, 2] = np.nan
            table = replace(table, boxes_xywh=boxes)
        return table


@pytest.mark.parametrize("broken", [False, True])
def test_image_files(broken: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = Files(str(tmp_path / "images"), broken)
    found = check.check(tiny_run(), dataset, "data.valid", tmp_path, all_images=True)
    printed = capsys.readouterr().out
    assert (tmp_path / "data.valid.png").stat().st_size > 10_000
    if not broken:
        assert found == [] and "nothing was found to be wrong" in printed
        return
    assert [(finding.level, finding.first) for finding in found] == [("error", (5,)), ("error", (2,))]
    assert json.dumps(str(tmp_path / "images"))[1:-1] in printed and printed.count("fix: ") == 2


def test_a_table_without_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Nothing(Files):
        def build(self) -> PoseTable:
            table = people(1)
            arrays = {n: v[:0] for n, v in vars(table).items() if isinstance(v, np.ndarray)}
            return replace(table, **arrays)

    found = check.check(tiny_run(), Nothing("", False), "data.valid", tmp_path, all_images=False)
    assert [finding.what for finding in found] == ["the table has no rows"]
    assert "ERROR" in capsys.readouterr().out
