"""Checkpoints are written whole or not at all, and a file that is none of ours is named as such."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ipr import checkpoint

STATE = {
    "network": {"weight": torch.arange(6.0)},
    "epoch": 3,
    "config": {"seed": 1, "patch": [64, 64]},
    "best": 1.5,
}


def test_round_trip(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", STATE)
    state = checkpoint.load(tmp_path / "a.pt")
    assert torch.equal(state["network"]["weight"], STATE["network"]["weight"])
    assert {key: state[key] for key in ("epoch", "config", "best")} == {
        key: STATE[key] for key in ("epoch", "config", "best")
    }
    assert os.listdir(tmp_path) == ["a.pt"]


def test_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    """A real write error in the middle of the file: the process may write no file beyond 64 KiB."""
    path = tmp_path / "latest.pt"
    checkpoint.save(path, STATE)
    before = path.read_bytes()
    program = f"""
import resource, torch
from ipr import checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    checkpoint.save({str(path)!r}, {{"network": {{"weight": torch.zeros(100_000)}}}})
except OSError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused:") and str(path) in done.stdout
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["latest.pt"]


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(checkpoint.CheckpointMissing, match=r"no checkpoint at .*nothing\.pt"):
        checkpoint.load(tmp_path / "nothing.pt")


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated(tmp_path: Path, keep: float, zipped: bool) -> None:
    path = tmp_path / "cut.pt"
    torch.save({"network": {"weight": torch.zeros(1000)}}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(checkpoint.CheckpointError, match=r"cut\.pt"):
        checkpoint.load(path)


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("payload",)


@pytest.mark.parametrize(
    "content",
    [
        b"not a checkpoint\n",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        pickle.dumps({"network": {}, "x": _Payload()}, protocol=2),
    ],
)
def test_foreign_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    Path("foreign.pt").write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match=r"foreign\.pt"):
        checkpoint.load("foreign.pt")
    assert os.listdir(tmp_path) == ["foreign.pt"], "the file's code ran"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (torch.zeros(3), "a Tensor"),
        ({"model": {}, "lr": 1}, "the keys model, lr"),
        ({"network": 3}, "the keys network"),
    ],
)
def test_foreign_content(tmp_path: Path, content: object, found: str) -> None:
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(checkpoint.CheckpointError, match=found):
        checkpoint.load(tmp_path / "other.pt")


def test_no_configuration_inside() -> None:
    assert checkpoint.resolved_config(STATE, "a.pt") == STATE["config"]
    with pytest.raises(checkpoint.CheckpointError, match=r"a\.pt holds no configuration.*--config"):
        checkpoint.resolved_config({"network": {}}, "a.pt")


def test_other_architecture_names_what_differs() -> None:
    small, large = nn.Sequential(nn.Linear(2, 3), nn.ReLU()), nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 1))
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.restore(large, small.state_dict(), "small.pt")
    assert "small.pt is a checkpoint of another architecture" in str(error.value)
    assert "0.weight is [3, 2] in the file and [4, 2] in the network" in str(error.value)
    assert "the file lacks 1.weight, 1.bias" in str(error.value)
    with pytest.raises(checkpoint.CheckpointError, match=r"lacks 1\.weight, 1\.bias"):
        checkpoint.restore(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)), small.state_dict(), "small.pt")
    with pytest.raises(checkpoint.CheckpointError, match=r"the network has no 1\.weight, 1\.bias"):
        checkpoint.restore(nn.Sequential(nn.Linear(2, 4)), large.state_dict(), "large.pt")
    restored = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    checkpoint.restore(restored, small.state_dict(), "small.pt")
    assert torch.equal(restored[0].weight, small[0].weight)
