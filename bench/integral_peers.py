"""What softmax_integral is compared with: written here from the published definitions of others."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Mean = Callable[[Tensor], Tensor]  # logits [B, J, D, H, W] or [B, J, H, W] -> cells [B, J, 3 or 2]


def _cells(like: Tensor, axis: int) -> Tensor:
    return torch.arange(like.size(axis), dtype=like.dtype, device=like.device)


def _flat_softmax(logits: Tensor) -> Tensor:
    return logits.flatten(2).softmax(dim=-1).view(logits.shape)


def original(logits: Tensor) -> Tensor:
    """The algorithm of the paper's code: the volume of probabilities, and two sums of it per axis."""
    p = logits.reshape(*logits.shape[:2], -1).softmax(dim=2).view(logits.shape)
    if p.dim() == 4:
        marginals = [p.sum(dim=2), p.sum(dim=3)]
    else:
        marginals = [p.sum(dim=2).sum(dim=2), p.sum(dim=2).sum(dim=3), p.sum(dim=3).sum(dim=3)]
    return torch.stack([(m * _cells(m, 2)).sum(dim=2) for m in marginals], dim=-1)


def dsntnn(logits: Tensor) -> Tensor:
    """flat_softmax and dsnt: each axis' marginal in one sum, then its expectation."""
    p = _flat_softmax(logits)
    axes = range(p.dim() - 1, 1, -1)
    marginals = [p.sum(dim=[axis for axis in axes if axis != kept]) for kept in axes]
    return torch.stack([(m * _cells(m, -1)).sum(dim=-1) for m in marginals], dim=-1)


def kornia(maps: Tensor) -> Tensor:
    """spatial_soft_argmax2d: each coordinate of a mesh grid times the flat probabilities."""
    p = maps.flatten(2).softmax(dim=-1)
    y, x = torch.meshgrid(_cells(maps, 2), _cells(maps, 3), indexing="ij")
    return torch.cat([(grid.reshape(-1) * p).sum(dim=-1, keepdim=True) for grid in (x, y)], dim=-1)


def mmpose(maps: Tensor) -> Tensor:
    """IntegralRegressionHead: the map of probabilities times a row and times a column of coordinates."""
    p = _flat_softmax(maps)
    lines = (_cells(p, 3).view(1, 1, 1, -1), _cells(p, 2).view(1, 1, -1, 1))
    return torch.stack([p.mul(line).flatten(2).sum(dim=-1) for line in lines], dim=-1)


def _installed_kornia() -> dict[str, Mean]:
    try:
        from kornia import __version__
        from kornia.geometry.subpix import spatial_soft_argmax2d
    except ImportError:
        return {}
    return {f"kornia {__version__}": lambda maps: spatial_soft_argmax2d(maps, normalized_coordinates=False)}


def peers(has_depth: bool) -> dict[str, Mean]:
    """By the name in the tables: those that can do it, kornia's own code too where it is installed."""
    if has_depth:
        return {"original": original, "dsntnn": dsntnn}
    here = {"original": original, "dsntnn": dsntnn, "kornia's way": kornia, "mmpose's way": mmpose}
    return here | _installed_kornia()
