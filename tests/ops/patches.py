"""Regions and options that warp_patch's tests share, on every device and in the emulator."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ipr.ops import Occluders

MEAN, STD = [123.7, 116.3, 103.5], [58.4, 57.1, 57.4]


def packed(shapes: list[tuple[int, int]], channels: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Smooth pictures, so that a sample that lies a little off is told from one that is of another pixel."""
    rng = np.random.default_rng(seed)
    pictures = []
    for height, width in shapes:
        y, x = np.mgrid[:height, :width]
        waves = [np.sin(x * rng.uniform(0.1, 0.4) + y * rng.uniform(0.1, 0.4)) for _ in range(channels)]
        pictures.append(np.uint8(127 + 120 * np.stack(waves, -1)))
    offsets = np.cumsum([0, *(picture.size for picture in pictures[:-1])])
    pixels = torch.from_numpy(np.concatenate([picture.reshape(-1) for picture in pictures]))
    return pixels, torch.from_numpy(offsets), torch.tensor(shapes, dtype=torch.int32)


def affines(shapes: list[tuple[int, int]], size: tuple[int, int], zoom: float, seed: int) -> Tensor:
    """Patch px -> picture px about both middles, turned at random, ``zoom`` picture px per patch px."""
    rng = np.random.default_rng(seed)
    rows = []
    for height, width in shapes:
        angle, mirror = rng.uniform(-2, 2), rng.choice([-1, 1])
        linear = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear[:, 0] *= mirror
        shift = np.array([width / 2, height / 2]) - linear @ np.array([size[1] / 2, size[0] / 2])
        rows.append(np.concatenate([linear, shift[:, None]], 1))
    return torch.from_numpy(np.stack(rows)).float()


SHAPES = [(90, 70), (33, 200), (1, 1), (150, 151), (2, 2), (64, 65)]
SIZE = (40, 53)  # no whole number of vectors


def regions(zoom: float = 1.3) -> tuple[Any, ...]:
    return (*packed(SHAPES, 3, 0), affines(SHAPES, SIZE, zoom, 1), SIZE, MEAN, STD)


def occluders() -> Occluders:
    shapes = [(20, 30), (9, 9), (40, 12), (1, 3)]
    pixels, offsets, sizes = packed(shapes, 4, 2)
    pictures = pixels.view(-1, 4)
    pictures[:, :3] = (pictures[:, :3].float() * pictures[:, 3:] / 255).to(torch.uint8)  # premultiplied
    first = torch.tensor([0, 1, 1, 1, 3, 3, 4])
    return Occluders(pixels, offsets, sizes, affines(shapes, SIZE, 0.7, 3), first)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "factors": {"color": torch.tensor([[0.8, 1.0, 1.3]]).expand(6, 3)},
    "matrix": {"color": torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0)) + torch.eye(3, 4)},
    "gamma": {"gamma": torch.tensor([0.5, 1.0, 2.2, 1.0, 0.8, 1.7])},
    "occluders": {"occluders": occluders()},
    "antialias": {"antialias": True},
    "bgr": {"bgr": True, "color": torch.tensor([[0.8, 1.0, 1.3]]).expand(6, 3)},
    "channels_last": {"channels_last": True},
}
EVERYTHING = {key: value for options in OPTIONS.values() for key, value in options.items()}


def on(device: str, value: Any) -> Any:
    """A tensor, or what has some in it, on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Occluders):
        return Occluders(*(tensor.to(device) for tensor in value))
    if isinstance(value, dict):
        return {key: on(device, one) for key, one in value.items()}
    return tuple(on(device, one) for one in value) if isinstance(value, tuple) else value


def grey_levels(patches: Tensor, expected: Tensor) -> float:
    """The largest difference of normalised patches, in grey levels."""
    difference = patches.cpu().double() - expected.cpu().double()
    return float((difference.abs() * torch.tensor(STD).view(3, 1, 1)).amax())


class Unfit(NamedTuple):
    """Tables of which one entry is not right: the error on the CPU, and the patch that it spoils."""

    regions: tuple[Any, ...]
    occluders: Occluders
    patch: int
    message: str


def _changed(tensor: Tensor, index: tuple[int, ...], value: int) -> Tensor:
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


def _unfit_region(patch: int, message: str, *, height: int = 0, width: int = 0, offset: int = 0) -> Unfit:
    """Region ``patch`` with other sizes or another offset, where these are not 0."""
    pixels, offsets, sizes, *rest = regions()
    for column, value in enumerate((height, width)):
        sizes = _changed(sizes, (patch, column), value) if value else sizes
    offsets = _changed(offsets, (patch,), offset) if offset else offsets
    return Unfit((pixels, offsets, sizes, *rest), occluders(), patch, message)


def _unfit_occluders(patch: int, message: str, **tables: Tensor) -> Unfit:
    return Unfit(regions(), occluders()._replace(**tables), patch, message)


def _unfits() -> dict[str, Unfit]:
    pixels, over = regions()[0], occluders()
    most, bytes_ = 2**31 - 1, len(pixels)
    huge, beyond = "larger than 2 GiB", f"ends beyond the {bytes_} bytes"
    small = "height and width of at least 1 and an offset from 0; number {} has {}, {} and {}"
    return {
        "negative height": _unfit_region(0, small.format(0, -1, 70, 0), height=-1),
        "negative width": _unfit_region(0, small.format(0, 90, -7, 0), width=-7),
        "negative offset": _unfit_region(3, small.format(3, 150, 151, -3), offset=-3),
        "largest offset": _unfit_region(3, f"picture 3 of pixels {beyond}", offset=2**63 - 1),
        "one byte beyond": _unfit_region(5, f"picture 5 of pixels {beyond}", offset=bytes_ - 64 * 65 * 3 + 1),
        "one row too many": _unfit_region(5, f"picture 5 of pixels {beyond}", height=65),
        "huge": _unfit_region(1, f"picture 1 of pixels, {most} x {most}, is {huge}", height=most, width=most),
        "more than 2 GiB": _unfit_region(1, f"32768 x 21846, is {huge}", height=32768, width=21846),
        "no pixels of an occluder": _unfit_occluders(
            3, small.format(1, 0, 9, 2400), sizes=_changed(over.sizes, (1, 0), 0)
        ),
        "occluder beyond": _unfit_occluders(
            5, "picture 3 of occluder_pixels ends beyond", pixels=over.pixels[:-4]
        ),
        "occluders beyond": _unfit_occluders(
            5, "at 5 it is 3 and then 5", first=_changed(over.first, (6,), 5)
        ),
        "occluders before": _unfit_occluders(
            0, "at 0 it is -1 and then 1", first=_changed(over.first, (0,), -1)
        ),
        "occluders fall": _unfit_occluders(
            5, "must rise from 0 .* at 5 it is 3 and then 2", first=_changed(over.first, (6,), 2)
        ),
    }


UNFIT = _unfits()
