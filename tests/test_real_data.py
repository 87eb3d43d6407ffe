"""The shipped configurations of real data sets, from their files to a scored checkpoint, by the commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ipr import runlog
from tests.datasets import challenge_trees, h36m_trees, list_trees

ROOT = Path(__file__).parents[1]
# The configurations' data, boxes, patches, volumes, losses and metrics, with a network and a schedule that a
# test has time for.
SMALL = (
    *("model.backbone={name: resnet, depth: 18, width: 16}", "schedule.epochs=1", "schedule.kind=cosine"),
    *("schedule.milestones=[]", "data.workers=0", "optimizer.lr=1e-3"),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few people of each set, where ``data.root`` has them."""
    root = tmp_path_factory.mktemp("data")
    everyone = h36m_trees.videos((1, 5, 6, 7, 8, 9, 11), range(2, 17))
    h36m_trees.write_matlab_meta(root / "hm36", h36m_trees.people(everyone, 1))
    list_trees.write_simple_baselines(root / "mpii", list_trees.draw_people(16))
    list_trees.write_coco(root / "coco", list_trees.draw_people(17), "train2017")
    list_trees.write_coco(root / "coco", list_trees.draw_people(17), "val2017")
    for seed, subset in enumerate(("Train", "Val")):
        challenge_trees.write(root / "hm36_eccv_challenge", subset, challenge_trees.make(12, seed))
    return root


def ipr(*words: str | Path, expect: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("file", sorted(ROOT.glob("configs/h36m*/*.yaml")), ids=lambda file: file.stem)
def test_shipped_configurations_train_and_evaluate(data: Path, file: Path, tmp_path: Path) -> None:
    small = [*SMALL, f"data.root={data}", "data.cache=off"]
    if "integral" in file.stem:
        small += ["model.head.filters=16", "model.head.deconv_layers=3"]
    if file.parent.name == "h36m":  # 2400 rows: as many of them as fit into a test
        small += ["data.mix={kind: shares, weights: [1, 1], people: 16}", "data.valid.split=act_00"]
    ipr("ipr.train", file, "--out", tmp_path / "run", *small, "data.batch=8")
    found = runlog.read(tmp_path / "run")[0]["found"]
    assert "simple-baselines layout" in found[0] and all(found), found
    said = ipr("ipr.evaluate", tmp_path / "run" / "latest.pt", "--json", tmp_path / "a.json", "flip=true")
    assert found[-1] in said and "flip" in said
    scores = json.loads((tmp_path / "a.json").read_text())["scores"]
    name = next(name for name in scores if name.startswith("MPJPE"))
    assert 10 < scores[name] < 5000, scores


def test_the_test_command_of_the_original(data: Path, tmp_path: Path) -> None:
    """A file of the ECCV 2018 code scores what the run scores that its weights are from."""
    file = ROOT / "configs" / "h36m_challenge" / "resnet152_256x256_integral.yaml"
    small = [*SMALL, f"data.root={data}", "data.cache=off", "model.head.filters=16"]
    ipr("ipr.train", file, "--out", tmp_path / "run", *small, "data.batch=8")
    ipr("ipr.evaluate", tmp_path / "run" / "latest.pt", "--json", tmp_path / "ours.json")
    weights = torch.load(tmp_path / "run" / "latest.pt", weights_only=True)["network"]
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}
    old = {"epoch": 1, "network": {f"module.{name}": tensor for name, tensor in kept.items()}}
    torch.save(
        old | {"optimizer": {}, "scheduler": {}, "train_loss": [], "valid_loss": []}, tmp_path / "old.pth.tar"
    )
    ipr(
        "ipr.evaluate", tmp_path / "old.pth.tar", "--config", file, "--json", tmp_path / "theirs.json", *small
    )
    ours, theirs = (
        json.loads((tmp_path / f"{name}.json").read_text())["scores"] for name in ("ours", "theirs")
    )
    assert ours == theirs
