"""Crop, warp, colour and normalise packed image regions into network inputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def _check(pixels: Tensor, offsets: Tensor, sizes: Tensor, affine: Tensor, color: Tensor | None) -> None:
    batch = len(offsets)
    wanted: list[tuple[str, Tensor, torch.dtype, tuple[int, ...], str]] = [
        ("pixels", pixels, torch.uint8, (pixels.numel(),), "[bytes]"),
        ("offsets", offsets, torch.int64, (batch,), "[B]"),
        ("sizes", sizes, torch.int32, (batch, 2), "[B, 2] (height, width)"),
        ("affine", affine, torch.float32, (batch, 2, 3), "[B, 2, 3] patch px -> region px"),
    ]
    if color is not None:
        wanted.append(("color", color, torch.float32, (batch, 3), "[B, 3]"))
    for name, tensor, dtype, shape, layout in wanted:
        if tuple(tensor.shape) != shape or tensor.dtype != dtype:
            raise ValueError(
                f"warp_patch: {name} must be {dtype} {layout} with B = {batch}, "
                f"got {tensor.dtype} {list(tensor.shape)}"
            )
    if batch and (sizes.amin() < 1 or offsets.amin() < 0):
        raise ValueError(
            "warp_patch: each region needs a height and width of at least 1 and an offset from 0"
        )
    if batch and (offsets + sizes.long().prod(1) * 3).amax() > pixels.numel():
        raise ValueError(f"warp_patch: a region ends beyond the {pixels.numel()} bytes of pixels")


def warp_patch_reference(
    pixels: Tensor,
    offsets: Tensor,
    sizes: Tensor,
    affine: Tensor,
    size: tuple[int, int],
    mean: Sequence[float] | Tensor,
    std: Sequence[float] | Tensor,
    color: Tensor | None = None,
) -> Tensor:
    """Bilinear crops of B regions as normalised patches, float32 [B, 3, h, w].

    Args:
        pixels: uint8 [bytes], the regions [height, width, 3] one after another.
        offsets: int64 [B], first byte of each region.
        sizes: int32 [B, 2], (height, width) of each region in px.
        affine: float32 [B, 2, 3], patch px -> region px, corner-index (a pixel's centre is at integers).
        size: (h, w) of the patch in px.
        mean, std: [3] in grey levels 0..255, in the channel order of ``pixels``.
        color: float32 [B, 3] factor of each channel, applied before the clip to 0..255.

    What lies outside a region counts as black (0 before normalisation), and the border blends into it.
    """
    _check(pixels, offsets, sizes, affine, color)
    height, width = size
    device = pixels.device
    center = torch.as_tensor(mean, dtype=torch.float32, device=device).view(3, 1, 1)
    spread = torch.as_tensor(std, dtype=torch.float32, device=device).view(3, 1, 1)
    out = torch.empty(len(offsets), 3, height, width, device=device)
    if out.numel() == 0:
        return out

    columns = torch.arange(width, dtype=torch.float32, device=device)
    rows = torch.arange(height, dtype=torch.float32, device=device)[:, None]
    a = affine[:, :, :, None, None]
    at = torch.stack(
        [a[:, i, 0] * columns + a[:, i, 1] * rows + a[:, i, 2] for i in (0, 1)], dim=-1
    )  # [B, h, w, 2]
    extent = sizes.flip(1)[:, None, None, :]
    grid = (2 * at + 1) / extent - 1  # grid_sample's -1..1 spans the pixels' outer edges
    # One small grid_sample each: measured 5x faster on a CPU than four gathers over the whole batch.
    for i, (start, (h, w)) in enumerate(zip(offsets.tolist(), sizes.tolist(), strict=True)):
        region = pixels[start : start + h * w * 3].view(1, h, w, 3).permute(0, 3, 1, 2).float()
        out[i] = F.grid_sample(region, grid[i : i + 1], padding_mode="zeros", align_corners=False)[0]
    if color is not None:
        out.mul_(color[:, :, None, None]).clamp_(0, 255)
    return out.sub_(center).div_(spread)


def warp_patch(
    pixels: Tensor,
    offsets: Tensor,
    sizes: Tensor,
    affine: Tensor,
    size: tuple[int, int],
    mean: Sequence[float] | Tensor,
    std: Sequence[float] | Tensor,
    color: Tensor | None = None,
) -> Tensor:
    """See :func:`warp_patch_reference`, which computes it."""
    return warp_patch_reference(pixels, offsets, sizes, affine, size, mean, std, color)
