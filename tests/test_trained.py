"""The committed trained network: it looks at its input, and is as good on unseen subjects as it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ipr import checkpoint, config, model, validation
from ipr.config import RunConfig
from ipr.types import Poses, PoseTable

FILE = Path(__file__).parent / "checkpoints" / "synthetic.pt"
PEOPLE = 200  # the first ones of the validation set


@pytest.fixture(scope="module")
def run() -> RunConfig:
    saved = config.from_dict(checkpoint.load(FILE)["config"])
    return config.override(saved, [f"data.valid.count={PEOPLE}", "data.cache=off", "model.precision=fp32"])


@pytest.fixture(scope="module")
def table(run: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> PoseTable:
    return validation.load_valid(run, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def poses(run: RunConfig, table: PoseTable) -> Poses:
    torch.set_num_threads(1)
    return validation.predict([model.load_network(FILE)], table, run)


def test_it_is_the_default_run() -> None:
    saved = checkpoint.load(FILE)
    settled = config.override(config.from_dict(saved["config"]), ["model.precision=auto"])
    assert settled == RunConfig()
    assert saved["epoch"] <= settled.schedule.epochs


def test_predictions_follow_the_picture(run: RunConfig, table: PoseTable, poses: Poses) -> None:
    """In px of the patch, where the motion of boxes does not count."""
    sides = table.boxes_xywh[:, 2:].max(1) * table.box_rule.pad
    centers = table.boxes_xywh[:, :2] + table.boxes_xywh[:, 2:] / 2
    joints_patch = (poses.joints_img - centers[:, None]) / sides[:, None, None] * run.patch.width
    assert joints_patch.std(0).mean() > 5


def test_unseen_subjects(run: RunConfig, table: PoseTable, poses: Poses) -> None:
    """At most 0.40 of the mean training pose's error, and what the checkpoint says of its validation."""
    saved = checkpoint.load(FILE)["decoding"]
    score = validation.score(poses, table, run)["MPJPE mm"]
    assert score <= 0.40 * saved["baselines"]["mean pose"]["MPJPE mm"]
    assert score == pytest.approx(saved["scores"]["MPJPE mm"], rel=0.1)  # a fifth of the people


def test_it_is_sure_of_what_it_gets_right(table: PoseTable, poses: Poses) -> None:
    """The volume's spread ranks joints by their error in the image."""
    error = np.linalg.norm(poses.joints_img - table.joints_img, axis=-1).ravel()
    sigma = np.linalg.norm(poses.sigma[..., :2], axis=-1).ravel()
    sure = sigma < np.median(sigma)
    assert error[sure].mean() < 0.7 * error[~sure].mean()
