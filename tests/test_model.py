"""Whole networks: the original's names and numbers, checkpoints of both kinds, and the compilers."""

from __future__ import annotations

import dataclasses
import gzip
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ipr
from ipr import checkpoint, config, model
from ipr.backbones import resnet
from ipr.config import ModelConfig, RunConfig
from ipr.heads import direct, integral
from ipr.model import Network
from tests.conftest import Tolerance

GOLDEN = Path(__file__).parent / "golden" / "checkpoint"
KEY_LISTS = sorted((GOLDEN / "state_dict_keys").glob("*.txt.gz"))

DIRECT_18 = RunConfig(model=ModelConfig(backbone=resnet.Config(), head=direct.Config()))
SCRATCH = integral.Config(deconv_layers=2, filters=32, depth_bins=8, init="scratch")
SMALL_HEADS = {
    "integral": SCRATCH,
    "integral_3x3": dataclasses.replace(SCRATCH, final_kernel=3),
    "direct": direct.Config(),
}


def small(head: Any = SCRATCH, **options: Any) -> RunConfig:
    return RunConfig(model=ModelConfig(backbone=resnet.Config(width=8), head=head, **options))


def lively(run: RunConfig) -> tuple[Network, torch.Tensor]:
    """(a network in evaluation mode, patches [4,3,64,64] on which its joints differ by more than 5 px)"""
    network = model.build(run)
    patches = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        for _ in range(20):
            network(patches)  # running statistics
        final = network.head.fc if run.model.head == direct.Config() else network.head.features[-1]
        final.weight.mul_(8)
        network.eval()
        joints = network(patches).joints_norm
    assert (joints.amax(0) - joints.amin(0)).mean() * 64 > 5
    return network, patches


def original_checkpoint(path: Path, counters: bool = True) -> dict[str, np.ndarray]:
    """Write a file of the original (ResNet-18, direct regression, 64 px); return its inputs and outputs.

    Its convolutions are windows into one array of normal numbers, which a seed makes again.
    """
    golden = dict(np.load(GOLDEN / "r18_direct_64.npz"))
    pool = torch.randn(2424832, generator=torch.Generator().manual_seed(105)) * 0.03
    network: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name in golden["order"].tolist():
        if f"window/{name}" in golden:
            start, *shape = golden[f"window/{name}"].tolist()
            network[name] = pool[start : start + int(np.prod(shape))].view(shape)
        elif counters or not name.endswith("num_batches_tracked"):
            network[name] = torch.from_numpy(golden[f"array/{name}"])
    scheduler = {"milestones": Counter({270: 1, 290: 1}), "gamma": 0.1, "last_epoch": 0}
    optimizer = {"state": {}, "param_groups": [{"lr": 0.001, "betas": (0.9, 0.999)}]}
    state = {"epoch": 2, "network": network, "optimizer": optimizer, "scheduler": scheduler}
    torch.save({**state, "train_loss": [11.5, 5.75], "valid_loss": [12.5, 6.25]}, path)
    pixels = golden["input_u8_rgb_chw"].astype(np.float64)
    golden["patches"] = (pixels - golden["mean"][:, None, None]) / golden["std"][:, None, None]
    return golden


@pytest.mark.parametrize("path", KEY_LISTS, ids=lambda path: path.name.removesuffix(".txt.gz"))
def test_names_and_shapes_of_the_original(path: Path) -> None:
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    expected = [tuple(line.split("\t")) for line in lines if line and not line.startswith("#")]
    assert len(expected) > 300
    trunk = resnet.Config(depth=int(path.name.split("_")[0][1:]))
    depth_bins = 72 if "_d72_" in path.name else 64
    head: Any = integral.Config(depth_bins=depth_bins) if "_integral_" in path.name else direct.Config()
    with torch.device("meta"):
        network = model.build(RunConfig(model=ModelConfig(backbone=trunk, head=head)))
    found = [
        (
            f"module.{name}",
            "x".join(map(str, tensor.shape)) or "scalar",
            str(tensor.dtype).removeprefix("torch."),
        )
        for name, tensor in network.state_dict().items()
    ]
    assert found == expected


def test_four_key_lists() -> None:
    assert len(KEY_LISTS) == 4


@pytest.mark.parametrize("counters", [True, False], ids=["torch 1", "torch 0.4.0"])
def test_checkpoint_of_the_original(tmp_path: Path, counters: bool, tolerance: Tolerance) -> None:
    golden = original_checkpoint(tmp_path / "original.pth.tar", counters)
    network = ipr.load_network(tmp_path / "original.pth.tar", DIRECT_18)
    assert not network.training
    expected = golden["coords_f64"].reshape(3, 18, 3)
    assert expected.std(0).mean() > 0.1
    for dtype in (torch.float32, torch.float64):
        with torch.no_grad():
            joints = network.to(dtype)(torch.from_numpy(golden["patches"]).to(dtype)).joints_norm
        np.testing.assert_allclose(joints, expected, rtol=0, atol=tolerance.network_norm[dtype])
    with torch.no_grad():
        joints = network.float().train()(torch.from_numpy(golden["patches"]).float()).joints_norm
    np.testing.assert_allclose(
        joints.flatten(1), golden["coords_trainmode"], rtol=0, atol=tolerance.network_norm[torch.float32]
    )


