"""The trunk: sizes, placement of strides, weights from files. test_model compares names and outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from ipr.backbones import resnet

DEPTHS = (18, 34, 50, 101, 152)


@pytest.mark.parametrize("depth", DEPTHS)
def test_depth_counts_convolutions_and_the_classifier(depth: int) -> None:
    with torch.device("meta"):
        trunk = resnet.Config(depth=depth).build()
    layers = [name for name, module in trunk.named_modules() if isinstance(module, nn.Conv2d)]
    assert len([name for name in layers if "downsample" not in name]) + 1 == depth


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("stem_pool", [True, False])
def test_features(depth: int, stem_pool: bool) -> None:
    with torch.device("meta"):
        trunk = resnet.Config(depth=depth, width=8, stem_pool=stem_pool).build()
        features = trunk(torch.empty(2, 3, 64, 96))
    stride = 32 if stem_pool else 16
    assert features.shape == (2, trunk.out_channels, 64 // stride, 96 // stride)
    assert trunk.out_channels == 8 * 8 * (1 if depth < 50 else 4)


@pytest.mark.parametrize("stages, stride, channels", [(1, 4, 8), (2, 8, 16), (3, 16, 32), (4, 32, 64)])
def test_fewer_stages_give_a_finer_grid(tmp_path: Path, stages: int, stride: int, channels: int) -> None:
    """The weights of a whole trunk fit the part that is left."""
    torch.save(resnet.Config(width=8).build().state_dict(), tmp_path / "whole.pth")
    part = resnet.Config(width=8, stages=stages, weights=str(tmp_path / "whole.pth"))
    trunk = part.build()
    assert trunk(torch.zeros(1, 3, 64, 96)).shape == (1, channels, 64 // stride, 96 // stride)
    assert trunk.out_channels == channels
    weights = part.pretrained()
    assert weights is not None
    assert weights.keys() == trunk.state_dict().keys()


def test_a_bottleneck_strides_at_its_3x3() -> None:
    with torch.device("meta"):
        trunk = resnet.Config(depth=50).build()
    first = trunk.layer2[0]
    strides = {name: module.stride for name, module in first.named_modules() if isinstance(module, nn.Conv2d)}
    assert strides == {"conv1": (1, 1), "conv2": (2, 2), "conv3": (1, 1), "downsample.0": (2, 2)}


def test_weights_of_a_file_leave_the_classifier_behind(tmp_path: Path) -> None:
    state = resnet.Config(width=4).build().state_dict()
    torch.save({**state, "fc.weight": torch.zeros(10, 32), "fc.bias": torch.zeros(10)}, tmp_path / "r18.pth")
    assert resnet.Config(width=4).pretrained() is None
    weights = resnet.Config(width=4, weights=str(tmp_path / "r18.pth")).pretrained()
    assert weights is not None
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in state)


@pytest.mark.parametrize(
    "content, message",
    [(None, "no backbone weights at"), (b"junk", "is no state dict"), (torch.zeros(3), "holds a Tensor")],
)
def test_unusable_weights(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message) as caught:
        resnet.Config(weights=str(path)).pretrained()
    assert str(path) in str(caught.value)


def test_imagenet_comes_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(ValueError, match=r"cannot fetch https://.*/resnet34-b627a593\.pth .*give its path"):
        resnet.Config(depth=34, weights="imagenet").pretrained()
    cached = tmp_path / "hub" / "checkpoints" / "resnet34-b627a593.pth"
    torch.save({"conv1.weight": torch.ones(2), "fc.bias": torch.ones(1)}, cached)
    weights = resnet.Config(depth=34, weights="imagenet").pretrained()
    assert weights is not None
    assert list(weights) == ["conv1.weight"]


@pytest.mark.parametrize("options", [{"depth": 20}, {"width": 0}])
def test_options_out_of_range(options: dict[str, int]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name}: "):
        resnet.Config(**options)
