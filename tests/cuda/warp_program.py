"""Runs a compiled warp_patch_host: what warp_patch takes in, patches out."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ipr.ops import Occluders
from ipr.ops.warp_patch import _matrices
from tests.cuda.conftest import run

OUTPUTS = (torch.float32, torch.bfloat16, torch.float16)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.flatten().contiguous().view(torch.uint8).numpy().tobytes()


def execute(
    program: Path,
    pixels: Tensor,
    offsets: Tensor,
    sizes: Tensor,
    affine: Tensor,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    color: Tensor | None = None,
    *,
    gamma: Tensor | None = None,
    occluders: Occluders | None = None,
    antialias: bool = False,
    bgr: bool = False,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    multiprocessors: int = 132,
    shift: int = 0,
    fault: int = 0,
) -> Tensor:
    """As warp_patch; ``shift`` moves pixels by bytes and patches by elements off an aligned address."""
    color = None if color is None else _matrices(color)
    batch, over = len(offsets), occluders
    numbers = (
        *(batch, *size, OUTPUTS.index(dtype), bgr, antialias, channels_last, len(pixels), batch),
        *((0, -1) if over is None else (len(over.pixels), len(over.offsets))),
        *(color is not None, gamma is not None, multiprocessors, shift),
    )
    tables = [pixels, offsets, sizes, affine, *(over or ()), color, gamma]
    request = struct.pack(f"{len(numbers)}q6f", *numbers, *mean, *std)
    request += b"".join(_bytes(table) for table in tables if table is not None)
    done = run(program, str(fault), stdin=request)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    shape = (batch, *size, 3) if channels_last else (batch, 3, *size)
    patches = torch.frombuffer(bytearray(done.stdout), dtype=dtype) if batch else torch.empty(0, dtype=dtype)
    return patches.view(shape).permute(0, 3, 1, 2) if channels_last else patches.view(shape)
