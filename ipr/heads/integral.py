"""Integral regression (Sun et al., ECCV 2018): a volume of logits per joint, and the mean of its softmax.

Two options change how volumes are read, and no parameter's name or shape:

``temperature`` is the beta of softmax(beta * logits): above 1 it sharpens volumes, below 1 it flattens them.
It is multiplied into the last convolution's weights, so the volume is not read once more.

``debias`` takes the background out of the coordinates (Gu et al., "Removing the Bias of Integral Pose
Regression", ICCV 2021). The n cells of a volume that say nothing have the logit b and not minus infinity;
together they hold the share rho = n exp(beta b) / exp(logsumexp) of the probability and pull the mean towards
the volume's centre c = (cells - 1) / 2. What is left has the mean (x - rho c) / (1 - rho). It is part of the
network, and not of decoding: coordinates must be corrected before mirror images or networks are averaged, and
what is evaluated is what is exported. For inference (``model.head.debias=true``) and fine-tuning
(``model.weights``) only: at the start of training everything is background.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
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
    temperature: float = 1.0  # factor of the logits: above 1 sharpens the volumes, below 1 flattens them
    debias: bool = False  # take the background out of the coordinates; for inference and fine-tuning
    background: float = 0.0  # logit of a cell that says nothing, before the temperature; of debias

    def __post_init__(self) -> None:
        require(self.deconv_layers >= 0, "deconv_layers", self.deconv_layers, "at least 0")
        require(self.filters >= 1, "filters", self.filters, "at least 1")
        require(self.kernel in _PADDING, "kernel", self.kernel, "2, 3 or 4")
        require(self.final_kernel in (1, 3), "final_kernel", self.final_kernel, "1 or 3")
        require(self.depth_bins >= 1, "depth_bins", self.depth_bins, "at least 1")
        require(self.temperature > 0, "temperature", self.temperature, "positive")
        used = self.debias or self.background == 0
        require(used, "background", self.background, "left out without debias: true")

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
        self.padding = config.final_kernel // 2
        self.temperature = config.temperature
        self.debias = config.debias
        self.background = config.temperature * config.background
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
        layers.append(nn.Conv2d(in_channels, volumes, config.final_kernel, padding=self.padding))
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
        x = features
        for index, layer in enumerate(self.features):  # features[:-1] is nothing that TorchScript calls
            if index < self.final:
                x = layer(x)
        conv = self.features[-1]
        weight: torch.Tensor = conv.weight  # type: ignore[assignment]
        bias: torch.Tensor | None = conv.bias  # type: ignore[assignment]
        assert bias is not None
        if self.temperature != 1.0:
            weight, bias = weight * self.temperature, bias * self.temperature
        if self.fused:
            integral = ops.integral_head(x, weight.flatten(1), bias, self.num_joints)
        else:
            volumes = F.conv2d(x, weight, bias, padding=self.padding)
            integral = ops.softmax_integral(volumes, self.num_joints)
        pz = integral.pz
        assert pz is not None
        background: torch.Tensor | None = None
        if self.debias:
            cells = integral.px.size(2) * integral.py.size(2) * pz.size(2)
            log_share = math.log(cells) + self.background - integral.logsumexp
            # The correction divides by what is left: no larger share is taken out. Cut before exp overflows.
            background = log_share.clamp_max(math.log(0.95)).exp()
        x_norm, x_sigma, x_peak = _axis(integral.px, integral.mean[:, :, 0], background)
        y_norm, y_sigma, y_peak = _axis(integral.py, integral.mean[:, :, 1], background)
        z_norm, z_sigma, z_peak = _axis(pz, integral.mean[:, :, 2], background)
        return NetworkOutput(
            torch.stack((x_norm, y_norm, z_norm), 2),
            torch.stack((x_sigma, y_sigma, z_sigma), 2),
            (x_peak * y_peak * z_peak).pow(1 / 3),
            (integral.px, integral.py, pz),
        )


def _axis(
    marginal: torch.Tensor, mean: torch.Tensor, background: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coordinate and standard deviation in norm units, highest probability: [B,J]; ``mean`` [B,J] in cells.

    ``background`` [B,J] is the share of the probability that only the coordinate is freed from: deviation and
    peak stay those of the softmax, a share that is wrong would make the deviation imaginary.
    ``IntegralResult`` has properties of the same numbers, but TorchScript knows no properties of a tuple.
    """
    size = marginal.size(2)
    cells = torch.arange(size, dtype=marginal.dtype, device=marginal.device)
    variance = (marginal * (cells - mean.unsqueeze(2)).square()).sum(2)
    sigma = variance.clamp_min(1e-12).sqrt()  # sqrt has no slope at 0, where one cell holds everything
    if background is not None:
        mean = (mean - background * ((size - 1) / 2)) / (1 - background)
    return mean / size - 0.5, sigma / size, marginal.amax(2)
