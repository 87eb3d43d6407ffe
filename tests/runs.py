"""A run small enough for a test, and a network in it whose predictions depend on the picture."""

from __future__ import annotations

from pathlib import Path

import torch

from ipr import config, loader, validation
from ipr.config import RunConfig
from ipr.engine import Trainer
from ipr.validation import Data

# Not narrower than 16: below that, with several threads, oneDNN in torch 2.13 writes out of bounds in the
# weight gradient of a 1x1 convolution of stride 2.
TINY = (
    *("data.train.0.count=40", "data.valid.count=12", "data.batch=16", "data.workers=0"),
    *("patch.height=32", "patch.width=32", "model.precision=fp32"),
    *("model.backbone.width=16", "model.backbone.stages=4", "model.backbone.stem_pool=false"),
    *("model.head.deconv_layers=2", "model.head.filters=16", "model.head.depth_bins=4"),
    *("schedule.epochs=2", "schedule.warmup_steps=2", "optimizer.lr=3e-3"),
)


def tiny_run(*overrides: str) -> RunConfig:
    return config.load(None, (*TINY, *overrides))


def tiny_data(run: RunConfig, folder: Path) -> Data:
    return validation.load_data(run, folder / "cache")


def lively_checkpoint(run: RunConfig, out: Path) -> Path:
    """A checkpoint as training writes it, of a network that is not blind as a fresh one is."""
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(run, out, tiny_data(run, out))
    with torch.no_grad():
        trainer.network.head.features[-1].weight.mul_(100)
        for batch in [next(iter(trainer.batches))] * 30:  # channels of mean 0 and variance 1 over pictures
            validation.forward([trainer.network.train()], batch, run)
    trainer.save("latest.pt", trainer.validate().scores)
    assert moves_px(trainer, run) > 5, moves_px(trainer, run)
    return out / "latest.pt"


@torch.inference_mode()
def moves_px(trainer: Trainer, run: RunConfig) -> float:
    """How far predictions move over pictures: range in px of the patch, mean of joints and axes."""
    batches = loader.make_loader(
        [trainer.data.valid], run.patch, run.depth, None, batch=64, workers=0, seed=0, train=False
    )
    output = validation.forward([trainer.network.eval()], next(iter(batches)), run)
    joints_norm = output.joints_norm[..., :2]
    return float((joints_norm.amax(0) - joints_norm.amin(0)).mean()) * run.patch.width
