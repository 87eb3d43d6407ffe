"""``python -m ipr.evaluate``: what the checkpoint says of itself comes out again, to the last digit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ipr import checkpoint, cli, evaluate
from tests.runs import lively_checkpoint, tiny_run


def call(*arguments: str | Path) -> int:
    return cli.run(lambda: evaluate.main([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints of one configuration and different weights."""
    folder = tmp_path_factory.mktemp("evaluate")
    for seed in (0, 1):
        lively_checkpoint(tiny_run(f"seed={seed}"), folder / f"seed{seed}")
    return folder


def evaluated(tmp_path: Path, *arguments: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The scores and the poses of a call."""
    assert call(*arguments, "--json", tmp_path / "scores.json", "--save", tmp_path / "poses.npz") == 0
    with np.load(tmp_path / "poses.npz") as poses:
        return json.loads((tmp_path / "scores.json").read_text()), dict(poses)


@pytest.mark.parametrize("override", ["data.workers=0", "data.workers=2"])
def test_to_the_last_digit(folder: Path, tmp_path: Path, override: str) -> None:
    """The training's validation, from the checkpoint alone, whatever the number of workers."""
    path = folder / "seed0" / "latest.pt"
    record, poses = evaluated(tmp_path, path, override)
    assert record["scores"] == checkpoint.load(path)["decoding"]["scores"]
    assert record["people"] == 12 and record["protocol"]["flip test"] == "off"
    assert poses["joints_cam"].shape == (12, 18, 3) and poses["scale_source"] == "intrinsics"


def test_printed_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "seed0" / "latest.pt"
    assert call(path) == 0
    printed = capsys.readouterr().out
    decoding = checkpoint.load(path)["decoding"]
    assert f"{decoding['scores']['MPJPE mm']:.2f}" in printed
    assert f"{decoding['baselines']['mean pose']['MPJPE mm']:.2f}" in printed
    for other in ("data.valid.seed=7", "metrics.0.joints=18"):  # the stored baseline is not of these numbers
        assert call(path, other) == 0
        assert "mean pose" not in capsys.readouterr().out


def test_flip(folder: Path, tmp_path: Path) -> None:
    path = folder / "seed0" / "latest.pt"
    (plain, poses), (flipped, merged) = evaluated(tmp_path, path), evaluated(tmp_path, path, "flip=true")
    assert flipped["protocol"]["flip test"] == "on, coordinates averaged"
    assert flipped["scores"]["MPJPE mm"] != plain["scores"]["MPJPE mm"]
    assert np.abs(merged["joints_img"] - poses["joints_img"]).mean() > 1
    same, _ = evaluated(tmp_path, path, "flip=true", "flip=false")  # the last word counts
    assert same["scores"] == plain["scores"]


def test_ensemble_is_the_mean_of_coordinates(folder: Path, tmp_path: Path) -> None:
    paths = [folder / f"seed{seed}" / "latest.pt" for seed in (0, 1)]
    alone = [evaluated(tmp_path, path)[1]["joints_img"] for path in paths]
    record, together = evaluated(tmp_path, *paths)
    assert np.abs(alone[0] - alone[1]).mean() > 5
    np.testing.assert_allclose(together["joints_img"], (alone[0] + alone[1]) / 2, atol=1e-2)
    assert record["protocol"]["ensemble"] == "mean of 2 networks"


def test_poses_are_saved_under_the_name_given(folder: Path, tmp_path: Path) -> None:
    assert call(folder / "seed0" / "latest.pt", "--save", tmp_path / "poses") == 0
    assert [file.name for file in tmp_path.iterdir()] == ["poses"]
    with np.load(tmp_path / "poses") as poses:
        assert poses["joints_img"].shape == (12, 18, 2)


def test_config_replaces_the_checkpoints_own(folder: Path, tmp_path: Path) -> None:
    path, bare = folder / "seed0" / "latest.pt", tmp_path / "bare.pt"
    state = checkpoint.load(path)
    checkpoint.save(bare, {"network": state["network"]})
    assert call(bare) == 1  # nothing says what network it is
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(state["config"]))
    record, _ = evaluated(tmp_path, bare, "--config", file)
    assert record["scores"] == state["decoding"]["scores"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["missing.pt"], 2, "no checkpoint at missing.pt"),
        (
            ["{path}", "model.head.depth_bins=8"],
            1,
            "another architecture: head.features.6.weight is [72, 16, 1, 1]",
        ),
        (["{path}", "data.valid.seeds=1"], 2, "seeds"),
        (["{path}", "flip=maybe"], 2, "flip is true or false"),
        (["{path}", "--json", "nowhere/scores.json"], 2, "cannot write nowhere/scores.json"),
        (["{path}", "--save", "."], 2, "cannot write ."),
        (["."], 2, "no checkpoint at .: it is a directory"),
        (["flip=true"], 2, "no checkpoint given"),
        (["{path}", "--config", "missing.yaml"], 2, "missing.yaml"),
    ],
)
def test_what_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    path = folder / "seed0" / "latest.pt"
    assert call(*(argument.format(path=path) for argument in arguments)) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and error.count("\n") == 1


def test_an_ensemble_of_unlike_patches(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = lively_checkpoint(tiny_run("patch.height=64"), tmp_path / "tall")
    assert call(folder / "seed0" / "latest.pt", other) == 2
    assert "no ensemble: patch is" in capsys.readouterr().err
