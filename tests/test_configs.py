"""Every shipped configuration says what the original ran, and takes a training step with its true network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ipr import choices, config, engine, model, validation
from ipr.config import RunConfig

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
CONFIGS = {path.relative_to(ROOT / "configs").as_posix(): path for path in FILES}

# The four runs of the ECCV 2018 code: depth of the trunk, height, width, depth bins (None: direct head),
# people per GPU, learning rate, epochs, milestones, depth rule, training mix with its boxes, validation, and
# the number of the network's parameters.
MPII_H36M = [("mpii", "train", "scale"), ("h36m", "train", "rect3d")]
MPII_CHALLENGE = [("mpii", "train", "joints"), ("h36m_challenge", "Train", "joints")]
MPII_COCO_CHALLENGE = [MPII_CHALLENGE[0], ("coco", "train2017", "annotation"), MPII_CHALLENGE[1]]
H36M = ("h36m", "validmin", "rect3d")
CHALLENGE = ("h36m_challenge", "Val", "joints")
ORIGINAL: dict[str, tuple[Any, ...]] = {
    "h36m/resnet50_256x256_integral.yaml": (
        *(50, 256, 256, 64, 32, 1e-3, 300, (270, 290), "rect3d"),
        *(MPII_H36M, H36M, 34291392),
    ),
    "h36m/resnet50_256x256_direct.yaml": (
        *(50, 256, 256, None, 32, 1e-3, 140, (90, 120), "rect3d"),
        *(MPII_H36M, H36M, 23618678),
    ),
    "h36m_challenge/resnet152_256x256_integral.yaml": (
        *(152, 256, 256, 64, 24, 1e-3, 300, (270, 290), "box"),
        *(MPII_CHALLENGE, CHALLENGE, 68927168),
    ),
    "h36m_challenge/resnet152_384x288_integral.yaml": (
        *(152, 384, 288, 72, 12, 1e-4, 300, (270, 290), "box"),
        *(MPII_COCO_CHALLENGE, CHALLENGE, 68964176),
    ),
}


def on_synthetic_data(name: str, batch: int = 2) -> RunConfig:
    """The configuration with two procedural people in the place of each dataset, and no ImageNet download."""
    run = config.load(CONFIGS[name])
    unit = "px" if run.depth.rule == "box" else "mm"
    rows = f"{{name: synthetic, count: 2, depth_unit: {unit}, seed: %d}}"
    mix = ", ".join(rows % seed for seed in range(len(run.data.train)))
    overrides = [f"data.train=[{mix}]", f"data.valid={rows % 9}", "data.valid.split=valid"]
    overrides += [f"data.batch={batch}", "data.workers=0", "data.cache=off", "model.backbone.weights="]
    return config.load(CONFIGS[name], overrides)


def test_the_default_is_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IPR_DATA", raising=False)
    assert config.load(CONFIGS["synthetic/resnet18_64x64_integral.yaml"]) == RunConfig()


def test_all_runs_of_the_original_are_there() -> None:
    assert set(CONFIGS) >= set(ORIGINAL)


@pytest.mark.parametrize("name", CONFIGS)
def test_name_head_and_round_trip(name: str) -> None:
    run = config.load(CONFIGS[name])
    assert config.from_dict(config.to_dict(run)) == run
    trunk, head = run.model.backbone, choices.name_of(run.model.head)
    size = f"{run.patch.height}x{run.patch.width}"
    assert Path(name).stem == f"{choices.name_of(trunk)}{trunk.depth}_{size}_{head}"
    comment = CONFIGS[name].read_text().split("\n")[:3]
    assert all(line.startswith("# ") for line in comment)
    assert f"python -m ipr.train configs/{name}" in comment[1]
    assert comment[2].startswith("# Expected: ")


@pytest.mark.parametrize("name", ORIGINAL)
def test_settings_of_the_original(name: str) -> None:
    trunk, height, width, bins, batch, lr, epochs, milestones, rule, train, valid, _ = ORIGINAL[name]
    run = config.load(CONFIGS[name])
    backbone, head = run.model.backbone, run.model.head
    assert (backbone.depth, backbone.width, backbone.stem_pool) == (trunk, 64, True)
    assert backbone.weights == "imagenet"
    assert run.patch.size == (height, width)
    if bins is None:
        assert choices.name_of(head) == "direct"
    else:
        layers = (head.deconv_layers, head.filters, head.kernel, head.final_kernel)
        assert (*layers, head.depth_bins, head.init) == (3, 256, 4, 1, bins, "original")
    assert (run.data.batch, run.data.workers) == (batch, 16)
    assert (run.optimizer.lr, run.optimizer.weight_decay) == (lr, 0)
    schedule = run.schedule
    assert (schedule.kind, schedule.epochs, schedule.milestones) == ("milestones", epochs, milestones)
    assert (schedule.factor, schedule.warmup_steps) == (0.1, 0)
    assert (run.depth.rule, run.depth.extent_mm) == (rule, 2000)
    assert run.skeleton == "h36m_18"
    named = [(choices.name_of(data), data.split, data.boxes) for data in (*run.data.train, run.data.valid)]
    assert named == [*train, valid]
    augment = run.augment
    assert (augment.scale, augment.rotation, augment.rotation_probability) == (0.25, 30, 0.6)
    assert (augment.flip, augment.color) == (0.5, 0.2)
    assert choices.name_of(run.loss) == "l1"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_training_step(name: str, tmp_path: Path) -> None:
    run = on_synthetic_data(name)
    trainer = engine.Trainer(run, tmp_path, validation.load_data(run, tmp_path))
    network = trainer.network
    if name in ORIGINAL:
        assert sum(weights.numel() for weights in network.parameters()) == ORIGINAL[name][-1]
    network.train()
    batch = next(iter(trainer.batches))
    assert len(batch.row) == 2
    before = {key: weights.detach().clone() for key, weights in network.named_parameters()}
    loss = trainer.train_batch(batch, run.optimizer.lr)
    assert 0 < loss < 100  # each of 18 x 3 coordinates is off by less than about one patch
    for key, weights in network.named_parameters():
        assert weights.isfinite().all(), key
        assert not torch.equal(weights, before[key]), f"{key} did not move"


@pytest.mark.parametrize("name", ORIGINAL)
def test_volume(name: str) -> None:
    """Joints, depth bins, height and width of the volume, from the shapes alone."""
    _, height, width, bins, *_ = ORIGINAL[name]
    with torch.device("meta"):
        network = model.build(on_synthetic_data(name))
        features = network.backbone(torch.empty(1, 3, height, width))
        head: Any = network.head
        if bins is None:
            assert head.fc.out_features == 18 * 3
        else:
            volume = head.features(features)
            assert volume.shape == (1, 18 * bins, height // 4, width // 4)
