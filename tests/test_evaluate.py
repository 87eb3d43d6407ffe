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


def test_ensemble_by_the_volumes_sigma(folder: Path, tmp_path: Path) -> None:
    paths = [folder / f"seed{seed}" / "latest.pt" for seed in (0, 1)]
    alone = [evaluated(tmp_path, path)[1] for path in paths]
    record, together = evaluated(tmp_path, *paths, "ensemble=inverse_variance")
    assert record["protocol"]["ensemble"] == "inverse-variance mean of 2 networks"
    # Crops stand upright, so sigma in px of the image is that of the patch times one factor per person.
    weight = [1 / poses["sigma"][..., :2] ** 2 for poses in alone]
    expected = sum(w * poses["joints_img"] for w, poses in zip(weight, alone, strict=True)) / sum(weight)
    np.testing.assert_allclose(together["joints_img"], expected, atol=1e-2)
    mean = (alone[0]["joints_img"] + alone[1]["joints_img"]) / 2
    assert np.abs(together["joints_img"] - mean).mean() > 0.1


def test_saved_poses_score_the_same_without_a_network(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [folder / f"seed{seed}" / "latest.pt" for seed in (0, 1)]
    record, first = evaluated(tmp_path, *paths, "flip=true", "ensemble=inverse_variance")
    saved = tmp_path / "kept.npz"
    (tmp_path / "poses.npz").rename(saved)
    again, second = evaluated(tmp_path, "--poses", saved)
    assert again == record and first.keys() == second.keys()
    assert record["protocol"]["flip test"] == "on, coordinates averaged"
    assert record["checkpoints"] == [str(path) for path in paths]
    metrics = "metrics=[{name: pck3d}, {name: cps}, {name: localisation}]"
    other, _ = evaluated(tmp_path, "--poses", saved, metrics)
    assert {"3DPCK@150 %", "CPS mm", "clipped %"} <= other["scores"].keys()
    capsys.readouterr()
    for override, said in (("seed=7", "made of other boxes"), ("count=7", "the table has 7")):
        assert call("--poses", saved, f"data.valid.{override}") == 1
        assert said in capsys.readouterr().err
    assert call("--poses", saved, "flip=true") == 2


def test_protocol_card_and_markdown(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "scores.md"
    assert call(folder / "seed0" / "latest.pt", "--markdown", file, "--json", tmp_path / "scores.json") == 0
    record = json.loads((tmp_path / "scores.json").read_text())
    card = record["protocol"]
    assert list(card) == [
        *("data", "split", "rows", "sampling", "boxes", "ground truth used", "flip test", "ensemble"),
        *("alignment", "joints"),
    ]
    assert (card["data"], card["split"], card["rows"]) == ("synthetic", "valid", "12")
    assert card["sampling"].startswith("that of the split with count 12, seed 0")
    assert card["boxes"] == "of the data set, padded x 1.25, fit: grow"
    assert card["ground truth used"] == "root depth and intrinsics" and card["ensemble"] == "1 network"
    lines = file.read_text().splitlines()
    assert lines[0].startswith("| | MPJPE mm | PA-MPJPE mm |")
    assert lines[2].startswith(f"| prediction | {record['scores']['MPJPE mm']:.2f} |")
    assert "| flip test | off |" in lines
    assert any(line.startswith("| MPJPE mm, axis | z |") for line in lines)
    assert len({line.count("|") for line in lines[: lines.index("")]}) == 1


def test_the_challenges_metric_and_files(folder: Path, tmp_path: Path) -> None:
    path = folder / "seed0" / "latest.pt"
    out = tmp_path / "challenge"
    record, poses = evaluated(tmp_path, path, "--submission", out, "metrics=[{name: mpjpe_rescaled}]")
    assert record["scores"]["MPJPE-rescaled mm"] > 0 and "4502.88" in record["protocol"]["alignment"]
    answers = json.loads((out / "Prediction.JSON").read_text())
    assert [answer["image_id"] for answer in answers] == [*range(1, 13)]
    joints_rel = poses["joints_rel"][:, :17]  # without the thorax
    np.testing.assert_array_equal([answer["keypoints"] for answer in answers], joints_rel.reshape(12, 1, 51))
    assert sorted(file.name for file in (out / "PRED").iterdir()) == [f"{i:05d}.csv" for i in range(1, 13)]
    text = (out / "PRED" / "00003.csv").read_text()
    assert text.splitlines()[0] == "0.00,0.00,0.00" and text.count("\n") == 17
    lines = [[float(value) for value in line.split(",")] for line in text.splitlines()]
    np.testing.assert_allclose(lines, joints_rel[2], atol=0.00501)


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
        (["{path}", "ensemble=median"], 2, "ensemble=median: ensemble is mean or inverse_variance"),
        (["{path}", "--poses", "poses.npz"], 2, "--poses takes no checkpoint"),
        (["--poses", "missing.npz"], 1, "missing.npz"),
        (["--poses", "{path}"], 1, "holds no poses of `python -m ipr.evaluate --save`"),
        (["{path}", "--markdown", "nowhere/scores.md"], 2, "cannot write nowhere/scores.md"),
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
