"""Integral regression (Sun et al., ECCV 2018): a volume of logits per joint, and the mean of its softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ipr import ops
from ipr.config import require
from ipr.types import NetworkOutput

# kernel: (padding, output_padding) that make a deconvolution of stride 2 double the size
_PADDING = {2: (0, 0), 3: (1, 1), 4: (1, 0)}


@dataclass(frozen=True, kw_only=True)
class Config:
    deconv_layers: int = 3  # each doubles the features' height and width
    filters: int = 256  # channels of every deconvolution
    kernel: int = 4  # of the deconvolutions: 2, 3 or 4
    final_kernel: int = 1  # of the convolution that makes the volumes: 1 or 3
    depth_bins: int = 64
    init: Literal["original", "scratch"] = "original"  # scratch: for a trunk without pretrained weights

    def __post_init__(self) -> None:
        require(self.deconv_layers >= 0, "deconv_layers", self.deconv_layers, "at least 0")
        require(self.filters >= 1, "filters", self.filters, "at least 1")
        require(self.kernel in _PADDING, "kernel", self.kernel, "2, 3 or 4")
        require(self.final_kernel in (1, 3), "final_kernel", self.final_kernel, "1 or 3")
        require(self.depth_bins >= 1, "depth_bins", self.depth_bins, "at least 1")

    def build(self, in_channels: int, num_joints: int) -> Integral:
        return Integral(self, in_channels, num_joints)


class Integral(nn.Module):
    """features [B,C,h,w] -> joints_norm, sigma_norm [B,J,3] and score [B,J].

    The volumes in between are [B,J,D,H,W] with H = h * 2^layers and W = w * 2^layers.
    """

    def __init__(self, config: Config, in_channels: int, num_joints: int) -> None:
        super().__init__()
        self.num_joints = num_joints
        self.fused = config.final_kernel == 1  # then integral_head takes the convolution in
        padding, output_padding = _PADDING[config.kernel]
        layers: list[nn.Module] = []
        for _ in range(config.deconv_layers):
            deconv = nn.ConvTranspose2d(
                in_channels, config.filters, config.kernel, 2, padding, output_padding, bias=False
            )
            layers += [deconv, nn.BatchNorm2d(config.filters), nn.ReLU(inplace=True)]
            in_channels = config.filters
        self.final = len(layers)
        volumes = num_joints * config.depth_bins  # joint-major, depth-minor
        layers.append(nn.Conv2d(in_channels, volumes, config.final_kernel, padding=config.final_kernel // 2))
        self.features = nn.Sequential(*layers)
        self.reset(config.init)

    def reset(self, init: str) -> None:
        """Draw the weights.

        ``original``, N(0, 0.001): all volumes are flat and every joint stays in the middle until a pretrained
        trunk's features pull them apart. Random features do that slowly; ``scratch`` starts from logits of
        unit size.
        """
        for layer in self.features:
            if isinstance(layer, nn.ConvTranspose2d | nn.Conv2d):
                # Each pixel that a deconvolution makes sees every stride-th tap of its kernel.
                fan_in = layer.in_channels * layer.kernel_size[0] ** 2 / layer.stride[0] ** 2
                nn.init.normal_(layer.weight, std=0.001 if init == "original" else (2 / fan_in) ** 0.5)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, features: torch.Tensor) -> NetworkOutput:
        if self.fused:
            x = features
            for index, layer in enumerate(self.features):  # features[:-1] is nothing that TorchScript calls
                if index < self.final:
                    x = layer(x)
            conv = self.features[-1]
            weight, bias = conv.weight.flatten(1), conv.bias  # type: ignore[operator]
            integral = ops.integral_head(x, weight, bias, self.num_joints)  # type: ignore[arg-type]
        else:
            integral = ops.softmax_integral(self.features(features), self.num_joints)
        pz = integral.pz
        assert pz is not None
        x_norm, x_sigma, x_peak = _axis(integral.px, integral.mean[:, :, 0])
        y_norm, y_sigma, y_peak = _axis(integral.py, integral.mean[:, :, 1])
        z_norm, z_sigma, z_peak = _axis(pz, integral.mean[:, :, 2])
        return NetworkOutput(
            torch.stack((x_norm, y_norm, z_norm), 2),
            torch.stack((x_sigma, y_sigma, z_sigma), 2),
            (x_peak * y_peak * z_peak).pow(1 / 3),
            (integral.px, integral.py, pz),
        )


def _axis(marginal: torch.Tensor, mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coordinate and standard deviation in norm units, highest probability: [B,J]; ``mean`` [B,J] in cells.

    ``IntegralResult`` has properties of the same numbers, but TorchScript knows no properties of a tuple.
    """
    size = marginal.size(2)
    cells = torch.arange(size, dtype=marginal.dtype, device=marginal.device)
    variance = (marginal * (cells - mean.unsqueeze(2)).square()).sum(2)
    sigma = variance.clamp_min(1e-12).sqrt()  # sqrt has no slope at 0, where one cell holds everything
    return mean / size - 0.5, sigma / size, marginal.amax(2)
