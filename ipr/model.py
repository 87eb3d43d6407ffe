"""The network of a run: trunk and head, built from a configuration or loaded from a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ipr import checkpoint, legacy
from ipr import config as configs
from ipr.config import RunConfig
from ipr.skeleton import by_name
from ipr.types import NetworkOutput


class Network(nn.Module):
    """patches [B,3,H,W], normalised RGB -> joints [B,J,3] in norm space."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, patches: torch.Tensor) -> NetworkOutput:
        return self.head(self.backbone(patches))


def build(config: RunConfig) -> Network:
    """The network at the start of training, with the weights that the configuration names."""
    network = _fresh(config)
    backbone = config.model.backbone
    if config.model.weights:
        path = config.model.weights
        _restore(network, *_weights(checkpoint.load(path), path, config), path)
    elif (trunk := backbone.pretrained()) is not None:
        _restore(network.backbone, trunk, (), backbone.weights)
    return network


def load_network(
    path: str | os.PathLike[str], config: RunConfig | str | os.PathLike[str] | None = None
) -> Network:
    """A trained network in evaluation mode, from a checkpoint of ours or of an earlier project (ipr.legacy).

    It takes patches [B,3,H,W], RGB, (grey level - mean) / std with those of the configuration's ``patch``:
    ImageNet's, but for mks0601's files.

    What a file of an earlier project does not say, ``config``, a configuration or its path, does: how
    channels split into joints and depth, the depth rule, the patch's size. ConfigMissing says what is
    lacking; CheckpointError that a file is none of these, or has no trained head; ConfigError that
    ``config`` contradicts it.
    """
    state = checkpoint.load(path)
    if config is None:
        if "config" in state:
            config = configs.from_dict(checkpoint.resolved_config(state, path), str(path))
        else:
            config = legacy.read(state, path).run(path)
    elif not isinstance(config, RunConfig):
        config = configs.load(config)
    weights, untrained = _weights(state, path, config)
    if untrained:
        raise checkpoint.CheckpointError(
            f"{path} has no trained weights for {', '.join(untrained)}: train a network from it, with "
            f"model.weights={path}"
        )
    network = _fresh(config)
    _restore(network, weights, (), path)
    return network.eval()


def convert(path: str | os.PathLike[str], config: RunConfig | None) -> tuple[dict[str, Any], legacy.Found]:
    """(a checkpoint of ours with what the file ``path`` of another project holds, what that was).

    What the file has no weights for is drawn from ``config.seed`` and named under ``untrained``.
    """
    state = checkpoint.load(path)
    if "config" in state:
        raise checkpoint.CheckpointError(f"{path} is a checkpoint of ipr already")
    found = legacy.read(state, path)
    config = config or found.run(path)
    found.check(config, path)
    torch.manual_seed(config.seed)
    network = _fresh(config)
    _restore(network, found.weights, found.untrained, path)
    return {
        "network": network.state_dict(),
        "config": configs.to_dict(config),
        "decoding": legacy.decoding(state, config),
        "untrained": list(found.untrained),
    }, found


def _weights(
    state: Mapping[str, Any], path: str | os.PathLike[str], config: RunConfig
) -> tuple[Mapping[str, torch.Tensor], tuple[str, ...]]:
    """(weights under our names, starts of the names that have no trained ones)"""
    if "config" in state:
        return state["network"], tuple(state.get("untrained", ()))
    found = legacy.read(state, path)
    found.check(config, path)
    return found.weights, found.untrained


def _fresh(config: RunConfig) -> Network:
    backbone = config.model.backbone.build()
    head = config.model.head.build(backbone.out_channels, by_name(config.skeleton).num_joints)
    network = Network(backbone, head)
    if config.model.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _restore(
    module: nn.Module,
    weights: Mapping[str, torch.Tensor],
    untrained: tuple[str, ...],
    path: str | os.PathLike[str],
) -> None:
    """Load ``weights``; names that start with one of ``untrained`` may be lacking and stay as drawn."""
    # torch 0.4.0 kept no counters, and nothing reads them.
    free = {
        name: value
        for name, value in module.state_dict().items()
        if name.endswith("num_batches_tracked") or (untrained and name.startswith(untrained))
    }
    named = {name.removeprefix("module."): value for name, value in weights.items()}  # DataParallel's
    checkpoint.restore(module, {**free, **named}, path)
