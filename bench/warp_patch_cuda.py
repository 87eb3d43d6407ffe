"""``bench.warp_patch --device cuda``: warp_patch beside kornia's, torchvision's and grid_sample's way.

The peers start from the same regions on the device, in one tensor [B, 3, H, W], which they turn to float32.
They do what ours does: bilinear crop, factors of the channels, clip, normalisation; ``differs`` is how far,
in grey levels on average, their patches are from ours. Peers that are not installed are named.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench import cuda
from bench.common import Variant
from ipr.geometry import crop_affine, invert_affine
from ipr.ops import warp_patch

BATCHES = (32, 256)
SIDE, BOX, SIZE = 720, 500, (256, 256)  # px: of a region, of what a patch sees of it, of a patch
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]  # of ImageNet, in grey levels

Figures = dict[str, dict[str, Any]]


class Given(NamedTuple):
    """A batch on the device, and how it was drawn."""

    regions: Tensor  # uint8 [B, SIDE, SIDE, 3]
    affine: Tensor  # float32 [B, 2, 3] patch px -> region px
    color: Tensor  # float32 [B, 3]
    draws: list[tuple[float, float, bool]]  # scale, rotation in degrees, mirrored

    def packed(self) -> tuple[Any, ...]:
        """The arguments of warp_patch."""
        batch, device = len(self.regions), self.regions.device
        offsets = torch.arange(batch, device=device) * (3 * SIDE * SIDE)
        sizes = torch.full((batch, 2), SIDE, dtype=torch.int32, device=device)
        return self.regions.flatten(), offsets, sizes, self.affine, SIZE, MEAN, STD, self.color

    def seen_bytes(self) -> float:
        """Of the regions: of the px that the patches cover, each read once."""
        area = torch.linalg.det(self.affine[:, :, :2].double()).abs().sum()
        return float(area) * SIZE[0] * SIZE[1] * 3


def draw(image: np.ndarray, batch: int, device: str, seed: int) -> Given:
    """Crops as bench.warp_patch has them; every region has memory of its own."""
    rng = np.random.default_rng(seed)
    draws = [(rng.uniform(0.75, 1.25), rng.uniform(-60, 60), bool(i % 2)) for i in range(batch)]
    crop = np.array([SIDE / 2, SIDE / 2, BOX, BOX])
    maps = [crop_affine(crop, SIZE, scale=s, rotation_deg=angle, flip=flip) for s, angle, flip in draws]
    inverse = np.stack([invert_affine(one) for one in maps]).astype(np.float32)
    color = rng.uniform(0.8, 1.2, (batch, 3)).astype(np.float32)
    regions = torch.from_numpy(image).to(device).expand(batch, -1, -1, -1).clone()
    return Given(regions, torch.from_numpy(inverse).to(device), torch.from_numpy(color).to(device), draws)


def _normalised(patches: Tensor, given: Given) -> Tensor:
    mean, std = (torch.tensor(row, device=patches.device).view(3, 1, 1) for row in (MEAN, STD))
    return ((patches * given.color[:, :, None, None]).clamp(0, 255) - mean) / std


def _planes(given: Given) -> Tensor:
    return given.regions.permute(0, 3, 1, 2).float()


def grid_sample(given: Given) -> Tensor:
    y, x = (torch.arange(length, dtype=torch.float32, device=given.affine.device) for length in SIZE)
    points = torch.stack([x.expand(SIZE), y[:, None].expand(SIZE), torch.ones_like(x.expand(SIZE))])
    at = torch.einsum("bij,jhw->bhwi", given.affine, points)
    grid = (2 * at + 1) / SIDE - 1
    return _normalised(F.grid_sample(_planes(given), grid, align_corners=False), given)


def kornia(module: Any, given: Given) -> Tensor:
    """warp_affine takes the map from the picture to the patch."""
    last_row = given.affine.new_tensor([0, 0, 1]).expand(len(given.affine), 1, 3)
    forth = torch.linalg.inv(torch.cat([given.affine, last_row], 1))[:, :2]
    patches = module.warp_affine(_planes(given), forth, SIZE, mode="bilinear", padding_mode="zeros")
    return _normalised(patches, given)


def torchvision(module: Any, given: Given) -> Tensor:
    """One call per picture, as its transforms have one set of parameters for all pictures of a call."""
    patches = []
    bilinear = importlib.import_module("torchvision.transforms.v2").InterpolationMode.BILINEAR
    for picture, (scale, angle, flip) in zip(given.regions.permute(0, 3, 1, 2), given.draws, strict=True):
        mirrored = module.horizontal_flip(picture) if flip else picture
        zoom = SIZE[0] / BOX / scale
        whole = module.affine(mirrored.float(), -angle, [0, 0], zoom, [0.0, 0.0], interpolation=bilinear)
        patches.append(module.center_crop(whole, list(SIZE)))
    return _normalised(torch.stack(patches), given)


def peers() -> tuple[dict[str, Callable[[Given], Tensor]], list[str]]:
    """Those that are installed here, and the names of the others."""
    found: dict[str, Callable[[Given], Tensor]] = {"grid_sample": grid_sample}
    missing = []
    modules = {"kornia.geometry.transform": kornia, "torchvision.transforms.v2.functional": torchvision}
    for name, peer in modules.items():
        try:
            found[name.split(".")[0]] = partial(peer, importlib.import_module(name))
        except ImportError:
            missing.append(name.split(".")[0])
    return found, missing


OURS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, bf16": {"dtype": torch.bfloat16},
    "ours, bf16 channels_last": {"dtype": torch.bfloat16, "channels_last": True},
    "ours, fp16": {"dtype": torch.float16},
    "ours, channels_last": {"channels_last": True},
    "ours, gamma": {"gamma": 0.8},
    "ours, antialias": {"antialias": True},
}


def with_tensors(options: Mapping[str, Any], given: Given) -> dict[str, Any]:
    """Numbers that belong to patches, one for each patch."""
    return {
        name: torch.full_like(given.color[:, 0], value) if name == "gamma" else value
        for name, value in options.items()
    }


def variants(
    given: Sequence[Given], others: Mapping[str, Callable[[Given], Tensor]]
) -> dict[str, Callable[[int], Tensor]]:
    """What is timed, by name; the number is that of the batch."""
    packed = [one.packed() for one in given]  # a batch arrives like that
    made = {name: with_tensors(options, given[0]) for name, options in OURS.items()}
    calls = {name: partial(_ours, packed, options) for name, options in made.items()}
    return calls | {name: partial(_theirs, given, peer) for name, peer in others.items()}


def _ours(packed: Sequence[tuple[Any, ...]], options: dict[str, Any], number: int) -> Tensor:
    return warp_patch(*packed[number], **options)


def _theirs(given: Sequence[Given], peer: Callable[[Given], Tensor], number: int) -> Tensor:
    return peer(given[number])


def difference(patches: Tensor, expected: Tensor) -> float:
    std = torch.tensor(STD, device=patches.device).view(3, 1, 1)
    return float(((patches.float() - expected).abs() * std).mean())


def run(image: np.ndarray, rounds: int) -> tuple[dict[str, Figures], dict[str, object]]:
    """Results by batch size, and what else the file has: the ceilings and the peers that are missing."""
    limits, (others, missing) = cuda.ceilings(rounds), peers()
    for name, rate in limits.rates.items():
        print(f"{name:26}{rate:.0f} GB/s")
    for name in missing:
        print(f"{name:26}not installed")
    empty_ms = cuda.empty_kernel(rounds)
    print(f"{'empty kernel':26}{empty_ms * 1e3:.1f} us, in every floor")
    results: dict[str, Figures] = {}
    for batch in BATCHES:
        sets = cuda.input_sets(3 * batch * SIDE * SIDE)
        given = [draw(image, batch, "cuda", seed) for seed in range(sets)]
        calls = variants(given, others)
        times = cuda.measure({name: Variant(call) for name, call in calls.items()}, rounds, sets)
        expected, rows = calls["ours"](0), {}
        for name, timing in times.items():
            patches = calls[name](0)
            moved = given[0].seen_bytes() + patches.numel() * patches.element_size()
            floor_ms = moved / limits.copy + empty_ms
            rows[name] = {
                "ms": timing.median,
                "iqr_ms": timing.upper_quartile - timing.lower_quartile,
                "mb": moved / 1e6,
                "gb_per_s": moved / timing.median / 1e6,
                "share_of_ceiling": moved / timing.median / limits.copy,
                "times_floor": timing.median / floor_ms,
                "patches_per_s": batch / timing.median * 1e3,
                "times_ours": timing.median / times["ours"].median,
                "differs": difference(patches, expected),
            }
        results[f"{batch} patches"] = rows
        print_rows(f"{batch} patches", rows)
    return results, {
        "ceilings_gb_per_s": limits.rates,
        "empty_kernel_us": empty_ms * 1e3,
        "missing": missing,
    }


def print_rows(title: str, rows: Figures) -> None:
    print(f"\n{title:26}      ms      IQR      MB     GB/s  of copy  x floor  x ours  differs")
    for name, row in rows.items():
        print(
            f"  {name:24}{row['ms']:8.4f} ±{row['iqr_ms']:7.4f} {row['mb']:7.1f} {row['gb_per_s']:8.0f}"
            f" {row['share_of_ceiling']:8.0%} {row['times_floor']:8.2f} {row['times_ours']:7.2f}"
            f" {row['differs']:8.2f}"
        )
