"""warp_patch's options and element types on every instruction set, against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ipr.ops import Occluders, warp_patch, warp_patch_reference

MEAN, STD = [123.7, 116.3, 103.5], [58.4, 57.1, 57.4]


def _packed(shapes: list[tuple[int, int]], channels: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
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


def _affine(shapes: list[tuple[int, int]], size: tuple[int, int], zoom: float, seed: int) -> Tensor:
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


def _regions(zoom: float = 1.3) -> tuple[Any, ...]:
    return (*_packed(SHAPES, 3, 0), _affine(SHAPES, SIZE, zoom, 1), SIZE, MEAN, STD)


def _occluders() -> Occluders:
    shapes = [(20, 30), (9, 9), (40, 12), (1, 3)]
    pixels, offsets, sizes = _packed(shapes, 4, 2)
    pictures = pixels.view(-1, 4)
    pictures[:, :3] = (pictures[:, :3].float() * pictures[:, 3:] / 255).to(torch.uint8)  # premultiplied
    first = torch.tensor([0, 1, 1, 1, 3, 3, 4])
    return Occluders(pixels, offsets, sizes, _affine(shapes, SIZE, 0.7, 3), first)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "factors": {"color": torch.tensor([[0.8, 1.0, 1.3]]).expand(6, 3)},
    "matrix": {"color": torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0)) + torch.eye(3, 4)},
    "gamma": {"gamma": torch.tensor([0.5, 1.0, 2.2, 1.0, 0.8, 1.7])},
    "occluders": {"occluders": _occluders()},
    "antialias": {"antialias": True},
    "bgr": {"bgr": True, "color": torch.tensor([[0.8, 1.0, 1.3]]).expand(6, 3)},
    "channels_last": {"channels_last": True},
}
EVERYTHING = {key: value for options in OPTIONS.values() for key, value in options.items()}


@pytest.mark.parametrize("options", [*OPTIONS.values(), EVERYTHING], ids=[*OPTIONS, "everything"])
def test_options_match_the_definition(isa: str, options: dict[str, Any]) -> None:
    for zoom in (0.4, 1.3, 3.7):
        patches = warp_patch(*_regions(zoom), **options)
        expected = warp_patch_reference(*_regions(zoom), **options)
        grey = (patches - expected).abs() * torch.tensor(STD).view(3, 1, 1)
        assert grey.max() < 0.05 and patches.stride() == expected.stride()
    assert expected.std() > 0.3


def test_each_option_changes_the_patches() -> None:
    plain = warp_patch(*_regions(3.7))
    for name, options in OPTIONS.items():
        assert torch.equal(warp_patch(*_regions(3.7), **options), plain) == (
            name in ("plain", "channels_last")
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_half_patches_are_the_rounded_ones(isa: str, dtype: torch.dtype, channels_last: bool) -> None:
    exact = warp_patch(*_regions(), channels_last=channels_last)
    patches = warp_patch(*_regions(), dtype=dtype, channels_last=channels_last)
    assert patches.dtype == dtype and torch.equal(patches, exact.to(dtype))


def test_antialias_averages_what_a_pixel_covers() -> None:
    """Stripes of one pixel, seen at a quarter of their size, are grey, and not a pattern of their own."""
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    affine = torch.tensor([[[4.1, 0, 0.3], [0, 4.1, 0.3]]])
    arguments = (torch.from_numpy(stripes).flatten(), torch.tensor([0]), torch.tensor([[128, 128]]).int())
    spread = [
        warp_patch(*arguments, affine, (30, 30), [0.0] * 3, [1.0] * 3, antialias=antialias).std().item()
        for antialias in (False, True)
    ]
    assert spread[0] > 60 and spread[1] < 12


def test_opaque_occluders_hide_and_clear_ones_do_not() -> None:
    region, white = np.full((30, 30, 3), 50, np.uint8), np.full((1, 8, 8, 4), 255, np.uint8)
    arguments = (torch.from_numpy(region).flatten(), torch.tensor([0]), torch.tensor([[30, 30]]).int())
    affine = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    pictures = torch.from_numpy(np.concatenate([white, 0 * white]).reshape(-1))
    moved = torch.tensor([[[1.0, 0, -10], [0, 1, -5]], [[1.0, 0, -1], [0, 1, -1]]])
    over = Occluders(
        pictures, torch.tensor([0, 256]), torch.tensor([[8, 8]] * 2).int(), moved, torch.tensor([0, 2])
    )
    (patch,) = warp_patch(*arguments, affine, (30, 30), [0.0] * 3, [1.0] * 3, occluders=over)
    expected = torch.full((3, 30, 30), 50.0)
    expected[:, 5:13, 10:18] = 255
    torch.testing.assert_close(patch, expected)


def test_threads_do_not_change_a_bit() -> None:
    expected = warp_patch(*_regions(), **EVERYTHING)
    try:
        torch.set_num_threads(2)
        assert torch.equal(warp_patch(*_regions(), **EVERYTHING), expected)
    finally:
        torch.set_num_threads(1)


def test_the_last_region_ends_at_forbidden_memory(isa: str) -> None:
    """Eight-byte loads must not leave the buffer: its end is a page that ends the process when it is read."""
    import ctypes
    import mmap

    libc, size, page = ctypes.CDLL(None), 1 << 15, mmap.PAGESIZE
    memory = mmap.mmap(-1, size + page)
    forbidden = ctypes.addressof(ctypes.c_char.from_buffer(memory, size))
    assert libc.mprotect(ctypes.c_void_p(forbidden), ctypes.c_size_t(page), 0) == 0
    for shape in ((40, 50), (3, 3), (1, 7), (7, 1), (2, 100)):
        pixels, offsets, sizes = _packed([shape], 3, 5)
        edge = torch.frombuffer(memory, dtype=torch.uint8, count=len(pixels), offset=size - len(pixels))
        edge.copy_(pixels)
        affine = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])  # its last pixel is the region's last
        rest = (offsets, sizes, affine, shape, MEAN, STD)
        assert torch.equal(warp_patch(edge, *rest), warp_patch(pixels, *rest))


def test_in_torch() -> None:
    pixels, offsets, sizes, affine, size, mean, std = _regions()
    plain = (None,) * 7
    for dtype, channels_last in ((torch.float32, False), (torch.bfloat16, True)):
        options = (dtype, channels_last, True, False)
        arguments = (pixels, offsets, sizes, affine, *size, mean, std, *plain, *options)
        torch.library.opcheck(torch.ops.ipr.warp_patch, arguments)


def test_no_derivative_is_a_clear_error() -> None:
    pixels, offsets, sizes, affine, *rest = _regions()
    patches = warp_patch(pixels, offsets, sizes, affine.requires_grad_(), *rest)
    with pytest.raises(NotImplementedError, match="warp_patch has no derivative; warp_patch_reference"):
        patches.sum().backward()


def test_wrong_occluders() -> None:
    regions, over = _regions(), _occluders()
    wrong = {
        "first_occluder must rise": over._replace(first=torch.tensor([0, 1, 1, 1, 3, 3, 5])),
        r"first_occluder must be int64 \[B \+ 1\]": over._replace(first=over.first[1:]),
        "occluder_sizes must be int32": over._replace(sizes=over.sizes.long()),
        "picture 3 of occluder_pixels ends beyond": over._replace(pixels=over.pixels[:-4]),
    }
    for message, occluders in wrong.items():
        with pytest.raises(RuntimeError, match=message):
            warp_patch(*regions, occluders=occluders)
