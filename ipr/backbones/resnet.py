"""Residual networks of depth 18, 34, 50, 101 and 152 (He et al., 2015), without the classifier.

Parameters carry torchvision's names in its order, and a bottleneck's stride sits on its 3x3 convolution
("v1.5"), so that torchvision's ImageNet files fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ipr.config import require

# Blocks of each stage, by depth
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

# torchvision's IMAGENET1K_V1 files; the end of a name is the start of the file's SHA-256.
_IMAGENET = {
    18: "resnet18-f37072fd.pth",
    34: "resnet34-b627a593.pth",
    50: "resnet50-0676ba61.pth",
    101: "resnet101-63fe2227.pth",
    152: "resnet152-394f9c45.pth",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    depth: int = 18  # 18, 34, 50, 101 or 152 layers
    # Channels of the stem and of the first stage, doubled by each later stage. Train with 16 or more: below,
    # oneDNN in torch 2.13 writes out of bounds in a shortcut's weight gradient when it has several threads.
    width: int = 64
    stages: int = 4  # 1 to 4; features have stride 32 after the fourth, half as much with each one less
    stem_pool: bool = True  # max-pool after the stem; without it strides are halved
    weights: str = ""  # "": He initialisation; "imagenet": torchvision's file, downloaded; else its path

    def __post_init__(self) -> None:
        require(self.depth in BLOCKS, "depth", self.depth, f"one of {', '.join(map(str, BLOCKS))}")
        require(self.width >= 1, "width", self.width, "at least 1")
        require(1 <= self.stages <= 4, "stages", self.stages, "1, 2, 3 or 4")

    def build(self) -> ResNet:
        return ResNet(self)

    def pretrained(self) -> dict[str, torch.Tensor] | None:
        """The state dict that ``weights`` names (None: none), without the classifier and unused stages."""
        if not self.weights:
            return None
        state = _download(self.depth) if self.weights == "imagenet" else _read(self.weights)
        unused = ("fc.", *(f"layer{stage}." for stage in range(self.stages + 1, 5)))
        return {name: tensor for name, tensor in state.items() if not name.startswith(unused)}


def _download(depth: int) -> dict[str, torch.Tensor]:
    url = f"https://download.pytorch.org/models/{_IMAGENET[depth]}"
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # no network; a file of another hash
        raise ValueError(f"cannot fetch {url} ({error}): download it and give its path as weights") from error


def _read(path: str) -> dict[str, torch.Tensor]:
    if not Path(path).is_file():
        raise ValueError(
            f'no backbone weights at {path}: give the path of a file, "imagenet", or "" for none'
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes make torch.load raise nearly anything
        raise ValueError(f"{path} is no state dict that torch.load reads as weights only") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, backbone weights are a state dict")
    return state


class _Basic(nn.Module):
    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        return self.relu(branch + self.downsample(x))


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.relu(self.bn1(self.conv1(x)))
        branch = self.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        return self.relu(branch + self.downsample(x))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


class ResNet(nn.Module):
    """patches [B,3,H,W] -> features [B,C,H/32,W/32]; finer with fewer stages or without the stem's pool."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        block: type[_Basic | _Bottleneck] = _Basic if config.depth < 50 else _Bottleneck
        channels = [config.width * 2**stage for stage in range(4)]
        self.conv1 = nn.Conv2d(3, config.width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if config.stem_pool else nn.Identity()
        stages: list[nn.Module] = []
        in_channels = config.width
        for stage, num_blocks in enumerate(BLOCKS[config.depth][: config.stages]):
            blocks: list[nn.Module] = []
            for index in range(num_blocks):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(in_channels, channels[stage], stride))
                in_channels = channels[stage] * block.expansion
            stages.append(nn.Sequential(*blocks))
        stages += [nn.Identity() for _ in range(4 - config.stages)]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.out_channels = in_channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(patches))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))
