"""warp_patch's options and element types on every device and instruction set, against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ipr.ops import Occluders, warp_patch, warp_patch_reference
from tests.ops.patches import (
    EVERYTHING,
    MEAN,
    OPTIONS,
    STD,
    UNFIT,
    grey_levels,
    occluders,
    on,
    packed,
    regions,
)


@pytest.mark.parametrize("options", [*OPTIONS.values(), EVERYTHING], ids=[*OPTIONS, "everything"])
def test_options_match_the_definition(kernels: str, options: dict[str, Any]) -> None:
    for zoom in (0.4, 1.3, 3.7, 11.0):  # of the last, antialias takes fewer samples than there are px
        patches = warp_patch(*on(kernels, regions(zoom)), **on(kernels, options))
        expected = warp_patch_reference(*regions(zoom), **options)
        assert grey_levels(patches, expected) < 0.05 and patches.stride() == expected.stride()
        assert expected.std() > 0.1


def test_each_option_changes_the_patches(device: str) -> None:
    given = on(device, regions(3.7))
    plain = warp_patch(*given)
    for name, options in OPTIONS.items():
        same = torch.equal(warp_patch(*given, **on(device, options)), plain)
        assert same == (name in ("plain", "channels_last"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
def test_half_patches_are_the_rounded_ones(kernels: str, dtype: torch.dtype, channels_last: bool) -> None:
    given = on(kernels, regions())
    exact = warp_patch(*given, channels_last=channels_last)
    patches = warp_patch(*given, dtype=dtype, channels_last=channels_last)
    assert patches.dtype == dtype and torch.equal(patches, exact.to(dtype))


def test_antialias_averages_what_a_pixel_covers(device: str) -> None:
    """Stripes of one pixel, seen at a quarter of their size, are grey, and not a pattern of their own."""
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    affine = torch.tensor([[[4.1, 0, 0.3], [0, 4.1, 0.3]]])
    sizes = torch.tensor([[128, 128]]).int()
    given = on(device, (torch.from_numpy(stripes).flatten(), torch.tensor([0]), sizes, affine))
    spread = [
        warp_patch(*given, (30, 30), [0.0] * 3, [1.0] * 3, antialias=antialias).std().item()
        for antialias in (False, True)
    ]
    assert spread[0] > 60 and spread[1] < 12


def test_opaque_occluders_hide_and_clear_ones_do_not(device: str) -> None:
    region, white = np.full((30, 30, 3), 50, np.uint8), np.full((1, 8, 8, 4), 255, np.uint8)
    sizes, affine = torch.tensor([[30, 30]]).int(), torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])
    given = on(device, (torch.from_numpy(region).flatten(), torch.tensor([0]), sizes, affine))
    pictures = torch.from_numpy(np.concatenate([white, 0 * white]).reshape(-1))
    moved = torch.tensor([[[1.0, 0, -10], [0, 1, -5]], [[1.0, 0, -1], [0, 1, -1]]])
    over = Occluders(
        pictures, torch.tensor([0, 256]), torch.tensor([[8, 8]] * 2).int(), moved, torch.tensor([0, 2])
    )
    (patch,) = warp_patch(*given, (30, 30), [0.0] * 3, [1.0] * 3, occluders=on(device, over))
    expected = torch.full((3, 30, 30), 50.0)
    expected[:, 5:13, 10:18] = 255
    torch.testing.assert_close(patch.cpu(), expected)


def test_threads_do_not_change_a_bit() -> None:
    expected = warp_patch(*regions(), **EVERYTHING)
    try:
        torch.set_num_threads(2)
        assert torch.equal(warp_patch(*regions(), **EVERYTHING), expected)
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
        pixels, offsets, sizes = packed([shape], 3, 5)
        edge = torch.frombuffer(memory, dtype=torch.uint8, count=len(pixels), offset=size - len(pixels))
        edge.copy_(pixels)
        affine = torch.tensor([[[1.0, 0, 0], [0, 1, 0]]])  # its last pixel is the region's last
        rest = (offsets, sizes, affine, shape, MEAN, STD)
        assert torch.equal(warp_patch(edge, *rest), warp_patch(pixels, *rest))


def test_in_torch(device: str) -> None:
    pixels, offsets, sizes, affine, size, mean, std = on(device, regions())
    plain = (None,) * 7
    for dtype, channels_last in ((torch.float32, False), (torch.bfloat16, True)):
        options = (dtype, channels_last, True, False)
        arguments = (pixels, offsets, sizes, affine, *size, mean, std, *plain, *options)
        torch.library.opcheck(torch.ops.ipr.warp_patch, arguments)


def test_no_derivative_is_a_clear_error(device: str) -> None:
    pixels, offsets, sizes, affine, *rest = on(device, regions())
    patches = warp_patch(pixels, offsets, sizes, affine.requires_grad_(), *rest)
    with pytest.raises(NotImplementedError, match="warp_patch has no derivative; warp_patch_reference"):
        patches.sum().backward()


def test_wrong_occluders(device: str) -> None:
    given, over = on(device, regions()), occluders()
    wrong = {
        r"first_occluder must be int64 \[7\], \[B \+ 1\] numbers": over._replace(first=over.first[1:]),
        r"occluder_sizes must be int32 \[4, 2\], .* and another type": over._replace(sizes=over.sizes.long()),
    }
    for message, occluding in wrong.items():
        with pytest.raises(RuntimeError, match=message):
            warp_patch(*given, occluders=on(device, occluding))


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit(device: str, name: str) -> None:
    """Is an error on the CPU; on CUDA, which is not waited for, its patch is NaN, and no other."""
    unfit = UNFIT[name]
    given, occluding = on(device, unfit.regions), on(device, unfit.occluders)
    if device == "cpu":
        with pytest.raises(RuntimeError, match=unfit.message):
            warp_patch(*given, occluders=occluding)
        return
    patches = warp_patch(*given, occluders=occluding).cpu()
    others = [i for i in range(len(patches)) if i != unfit.patch]
    assert patches[unfit.patch].isnan().all()
    expected = warp_patch_reference(*regions(), occluders=occluders())
    assert grey_levels(patches[others], expected[others]) < 0.05
