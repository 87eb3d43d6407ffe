"""warp_patch's CUDA kernel, run on the host: against the definition, under every order, with sanitizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ipr.ops import Occluders, warp_patch, warp_patch_reference
from tests.cuda.conftest import CSRC, HERE, Compile
from tests.cuda.warp_program import OUTPUTS, execute
from tests.ops.patches import (
    EVERYTHING,
    MEAN,
    OPTIONS,
    STD,
    UNFIT,
    affines,
    grey_levels,
    occluders,
    packed,
    regions,
)

# Of a patch: a tile and less, tiles and a part of one, rows of 16 bytes and others, a row, a column.
SIZES = [(1, 1), (32, 32), (40, 53), (33, 64), (5, 100), (1, 70), (70, 1)]
LIMIT = 0.05  # grey levels


@pytest.fixture(scope="module")
def program(compile_program: Compile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("warp_patch") / "host"
    return compile_program([HERE / "warp_patch_host.cpp", CSRC / "cuda" / "warp_patch.cu"], path)


def seen_whole(shapes: list[tuple[int, int]], size: tuple[int, int], zoom: float) -> tuple[Any, ...]:
    return (*packed(shapes, 3, 4), affines(shapes, size, zoom, 6), size, MEAN, STD)


@pytest.mark.parametrize("options", [*OPTIONS.values(), EVERYTHING], ids=[*OPTIONS, "everything"])
def test_options(program: Path, options: dict[str, Any]) -> None:
    for zoom in (0.4, 1.3, 3.7, 11.0):
        given = regions(zoom)
        patches = execute(program, *given, **options)
        assert torch.equal(patches, execute(program, *given, **options, multiprocessors=1))
        for warp in (warp_patch, warp_patch_reference):
            expected = warp(*given, **options)
            assert grey_levels(patches, expected) < LIMIT and patches.stride() == expected.stride()


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", OUTPUTS, ids=str)
def test_sizes_types_and_layouts(program: Path, dtype: torch.dtype, channels_last: bool) -> None:
    """Wherever pixels and patches start."""
    for number, size in enumerate(SIZES):
        given = seen_whole([(50, 60), (7, 9)], size, 1.7)
        exact = execute(program, *given, channels_last=channels_last)
        assert grey_levels(exact, warp_patch(*given)) < LIMIT
        for multiprocessors, shift in ((132, 0), (1, 0), (1, 1 + number % 7)):  # a tile per block, or several
            chip: dict[str, Any] = {"multiprocessors": multiprocessors, "shift": shift}
            patches = execute(program, *given, dtype=dtype, channels_last=channels_last, **chip)
            assert torch.equal(patches, exact.to(dtype))


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (4, 2), (6, 2), (4, 3), (1, 9), (40, 9)]
)
def test_the_end_of_the_buffer(program: Path, shape: tuple[int, int]) -> None:
    """Words must not leave it: AddressSanitizer sees the first byte behind it, wherever it lies in a word."""
    size = (12, 12)
    for shift in range(8):
        for zoom in (0.3, 1.0):
            given = seen_whole([shape], size, zoom)
            assert grey_levels(execute(program, *given, shift=shift), warp_patch(*given)) < LIMIT


def test_occluders_at_any_address(program: Path) -> None:
    for shift in range(4):
        patches = execute(program, *regions(), occluders=occluders(), shift=shift)
        assert grey_levels(patches, warp_patch(*regions(), occluders=occluders())) < LIMIT


def test_occluders_of_single_tiles(program: Path) -> None:
    """Small ones all over a patch of many tiles, some across their borders, some outside of it."""
    shapes = [(6, 7)] * 60
    pixels, offsets, sizes = packed(shapes, 4, 2)
    affine = affines(shapes, (0, 0), 0.6, 3)
    generator = torch.Generator().manual_seed(0)
    at = torch.rand(len(shapes), 2, 1, generator=generator) * 140 - 20  # px of the patch
    affine[:, :, 2:] -= affine[:, :, :2] @ at
    given = (*packed([(90, 80)], 3, 0), affines([(90, 80)], (100, 100), 0.9, 1), (100, 100), MEAN, STD)
    over = Occluders(pixels, offsets, sizes, affine, torch.tensor([0, len(shapes)]))
    expected = warp_patch(*given, occluders=over)
    assert grey_levels(execute(program, *given, occluders=over), expected) < LIMIT
    assert grey_levels(warp_patch(*given), expected) > 100


def test_batches(program: Path) -> None:
    """None, and more patches than a byte counts."""
    assert execute(program, *(table[:0] for table in regions()[:4]), (8, 6), MEAN, STD).shape == (0, 3, 8, 6)
    many = seen_whole([(3, 4), (5, 2), (1, 1)] * 100, (3, 35), 1.1)
    assert grey_levels(execute(program, *many), warp_patch(*many)) < LIMIT


def test_nothing_of_the_region_is_seen(program: Path) -> None:
    pixels, offsets, sizes, affine, *rest = regions()
    for change in (1e4, -1e4, 1e30, float("inf"), float("nan")):
        away = affine.clone()
        away[:, :, 2] += change
        patches = execute(program, pixels, offsets, sizes, away, *rest)
        assert torch.equal(patches, warp_patch(pixels, offsets, sizes, away, *rest))
        assert patches.std(dim=(0, 2, 3)).amax() == 0


@pytest.mark.parametrize("name", UNFIT)
def test_what_does_not_fit_is_nan(program: Path, name: str) -> None:
    """Every element of its patch, and of no other; and nothing is read outside of the buffers."""
    unfit = UNFIT[name]
    expected = warp_patch(*regions(), occluders=occluders())
    for options in ({}, {"channels_last": True, "dtype": torch.bfloat16}, {"gamma": torch.full((6,), 0.7)}):
        patches = execute(program, *unfit.regions, occluders=unfit.occluders, **options)
        assert patches[unfit.patch].isnan().all()
        others = [i for i in range(len(patches)) if i != unfit.patch]
        assert not patches[others].isnan().any()
        if not options:
            assert grey_levels(patches[others], expected[others]) < LIMIT


def test_offsets_have_64_bits(program: Path) -> None:
    """Those that 32 bits would bring back into the buffer do not fit."""
    pixels, offsets, *rest = regions()
    assert execute(program, pixels, offsets + (1 << 32), *rest).isnan().all()


@pytest.mark.parametrize(
    ("size", "message"),
    [((1 << 29, 64), "too many patches for one batch"), ((64, (1 << 29) + 1), "must be at most 2\\^29")],
)
def test_too_large_patches_are_an_error(program: Path, size: tuple[int, int], message: str) -> None:
    pixels, offsets, sizes, affine, _, *rest = regions()
    tables = (table.repeat(50, *[1] * (table.dim() - 1)) for table in (offsets, sizes, affine))
    with pytest.raises(AssertionError, match=message):
        execute(program, pixels, *tables, size, *rest)
