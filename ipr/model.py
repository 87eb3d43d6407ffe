"""The network of a run: trunk and head, built from a configuration or loaded from a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from torch import nn

from ipr import checkpoint
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
        state = checkpoint.load(config.model.weights)
        _restore(network, state["network"], config.model.weights)
    elif (trunk := backbone.pretrained()) is not None:
        _restore(network.backbone, trunk, backbone.weights)
    return network


def load_network(
    path: str | os.PathLike[str], config: RunConfig | str | os.PathLike[str] | None = None
) -> Network:
    """A trained network in evaluation mode, from a checkpoint of ours or of the ECCV 2018 code.

    The latter does not say what network it holds: ``config``, a configuration or its path, does.
    """
    state = checkpoint.load(path)
    if config is None:
        config = configs.from_dict(checkpoint.resolved_config(state, path), str(path))
    elif not isinstance(config, RunConfig):
        config = configs.load(config)
    network = _fresh(config)
    _restore(network, state["network"], path)
    return network.eval()


def _fresh(config: RunConfig) -> Network:
    backbone = config.model.backbone.build()
    head = config.model.head.build(backbone.out_channels, by_name(config.skeleton).num_joints)
    network = Network(backbone, head)
    if config.model.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _restore(module: nn.Module, weights: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> None:
    own = module.state_dict().items()
    # DataParallel put "module." before every name; torch 0.4.0 kept no counters, and nothing reads them.
    counters = {name: value for name, value in own if name.endswith("num_batches_tracked")}
    named = {name.removeprefix("module."): value for name, value in weights.items()}
    checkpoint.restore(module, {**counters, **named}, path)
