"""``python -m ipr.convert``: files of earlier projects become checkpoints to evaluate and to train from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ipr
from ipr import checkpoint, cli, config, convert, evaluate, model, train
from ipr.checkpoint import CheckpointError
from ipr.config import RunConfig
from tests.conftest import Tolerance
from tests.runs import TINY, lively_checkpoint, tiny_run
from tests.test_legacy import Theirs, maps_state
from tests.test_model import DIRECT_18, original_checkpoint


def call(*arguments: object) -> int:
    return cli.run(lambda: convert.main([str(argument) for argument in arguments]))


def written(run: RunConfig, path: Path) -> Path:
    path.write_text(json.dumps(config.to_dict(run)))
    return path


def as_original(state: dict[str, Any], path: Path) -> Path:
    """The network of a checkpoint of ours as torch 0.4.0 wrote it for the original."""
    network = {
        f"module.{name}": tensor
        for name, tensor in state["network"].items()
        if not name.endswith("num_batches_tracked")
    }
    old = {"epoch": 300, "network": network, "optimizer": {}, "scheduler": {"last_epoch": 299}}
    torch.save({**old, "train_loss": [1.0], "valid_loss": [2.0]}, path, _use_new_zipfile_serialization=False)
    return path


def test_the_original_golden(tmp_path: Path, capsys: Any, tolerance: Tolerance) -> None:
    golden = original_checkpoint(tmp_path / "old.pth.tar")
    yaml = written(DIRECT_18, tmp_path / "run.yaml")
    assert call(tmp_path / "old.pth.tar", tmp_path / "new.pt", "--config", yaml) == 0
    said = capsys.readouterr().out
    assert "old.pth.tar is a file of the original: ResNet-18, 54 coordinates" in said
    assert "h36m_18, patches of 64x64 px, depth over 2000 mm" in said
    network = ipr.load_network(tmp_path / "new.pt")
    for dtype in (torch.float32, torch.float64):
        with torch.no_grad():
            joints = network.to(dtype)(torch.from_numpy(golden["patches"]).to(dtype)).joints_norm
        expected = golden["coords_f64"].reshape(3, 18, 3)
        np.testing.assert_allclose(joints, expected, rtol=0, atol=tolerance.network_norm[dtype])


def test_evaluated_and_trained(tmp_path: Path) -> None:
    """OLD with --config, NEW and the run that both come from score the same; training starts from NEW."""
    run = tiny_run()
    trained = checkpoint.load(lively_checkpoint(run, tmp_path / "run"))
    old, new = as_original(trained, tmp_path / "old.pth.tar"), tmp_path / "new.pt"
    yaml = written(run, tmp_path / "run.yaml")
    assert call(old, new, "--config", yaml) == 0
    for words in ([old, "--config", yaml], [new]):
        arguments = [*map(str, words), "--json", str(tmp_path / "scores.json")]
        assert cli.run(lambda arguments=arguments: evaluate.main(arguments)) == 0
        record = json.loads((tmp_path / "scores.json").read_text())
        assert record["scores"] == pytest.approx(trained["decoding"]["scores"], abs=1e-9)
    assert checkpoint.load(new)["decoding"]["depth_unit"] == "mm"

    words = [*TINY, f"model.weights={new}", "schedule.epochs=1", "optimizer.lr=1e-9", "--out"]
    assert cli.run(lambda: train.main([*words, str(tmp_path / "more")])) == 0
    more = checkpoint.load(tmp_path / "more" / "latest.pt")["network"]
    name = "backbone.layer4.0.conv1.weight"
    assert torch.allclose(more[name], trained["network"][name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("project", ["Integral", "EpipolarPose"])
def test_without_a_configuration(tmp_path: Path, capsys: Any, project: str) -> None:
    theirs, old, new = Theirs(project, 18), tmp_path / "old.pth.tar", tmp_path / "new.pt"
    torch.save(theirs.state(), old)
    assert call(old, new) == 0
    name = "EpipolarPose" if project == "EpipolarPose" else "mks0601's Integral or 3DMPPE_POSENET"
    said = capsys.readouterr().out
    assert f"a file of {name}: ResNet-18, 3 deconvolutions of 16 channels, 1152 channels of volumes" in said
    assert "h36m_18, patches of 256x256 px, depth over 2000 mm" in said and "name yours" in said
    patches = theirs.patches(1)
    with torch.no_grad():
        converted = ipr.load_network(new).double()(patches).joints_norm
        direct = ipr.load_network(old).double()(patches).joints_norm
    assert torch.equal(converted, direct)
    assert checkpoint.load(new)["decoding"]["patch"]["mean"] == theirs.levels[0]


def test_what_no_file_has_is_drawn_and_said(tmp_path: Path, capsys: Any) -> None:
    old, run = (
        tmp_path / "old.pth.tar",
        tiny_run("model.backbone.stem_pool=true", "model.head.deconv_layers=3"),
    )
    torch.save({"state_dict": maps_state(), "perf": np.float64(88.5)}, old)
    yaml = written(run, tmp_path / "run.yaml")
    for new in ("a.pt", "b.pt"):
        assert call(old, tmp_path / new, "--config", yaml) == 0
        said = capsys.readouterr().out
        assert "simple-baselines: ResNet-18, 3 deconvolutions of 16 channels, 16 2-D heat maps" in said
        assert "not used: final_layer.weight, final_layer.bias" in said
        assert "drawn, not trained: head.features.9." in said
    one, two = (checkpoint.load(tmp_path / new)["network"] for new in ("a.pt", "b.pt"))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    with pytest.raises(CheckpointError, match=r"a\.pt has no trained weights for head\.features\.9\."):
        ipr.load_network(tmp_path / "a.pt")
    start = config.override(run, [f"model.weights={tmp_path / 'a.pt'}"])
    built = model.build(start).state_dict()
    assert all(torch.equal(tensor, built[name]) for name, tensor in one.items())


def test_what_is_refused(tmp_path: Path, capsys: Any) -> None:
    run = tiny_run()
    ours = tmp_path / "ours.pt"
    network = model.build(run)
    checkpoint.save(ours, {"network": network.state_dict(), "config": config.to_dict(run)})
    old = as_original({"network": network.state_dict()}, tmp_path / "old.pth.tar")
    other = tmp_path / "other.pth"
    torch.save({"w1.weight": torch.zeros(3)}, other)
    mks = tmp_path / "mks.pth.tar"
    torch.save(Theirs("POSENET", 18).state(), mks)
    yaml = written(run, tmp_path / "run.yaml")
    deeper = written(tiny_run("model.head.depth_bins=8"), tmp_path / "deeper.yaml")
    new = tmp_path / "new.pt"
    cases: list[tuple[list[object], int, str]] = [
        ([tmp_path / "missing.pth", new], 2, "no checkpoint at "),
        ([old, ours, "--config", yaml], 2, "ours.pt exists already"),
        ([old, tmp_path / "none" / "new.pt", "--config", yaml], 2, "cannot write"),
        ([old, new], 2, "72 channels split into joints x depth (h36m_18 with model.head.depth_bins: 4)"),
        ([old, new, "--config", tmp_path / "missing.yaml"], 2, "missing.yaml"),
        ([old], 2, "NEW"),
        ([mks, new, "--config", yaml], 2, "patch.mean, patch.std"),
        ([other, new], 1, "has no known layout"),
        ([ours, new], 1, "is a checkpoint of ipr already"),
        ([old, new, "--config", deeper], 1, "head.features.6.weight is [72, 16, 1, 1] in the file and [144"),
    ]
    for arguments, code, said in cases:
        assert call(*arguments) == code, arguments
        error = capsys.readouterr().err
        assert error.startswith("error: ") and said in error and error.count("\n") == 1, error
        assert not new.exists()
