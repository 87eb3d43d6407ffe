"""``python -m ipr.train``: the files it leaves, where it puts them, and how it refuses and stops."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import yaml

from ipr import checkpoint, cli, config, ops, runlog, train, validation
from ipr.engine import Trainer
from tests.runs import TINY, tiny_data, tiny_run


def call(*arguments: str | Path) -> int:
    return cli.run(lambda: train.main([str(argument) for argument in arguments]))


def start(*arguments: str | Path, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "ipr.train", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        preexec_fn=before,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("train") / "run"
    assert call("--out", out, *TINY) == 0
    return out


def test_what_a_run_leaves(finished: Path) -> None:
    assert config.from_dict(yaml.safe_load((finished / "config.yaml").read_text())) == tiny_run()
    first, *rest = [json.loads(line) for line in (finished / "log.jsonl").read_text().splitlines()]
    assert first["kind"] == "run" and first["config"] == config.to_dict(tiny_run())
    assert first["operators"] == ops.IMPLEMENTATION
    assert first["baselines"]["mean pose"]["MPJPE mm"] > 100
    assert first["protocol"]["joints"].startswith("17 joints") and first["protocol"]["flip test"] == "off"
    epochs = [record for record in rest if record["kind"] == "epoch"]
    assert [record["epoch"] for record in epochs] == [1, 2]
    for record in epochs:
        assert record.keys() >= {"lr", "loss", "images_per_second", "MPJPE mm", "PA-MPJPE mm", "seconds"}
    best = min(epochs, key=lambda record: record["MPJPE mm"])
    assert checkpoint.load(finished / "best.pt")["epoch"] == best["epoch"]
    assert checkpoint.load(finished / "latest.pt")["epoch"] == 2
    assert any((finished / "tensorboard").iterdir())
    for name in ("val.png", "curve.png"):
        assert cv2.imread(str(finished / name)).std() > 10
    assert not list(finished.glob(".*"))


def test_the_last_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert call("--out", out, *TINY, "schedule.epochs=1") == 0
    printed = capfd.readouterr()
    score = runlog.read(out)[-1]["MPJPE mm"]
    assert f"{score:.2f}" in printed.out and "mean pose" in printed.out and "by action" in printed.out
    assert "protocol: data: synthetic" in printed.out and "flip test: off" in printed.out
    assert str(out / "val.png") in printed.out
    assert "epoch 1/1" in printed.err and "img/s" in printed.err


def test_an_existing_run_is_not_overwritten(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "latest.pt").read_bytes()
    assert call("--out", finished, *TINY) == 2
    assert capsys.readouterr().err.startswith(f"error: {finished} already holds a run")
    assert (finished / "latest.pt").read_bytes() == before


def test_resume_of_another_configuration(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--out", finished, "--resume", *TINY, "optimizer.lr=0.1") == 2
    assert "optimizer.lr was 0.003, is 0.1" in capsys.readouterr().err
    file = finished.parent / "other.yaml"
    file.write_text("seed: 5\n")
    assert call(file, "--out", finished, "--resume", *TINY) == 2
    assert "seed was 0, is 5" in capsys.readouterr().err


def test_resume_where_there_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--out", tmp_path / "none", "--resume") == 2
    assert capsys.readouterr().err == f"error: no checkpoint at {tmp_path / 'none' / 'latest.pt'}\n"
    assert not (tmp_path / "none").exists()


def test_resume_of_a_truncated_checkpoint(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    data = (out / "latest.pt").read_bytes()
    (out / "latest.pt").write_bytes(data[: len(data) // 2])
    assert call("--out", out, "--resume") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "latest.pt" in error and "truncated" in error
    assert error.count("\n") == 1


def test_resume_of_weights_alone(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    out.mkdir()
    state = checkpoint.load(finished / "latest.pt")
    checkpoint.save(out / "latest.pt", {"network": state["network"], "config": state["config"]})
    assert call("--out", out, "--resume") == 1
    error = capsys.readouterr().err
    assert "cannot be resumed, it lacks optimizer, rng" in error and "model.weights=" in error


def test_a_start_that_fails_leaves_the_directory_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    assert call("--out", out, *TINY, "data.valid={name: mpii}") == 1  # fails while the data are read
    assert "MPII" in capsys.readouterr().err
    assert not train.holds_run(out)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # Ctrl-C while crops are rendered: there is nothing to resume yet
        patch.setattr(validation, "load_data", interrupted)
        assert call("--out", out, *TINY) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"
    assert call("--out", out, *TINY, "schedule.epochs=1") == 0


def test_a_run_killed_before_its_first_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").touch()
    assert call("--out", tmp_path, *TINY) == 2
    assert "delete it: it ended before its first checkpoint" in capsys.readouterr().err


def test_resume_needs_no_configuration(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    assert call("--out", out, "--resume", "data.workers=1") == 0
    assert [record["kind"] for record in runlog.read(out)].count("epoch") == 2


def test_default_directories_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.default_out("x", resume=False) == train.default_out("x", resume=True) == Path("runs/x")
    for number, name in ((2, "x"), (3, "x-2")):
        (Path("runs") / name).mkdir(parents=True)
        (Path("runs") / name / "log.jsonl").touch()
        assert train.default_out("x", resume=False) == Path(f"runs/x-{number}")
        assert train.default_out("x", resume=True) == Path("runs") / name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["optimizer.lrr=1"], "optimizer.lrr"),
        (["data.train.0.count=many"], "data.train.0.count"),
        (["data.train[0].count=3"], "unknown key 'train[0]', did you mean 'train'"),
        (["data.train.0.split=trian"], "did you mean 'train'"),
        (["metrics=[]"], "at least one metric"),
        ([f"seed={2**64}"], "seed"),
        (["nowhere.yaml"], "nowhere.yaml"),
        (["a.yaml", "b.yaml"], "one configuration at most"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    out = tmp_path / "run"
    assert call("--out", out, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1
    assert not out.exists()


def test_an_empty_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--out", tmp_path / "run", *TINY, "data.train.0.count=0") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "data.train.0.count" in error and error.count("\n") == 1


def test_nonfinite_loss(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert call("--out", out, *TINY, "optimizer.lr=1e30", "schedule.warmup_steps=0") == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the loss is") and str(out / "nonfinite.json") in error
    assert (out / "nonfinite.json").is_file()


def test_full_disk_in_mid_run(tmp_path: Path) -> None:
    """A run that may write no file as large as a checkpoint: a true write error in the middle of one."""
    run = tiny_run()
    trainer = Trainer(run, tmp_path, tiny_data(run, tmp_path))
    trainer.save("latest.pt", {})
    before = (tmp_path / "latest.pt").read_bytes()
    limit = len(before) // 2
    process = start(
        *("--out", tmp_path, "--resume"),
        before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1, error
    assert error.splitlines()[-1].startswith("error: [Errno") and "Traceback" not in error
    assert "epoch 1/2" in error
    assert (tmp_path / "latest.pt").read_bytes() == before
    assert checkpoint.load(tmp_path / "latest.pt")["epoch"] == 0
    assert not list(tmp_path.glob(".*.tmp"))


def test_interrupt(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start("--out", out, *TINY, "schedule.epochs=1000", "data.workers=1")
    deadline = time.monotonic() + 120
    while not (out / "best.pt").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert f"interrupted: continue with python -m ipr.train --resume --out {out}" in error
    assert "Traceback" not in error
    assert not list(out.glob(".*.tmp"))
    state = checkpoint.load(out / "latest.pt")
    assert checkpoint.load(out / "best.pt")["epoch"] <= state["epoch"] + 1