def test_the_original_does_not_say_what_it_holds(tmp_path: Path) -> None:
    original_checkpoint(tmp_path / "original.pth.tar")
    with pytest.raises(checkpoint.CheckpointError, match="holds no configuration"):
        model.load_network(tmp_path / "original.pth.tar")


def test_checkpoint_of_ours(tmp_path: Path) -> None:
    run = small()
    network, patches = lively(run)
    path = tmp_path / "latest.pt"
    checkpoint.save(path, {"network": network.state_dict(), "config": config.to_dict(run)})
    again = model.load_network(path)
    torch.testing.assert_close(again(patches).joints_norm, network(patches).joints_norm, rtol=0, atol=0)


def test_configuration_by_path(tmp_path: Path) -> None:
    run = small(direct.Config())
    network, patches = lively(run)
    checkpoint.save(tmp_path / "bare.pt", {"network": network.state_dict()})
    trunk = "{name: resnet, depth: 18, width: 8}"
    (tmp_path / "run.yaml").write_text(f"model: {{backbone: {trunk}, head: {{name: direct}}}}\n")
    again = model.load_network(tmp_path / "bare.pt", tmp_path / "run.yaml")
    torch.testing.assert_close(again(patches).joints_norm, network(patches).joints_norm, rtol=0, atol=0)


@pytest.mark.parametrize(
    "other, message",
    [
        (small(direct.Config()), r"network has no head\.features.* and \d+ more|lacks head\.fc"),
        (
            small(dataclasses.replace(SCRATCH, depth_bins=4)),
            r"head\.features\.6\.weight is \[144, 32, 1, 1\]",
        ),
    ],
    ids=["another head", "another depth"],
)
def test_checkpoint_of_another_network(tmp_path: Path, other: RunConfig, message: str) -> None:
    path = tmp_path / "latest.pt"
    checkpoint.save(path, {"network": model.build(small()).state_dict()})
    with pytest.raises(checkpoint.CheckpointError, match=message) as caught:
        model.load_network(path, other)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_training_starts_from_the_named_weights(tmp_path: Path) -> None:
    network, _ = lively(small())
    whole, trunk = tmp_path / "whole.pt", tmp_path / "trunk.pth"
    checkpoint.save(whole, {"network": network.state_dict()})
    torch.save({**network.backbone.state_dict(), "fc.bias": torch.zeros(1000)}, trunk)

    started = model.build(small(weights=str(whole)))
    assert started.training
    wanted = network.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in started.state_dict().items())

    run = small(direct.Config())
    backbone = dataclasses.replace(run.model.backbone, weights=str(trunk))
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, backbone=backbone))
    started = model.build(run)
    assert torch.equal(started.backbone.layer4[1].conv2.weight, network.backbone.layer4[1].conv2.weight)
    trunk.unlink()
    checkpoint.save(whole, {"network": started.state_dict(), "config": config.to_dict(run)})
    model.load_network(whole)  # a trained network needs the trunk's file no more


def test_trunk_weights_of_another_size(tmp_path: Path) -> None:
    torch.save(resnet.Config(width=4).build().state_dict(), tmp_path / "trunk.pth")
    run = RunConfig(
        model=ModelConfig(backbone=resnet.Config(width=8, weights=str(tmp_path / "trunk.pth")), head=SCRATCH)
    )
    with pytest.raises(checkpoint.CheckpointError, match=r"conv1\.weight is \[4, 3, 7, 7\]"):
        model.build(run)


def test_channels_last() -> None:
    network = model.build(small(channels_last=True))
    assert network.backbone.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert network.backbone(torch.randn(1, 3, 64, 64)).is_contiguous(memory_format=torch.channels_last)
    network = model.build(small(channels_last=False))
    assert network.backbone.layer1[0].conv1.weight.is_contiguous()


def _scripted(network: Network, patches: torch.Tensor) -> Callable[[torch.Tensor], Any]:
    return torch.jit.script(network)


def _compiled(network: Network, patches: torch.Tensor) -> Callable[[torch.Tensor], Any]:
    return torch.compile(network, fullgraph=True, backend="aot_eager")


def _exported(network: Network, patches: torch.Tensor) -> Callable[[torch.Tensor], Any]:
    return torch.export.export(network, (patches,)).module()


@pytest.mark.parametrize("transform", [_scripted, _compiled, _exported])
@pytest.mark.parametrize("head", SMALL_HEADS)
def test_compilers(transform: Callable[..., Callable[[torch.Tensor], Any]], head: str) -> None:
    network, patches = lively(small(SMALL_HEADS[head]))
    with torch.no_grad():
        outputs, expected = transform(network, patches)(patches), network(patches)
    for found, wanted in zip(outputs, expected, strict=True):
        if wanted is None:
            assert found is None
        else:
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
