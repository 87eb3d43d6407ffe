"""The bench of a training step measures what it says, and its peer is right; its times here prove nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import original_recipe, train_step
from bench.original_recipe import Draw
from ipr import model
from ipr.geometry import crop_affine, img_to_norm, invert_affine
from ipr.losses._weighted import weighted_l1
from ipr.ops import warp_patch
from tests.data import random_table
from tests.runs import tiny_run


def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    train_step.main(["--rounds", "2", "--batch", "2", "--cases", "embedded", "--json", str(file)])
    (run,) = json.loads(file.read_text()).values()
    assert run["environment"]["torch"] == torch.__version__
    assert run["results"]["embedded default"]["batch"] == 2
    variants = run["results"]["embedded default"]["variants"]
    assert list(variants) == ["original", "ours", "ours, bf16"]
    assert variants["original"]["ratio_to_original"]["step"]["median"] == 1.0
    for row in variants.values():
        parts = {name: timing["median"] for name, timing in row["ms_per_image"].items()}
        assert list(parts) == [*train_step.STAGES, "step"] and min(parts.values()) > 0
        assert row["extra_mb"] > 1 and 0 < row["through_loader"]["waits_for_data"]["median"] < 1
    assert "ours, bf16" in capsys.readouterr().out


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--cases", "no such case"], ["--rounds", "1"]):
        with pytest.raises(SystemExit):
            train_step.main(words)
        assert "cases among: embedded default; resnet50 256x256" in capsys.readouterr().err


@pytest.mark.parametrize("flip", [False, True])
def test_the_originals_sample_is_ours(flip: bool) -> None:
    run, table = tiny_run("patch.height=48", "patch.width=40"), random_table(4)
    size, mean, std = run.patch.size, list(run.patch.mean), list(run.patch.std)
    table.weight[:, 3] = 0  # of one side
    rows = original_recipe.Rows(table, run)
    for row in range(4):
        drawn = Draw(1.1, 25.0 - 20 * row, flip, np.array([0.9, 1.0, 1.1]))
        patch, joints_norm, weight = rows.warped(row, rows.picture(row), drawn)

        affine = crop_affine(
            rows.crops[row], size, scale=drawn.scale, rotation_deg=drawn.rotation_deg, flip=flip
        )
        image = rows.picture(row).data[:, :, ::-1].copy()
        ours = warp_patch(
            torch.from_numpy(image).flatten(),
            torch.zeros(1, dtype=torch.int64),
            torch.tensor([image.shape[:2]], dtype=torch.int32),
            torch.from_numpy(invert_affine(affine).astype(np.float32))[None],
            size,
            mean,
            std,
            torch.from_numpy(drawn.color.astype(np.float32))[None],
        )
        grey = np.abs(ours[0].numpy() - patch) * np.array(std)[:, None, None]
        assert grey.mean() < 0.5 and grey.max() < 30  # OpenCV rounds coordinates to 1/32 px

        expected = img_to_norm(
            torch.from_numpy(table.joints_img[row : row + 1]),
            torch.from_numpy(table.depth[row : row + 1]),
            torch.from_numpy(affine)[None],
            torch.tensor([1 / (2000 * drawn.scale)]).double(),
            size,
        )[0].numpy()
        twin = list(table.skeleton.flip_permutation) if flip else slice(None)
        np.testing.assert_allclose(joints_norm, expected[twin], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(weight, table.weight[row][twin])


def test_the_originals_loss_is_ours() -> None:
    network = model.build(tiny_run("model.head.init=original"))
    patches, joints_norm = torch.randn(4, 3, 32, 32), torch.randn(4, 18, 3) * 0.2
    weight = (torch.rand(4, 18, 3) < 0.7).float()
    expected = weighted_l1(network(patches), joints_norm, weight)
    torch.testing.assert_close(original_recipe.loss(network, patches, joints_norm, weight), expected)


@pytest.mark.parametrize("slow", ["loader", "step"])
def test_who_waits_for_whom(slow: str) -> None:
    def batches() -> Iterator[int]:
        for number in range(6):
            time.sleep(0.03 if slow == "loader" else 0)
            yield number

    def step(_: int) -> None:
        time.sleep(0.03 if slow == "step" else 0)

    network = torch.nn.Linear(1, 1)
    recipe = train_step.Recipe(
        lambda rows: rows,
        lambda _: (torch.zeros(1),) * 3,
        lambda *labelled: labelled[0].sum(),
        torch.optim.Adam(network.parameters()),
        batches(),
        step,
    )
    ms, waits = train_step.through(recipe, 3, 2, torch.device("cpu"))
    assert ms > 29
    assert waits > 0.9 if slow == "loader" else waits < 0.1
